"""What a printed figure may stand for: any number that rounds to it, so up to half of its last place away."""

from __future__ import annotations

from decimal import Decimal


def half_a_place(number: str) -> float:
    """Return half a unit of the last digit of a number as it was written: 0.05 of `1.9`, 0.5 of `52`, 500 of `365e3`."""
    exponent = Decimal(number).as_tuple().exponent
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else 0.0


def half_a_place_of(value: float) -> float:
    """Return the same of a number of which only the value is known: trailing zeros after the point are not taken as written."""
    return half_a_place(f"{value:.12g}")


def half_a_place_of_count(value: int) -> float:
    """Return the same of a count that is written out: 365,000 may be what was measured as 365K, and 365,100 may not."""
    thousands, unit = value, 1
    while thousands and thousands % 1000 == 0:
        thousands, unit = thousands // 1000, unit * 1000
    return 0.5 * unit
