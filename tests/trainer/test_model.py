"""The whole decoder: initial loss, causality, recomputation, initial weights, learning."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainer.shapes import PLAIN, VARIANTS, built, small, tokens
from trainer.config import preset
from trainer.engine import parameter_groups
from trainer.model import Model, initialise, routing_figures


@pytest.mark.parametrize("variant", PLAIN)
def test_a_fresh_model_knows_nothing(variant):
    config = small(variant)
    model = Model(config)
    initialise(model, 0)
    ids = tokens(config, 4, 64)
    loss, auxiliary, _ = model(ids, ids.roll(-1, 1))
    assert loss.item() == pytest.approx(math.log(config.vocab), rel=0.02)
    assert (auxiliary.item() == 0) == (variant == "dense")


@pytest.mark.parametrize("variant", ["dense", "moe", "dense-qk-norm", "moe-extras"])
def test_no_later_token_changes_an_earlier_output(variant):
    config = small(variant)
    model, ids = built(config), tokens(config, 2, 32)
    other = ids.clone()
    other[:, 20:] = tokens(config, 2, 12, seed=7)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids)[:, :20], model.logits(other)[:, :20], rtol=0, atol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("variant", ["dense", "moe", "mod-paper", "hybrid-paper"])
def test_recomputation_changes_no_gradient(variant, every):
    config = small(variant)
    kept, recomputed = built(config), Model(config, recompute_every=every)
    recomputed.load_state_dict(kept.state_dict())
    ids = tokens(config, 2, 32)
    for model in (kept, recomputed):
        loss, auxiliary, _ = model(ids, ids)
        (loss + auxiliary).backward()
    for (name, a), (_, b) in zip(kept.named_parameters(), recomputed.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_projections_into_the_residual_stream_start_smaller():
    config = preset("debug", "hybrid").model
    model = Model(config)
    initialise(model, 0)
    inner = 0.02 / math.sqrt(2 * config.n_layers)
    expected = {
        "attention.out.weight": inner,
        "feed_forward.down": inner,
        "qkv.weight": 0.02,
        "feed_forward.gate_up": 0.02,
        "embedding": 0.02,
    }
    for ending, std in expected.items():
        found = [p for name, p in model.named_parameters() if name.endswith(ending)]
        assert found
        assert all(p.std().item() == pytest.approx(std, rel=0.05) for p in found), ending


def test_weight_decay_is_on_matrices_only():
    matrices, vectors = parameter_groups(Model(small("hybrid-extras")), 0.1)
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == 0
    assert all(p.dim() >= 2 for p in matrices["params"])
    assert all(p.dim() == 1 for p in vectors["params"])


@pytest.mark.parametrize("variant", PLAIN)
def test_a_few_steps_learn_a_pattern(variant):
    """Counting modulo 7 is learned: gradients reach everything they must."""
    config = small(variant)
    model = Model(config)
    initialise(model, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = (torch.arange(33) + torch.arange(8)[:, None]) % 7 + 3
    first = None
    for _ in range(60):
        loss, auxiliary, trace = model(rows[:, :-1], rows[:, 1:])
        (loss + auxiliary).backward()
        optimizer.step()
        optimizer.zero_grad()
        first = loss.item() if first is None else first
    assert loss.item() < 0.25 * first
    figures = routing_figures(trace)
    assert all(0 <= value <= 1 for value in figures.values())
    assert ("expert_utilisation" in figures) == config.has_experts
    assert ("skip_rate" in figures) == config.has_depth_routing


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_stays_near_fp32(variant):
    config = small(variant)
    model, ids = built(config), tokens(config, 2, 32)
    with torch.no_grad():
        exact, _, _ = model(ids, ids)
        rough, _, _ = model.bfloat16()(ids, ids)
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
