"""Money: `Decimal` dollars in code, whole micro-dollars in the ledger, never a float."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal, InvalidOperation

MICROS = Decimal(1_000_000)
CENT = Decimal("0.01")


MOST = Decimal(10) ** 12
"""No amount here is larger: beyond it a typing error is likelier than a price, and arithmetic to the micro-dollar stays exact."""


def usd(value: str | int | Decimal) -> Decimal:
    """Return an amount in dollars. Raises ValueError for text that is no finite amount, or one beyond 10^12."""
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"not an amount of money: {value!r}") from None
    if not amount.is_finite() or abs(amount) > MOST:
        raise ValueError(f"not an amount of money: {value!r}")
    return amount


def to_micros(amount: Decimal) -> int:
    """Return dollars as whole micro-dollars, rounded half up."""
    return int((amount * MICROS).to_integral_value(ROUND_HALF_UP))


def from_micros(micros: int) -> Decimal:
    """Return whole micro-dollars as dollars."""
    return Decimal(micros) / MICROS


def for_time(usd_per_hour: Decimal, duration: timedelta) -> Decimal:
    """Return the price of `duration`, to the micro-dollar, rounded up as a bill is."""
    micros = max(0, duration // timedelta(microseconds=1))
    amount = usd_per_hour * Decimal(micros) / Decimal(3_600_000_000)
    return (amount * MICROS).to_integral_value(ROUND_CEILING) / MICROS


def for_hours(usd_per_hour: Decimal, hours: float) -> Decimal:
    """Return the price of an estimated number of hours, to the micro-dollar. Raises ValueError for a number that is not finite."""
    if not math.isfinite(hours):
        raise ValueError(f"not a duration: {hours}")
    return (usd_per_hour * Decimal(repr(hours))).quantize(1 / MICROS)


def text(amount: Decimal) -> str:
    """Return an amount for a script: plain decimal digits, at least two after the point, no exponent."""
    exact = amount.quantize(1 / MICROS)
    digits = f"{exact:f}".rstrip("0")
    whole, _, fraction = digits.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"


def show(amount: Decimal, *, cents: bool = True) -> str:
    """Return an amount for a person: `$0.0017` below a cent, `$0.000012` where that shows nothing, else `$1,234.50`.

    Without `cents`, `$1,235`.
    """
    if not cents:
        return f"${amount.quantize(Decimal(1), ROUND_HALF_UP):,}"
    if amount and abs(amount) < Decimal("0.0001"):
        return f"${amount:.6f}"
    if amount and abs(amount) < CENT:
        return f"${amount:.4f}"
    return f"${amount.quantize(CENT, ROUND_HALF_UP):,}"
