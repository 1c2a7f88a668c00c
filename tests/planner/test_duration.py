"""Hours and dollars of a whole rental."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.planner.costs import cost
from lumina_cloud.planner.duration import CHECKPOINT_BYTES_PER_SECOND, checkpoint_bytes, duration
from lumina_cloud.planner.estimate import Interval
from lumina_cloud.planner.throughput import throughput
from tests.planner.conftest import local_machine, machine, machines, workloads
from trainer.config import preset

MICRO_DOLLAR = Decimal("0.000001")


def of(config, on):
    layout = replace(config.layout, n_gpus=1)
    return duration(config, on, throughput(config, layout, on.gpu))


@given(workloads(), machines())
def test_hours_are_in_order_and_the_middle_is_the_sum_of_its_parts(config, on):
    found = of(config, on)
    assert 0 < found.hours.low <= found.hours.mid <= found.hours.high
    assert found.hours.mid == pytest.approx(found.expected.total)


@given(workloads(), machines(), st.integers(2, 100))
def test_more_tokens_never_take_less(config, on, factor):
    more = replace(config, training=replace(config.training, tokens=factor * config.training.tokens))
    fewer = of(config, on).hours
    for name in ("low", "mid", "high"):
        assert getattr(of(more, on).hours, name) >= getattr(fewer, name) * (1 - 1e-12)


@given(workloads(), machines())
def test_an_interruptible_machine_never_takes_less(config, on):
    firm, shaky = (of(config, replace(on, interruptible=flag)).hours for flag in (False, True))
    assert shaky.low >= firm.low
    assert shaky.mid >= firm.mid
    assert shaky.high >= firm.high


@given(machines(), st.lists(st.floats(0, 1e6), min_size=3, max_size=3).map(sorted))
def test_twice_the_price_costs_twice(on, hours):
    once = cost(on, Interval(*hours))
    twice = cost(replace(on, usd_per_hour=2 * on.usd_per_hour), Interval(*hours))
    for name in ("low", "mid", "high"):
        # Each is rounded to the micro-dollar.
        assert abs(getattr(twice, name) - 2 * getattr(once, name)) <= 2 * MICRO_DOLLAR


def test_a_rented_machine_pays_for_its_start_and_this_computer_hardly():
    config = preset("debug", "dense")
    assert of(config, machine()).expected.start_up == pytest.approx(8 / 60)
    assert of(config, local_machine()).expected.start_up < 1 / 60


def test_a_long_run_writes_a_checkpoint_every_fifteen_minutes():
    config = preset("b7", "dense")
    found = of(config, machine("H100", usd="2.50", provider="lambda"))
    n = found.expected.training * 4
    assert found.expected.checkpoints == pytest.approx(n * 14 * 7.04e9 / 8e8 / 3600, rel=0.01)


@given(workloads(), machines())
def test_writing_takes_little_beside_the_steps_but_for_the_first_and_the_last(config, on):
    """What the trainer keeps to (`trainer.checkpoint.is_in_turn`); a user may ask for more often."""
    training = replace(config.training, checkpoint_minutes=1e12)
    found = of(replace(config, training=training), on).expected
    one = checkpoint_bytes(config) / CHECKPOINT_BYTES_PER_SECOND[1] / 3600
    assert found.checkpoints <= max(found.training / 10, 2 * one) * (1 + 1e-9)
    assert found.checkpoints <= 10 * one * (1 + 1e-9)
