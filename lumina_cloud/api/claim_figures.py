"""Figures of a table of claims as people write them: `96,000`, `20B`, `$1.97`, `8 min`, `2.2 days`; and how far each was rounded.

Each raises UsageError for text that is no such figure, naming `where` it stands.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import printed

_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(r"[~$\s]*([+-]?[\d_,]*\.?\d+(?:[eE][+-]?\d+)?)\s*([kKmMbBgGtT]?)\s*(?:%|gb|gib|tokens(?:/s)?)?\s*", re.IGNORECASE)
_TIMES = {"s": 1 / 3600, "sec": 1 / 3600, "min": 1 / 60, "minute": 1 / 60, "h": 1.0, "hour": 1.0, "hr": 1.0, "d": 24.0, "day": 24.0}
_TIME = re.compile(r"[~\s]*([\d_,]*\.?\d+)\s*([a-z]*?)s?\s*(?:\(.*\))?\s*", re.IGNORECASE)


def number(raw: Any, where: str, *, signed: bool = False) -> float:
    """Return a number with its suffix multiplied out; above zero, unless it is `signed`."""
    found = _NUMBER.fullmatch(str(raw)) if not isinstance(raw, bool) else None
    value = float(_digits(found[1])) * _SCALES[found[2].lower()] if found else float("nan")
    if not (abs(value) < 1e30 and (value > 0 or signed)):
        raise UsageError(
            f"{where} is {untrusted.line(raw, 60)!r}, no figure above zero", "as in 96,000 or 20B; leave it empty where nothing is claimed"
        )
    return value


def count(raw: Any, where: str) -> int:
    """Return a whole number above zero."""
    value = number(raw, where)
    if value != int(value):
        raise UsageError(f"{where} is {untrusted.line(raw, 60)!r}, no whole number", "as in 4 or 524,288")
    return int(value)


def count_rounding(raw: Any) -> float | None:
    """Return how far a count may lie from what is written, 500 for `365K`; None where it is written out in digits."""
    found = _NUMBER.fullmatch(str(raw))
    if found is None or not (found[2] or "e" in found[1].lower()):
        return None
    return printed.half_a_place(_digits(found[1])) * _SCALES[found[2].lower()]


def share(raw: Any, where: str) -> float:
    """Return a share of one: `0.5` or `50 %`."""
    value = number(raw, where) / (100 if str(raw).rstrip().endswith("%") else 1)
    if value > 1:
        raise UsageError(f"{where} is {untrusted.line(raw, 60)!r}, more than all", "as in 0.5 or 50 %")
    return value


def money(raw: Any, where: str) -> Decimal:
    """Return an amount in dollars."""
    try:
        amount = Decimal(str(raw).replace("$", "").replace(",", "").replace("/h", "").strip())
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and 0 < amount < Decimal("1e12")):
        raise UsageError(f"{where} is {untrusted.line(raw, 60)!r}, no amount in dollars", "as in 1.97 or $1.97")
    return amount


def hours(raw: Any, where: str) -> float:
    """Return a time in hours, whatever it is written in."""
    digits, unit = _time(raw, where)
    return float(digits) * unit


def hours_rounding(raw: Any, where: str) -> float:
    """Return how far a time may lie from what is written, in hours: half a minute for `8 min`."""
    digits, unit = _time(raw, where)
    return printed.half_a_place(digits) * unit


def _time(raw: Any, where: str) -> tuple[str, float]:
    found = _TIME.fullmatch(str(raw)) if not isinstance(raw, bool) else None
    unit = found[2].lower() if found else ""
    if found is None or (unit and unit not in _TIMES):
        raise UsageError(f"{where} is {untrusted.line(raw, 60)!r}, no time", "in hours, or as in 8 min or 2.2 days")
    return _digits(found[1]), _TIMES.get(unit, 1.0)


def _digits(written: str) -> str:
    return written.replace(",", "").replace("_", "")
