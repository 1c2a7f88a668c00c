"""One write transaction: all of it, or nothing. Records go in sealed; spending, events and notices are kept in step with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from lumina_cloud.ledger import curves, notices, spending
from lumina_cloud.ledger.records import (
    ArtifactRecord,
    BudgetRecord,
    ChargeRecord,
    CurveRecord,
    EventRecord,
    FactRecord,
    HoldRecord,
    LeaseRecord,
    NoticeRecord,
    PlanRecord,
    PriceRecord,
    RentalRecord,
    RunRecord,
    SpendingRecord,
    SweepRecord,
)
from lumina_cloud.ledger.rows import FIRST_EVENT, KEYS, seal
from lumina_cloud.ledger.writer import key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger.records import MetricRecord
    from lumina_cloud.ledger.spending import Cells
    from lumina_cloud.ledger.writer import Writer

Record = TypeVar("Record")

_TOUCHES_RUN = {"state", "result", "planned", "project", "labels", "started_at", "model", "arch", "gpu"}
"""Fields of a run on which spending depends."""
_TOUCHES_RENTAL = {"state", "gpu", "training_at", "work_ended_at", "saved_at", "ending", "ended_at", "intended_at"}


class Transaction:
    """What can be written. Made by `Ledger.transaction`."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._before: dict[str, Cells] = {}
        self._facts = {f.name: f.value for f in writer.select(FactRecord)}
        count, last, head = self._facts.get("events", f"0 0 {FIRST_EVENT}").split()
        self._events, self._last_event, self._head = int(count), int(last), head

    # --- records --------------------------------------------------------------------------------------------------------

    def add_plan(self, plan: PlanRecord) -> None:
        """Keep a plan."""
        self._writer.insert(plan)

    def add_run(self, run: RunRecord) -> None:
        """Keep a new run."""
        self._writer.insert(run)

    def update_run(self, run_id: str, **fields: Any) -> None:
        """Change fields of a run. Raises LookupError when there is no such run."""
        run = self._get(RunRecord, run_id)
        if run is None:
            raise LookupError(f"{run_id} is not in the ledger")
        if _TOUCHES_RUN & fields.keys():
            self._touch(run_id)
        after = replace(run, **fields)
        self._writer.replace(after)
        for notice in notices.of_change(run, after, self._clock.now()):
            self.add_notice(notice)

    def add_rental(self, rental: RentalRecord) -> None:
        """Keep a new rental."""
        self._touch(rental.run_id)
        self._writer.insert(rental)

    def update_rental(self, rental_id: str, **fields: Any) -> None:
        """Change fields of a rental. Raises LookupError when there is no such rental."""
        rental = self._get(RentalRecord, rental_id)
        if rental is None:
            raise LookupError(f"{rental_id} is not in the ledger")
        if _TOUCHES_RENTAL & fields.keys():
            self._touch(rental.run_id)
        after = replace(rental, **fields)
        self._writer.replace(after)
        for notice in notices.of_interruption(rental, after, self._clock.now()):
            self.add_notice(notice)

    def put_charge(self, charge: ChargeRecord) -> None:
        """Keep a charge, or replace the one of the same id: a live rental's charge grows. Raises ValueError for a negative interval."""
        if charge.until < charge.since:
            raise ValueError(f"charge {charge.charge_id} ends {charge.since - charge.until} before it begins")
        self._touch(charge.run_id)
        self._put(charge)

    def put_lease(self, lease: LeaseRecord) -> None:
        """Keep which controller drives a run."""
        self._put(lease)

    def put_hold(self, hold: HoldRecord) -> None:
        """Keep a hold, or replace the one of the same rental."""
        self._put(hold)

    def add_event(self, kind: str, *, run_id: str | None = None, rental_id: str | None = None, **data: Any) -> None:
        """Append an event."""
        event = EventRecord(self._last_event + 1, self._clock.now(), run_id, rental_id, kind, data, previous=self._head)
        self._writer.insert(event)
        self._events, self._last_event, self._head = self._events + 1, event.event_id, seal(event)

    def put_prices(self, prices: Sequence[PriceRecord]) -> None:
        """Keep prices that were seen; one of the same kind and moment is replaced."""
        for price in prices:
            self._put(price)

    def put_metrics(self, run_id: str, metrics: Sequence[MetricRecord]) -> None:
        """Keep a selection of steps; a step that is known already is replaced."""
        if metrics:
            self._put(curves.extended(self._get(CurveRecord, run_id), run_id, metrics))

    def put_artifacts(self, run_id: str, artifacts: Sequence[ArtifactRecord]) -> None:
        """Replace the list of a run's files."""
        self._writer.delete(ArtifactRecord, run_id=run_id)
        for artifact in artifacts:
            self._writer.insert(artifact)

    def set_budget(self, budget: BudgetRecord) -> None:
        """Set a cap, or replace the one of the same project and month."""
        self._put(budget)
        self.add_event("budget.set", project=budget.project, month=budget.month, usd_cap=str(budget.usd_cap))

    def remove_budget(self, project: str, month: str) -> bool:
        """Remove a cap and return whether there was one."""
        gone = self._writer.delete(BudgetRecord, project=project, month=month) > 0
        if gone:
            self.add_event("budget.removed", project=project, month=month)
        return gone

    def put_sweep(self, sweep: SweepRecord) -> None:
        """Keep a sweep, or replace the one of the same id."""
        self._put(sweep)

    def add_notice(self, notice: NoticeRecord) -> None:
        """Put a notice up for sending, unless one of the same id was."""
        if self._get(NoticeRecord, notice.notice_id) is None:
            self._writer.insert(notice)

    def notice(self, notice_id: str) -> NoticeRecord | None:
        """Return a notice by its id."""
        return self._get(NoticeRecord, notice_id)

    def put_notice(self, notice: NoticeRecord) -> None:
        """Replace a notice after it was sent, or was not."""
        self._put(notice)

    # --- what a decision within the transaction may rest on -----------------------------------------------------------------

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run as it is within this transaction."""
        return self._get(RunRecord, run_id)

    def events_of(self, kind: str) -> list[EventRecord]:
        """Return all events of one kind."""
        return self._writer.select(EventRecord, "WHERE kind = :kind", {"kind": kind})

    def active_runs(self, states: Sequence[str]) -> list[RunRecord]:
        """Return the runs in the given states."""
        named = {f"state{n}": state for n, state in enumerate(states)}
        return self._writer.select(RunRecord, f"WHERE state IN ({', '.join(f':{name}' for name in named)})", named)

    def charges(self, run_id: str) -> list[ChargeRecord]:
        """Return all charges of a run, those that no more count among them."""
        return self._of_run(ChargeRecord, run_id)

    def rentals(self, run_id: str) -> list[RentalRecord]:
        """Return a run's rentals."""
        return self._of_run(RentalRecord, run_id)

    def lease(self, run_id: str) -> LeaseRecord | None:
        """Return which controller drives a run."""
        return self._get(LeaseRecord, run_id)

    def holds(self, run_id: str) -> list[HoldRecord]:
        """Return what is, or was, kept back for a run's rentals."""
        return self._of_run(HoldRecord, run_id)

    def budgets(self) -> list[BudgetRecord]:
        """Return all caps."""
        return self._writer.select(BudgetRecord)

    def spending(self, dimension: str, key: str) -> SpendingRecord | None:
        """Return the money under one key as it was when the transaction began."""
        return self._get(SpendingRecord, dimension, key)

    def spending_of(self, dimension: str, prefix: str) -> list[SpendingRecord]:
        """Return the money under all keys that begin so."""
        where = "WHERE dimension = :dimension AND key >= :low AND key < :high"
        return self._writer.select(SpendingRecord, where, {"dimension": dimension, "low": prefix, "high": f"{prefix}\U0010ffff"})

    # --- the end of it --------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[int, str]:
        """Bring spending, budget notices and facts up to date; return the number of commits with this one, and the ledger's id."""
        changes: Cells = {}
        for run_id, before in self._before.items():
            for cell, delta in spending.difference(before, self._cells(run_id)).items():
                kept = changes.setdefault(cell, {})
                for name, value in delta.items():
                    kept[name] = kept.get(name, 0) + value
        self._apply(changes)
        self._notify_of_budgets({key for dimension, key in changes if dimension == "project_month"})
        commits = int(self._facts.get("commits", "0")) + 1
        self._put(FactRecord("commits", str(commits)))
        self._put(FactRecord("events", f"{self._events} {self._last_event} {self._head}"))
        return commits, self._facts["ledger"]

    def _touch(self, run_id: str) -> None:
        """Remember what a run adds to spending before it changes."""
        if run_id not in self._before:
            self._before[run_id] = self._cells(run_id)

    def _cells(self, run_id: str) -> Cells:
        run = self._get(RunRecord, run_id)
        if run is None:
            return {}
        charges = self.charges(run_id)
        return spending.cells(run, self._of_run(RentalRecord, run_id), charges) if charges else {}

    def _apply(self, changes: Cells) -> None:
        for cell, delta in sorted(changes.items()):
            known = self._get(SpendingRecord, *cell)
            kept = {} if known is None else {name: getattr(known, name) for name in spending.MEASURES}
            after = {name: kept.get(name, 0) + delta.get(name, 0) for name in spending.MEASURES}
            if any(after.values()):
                self._put(spending.record(cell, after))
            else:
                self._writer.delete(SpendingRecord, **key_of(spending.record(cell, after)))

    def _notify_of_budgets(self, changed: set[str]) -> None:
        if not changed:
            return
        budgets = self.budgets()
        for month in {key.split("/", 1)[0] for key in changed} if budgets else ():
            spent = {c.key.split("/", 1)[1]: c.usd_micros for c in self.spending_of("project_month", f"{month}/")}
            for notice in notices.of_budgets(budgets, month, spent, self._clock.now()):
                self.add_notice(notice)

    # --- rows -----------------------------------------------------------------------------------------------------------

    def _of_run(self, cls: type[Record], run_id: str) -> list[Record]:
        return self._writer.select(cls, "WHERE run_id = :run_id", {"run_id": run_id})

    def _get(self, cls: type[Record], *key: str) -> Record | None:
        names = KEYS[cls]
        where = " AND ".join(f"{name} = :{name}" for name in names)
        return next(iter(self._writer.select(cls, f"WHERE {where}", dict(zip(names, key, strict=True)))), None)

    def _put(self, record: Any) -> None:
        if not self._writer.replace(record):
            self._writer.insert(record)
