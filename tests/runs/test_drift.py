"""Drift: told beyond the plan's bounds, and never inside them or before a speed can be believed."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.runs.drift import LEAST_STEPS, Standing, advice, drift

PLANNED = {
    "tokens_per_second": {"low": 800.0, "mid": 1000.0, "high": 1250.0},
    "seconds": {"low": 8000.0, "mid": 10_000.0, "high": 12_500.0},
    "usd": {"low": "0.80", "mid": "1.00", "high": "1.25"},
}


def standing(speed, step=100, steps=1000, elapsed=None):
    tokens = step * 10_000
    seconds = tokens / speed if elapsed is None else elapsed
    return Standing(step, steps, tokens, speed, seconds, Decimal(repr(seconds / 3600 * 0.36)), Decimal("0.36"))


@given(st.floats(801, 5000), st.integers(1, 1000))
def test_a_run_within_its_plan_is_left_alone(speed, step):
    assert drift(PLANNED, standing(speed, step)) == ()


@given(st.floats(1, 799), st.integers(10, 1000))
def test_a_run_too_slow_is_told_with_its_time_and_cost(speed, step):
    found = {d.kind: d for d in drift(PLANNED, standing(speed, step))}
    assert set(found) == {"speed", "seconds", "cost"}
    assert found["speed"].projected < found["speed"].bound
    for kind in ("seconds", "cost"):
        assert found[kind].projected > found[kind].bound
    assert "lumina stop debug-x" in advice(tuple(found.values()), "debug-x")


@given(st.floats(0, 1e6), st.integers(0, LEAST_STEPS - 1))
def test_the_first_steps_say_nothing(speed, step):
    assert drift(PLANNED, Standing(step, 1000, step, speed, 1e9, Decimal(9), Decimal(9))) == ()


def test_time_lost_before_training_counts():
    assert {d.kind for d in drift(PLANNED, standing(1000.0, elapsed=8000))} == {"seconds", "cost"}


def test_a_run_without_a_plan_cannot_drift():
    assert drift({}, standing(1.0)) == ()
    assert drift({"usd": {"high": "much"}}, standing(1.0)) == ()
