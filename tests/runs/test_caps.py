"""Caps are hard: each implies the other, and what could exceed one is refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core.errors import RefusedError
from lumina_cloud.runs import caps

prices = st.decimals(min_value="0.01", max_value=50, places=2)
sums = st.decimals(min_value="0.10", max_value=5000, places=2)


@given(prices, sums)
def test_a_cost_cap_implies_a_time_cap(price, cost):
    cap = caps.cap_from(max_cost=cost, max_hours=None, usd_per_hour=price, plan_high=Decimal(1))
    assert cap.usd == cost
    assert abs(Decimal(cap.seconds) * price / 3600 - cost) <= price / 3600
    assert Decimal(cap.seconds) * price / 3600 <= cost + Decimal("1e-9")


@given(prices, st.floats(0.1, 1000))
def test_a_time_cap_implies_a_cost_cap(price, hours):
    cap = caps.cap_from(max_cost=None, max_hours=hours, usd_per_hour=price, plan_high=Decimal(1))
    assert abs(cap.seconds - hours * 3600) < 1


@given(prices, sums, st.floats(0.1, 1000))
def test_the_tighter_cap_holds(price, cost, hours):
    both = caps.cap_from(max_cost=cost, max_hours=hours, usd_per_hour=price, plan_high=Decimal(1))
    only_cost = caps.cap_from(max_cost=cost, max_hours=None, usd_per_hour=price, plan_high=Decimal(1))
    only_time = caps.cap_from(max_cost=None, max_hours=hours, usd_per_hour=price, plan_high=Decimal(1))
    assert both.usd == min(only_cost.usd, only_time.usd)


@pytest.mark.pain(6)
@given(prices, sums, st.sampled_from([caps.RESERVE_SECONDS, caps.RENTED_RESERVE_SECONDS]))
def test_with_neither_the_cap_is_the_plans_high_and_what_is_kept_back_for_the_end(price, high, grace):
    cap = caps.cap_from(max_cost=None, max_hours=None, usd_per_hour=price, plan_high=high, grace=grace)
    assert high < cap.usd <= high + price * Decimal(grace + caps.LEAST_SECONDS) * Decimal("1.2") / 3600
    # What is left to train on pays for the plan's high, so that a run on its plan is not ended before its last step.
    left = caps.seconds_left_on_box(cap.usd, Decimal(0), price, grace)
    assert Decimal(left) * price / 3600 >= high - Decimal("0.001") * price


@given(sums, sums, sums)
def test_what_could_cost_more_than_its_cap_is_refused(a, b, c):
    low, mid, high = sorted((a, b, c))
    cap = caps.Cap(usd=mid, seconds=1.0)
    if high > mid:
        with pytest.raises(RefusedError) as refused:
            caps.refuse_beyond(cap, low=low, mid=mid, high=high)
        offered = Decimal(refused.value.hint.split("--max-cost ")[1].split(")")[0])
        caps.refuse_beyond(caps.Cap(usd=offered, seconds=1.0), low=low, mid=mid, high=high)
    else:
        caps.refuse_beyond(cap, low=low, mid=mid, high=high)
    # What only measures is refused where it is expected to cost more.
    caps.refuse_beyond(cap, low=low, mid=mid, high=high, by_mid=True)
    with pytest.raises(RefusedError, match="is expected to cost more"):
        caps.refuse_beyond(caps.Cap(usd=mid * Decimal("0.99"), seconds=1.0), low=low, mid=mid, high=high, by_mid=True)


@given(prices, sums, sums)
def test_training_and_stopping_fit_under_the_cap(price, cap, spent):
    try:
        seconds = caps.seconds_left_on_box(cap, spent, price)
    except RefusedError as refused:
        assert "--max-cost" in refused.hint
    else:
        assert spent + Decimal(seconds + caps.GRACE_SECONDS) * price / 3600 <= cap + Decimal("1e-6")
