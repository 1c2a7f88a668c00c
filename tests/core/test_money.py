"""Money is exact to the micro-dollar and never a float."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core import money

amounts = st.decimals(min_value=-1_000_000, max_value=1_000_000, places=6, allow_nan=False, allow_infinity=False)


@given(amounts)
def test_micros_round_trip(amount):
    assert money.from_micros(money.to_micros(amount)) == amount


@given(amounts)
def test_text_is_read_back_exactly_and_has_cents(amount):
    shown = money.text(amount)
    assert Decimal(shown) == amount
    assert "e" not in shown.lower()
    assert len(shown.partition(".")[2]) >= 2


@given(st.decimals(min_value="0.01", max_value=100, places=4), st.integers(0, 10**12))
def test_a_bill_is_never_below_the_exact_price_and_less_than_a_micro_above(price, micros):
    exact = price * micros / Decimal(3_600_000_000)
    billed = money.for_time(price, timedelta(microseconds=micros))
    assert exact <= billed < exact + Decimal("0.000001") + Decimal("1e-12")


def test_an_hour_costs_the_hourly_price():
    assert money.for_time(Decimal("0.34"), timedelta(hours=1)) == Decimal("0.34")


@pytest.mark.parametrize("text", ["", "abc", "NaN", "inf", "1,5"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError, match="not an amount"):
        money.usd(text)


def test_small_amounts_are_shown_with_more_digits():
    assert [money.show(Decimal(a)) for a in ("0", "0.0017", "0.05", "1234.5")] == ["$0.00", "$0.0017", "$0.05", "$1,234.50"]
