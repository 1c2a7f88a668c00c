"""Whether a run goes as planned: its measured speed and its projected time and cost against the plan's bounds. A pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

OnDrift = Literal["tell", "stop"]
ON_DRIFT: tuple[OnDrift, ...] = get_args(OnDrift)

MEASURES = "measures"
"""Of a run's planned figures: it is a probe, and what it measures is what its plan will be held against."""

LEAST_STEPS = 5
"""The first steps load kernels and fill caches: they say nothing of the rest."""
LEAST_SHARE = 0.01
"""Of the run that must be done before its speed is believed, unless a minute of training is."""
LEAST_SECONDS = 60.0


@dataclass(frozen=True)
class Standing:
    """Where a run is. `elapsed_seconds` counts from the first billed second, `training_seconds` from the first step."""

    step: int
    steps: int
    tokens: int
    tokens_per_second: float
    """Of the last steps together, where the machine says that."""
    elapsed_seconds: float
    spent_usd: Decimal
    usd_per_hour: Decimal


@dataclass(frozen=True)
class Drift:
    """A run that goes beyond what its plan held likely."""

    kind: Literal["speed", "seconds", "cost"]
    projected: float
    bound: float
    text: str


def drift(planned: Mapping[str, Any], at: Standing) -> tuple[Drift, ...]:
    """Return in what a run goes beyond its plan: below the speed's low, above the time's or the cost's high. None while it is too early."""
    if planned.get(MEASURES) or at.steps < 1 or at.tokens_per_second <= 0 or at.step < LEAST_STEPS:
        return ()
    done = at.step / at.steps
    if done < LEAST_SHARE and at.tokens / at.tokens_per_second < LEAST_SECONDS:
        return ()
    left = at.tokens / at.step * max(0, at.steps - at.step) / at.tokens_per_second
    seconds = at.elapsed_seconds + left
    usd = float(at.spent_usd) + left / 3600 * float(at.usd_per_hour)
    return tuple(found for found in (_speed(planned, at), _time(planned, seconds), _cost(planned, usd)) if found is not None)


def advice(found: tuple[Drift, ...], run_id: str) -> str:
    """Return what can be done about it, in one line."""
    what = "; ".join(d.text for d in found)
    return f"{what}. lumina stop {run_id} ends it with its checkpoint; lumina resume {run_id} --max-cost USD goes on; its cap holds anyway"


def _speed(planned: Mapping[str, Any], at: Standing) -> Drift | None:
    low = _bound(planned, "tokens_per_second", "low")
    if low is None or at.tokens_per_second >= low:
        return None
    return Drift("speed", at.tokens_per_second, low, f"{at.tokens_per_second:,.0f} tokens/s, at least {low:,.0f} were planned")


def _time(planned: Mapping[str, Any], seconds: float) -> Drift | None:
    high = _bound(planned, "seconds", "high")
    if high is None or seconds <= high:
        return None
    return Drift("seconds", seconds, high, f"it will take {seconds / 3600:.2f} h at its speed, at most {high / 3600:.2f} h were planned")


def _cost(planned: Mapping[str, Any], usd: float) -> Drift | None:
    high = _bound(planned, "usd", "high")
    if high is None or usd <= high:
        return None
    return Drift("cost", usd, high, f"it will cost ${usd:,.2f}, at most ${high:,.2f} were planned")


def _bound(planned: Mapping[str, Any], figure: str, end: str) -> float | None:
    try:
        return float(planned[figure][end])
    except (KeyError, TypeError, ValueError):
        return None
