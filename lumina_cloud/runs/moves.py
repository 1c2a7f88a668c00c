"""How a run's work ends and a rental changes its state, each in one transaction with its event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.runs import holds
from lumina_cloud.runs.states import ENDINGS, next_rental_state, next_run_state

if TYPE_CHECKING:
    from lumina_cloud.ledger import Ledger, RentalRecord, RunRecord
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.states import Reason, RentalEvent


def newest_rental(ledger: Ledger, run_id: str) -> RentalRecord | None:
    """Return a run's last rental."""
    return max(ledger.rentals(run_id), key=lambda r: r.attempt, default=None)


def fresh(context: Context, rental: RentalRecord) -> RentalRecord:
    """Return a rental as it is on record now."""
    return next(r for r in context.ledger.rentals(rental.run_id) if r.rental_id == rental.rental_id)


def end_work(context: Context, run: RunRecord, reason: Reason, detail: str = "") -> None:
    """Record why the run's work is over, with the provider's or machine's own words.

    What remains is to bring results home and to end the rental.
    """
    rental = newest_rental(context.ledger, run.run_id)
    with context.ledger.transaction() as tx:
        state = next_run_state(run.state, "work_ended")
        tx.update_run(run.run_id, state=state, reason=reason)
        if rental is not None and rental.ended_at is None:
            # A short run may be over before anybody saw it train.
            trained = reason == "finished" or bool(run.progress.get("step"))
            tx.update_rental(
                rental.rental_id,
                training_at=rental.training_at or (rental.ready_at if trained else None),
                work_ended_at=context.clock.now(),
                ending=ENDINGS.get(reason, "failed"),
            )
        tx.add_event("run.work_ended", run_id=run.run_id, reason=reason, detail=detail)
    if detail:
        context.reporter.said(run.run_id, detail)


def move_rental(context: Context, rental: RentalRecord, event: RentalEvent) -> None:
    """Change a rental's state by its table, with its event; what was kept back for one that is over is let go of."""
    with context.ledger.transaction() as tx:
        state = next_rental_state(rental.state, event)
        ended = {"ended_at": context.clock.now()} if state in ("ended", "lost") else {}
        tx.update_rental(rental.rental_id, state=state, **ended)
        if ended:
            holds.settle(tx, rental, ended["ended_at"])
        tx.add_event(f"rental.{event}", run_id=rental.run_id, rental_id=rental.rental_id)
