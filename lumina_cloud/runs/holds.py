"""Caps are holds: before a machine is created, the most that it may cost is kept back, in the transaction that intends it.

What is spent and what is kept back never exceed the run's cap together, so two creates at once cannot both take the last of it. A
hold is settled when its rental is over: from then on its charges count, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.core import money
from lumina_cloud.ledger import HoldRecord
from lumina_cloud.runs import caps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lumina_cloud.ledger import ChargeRecord, RentalRecord, RunRecord
    from lumina_cloud.ledger.transaction import Transaction

ZERO = Decimal(0)


@dataclass(frozen=True)
class Room:
    """What is left of a run's cap for a machine: `usd` to keep back, which pay for `seconds`, its end included."""

    usd: Decimal
    seconds: float


def committed(charges: Sequence[ChargeRecord], holds: Sequence[HoldRecord]) -> Decimal:
    """Return what is spent or kept back of a run's cap: of a rental that goes on the larger of the two."""
    spent: dict[str, Decimal] = {}
    for charge in charges:
        if charge.counted:
            spent[charge.rental_id] = spent.get(charge.rental_id, ZERO) + charge.usd
    for hold in holds:
        if hold.settled_at is None:
            spent[hold.rental_id] = max(spent.get(hold.rental_id, ZERO), hold.usd)
    return sum(spent.values(), ZERO)


def room(cap: Decimal, seconds_cap: float, taken: Decimal, usd_per_hour: Decimal, provider: str) -> Room | None:
    """Return what a machine may cost and how long it may live, None when that is too little to make a first step.

    The price is all-in, disk and traffic among it; the time is the longest that the machine could live, until its provider has ended it.
    """
    seconds = caps.longest_seconds(seconds_cap, cap, taken, usd_per_hour)
    if seconds < caps.LEAST_SECONDS + caps.grace_seconds(provider):
        return None
    return Room(min(max(ZERO, cap - taken), money.for_hours(usd_per_hour, seconds / 3600)), seconds)


def reserve(tx: Transaction, run: RunRecord, rental: RentalRecord, now: datetime) -> Room | None:
    """Keep back what a rental may cost, beside its intent; return None, and keep nothing, when the cap leaves too little."""
    taken = committed(tx.charges(run.run_id), tx.holds(run.run_id))
    found = room(run.usd_cap, run.seconds_cap, taken, rental.usd_per_hour, rental.provider)
    if found is not None:
        tx.add_rental(rental)
        tx.put_hold(HoldRecord(rental.rental_id, run.run_id, found.usd, now))
    return found


def settle(tx: Transaction, rental: RentalRecord, now: datetime) -> None:
    """Let go of what was kept back: the rental is over, and its charges are what it cost."""
    for hold in tx.holds(rental.run_id):
        if hold.rental_id == rental.rental_id and hold.settled_at is None:
            tx.put_hold(replace(hold, settled_at=now))
