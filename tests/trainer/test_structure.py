"""What makes a step fast on a GPU, counted without one: no graph break, no host synchronisation, few operators."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.trainer.shapes import PLAIN, VARIANTS, built, small, tokens
from trainer.model import Model
from trainer.structure import graph_breaks, meta_step, operators, synchronisations


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_loss_compile_without_a_graph_break(variant):
    assert graph_breaks(small(variant)) == 0


@pytest.mark.parametrize("variant", PLAIN)
def test_the_compiled_graph_computes_the_same(variant):
    """`fullgraph=True` raises at a break; the graph is run by torch, not by a C++ compiler."""
    config = small(variant)
    model, ids = built(config), tokens(config, 2, 32)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run in (model, compiled):
        model.zero_grad()
        loss, auxiliary, _ = run(ids, ids)
        (loss + auxiliary).backward()
        results.append((loss.detach(), auxiliary.detach(), model.vocabulary.embedding.grad.clone()))
    torch._dynamo.reset()
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_never_waits_for_the_device(variant):
    """On fake tensors anything that reads a value or makes a shape from data raises; on real ones such operators are counted."""
    config = small(variant)
    with FakeTensorMode():
        model = Model(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
        ids = torch.zeros(2, 32, dtype=torch.int64)
        loss, auxiliary, _ = model(ids, ids)
        (loss + auxiliary).backward()
        optimizer.step()
    model, ids = built(config), tokens(config, 2, 32)

    def step():
        loss, auxiliary, _ = model(ids, ids)
        (loss + auxiliary).backward()

    assert synchronisations(operators(step)) == 0


def test_a_synchronisation_would_be_found():
    x = torch.randn(4)
    assert synchronisations(operators(lambda: x.sum().item())) == 1
    assert synchronisations(operators(x.nonzero)) == 1
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.zeros(4).sum().item()


@pytest.mark.parametrize("variant", ["dense", "moe", "mod-paper", "hybrid-paper"])
def test_operators_per_layer_are_at_most_seven_tenths_of_transformers(variant):
    from trainer.bench import Shape, operators_per_layer, peer_operators_per_layer

    config = small(variant)
    shape = Shape(vocab=512, d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=96, seq_len=32, micro_batch=2)
    assert operators_per_layer(config, shape) <= 0.7 * peer_operators_per_layer(config.arch, shape)


def test_a_step_on_meta_needs_no_memory_for_the_largest_preset():
    from trainer.config import preset

    meta_step(replace(preset("b7", "hybrid").model, n_layers=2), micro_batch=1, seq_len=64)()
