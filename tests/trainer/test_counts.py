"""The configuration's formulas against what is built and what is executed: parameters exactly, FLOPs to 2 %."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import resources

import pytest
import torch

from tests.trainer.shapes import VARIANTS, small
from trainer.config import ARCHS, MODELS, count_flops, count_parameters, preset
from trainer.model import Model
from trainer.structure import flops_over_formula

PRESETS = [(model, arch, recipe) for model in MODELS for arch in ARCHS for recipe in ("paper", "published")]


@pytest.mark.parametrize(("model", "arch", "recipe"), PRESETS)
def test_parameters_of_presets_are_exact(model, arch, recipe):
    config = preset(model, arch, recipe).model
    with torch.device("meta"):
        module = Model(config)
    counted = count_parameters(config)
    assert sum(p.numel() for p in module.parameters()) == counted.total
    by_part = {
        "embedding": module.vocabulary.embedding.numel(),
        "head": 0 if module.vocabulary.head is None else module.vocabulary.head.numel(),
        "attention": sum(p.numel() for n, p in module.named_parameters() if ".qkv." in n or ".out." in n),
        "norms": sum(p.numel() for n, p in module.named_parameters() if n.endswith("norm.weight")),
    }
    assert by_part == {name: getattr(counted, name) for name in by_part}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_with_options_are_exact(variant):
    config = small(variant)
    assert sum(p.numel() for p in Model(config).parameters()) == count_parameters(config).total


@pytest.mark.parametrize(("model", "arch", "recipe"), PRESETS)
def test_flops_of_presets_are_what_is_executed(model, arch, recipe):
    config = preset(model, arch, recipe)
    assert 0.98 <= flops_over_formula(config.model, seq_len=config.training.seq_len) <= 1.02


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_with_options_are_what_is_executed(variant):
    # A short sequence and a batch: the formula is per token of the sequence whatever the batch.
    assert 0.98 <= flops_over_formula(small(variant), seq_len=256, micro_batch=3) <= 1.02


@pytest.mark.parametrize("model", MODELS)
def test_active_parameters_are_what_a_preset_s_name_says(model):
    table = tomllib.loads(resources.files("trainer").joinpath("presets.toml").read_text(encoding="utf-8"))
    assert count_parameters(preset(model, "dense").model).active == pytest.approx(table[model]["active_parameters"], rel=0.03)


@pytest.mark.parametrize("model", MODELS)
def test_the_paper_recipe_saves_what_it_promises(model):
    """Every second block at an eighth of the tokens: 44 % of the blocks, 37 to 43 % of the whole model, where the head is small."""
    dense, mod = (count_flops(preset(model, arch).model, 2048) for arch in ("dense", "mod"))
    blocks = 1 - (mod.forward - mod.head - mod.routing) / (dense.forward - dense.head)
    assert 0.43 < blocks < 0.49
    if model in ("b1", "b7"):
        assert 0.37 < 1 - mod.train / dense.train < 0.44


@pytest.mark.parametrize("model", ["debug200m", "b1", "b7"])
def test_the_published_recipe_saves_about_half(model):
    dense, mod = (count_flops(preset(model, arch, "published").model, 2048).train for arch in ("dense", "mod"))
    assert 0.35 < 1 - mod / dense < 0.55


def test_the_default_of_mod_is_the_paper_recipe():
    config = preset("debug", "mod").model
    assert (config.mod_every, config.mod_capacity) == (2, 0.125)
    published = preset("b1", "mod", "published").model
    assert (published.mod_every, published.mod_capacity) == (1, 0.6)


def test_options_are_off_in_every_preset():
    for model in MODELS:
        for arch in ARCHS:
            config = preset(model, arch).model
            assert (config.qk_norm, config.balance_bias_rate, config.d_shared) == (False, 0.0, 0)


def test_skipped_tokens_cost_nothing():
    """Executed FLOPs grow with the capacity, in proportion to the tokens that enter."""
    from trainer.structure import executed_flops

    config = small("mod-published")
    few, half, most = (executed_flops(replace(config, mod_capacity=c), seq_len=64) for c in (0.25, 0.5, 0.75))
    assert few < half < most
    # Scores grow with the square, everything else in proportion.
    assert (most - half) == pytest.approx(half - few, rel=0.15)
