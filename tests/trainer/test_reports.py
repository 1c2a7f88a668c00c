"""The speed that a run tells as recent: neither one slow step nor the first ones, but stalls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.reports import recent_speed

speeds = st.lists(st.floats(1.0, 1e6), min_size=1, max_size=20)


@given(speeds)
def test_it_lies_between_the_slowest_and_the_fastest(steps):
    assert min(steps) * (1 - 1e-9) <= recent_speed(steps) <= max(steps) * (1 + 1e-9)


@given(st.integers(3, 20), st.floats(1.0, 999.0))
def test_one_slow_step_is_not_told(n, slow):
    assert recent_speed([1000.0] * (n - 1) + [slow]) == pytest.approx(1000.0)


def test_stalls_of_half_the_steps_are():
    assert recent_speed([1000.0] * 10 + [250.0] * 10) < 500
