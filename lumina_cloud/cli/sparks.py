"""Curves as a row of bars, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], low: float, high: float) -> str:
    """Return a bar for each value, on a scale from `low` to `high`."""
    top = len(BARS) - 1
    return "".join(BARS[min(top, max(0, round((value - low) / (high - low or 1.0) * top)))] for value in values)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the values as at most `width` bars, on their own scale: of each stretch the last value, so that the newest is seen."""
    if not values or width < 1:
        return ""
    n = min(width, len(values))
    chosen = [values[(k + 1) * len(values) // n - 1] for k in range(n)]
    return bars(chosen, min(chosen), max(chosen))
