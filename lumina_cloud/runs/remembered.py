"""Machines that failed, remembered for a while, so that they are not rented again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina_cloud.ledger import Ledger, RentalRecord
    from providers.contract import Instance

KIND = "machine.failed"
REMEMBERED = timedelta(days=7)


def remember(ledger: Ledger, rental: RentalRecord, instance: Instance | None, why: str) -> None:
    """Write down that a machine failed. One whose provider names no machine cannot be told apart."""
    machine = instance.machine_id if instance is not None else None
    if machine is None:
        machine = next(
            (
                e.data.get("machine")
                for e in ledger.events(rental.run_id)
                if e.kind == "rental.intended" and e.rental_id == rental.rental_id
            ),
            None,
        )
    with ledger.transaction() as tx:
        tx.add_event(KIND, run_id=rental.run_id, rental_id=rental.rental_id, provider=rental.provider, machine=machine, why=why)


def bad_machines(ledger: Ledger, now: datetime) -> set[tuple[str, str]]:
    """Return provider and machine of those that failed lately."""
    recent = [e.data for e in ledger.events_of(KIND, now - REMEMBERED)]
    return {(d["provider"], d["machine"]) for d in recent if d.get("machine") is not None}
