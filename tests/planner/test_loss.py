"""Loss: the law against its authors' numbers, its width, and what it does outside of its fit."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.planner.loss import is_fitted, loss
from tests.planner.conftest import workloads
from trainer.config import preset


def with_tokens(config, tokens, unique=None):
    return replace(config, training=replace(config.training, tokens=tokens, unique_tokens=unique or tokens))


@given(workloads())
def test_loss_is_an_interval_between_nothing_and_guessing_evenly(config):
    found = loss(config)
    assert 0 < found.low <= found.mid <= found.high <= math.log(config.model.vocab) + 1e-12


@given(workloads(), st.integers(2, 1000))
def test_more_tokens_never_hurt(config, factor):
    less = loss(config)
    more = loss(replace(config, training=replace(config.training, tokens=config.training.tokens * factor)))
    assert more.mid <= less.mid + 1e-9
    assert more.high <= less.high + 1e-9


@given(workloads(), st.integers(2, 100))
def test_repeated_text_is_never_worth_more_than_new(config, epochs):
    tokens = config.training.tokens
    repeated = loss(with_tokens(config, tokens, max(1, tokens // epochs)))
    assert repeated.mid >= loss(with_tokens(config, tokens)).mid - 1e-9


def test_the_law_at_a_point_worked_out_by_hand():
    # b1 dense, one epoch of 20e9 tokens: N is above the optimum for U (1.02e9 for 20e9), by too little to matter here.
    config = with_tokens(preset("b1", "dense"), 20_000_000_000)
    law = 1.8691 + 520.9 / (1.012e9**0.35266) + 1487.7 / (20e9**0.35266)
    assert loss(config).mid == pytest.approx(law + 0.12, abs=0.005)


def test_a_real_run_lies_in_the_interval():
    # GPT-2 124M on 10^10 tokens of FineWeb ends at 3.27 to 3.29.
    config = preset("debug200m", "dense")
    shape = replace(config.model, vocab=50_304, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, d_ff=2048)
    found = loss(with_tokens(replace(config, model=shape), 10**10))
    assert found.low < 3.28 < found.high


def test_four_epochs_cost_little_and_a_hundred_much():
    config = preset("b1", "dense")
    once, four, hundred = (loss(with_tokens(config, 20 * 10**9, 20 * 10**9 // n)).mid for n in (1, 4, 100))
    assert four - once < 0.05
    assert hundred - once > 0.2


def test_the_smallest_preset_is_outside_of_the_fit_and_says_so_by_its_width():
    config = preset("debug", "dense")
    assert not is_fitted(config)
    found = loss(config)
    assert found.high == pytest.approx(math.log(512))
    assert found.high - found.low > 4


def test_experts_may_help_and_depth_routing_may_hurt():
    found = {arch: loss(preset("b1", arch)) for arch in ("dense", "moe", "mod")}
    assert found["moe"].low < found["dense"].low
    assert found["moe"].high == pytest.approx(found["dense"].high, abs=0.01)
    assert found["mod"].high > found["dense"].high
    assert found["mod"].low == pytest.approx(found["dense"].low, abs=0.01)


@pytest.mark.parametrize("arch", ["mod", "hybrid"])
def test_every_second_block_routed_is_expected_nearer_to_dense_than_every_block(arch):
    dense = loss(preset("b1", "dense" if arch == "mod" else "moe"))
    paper, published = (loss(preset("b1", arch, recipe)) for recipe in ("paper", "published"))
    assert dense.mid < paper.mid < published.mid
    assert published.mid - paper.mid > paper.mid - dense.mid
    for found in (paper, published):
        assert found.low <= found.mid <= found.high
