"""The Pareto front of cost and time: what fits, and that nothing else beats in both."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

T = TypeVar("T")
Point = tuple["Decimal", float]
"""Dollars and hours, both better when less."""


def front(items: Sequence[T], point: Callable[[T], Point]) -> tuple[int, ...]:
    """Return the places of the items that no other dominates, cheapest first.

    One point dominates another when it is not above it in either figure and below it in one. Of equal points all stay.
    """
    kept: list[int] = []
    best_hours, best = float("inf"), None
    for place in sorted(range(len(items)), key=lambda n: (*point(items[n]), n)):
        usd, hours = point(items[place])
        if hours < best_hours or (usd, hours) == best:
            kept.append(place)
            best_hours, best = hours, (usd, hours)
    return tuple(kept)
