"""`Ledger`: the only way to the database. Short transactions, no outside call inside one."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from lumina_cloud.core import money
from lumina_cloud.ledger import curves
from lumina_cloud.ledger.database import errors_of, open_database
from lumina_cloud.ledger.records import (
    ArtifactRecord,
    BudgetRecord,
    ChargeRecord,
    CostRow,
    CurveRecord,
    EventRecord,
    HoldRecord,
    LeaseRecord,
    MetricRecord,
    NoticeRecord,
    PlanRecord,
    PriceRecord,
    RentalRecord,
    RunRecord,
    SpendingRecord,
    SweepRecord,
)
from lumina_cloud.ledger.rows import TABLES, stored_moment, to_record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import Engine

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger.database import Database
    from lumina_cloud.ledger.records import CostKey
    from lumina_cloud.ledger.transaction import Transaction

Record = TypeVar("Record")

OPEN_RENTALS = ("intended", "creating", "booting", "ready", "terminating")
"""States of a rental that may cost money."""

# Said instead of nothing, so that the index on the time is walked and not the table: no run is older.
_ANY_TIME = "created_at >= '0001-01-01'"


_fence: ContextVar[Callable[[Transaction], None] | None] = ContextVar("fence", default=None)


@contextmanager
def fenced_by(check: Callable[[Transaction], None]) -> Iterator[None]:
    """Call `check` at the beginning of every write transaction. It raises where we may write no more."""
    token = _fence.set(check)
    try:
        yield
    finally:
        _fence.reset(token)


class Ledger:
    """The plans, runs, rentals, charges and events of one user, or of a team."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, home: Path, clock: Clock, url: str = "") -> Ledger:
        """Open the ledger of `home` (`ledger.db` there), or the one at `url` or `LUMINA_LEDGER_URL`; it is made or migrated where needed.

        Raises LedgerError, UsageError for a malformed address.
        """
        return cls(open_database(home, clock, url))

    @property
    def _engine(self) -> Engine:
        return self.database.engine

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Give a write transaction; it commits at the end and rolls back on any exception. Raises LedgerError."""
        from lumina_cloud.ledger.transaction import Transaction as Writing

        with self.database.writing() as writer:
            tx = Writing(writer, self.database.clock)
            fence = _fence.get()
            if fence is not None:
                fence(tx)
            yield tx
            commits, ledger_id = tx.finish()
            self.database.commit(writer, commits, ledger_id)

    # --- plans and runs -------------------------------------------------------------------------------------------------

    def plan(self, plan_id: str) -> PlanRecord | None:
        """Return a plan by its id."""
        return self._one(PlanRecord, "WHERE plan_id = :plan_id", plan_id=plan_id)

    def last_plan(self) -> PlanRecord | None:
        """Return the newest plan."""
        return self._one(PlanRecord, f"WHERE {_ANY_TIME} ORDER BY created_at DESC LIMIT 1")

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run by its id."""
        return self._one(RunRecord, "WHERE run_id = :run_id", run_id=run_id)

    def runs(self, states: Collection[str] | None = None, limit: int | None = None) -> list[RunRecord]:
        """Return runs, newest first, all or those in the given states, at most `limit` of them."""
        most = "" if limit is None else f" LIMIT {int(limit)}"
        if states is None:
            return self._all(RunRecord, f"WHERE {_ANY_TIME} ORDER BY created_at DESC, run_id{most}")
        listed, parameters = _listed("state", states)
        if limit is None:
            found = self._all(RunRecord, f"WHERE state IN ({listed})", **parameters)
            return sorted(sorted(found, key=lambda r: r.run_id), key=lambda r: r.created_at, reverse=True)
        return self._all(RunRecord, f"WHERE state IN ({listed}) ORDER BY created_at DESC, run_id{most}", **parameters)

    def has_runs(self, states: Collection[str]) -> bool:
        """Whether there is any run in the given states."""
        listed, parameters = _listed("state", states)
        return bool(self.database.rows(f"SELECT 1 AS found FROM runs WHERE state IN ({listed}) LIMIT 1", parameters))

    def runs_labelled(self, label: str, since: datetime) -> list[RunRecord]:
        """Return the runs since a moment that carry a label, oldest first."""
        found = self._all(RunRecord, "WHERE created_at >= :since ORDER BY created_at, run_id", since=self._moment(since))
        return [run for run in found if label in run.labels]

    def run_names(self) -> list[str]:
        """Return the ids of all runs, newest first."""
        rows = self.database.rows(f"SELECT run_id FROM runs WHERE {_ANY_TIME} ORDER BY created_at DESC, run_id")
        return [str(row["run_id"]) for row in rows]

    def names_beginning(self, prefix: str, limit: int = 7) -> list[str]:
        """Return ids of runs that begin so, at most `limit`, in their order."""
        rows = self.database.rows(
            f"SELECT run_id FROM runs WHERE run_id >= :low AND run_id < :high ORDER BY run_id LIMIT {int(limit)}",
            {"low": prefix, "high": f"{prefix}\U0010ffff"},
        )
        return [str(row["run_id"]) for row in rows]

    # --- what belongs to runs -------------------------------------------------------------------------------------------

    def rentals(self, run_id: str) -> list[RentalRecord]:
        """Return a run's rentals in their order."""
        return self._all(RentalRecord, "WHERE run_id = :run_id ORDER BY attempt", run_id=run_id)

    def open_rentals(self) -> list[RentalRecord]:
        """Return rentals that may still cost money."""
        listed, parameters = _listed("state", OPEN_RENTALS)
        # Sorted here: asked for an order, SQLite may walk the index of all tags to have it.
        return sorted(self._all(RentalRecord, f"WHERE state IN ({listed})", **parameters), key=lambda r: r.tag)

    def rentals_since(self, provider: str, since: datetime) -> list[RentalRecord]:
        """Return a provider's rentals that were intended at or after a moment."""
        tail = "WHERE provider = :provider AND intended_at >= :since ORDER BY intended_at, rental_id"
        return self._all(RentalRecord, tail, provider=provider, since=self._moment(since))

    def rental_of_instance(self, provider: str, instance_id: str) -> RentalRecord | None:
        """Return the rental of a provider's instance."""
        tail = "WHERE instance_id = :instance_id AND provider = :provider"
        return self._one(RentalRecord, tail, instance_id=instance_id, provider=provider)

    def rental_of_tag(self, tag: str) -> RentalRecord | None:
        """Return the rental that a tag was made for."""
        return self._one(RentalRecord, "WHERE tag = :tag", tag=tag)

    def ledger_id(self) -> str:
        """Return what tells this ledger from any other."""
        rows = self.database.rows("SELECT value FROM facts WHERE name = 'ledger'")
        return str(rows[0]["value"]) if rows else ""

    def has_rentals(self, provider: str) -> bool:
        """Whether anything was ever rented from a provider."""
        return bool(self.database.rows("SELECT rental_id FROM rentals WHERE provider = :provider LIMIT 1", {"provider": provider}))

    def events(self, run_id: str) -> list[EventRecord]:
        """Return what happened to a run, oldest first."""
        return self._all(EventRecord, "WHERE run_id = :run_id ORDER BY event_id", run_id=run_id)

    def events_of(self, kind: str, since: datetime) -> list[EventRecord]:
        """Return events of one kind since a moment, oldest first."""
        return self._all(EventRecord, "WHERE kind = :kind AND at >= :since ORDER BY event_id", kind=kind, since=self._moment(since))

    def metrics(self, run_id: str) -> list[MetricRecord]:
        """Return a selection of a run's steps in their order; its own `metrics.jsonl` has all of them."""
        curve = self._one(CurveRecord, "WHERE run_id = :run_id", run_id=run_id)
        return [] if curve is None else curves.points_of(curve)

    def artifacts(self, run_id: str) -> list[ArtifactRecord]:
        """Return the files of a run that came home."""
        return self._all(ArtifactRecord, "WHERE run_id = :run_id ORDER BY path", run_id=run_id)

    # --- money ----------------------------------------------------------------------------------------------------------

    def charges(self, run_id: str | None = None, *, all_of_them: bool = False) -> list[ChargeRecord]:
        """Return charges in their order, of one run or of all: those that count, or also those that a bill has taken the place of."""
        where = "" if run_id is None else "WHERE run_id = :run_id"
        found = self._all(ChargeRecord, f"{where} ORDER BY since, charge_id", **({} if run_id is None else {"run_id": run_id}))
        return found if all_of_them else [c for c in found if c.counted]

    def charges_of(self, run_ids: Collection[str]) -> dict[str, list[ChargeRecord]]:
        """Return the charges that count of several runs, by run."""
        found: dict[str, list[ChargeRecord]] = {run_id: [] for run_id in run_ids}
        names = list(found)
        for start in range(0, len(names), 500):
            listed, parameters = _listed("run", names[start : start + 500])
            for charge in self._all(ChargeRecord, f"WHERE run_id IN ({listed}) ORDER BY since, charge_id", **parameters):
                if charge.counted:
                    found[charge.run_id].append(charge)
        return found

    def charges_of_rental(self, rental_id: str) -> list[ChargeRecord]:
        """Return all charges of a rental, counted or not."""
        return self._all(ChargeRecord, "WHERE rental_id = :rental_id ORDER BY since, charge_id", rental_id=rental_id)

    def spent(self, run_id: str) -> Decimal:
        """Return the sum of a run's charges."""
        return sum((c.usd for c in self.charges(run_id)), Decimal(0))

    def lease(self, run_id: str) -> LeaseRecord | None:
        """Return which controller drives a run."""
        return self._one(LeaseRecord, "WHERE run_id = :run_id", run_id=run_id)

    def holds(self, run_id: str) -> list[HoldRecord]:
        """Return what is, or was, kept back for a run's rentals."""
        return self._all(HoldRecord, "WHERE run_id = :run_id ORDER BY made_at", run_id=run_id)

    def spending(self, dimension: str) -> list[SpendingRecord]:
        """Return the money under each key of a dimension."""
        return self._all(SpendingRecord, "WHERE dimension = :dimension ORDER BY key", dimension=dimension)

    def spending_in(self, dimension: str, prefix: str) -> list[SpendingRecord]:
        """Return the money under those keys of a dimension that begin so."""
        tail = "WHERE dimension = :dimension AND key >= :low AND key < :high ORDER BY key"
        return self._all(SpendingRecord, tail, dimension=dimension, low=prefix, high=f"{prefix}\U0010ffff")

    def costs(self, by: CostKey) -> list[CostRow]:
        """Return spending under each value of a key, largest first.

        What a charge costs is shared out over the days (UTC) that it spans, by time.
        """
        found = sorted(self.spending(by), key=lambda s: (-s.usd_micros, s.key))
        return [CostRow(s.key, money.from_micros(s.usd_micros), round(s.microseconds / 3.6e9, 6), s.runs, s) for s in found]

    def prices(self, since: datetime, gpu: str | None = None, provider: str | None = None) -> list[PriceRecord]:
        """Return prices that were seen since then, oldest first."""
        known = {"since": self._moment(since)} | {k: v for k, v in (("gpu", gpu), ("provider", provider)) if v is not None}
        where = "".join(f" AND {name} = :{name}" for name in known if name != "since")
        return self._all(PriceRecord, f"WHERE seen_at >= :since{where} ORDER BY seen_at, provider", **known)

    # --- budgets, notices, sweeps ---------------------------------------------------------------------------------------

    def budgets(self) -> list[BudgetRecord]:
        """Return all caps."""
        return self._all(BudgetRecord, "WHERE project >= '' ORDER BY project, month")

    def due_notices(self, now: datetime, limit: int = 20) -> list[NoticeRecord]:
        """Return notices that are to be sent by now, oldest first."""
        return self._all(NoticeRecord, f"WHERE state = 'due' AND due_at <= :now ORDER BY due_at LIMIT {int(limit)}", now=self._moment(now))

    def notice(self, notice_id: str) -> NoticeRecord | None:
        """Return a notice by its id."""
        return self._one(NoticeRecord, "WHERE notice_id = :notice_id", notice_id=notice_id)

    def sweep(self, sweep_id: str) -> SweepRecord | None:
        """Return a sweep by its id."""
        return self._one(SweepRecord, "WHERE sweep_id = :sweep_id", sweep_id=sweep_id)

    # --- rows -----------------------------------------------------------------------------------------------------------

    def _moment(self, moment: datetime) -> datetime | str:
        """Return a moment as the database compares it."""
        return moment if self.database.path is None else stored_moment(moment)

    def _one(self, cls: type[Record], tail: str, **parameters: Any) -> Record | None:
        return next(iter(self._all(cls, tail, **parameters)), None)

    def _all(self, cls: type[Record], tail: str, **parameters: Any) -> list[Record]:
        rows = self.database.rows(f"SELECT * FROM {TABLES[cls]} {tail}", parameters)
        with errors_of(self.database.where, self.database.path):
            return [to_record(cls, row) for row in rows]


def _listed(name: str, values: Collection[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the parameters of an IN list, and their values."""
    parameters = {f"{name}{n}": value for n, value in enumerate(values)}
    return ", ".join(f":{key}" for key in parameters), parameters
