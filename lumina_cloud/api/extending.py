"""`lumina extend`: other limits for a run that is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.api import budgets
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError
from lumina_cloud.runs import caps, extending

if TYPE_CHECKING:
    from decimal import Decimal

    from lumina_cloud.api.launching import Limits
    from lumina_cloud.api.session import Session
    from lumina_cloud.ledger import Ledger, RentalRecord, RunRecord
    from lumina_cloud.ledger.transaction import Transaction

TELL_SECONDS = 30.0
"""How long the machine's answer is waited for where another process drives the run."""


def machine_of(ledger: Ledger | Transaction, run: RunRecord) -> RentalRecord | None:
    """Return the machine that a run has, or is about to get."""
    newest = max(ledger.rentals(run.run_id), key=lambda r: r.attempt, default=None)
    return None if newest is None or newest.state in ("ended", "lost") else newest


def new_cap(session: Session, run: RunRecord, limits: Limits) -> caps.Cap:
    """Return what the limits of a run would be. Raises UsageError and RefusedError for what cannot be."""
    if limits.max_cost is None and limits.max_hours is None:
        raise UsageError(
            f"{run.run_id} may cost {money.show(run.usd_cap)} in all: say what its limit is to be",
            f"lumina extend {run.run_id} --max-cost {money.text(run.usd_cap * 2)}, or --max-hours",
        )
    machine = machine_of(session.ledger, run)
    price = run.usd_per_hour if machine is None else machine.usd_per_hour
    cap = caps.cap_from(max_cost=limits.max_cost, max_hours=limits.max_hours, usd_per_hour=price, plan_high=run.usd_cap)
    mine = None if machine is None else machine.rental_id
    earlier = sum((c.usd for c in session.ledger.charges(run.run_id) if c.counted and c.rental_id != mine), caps.ZERO)
    lived = 0.0 if machine is None else (session.clock.now() - machine.intended_at).total_seconds()
    return extending.changed_cap(run, cap, earlier=earlier, lived_seconds=lived, usd_per_hour=price)


def extend(session: Session, run: RunRecord, cap: caps.Cap) -> None:
    """Write other limits down, and keep back what they let a machine cost. Raises RefusedError, UsageError, LedgerError."""
    now = session.clock.now()
    with session.ledger.transaction() as tx:
        known = tx.run(run.run_id) or run
        if known.state not in extending.EXTENDABLE or known.usd_cap != run.usd_cap:
            raise UsageError(f"{run.run_id} has changed meanwhile: it is {known.state}", "lumina status, then once more")
        # What it may cost by now is promised already.
        budgets.refuse_beyond(budgets.Known.of_transaction(tx, now), run.project, _more(cap.usd, known.usd_cap), now)
        tx.update_run(run.run_id, usd_cap=cap.usd, seconds_cap=cap.seconds)
        machine = machine_of(tx, run)
        if machine is not None:
            extending.keep_back(tx, tx.run(run.run_id) or run, machine, no_less=True)
        tx.add_event(extending.EXTENDED, run_id=run.run_id, usd_cap=money.text(cap.usd), usd_cap_was=money.text(known.usd_cap))


def is_told(ledger: Ledger, run: RunRecord) -> bool:
    """Whether the run's machine goes by its limits as they are now. One that is not at work yet is told them when it starts."""
    machine = machine_of(ledger, run)
    return machine is None or not extending.is_behind(ledger.events(run.run_id), machine.rental_id)


def _more(usd: Decimal, than: Decimal) -> Decimal:
    return max(caps.ZERO, usd - than)
