"""Plans: what is recommended fits, what does not fit is shown, and the reasons carry the numbers."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner.plan import ABOUT_AS_CHEAP, Machine, estimate, largest_that_fits, plan
from tests.planner.conftest import local_machine, machine, machines, workloads
from trainer.config import ARCHS, MODELS, check, preset

MICRO_DOLLAR = Decimal("0.000001")


@given(st.lists(workloads(), min_size=1, max_size=3), st.lists(machines(), min_size=1, max_size=6))
def test_what_is_recommended_fits_and_is_about_as_cheap_as_anything_that_does(configs, market):
    made = plan(configs, market)
    fitting = [row for row in made.rows if row.estimate.fits]
    if made.recommendation is None:
        assert not fitting
        return
    best = made.recommendation.row
    assert best in made.rows
    assert best.estimate.fits
    assert best.estimate.memory_gib.high <= best.estimate.usable_memory_gib
    assert float(best.estimate.usd.mid) <= ABOUT_AS_CHEAP * float(min(row.estimate.usd.mid for row in fitting))


@settings(max_examples=200)
@given(workloads(), machines())
def test_an_estimate_is_whole_and_can_be_trained(config, on):
    found = estimate(config, on)
    for interval in (found.memory_gib, found.tokens_per_second, found.hours, found.loss):
        assert 0 < interval.low <= interval.mid <= interval.high < float("inf")
    assert 0 <= found.usd.low <= found.usd.mid <= found.usd.high
    assert sum(item.gib for item in found.memory_items) == pytest.approx(found.memory_gib.mid)
    assert found.basis == "modelled"
    check(found.config)


@given(workloads(), machines(), st.integers(2, 1000))
def test_more_tokens_never_cost_less(config, on, factor):
    more = replace(config, training=replace(config.training, tokens=factor * config.training.tokens))
    fewer = estimate(config, on).usd
    for name in ("low", "mid", "high"):
        assert getattr(estimate(more, on).usd, name) >= getattr(fewer, name)


@given(workloads(), machines())
def test_twice_the_price_costs_twice_and_the_disk_and_traffic_once(config, on):
    once, twice = estimate(config, on), estimate(config, replace(on, usd_per_hour=2 * on.usd_per_hour))
    beside = once.costs.storage + once.costs.traffic
    assert abs(twice.usd.mid - (2 * once.usd.mid - beside)) <= 4 * MICRO_DOLLAR
    assert once.usd.mid == once.costs.rental + beside


def test_rows_come_best_first_and_all_have_their_figures(market):
    made = plan([preset("b7", "dense")], market)
    assert len(made.rows) == len(market)
    fits = [row.estimate.fits for row in made.rows]
    assert fits == sorted(fits, reverse=True)
    prices = [row.estimate.usd.mid for row in made.rows if row.estimate.fits]
    assert prices == sorted(prices)
    assert not all(fits)
    assert all(row.estimate.tokens_per_second.mid > 0 and row.estimate.usd.mid > 0 for row in made.rows)


def test_architectures_come_in_the_order_asked_for(market):
    made = plan([preset("debug", arch) for arch in ("mod", "dense")], market)
    assert list(dict.fromkeys(row.arch for row in made.rows)) == ["mod", "dense"]
    assert "overlap" in made.recommendation.reason


def test_all_sixteen_presets_can_be_planned_on_the_whole_market(market):
    made = plan([preset(model, arch) for model in MODELS for arch in ARCHS], market)
    assert len({(row.model, row.arch) for row in made.rows}) == 16
    assert made.recommendation is not None


def test_honest_figures_for_the_published_claims():
    b1 = estimate(preset("b1", "dense"), machine("4090", usd="0.34"))
    assert 200 < b1.hours.mid < 800
    b7 = estimate(preset("b7", "dense"), machine("a100", usd="1.89"))
    assert b7.config.layout.offload != "none"
    assert b7.host_memory_gib > 100
    assert 5_000 < b7.hours.mid < 20_000
    assert not estimate(preset("b7", "dense"), machine("a100"), frozenset({"offload"})).fits


def test_the_tiny_preset_is_recommended_on_this_computer(market):
    made = plan([preset("debug", "dense")], market)
    assert made.recommendation.row.machine.provider == "local"
    assert any("178 sequences does not divide over 4 GPUs" in text and "4 x RTX4090" in text for text in made.refused)


def test_a_reason_names_interruption_and_main_memory():
    made = plan([preset("b7", "dense")], [machine("RTX4090", 4, "1.36", interruptible=True)])
    assert "interruptible" in made.recommendation.reason
    assert "GiB of main memory" in made.recommendation.reason
    firm = plan([preset("debug200m", "dense")], [machine("RTX4090")])
    assert "interruptible" not in firm.recommendation.reason
    # Of one machine there is nothing to choose.
    assert "only one that fits" not in firm.recommendation.reason
    two = plan([preset("b7", "moe")], [machine("RTX4090"), machine("a100-80gb", 8, "15.12", provider="runpod")])
    assert two.recommendation.reason.startswith("the only one that fits; ")


def test_the_sooner_of_two_that_are_about_as_cheap_is_taken():
    one, eight = machine("a100", 1, "1.89", provider="runpod"), machine("a100", 8, "15.12", provider="runpod")
    made = plan([preset("b1", "dense")], [one, eight])
    assert made.recommendation.row.machine is eight
    assert "sooner" in made.recommendation.reason
    dear = replace(eight, usd_per_hour=Decimal("30.24"))
    assert plan([preset("b1", "dense")], [one, dear]).recommendation.row.machine is one


@pytest.mark.pain(8)
def test_where_nothing_fits_nothing_is_recommended_and_each_says_what_it_lacks():
    made = plan([preset("b7", "hybrid")], [machine("4090"), local_machine()])
    assert made.recommendation is None
    assert len(made.rows) == 2
    assert any("1 x RTX4090" in text and "does not fit" in text and "GiB of 23.6" in text for text in made.refused)
    assert any("cpu" in text for text in made.refused)


def test_where_no_machine_can_carry_the_batch_it_is_one_clear_error():
    with pytest.raises(UsageError) as caught:
        plan([preset("debug", "dense")], [machine("4090", 4), machine("3090", 8)])
    assert "178 sequences does not divide over 4 GPUs" in caught.value.message
    assert "--global-batch" in caught.value.hint
    with pytest.raises(UsageError, match="no machine"):
        plan([preset("debug", "dense")], [])
    with pytest.raises(UsageError, match="4 x RTX4090"):
        estimate(preset("debug", "dense"), machine("4090", 4))


def test_a_processor_without_16_bit_arithmetic_is_slow_in_it_and_that_is_said():
    slow = Machine("local", gpus.cpu(cores=2, memory_gib=8.0, has_bf16=False), 1, Decimal("0.05"), False)
    in_16, in_32 = (replace(c, training=replace(c.training, precision=p)) for c in [preset("debug", "dense")] for p in ("bf16", "fp32"))
    asked_for = frozenset({"precision"})
    assert estimate(in_16, slow, asked_for).tokens_per_second.mid < 0.1 * estimate(in_32, slow).tokens_per_second.mid
    assert "--set precision=fp32" in plan([in_16], [slow], asked_for).recommendation.reason


def test_who_did_not_ask_for_bf16_computes_in_fp32_where_the_processor_has_no_16_bit_arithmetic():
    slow = Machine("local", gpus.cpu(cores=2, memory_gib=8.0, has_bf16=False), 1, Decimal("0.05"), False)
    chosen = plan([preset("debug", "dense")], [slow]).recommendation
    assert chosen.row.estimate.config.training.precision == "fp32"
    assert "this run is in fp32" in chosen.reason
    wide = replace(slow, gpu=gpus.cpu(cores=2, memory_gib=8.0))
    assert estimate(preset("debug", "dense"), wide).config.training.precision == "bf16"


def test_the_largest_preset_that_fits():
    assert largest_that_fits("dense", machine("4090")) == "b1"
    assert largest_that_fits("dense", machine("a100", 8)) == "b7"
    tiny = Machine("local", gpus.cpu(cores=1, memory_gib=2.0), 1, Decimal("0.05"), False)
    assert largest_that_fits("dense", tiny) == "debug"
    none = Machine("local", gpus.cpu(cores=1, memory_gib=0.2), 1, Decimal("0.05"), False)
    assert largest_that_fits("dense", none) is None
    # Four GPUs do not divide the smallest preset's batch; the others count.
    assert largest_that_fits("moe", machine("4090", 4)) == "b1"
