"""Limits of a run that change while it goes on: in the ledger at once, on its machine at the next look.

Each change is an event of the run with a number. A machine that was told of fewer is behind; the guard and the supervisor there take the
last they were told. A limit that rises is kept back from other runs before the machine hears of it, one that falls after.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lumina_cloud.core import money
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.runs import caps, holds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal

    from lumina_cloud.ledger import EventRecord, RentalRecord, RunRecord
    from lumina_cloud.ledger.transaction import Transaction

EXTENDED = "run.extended"
PRICE_ROSE = "rental.price_rose"
STARTED = "run.started_on_machine"
TOLD = "run.limits_told"
EXTENDABLE = ("provisioning", "preparing", "training")


def seq(events: Sequence[EventRecord]) -> int:
    """Return how often the limits of a run have changed, or what they pay for."""
    return sum(e.kind in (EXTENDED, PRICE_ROSE) for e in events)


def is_behind(events: Sequence[EventRecord], rental_id: str) -> bool:
    """Whether a machine at work has not been told of the last limits."""
    told = [int(e.data.get("limits", 0)) for e in events if e.kind in (STARTED, TOLD) and e.rental_id == rental_id]
    return bool(told) and max(told) < seq(events)


def told_at(events: Sequence[EventRecord], rental_id: str) -> datetime | None:
    """Return when a machine at work was last told of limits that had changed."""
    return max((e.at for e in events if e.kind == TOLD and e.rental_id == rental_id), default=None)


def changed_cap(run: RunRecord, cap: caps.Cap, *, earlier: Decimal, lived_seconds: float, usd_per_hour: Decimal) -> caps.Cap:
    """Return the cap as it may become: `earlier` is what the run's other machines cost, `lived_seconds` the age of this one.

    Raises UsageError for a run that rents nothing any more, RefusedError for a cap under which its machine could not end in good order.
    """
    if run.state not in EXTENDABLE:
        next_step = (
            f"lumina resume {run.run_id} --max-cost {money.text(cap.usd)}" if run.state in ("failed", "stopped") else "lumina status"
        )
        raise UsageError(f"run {run.run_id} is {run.state}: only a run that is at work has limits to change", next_step)
    allowed = caps.longest_seconds(cap.seconds, cap.usd, earlier, usd_per_hour)
    needed = lived_seconds + caps.grace_seconds(run.provider) + caps.LEAST_SECONDS
    if allowed < needed:
        least = earlier + money.for_hours(usd_per_hour, needed / 3600)
        raise RefusedError(
            f"under a cap of {money.show(cap.usd)} the machine would have to end before its work could be saved: "
            f"with its end it costs {money.show(least)}",
            f"lumina extend {run.run_id} --max-cost with more than that, or lumina stop {run.run_id} to end it now",
        )
    return cap


def keep_back(tx: Transaction, run: RunRecord, rental: RentalRecord, *, no_less: bool) -> None:
    """Keep back what a machine may cost under the run's limits as they are now; `no_less` while it may still live by earlier ones."""
    held = next((h for h in tx.holds(run.run_id) if h.rental_id == rental.rental_id and h.settled_at is None), None)
    if held is None:
        return
    others = holds.committed(
        [c for c in tx.charges(run.run_id) if c.rental_id != rental.rental_id],
        [h for h in tx.holds(run.run_id) if h.rental_id != rental.rental_id],
    )
    room = holds.room(run.usd_cap, run.seconds_cap, others, rental.usd_per_hour, rental.provider)
    usd = caps.ZERO if room is None else room.usd
    tx.put_hold(replace(held, usd=max(held.usd, usd) if no_less else usd))
