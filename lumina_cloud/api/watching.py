"""What `lumina status --watch` shows of each run beside its status: how its loss and its spending went. Pure functions of records."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.api import views

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lumina_cloud.api.documents import of_runs
    from lumina_cloud.ledger import ChargeRecord, MetricRecord, RentalRecord

POINTS = 24
"""Moments at which spending is read off: a terminal has no room for more."""

ENDED_SHOWN = 5
"""Runs that have ended and are still shown, the newest ones."""


@dataclass(frozen=True)
class Pulse:
    """How a run went so far."""

    losses: tuple[float, ...]
    """Training loss by step, in nats a token."""
    spent: tuple[float, ...]
    """Dollars spent by then, at even moments from the first charge to now. For the eye: sums are the ledger's."""


def pulse(metrics: Sequence[MetricRecord], charges: Sequence[ChargeRecord], open_rentals: Sequence[RentalRecord], now: datetime) -> Pulse:
    """Return a run's curves."""
    losses = tuple(float(m.data["loss"]) for m in metrics if isinstance(m.data.get("loss"), int | float))
    return Pulse(losses, tuple(float(usd) for usd in spent_over_time(charges, open_rentals, now)))


def spent_over_time(
    charges: Sequence[ChargeRecord], open_rentals: Sequence[RentalRecord], now: datetime, points: int = POINTS
) -> list[Decimal]:
    """Return dollars spent up to each of `points` even moments, from the first charge to the last, to now while a machine is rented.

    A charge grows evenly over its interval.
    """
    if not charges:
        return []
    begin = min(c.since for c in charges)
    end = now if open_rentals else max(c.until for c in charges)
    if end <= begin:
        return [views.running_cost(charges, open_rentals, now)]
    moments = [begin + (end - begin) * k / points for k in range(1, points + 1)]
    made = [sum((_part(c, at) for c in charges), Decimal(0)) for at in moments]
    # What was not read yet belongs to the newest moment.
    made[-1] = views.running_cost(charges, open_rentals, now)
    return made


def _part(charge: ChargeRecord, at: datetime) -> Decimal:
    if at >= charge.until:
        return charge.usd
    if at <= charge.since:
        return Decimal(0)
    return charge.usd * Decimal((at - charge.since) / (charge.until - charge.since))


def shown(document: of_runs.StatusDocument) -> list[of_runs.RunStatus]:
    """Return the runs that a live screen has room for: all that go on, and the newest that have ended."""
    going = [run for run in document.runs if run.state not in views.ENDED]
    return [*going, *[run for run in document.runs if run.state in views.ENDED][:ENDED_SHOWN]]
