"""Sampling: the cache changes nothing, the end token ends, a seed repeats."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.checkpoints import written
from tests.trainer.shapes import VARIANTS, built, small, tokens
from trainer import cli
from trainer.attention import KeyValues
from trainer.model import RoutedBlock
from trainer.sample import generate


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_changes_nothing(variant):
    config = small(variant)
    model, ids = built(config).eval(), tokens(config, 1, 12)
    with_cache = list(generate(model, ids[0].tolist(), end=-1, new_tokens=20, temperature=0, seed=0))
    for _ in range(20):
        with torch.no_grad():
            ids = torch.cat((ids, model.logits(ids)[:, -1:].argmax(-1)), 1)
    assert with_cache == ids[0, 12:].tolist()


def test_a_routed_block_keeps_only_the_tokens_that_enter():
    config = small("mod-published")
    model, ids = built(config).eval(), tokens(config, 1, 24)
    past = [KeyValues() for _ in model.blocks]
    with torch.no_grad():
        model.following(ids[0], 0, past)
    kept = [0 if kv.kept is None else kv.kept[0].shape[1] for kv in past]
    assert all(isinstance(block, RoutedBlock) for block in model.blocks)
    assert min(kept) < 24
    _, trace = model._hidden(ids, causal=True)
    assert kept == [int(choice.entered.sum()) for choice in trace.depth]


def test_it_stops_at_the_end_token():
    config = small("dense")
    model = built(config).eval()
    free = list(generate(model, [5, 6, 7], end=-1, new_tokens=10, temperature=0, seed=0))
    stopped = list(generate(model, [5, 6, 7], end=free[4], new_tokens=10, temperature=0, seed=0))
    assert stopped == free[: free.index(free[4])]


def test_a_seed_repeats_and_another_differs():
    model = built(small("moe")).eval()
    draws = [list(generate(model, [5], end=-1, new_tokens=20, temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def _main(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["trainer", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_the_command_prints_the_text_alone(tmp_path, monkeypatch, capsys):
    folder = written(built(small("hybrid-paper")), tmp_path / "run")
    code = _main(monkeypatch, "sample", folder, "--prompt", "The quick", "--temperature", 0, "--max-new-tokens", 12)
    said = capsys.readouterr()
    assert code == 0
    assert said.err == ""
    from trainer import weights
    from trainer.sample import sample

    saved = weights.find(folder)
    assert said.out == sample(saved.model(), saved.tokenizer(), "The quick", new_tokens=12, temperature=0, seed=0) + "\n"


def test_the_command_refuses_what_is_no_checkpoint(tmp_path, monkeypatch, capsys):
    assert _main(monkeypatch, "sample", tmp_path, "--prompt", "x") == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert _main(monkeypatch, "sample", tmp_path, "--prompt", "x", "--temperature", -1) == 2
