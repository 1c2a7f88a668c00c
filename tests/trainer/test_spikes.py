"""Which losses are refused: infinities, NaN, and jumps above what was usual."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.spikes import LEAST, WINDOW, Losses

finite = st.floats(0, 12)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_fault_from_the_first_step_on(loss):
    assert Losses(2.0).fault(loss)


@given(st.lists(finite, max_size=LEAST - 1), finite)
def test_without_a_history_nothing_is_a_spike(before, loss):
    losses = Losses(2.0)
    losses.resume(before)
    assert not losses.fault(loss)


@given(st.lists(finite, min_size=LEAST, max_size=200), st.floats(0.1, 5), finite)
def test_a_spike_is_above_the_median_by_more_than_was_said(before, nats, loss):
    from statistics import median

    losses = Losses(nats)
    for value in before:
        losses.add(value)
    assert bool(losses.fault(loss)) == (loss > median(before[-WINDOW:]) + nats)


def test_a_checkpoint_takes_the_history_along():
    first, second = Losses(2.0), Losses(2.0)
    for value in range(100):
        first.add(value / 10)
    second.resume(first.recent())
    assert second.recent() == first.recent() and len(second.recent()) == WINDOW
