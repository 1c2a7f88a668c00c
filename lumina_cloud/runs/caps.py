"""Limits of money and time: pure arithmetic, `Decimal` dollars and seconds.

A cap on cost implies a cap on time through the price, and the other way round; with neither, it is the plan's
`high` and what is kept back for the end, so that a run on its plan is not ended for what its cap keeps back.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

from lumina_cloud.core import money
from lumina_cloud.core.errors import RefusedError

GRACE_SECONDS = 20.0
"""How long the trainer may take for a last checkpoint when it is stopped on this computer."""

SAVE_SECONDS = 60.0
"""How long it may take on a rented machine."""

RESERVE_SECONDS = 45.0
"""Kept back of every cap for stopping in good order: that checkpoint, fetching, terminating. The machine is off when they are over."""

RENTED_RESERVE_SECONDS = 180.0
"""Kept back on a rented machine: its results travel further, and its provider takes its time to end it."""

TERMINATE_SECONDS = 45.0
"""Of that, what its provider gets to end the machine: what is left is for the last checkpoint and for bringing results home."""

START_SECONDS = 10.0
"""Kept back for what lies between a reckoning and the supervisor's own clock, and between its power-off and this machine's end."""

ZERO = Decimal(0)

LEAST_SECONDS = 60.0
"""Under this no run gets as far as a first step."""


@dataclass(frozen=True)
class Cap:
    """The most that a run may cost and take."""

    usd: Decimal
    seconds: float


def cap_from(
    *, max_cost: Decimal | None, max_hours: float | None, usd_per_hour: Decimal, plan_high: Decimal, grace: float = RESERVE_SECONDS
) -> Cap:
    """Return the cap that the options mean; the tighter of the two holds. Without any: the plan's high, and its end's `grace` beside it."""
    limits = []
    if max_cost is not None:
        limits.append(max_cost)
    if max_hours is not None:
        limits.append(money.for_hours(usd_per_hour, max_hours))
    least = money.for_hours(usd_per_hour, LEAST_SECONDS * 1.1 / 3600)
    usd = min(limits) if limits else max(plan_high, least) + money.for_hours(usd_per_hour, grace * 1.1 / 3600)
    return Cap(usd=usd, seconds=seconds_for(usd, usd_per_hour))


def seconds_for(usd: Decimal, usd_per_hour: Decimal) -> float:
    """Return how long `usd` pays for, to the millisecond, rounded down."""
    return float((usd / usd_per_hour * 3600).quantize(Decimal("0.001"), ROUND_FLOOR))


def longest_seconds(seconds_cap: float, usd_cap: Decimal, taken: Decimal, usd_per_hour: Decimal) -> float:
    """Return how long a machine may live under a run's caps on time and money, of which `taken` is spent or kept back."""
    return min(seconds_cap, seconds_for(max(ZERO, usd_cap - taken), usd_per_hour))


def refuse_beyond(cap: Cap, *, low: Decimal, mid: Decimal, high: Decimal, by_mid: bool = False) -> None:
    """Refuse a run that could cost more than its cap, before anything is rented; `by_mid`: one that is expected to. Raises RefusedError."""
    if (mid if by_mid else high) <= cap.usd:
        return
    expected = "is expected to" if mid > cap.usd else "could"
    raise RefusedError(
        f"this run {expected} cost more than its cap of {money.show(cap.usd)}: "
        f"{money.show(mid)} expected, {money.show(low)} to {money.show(high)} likely",
        f"raise the cap (--max-cost {money.text(_round_up(high))}), or train on less (--tokens)",
    )


def _round_up(amount: Decimal) -> Decimal:
    """Return the next whole cent above, a tenth of a cent for tiny amounts."""
    step = Decimal("0.01") if amount >= Decimal("0.01") else Decimal("0.001")
    return (amount / step).to_integral_value(rounding="ROUND_CEILING") * step


def grace_seconds(provider: str) -> float:
    """Return how much of a rental's time is kept back for its end."""
    return RESERVE_SECONDS if provider == "local" else RENTED_RESERVE_SECONDS


def home_seconds(provider: str) -> float:
    """Return how long after its last step a machine is there yet: to save, and for its results to come home."""
    return grace_seconds(provider) - (START_SECONDS if provider == "local" else TERMINATE_SECONDS)


def seconds_left_on_box(cap_usd: Decimal, spent: Decimal, usd_per_hour: Decimal, grace: float = RESERVE_SECONDS) -> float:
    """Return how long the trainer may run so that stopping and fetching still fit under the cap. Raises RefusedError."""
    left = seconds_for(max(Decimal(0), cap_usd - spent), usd_per_hour) - grace
    if left < LEAST_SECONDS:
        raise RefusedError(
            f"of the cap of {money.show(cap_usd)} only {money.show(max(Decimal(0), cap_usd - spent))} is left, "
            f"which pays for {max(0.0, left):.0f} s of training",
            f"resume with a higher cap: --max-cost {money.text(_round_up(cap_usd + usd_per_hour))}",
        )
    return left
