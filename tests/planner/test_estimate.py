"""Intervals refuse what is none."""

from decimal import Decimal

import pytest

from lumina_cloud.planner.estimate import Interval, MoneyInterval


@pytest.mark.parametrize("bad", [(2, 1, 3), (1, 3, 2), (-1, 0, 1), (0, 1, float("inf")), (float("nan"), 1, 2), (0, float("nan"), 2)])
def test_an_interval_is_finite_and_in_order(bad):
    with pytest.raises(ValueError, match="not an interval"):
        Interval(*bad)


@pytest.mark.parametrize("bad", [("2", "1", "3"), ("1", "3", "2"), ("-1", "0", "1")])
def test_an_interval_of_money_is_in_order(bad):
    with pytest.raises(ValueError, match="not an interval"):
        MoneyInterval(*map(Decimal, bad))


def test_a_point_is_an_interval():
    assert Interval(1, 1, 1).mid == 1
