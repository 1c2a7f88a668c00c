"""`Ledger`: the only way to the database. Short transactions, no outside call inside one."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from lumina_cloud.core import money
from lumina_cloud.core.edge import edge
from lumina_cloud.ledger import tables
from lumina_cloud.ledger.database import errors_of, open_engine
from lumina_cloud.ledger.records import (
    ArtifactRecord,
    ChargeRecord,
    CostRow,
    EventRecord,
    MetricRecord,
    PlanRecord,
    PriceRecord,
    RentalRecord,
    RunRecord,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime
    from decimal import Decimal
    from pathlib import Path

    from sqlalchemy import Engine, Select

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger.records import CostKey

Record = TypeVar("Record", PlanRecord, RunRecord, RentalRecord, ChargeRecord, EventRecord, ArtifactRecord, MetricRecord, PriceRecord)

_MONEY = ("usd", "usd_per_hour", "usd_cap")
_CLOSED_RENTALS = ("ended", "lost")


def _to_row(values: dict[str, Any]) -> dict[str, Any]:
    """Return a record's fields as columns: dollars become micro-dollars."""
    return {f"{k}_micros" if k in _MONEY else k: money.to_micros(v) if k in _MONEY else v for k, v in values.items()}


def _to_record(cls: type[Record], row: tables.Base) -> Record:
    """Return a row as a frozen record: micro-dollars become dollars."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        column = f"{field.name}_micros" if field.name in _MONEY else field.name
        value = getattr(row, column)
        values[field.name] = money.from_micros(value) if field.name in _MONEY else value
    return cls(**values)


class Transaction:
    """One write transaction: all of it, or nothing."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    def add_plan(self, plan: PlanRecord) -> None:
        """Keep a plan."""
        self._session.add(tables.Plan(**_to_row(vars(plan))))

    def add_run(self, run: RunRecord) -> None:
        """Keep a new run."""
        self._session.add(tables.Run(**_to_row(vars(run))))
        self._session.flush()

    def update_run(self, run_id: str, **fields: Any) -> None:
        """Change fields of a run. Raises LookupError when there is no such run."""
        self._change(tables.Run, tables.Run.run_id == run_id, run_id, fields)

    def add_rental(self, rental: RentalRecord) -> None:
        """Keep a new rental."""
        self._session.add(tables.Rental(**_to_row(vars(rental))))
        self._session.flush()

    def update_rental(self, rental_id: str, **fields: Any) -> None:
        """Change fields of a rental. Raises LookupError when there is no such rental."""
        self._change(tables.Rental, tables.Rental.rental_id == rental_id, rental_id, fields)

    def put_charge(self, charge: ChargeRecord) -> None:
        """Keep a charge, or replace the one of the same id: a live rental's charge grows."""
        self._session.merge(tables.Charge(**_to_row(vars(charge))))

    def drop_charge(self, charge_id: str) -> None:
        """Drop our own reading of a charge that the provider's bill has replaced."""
        self._session.execute(delete(tables.Charge).where(tables.Charge.charge_id == charge_id))

    def add_event(self, kind: str, *, run_id: str | None = None, rental_id: str | None = None, **data: Any) -> None:
        """Append an event."""
        self._session.add(tables.Event(at=self._clock.now(), run_id=run_id, rental_id=rental_id, kind=kind, data=data))

    def put_prices(self, prices: Sequence[PriceRecord]) -> None:
        """Keep prices that were seen; one of the same kind and moment is replaced."""
        for price in prices:
            self._session.merge(tables.PriceSeen(**_to_row(vars(price))))

    def put_metrics(self, run_id: str, metrics: Sequence[MetricRecord]) -> None:
        """Keep steps; a step that is known already is replaced."""
        if not metrics:
            return
        rows = insert(tables.Metric).values([{"run_id": run_id, "step": m.step, "data": m.data} for m in metrics])
        self._session.execute(rows.on_conflict_do_update(index_elements=["run_id", "step"], set_={"data": rows.excluded.data}))

    def put_artifacts(self, run_id: str, artifacts: Sequence[ArtifactRecord]) -> None:
        """Replace the list of a run's files."""
        self._session.execute(delete(tables.Artifact).where(tables.Artifact.run_id == run_id))
        self._session.add_all(tables.Artifact(**vars(a)) for a in artifacts)

    def _change(self, table: type[tables.Base], where: Any, name: str, fields: dict[str, Any]) -> None:
        result = self._session.execute(update(table).where(where).values(**_to_row(fields)))
        if result.rowcount != 1:  # type: ignore[attr-defined]  # an update's result counts its rows
            raise LookupError(f"{name} is not in the ledger")


class Ledger:
    """The plans, runs, rentals, charges and events of one user."""

    def __init__(self, engine: Engine, path: Path, clock: Clock) -> None:
        self._engine = engine
        self._path = path
        self._clock = clock

    @classmethod
    def open(cls, home: Path, clock: Clock) -> Ledger:
        """Open `home/ledger.db`, made or migrated where needed. Raises LedgerError."""
        path = home / "ledger.db"
        return cls(open_engine(path, clock), path, clock)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Give a write transaction; it commits at the end and rolls back on any exception. Raises LedgerError."""
        with errors_of(self._path), Session(self._engine.execution_options(writes=True)) as session:
            yield Transaction(session, self._clock)
            session.flush()
            with edge("ledger.commit"):
                session.commit()

    # --- reads ----------------------------------------------------------------------------------------------------------

    def plan(self, plan_id: str) -> PlanRecord | None:
        """Return a plan by its id."""
        return self._one(PlanRecord, select(tables.Plan).where(tables.Plan.plan_id == plan_id))

    def last_plan(self) -> PlanRecord | None:
        """Return the newest plan."""
        return self._one(PlanRecord, select(tables.Plan).order_by(tables.Plan.created_at.desc()).limit(1))

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run by its id."""
        return self._one(RunRecord, select(tables.Run).where(tables.Run.run_id == run_id))

    def runs(self, states: Collection[str] | None = None) -> list[RunRecord]:
        """Return runs, newest first, all or those in the given states."""
        query = select(tables.Run).order_by(tables.Run.created_at.desc(), tables.Run.run_id)
        return self._all(RunRecord, query if states is None else query.where(tables.Run.state.in_(states)))

    def run_names(self) -> list[str]:
        """Return the ids of all runs, newest first."""
        with errors_of(self._path), Session(self._engine) as session:
            return list(session.scalars(select(tables.Run.run_id).order_by(tables.Run.created_at.desc())))

    def rentals(self, run_id: str) -> list[RentalRecord]:
        """Return a run's rentals in their order."""
        return self._all(RentalRecord, select(tables.Rental).where(tables.Rental.run_id == run_id).order_by(tables.Rental.attempt))

    def open_rentals(self) -> list[RentalRecord]:
        """Return rentals that may still cost money."""
        return self._all(RentalRecord, select(tables.Rental).where(tables.Rental.state.not_in(_CLOSED_RENTALS)).order_by(tables.Rental.tag))

    def events(self, run_id: str) -> list[EventRecord]:
        """Return what happened to a run, oldest first."""
        return self._all(EventRecord, select(tables.Event).where(tables.Event.run_id == run_id).order_by(tables.Event.event_id))

    def events_of(self, kind: str, since: datetime) -> list[EventRecord]:
        """Return events of one kind since a moment, oldest first."""
        query = select(tables.Event).where(tables.Event.kind == kind, tables.Event.at >= since)
        return self._all(EventRecord, query.order_by(tables.Event.event_id))

    def metrics(self, run_id: str) -> list[MetricRecord]:
        """Return a run's steps in their order."""
        return self._all(MetricRecord, select(tables.Metric).where(tables.Metric.run_id == run_id).order_by(tables.Metric.step))

    def artifacts(self, run_id: str) -> list[ArtifactRecord]:
        """Return the files of a run that came home."""
        return self._all(ArtifactRecord, select(tables.Artifact).where(tables.Artifact.run_id == run_id).order_by(tables.Artifact.path))

    def charges(self, run_id: str | None = None) -> list[ChargeRecord]:
        """Return charges in their order, of one run or of all."""
        query = select(tables.Charge).order_by(tables.Charge.since, tables.Charge.charge_id)
        return self._all(ChargeRecord, query if run_id is None else query.where(tables.Charge.run_id == run_id))

    def prices(self, since: datetime, gpu: str | None = None, provider: str | None = None) -> list[PriceRecord]:
        """Return prices that were seen since then, oldest first."""
        query = (
            select(tables.PriceSeen).where(tables.PriceSeen.seen_at >= since).order_by(tables.PriceSeen.seen_at, tables.PriceSeen.provider)
        )
        if gpu is not None:
            query = query.where(tables.PriceSeen.gpu == gpu)
        return self._all(PriceRecord, query if provider is None else query.where(tables.PriceSeen.provider == provider))

    def spent(self, run_id: str) -> Decimal:
        """Return the sum of a run's charges."""
        with errors_of(self._path), Session(self._engine) as session:
            total = session.scalar(select(func.sum(tables.Charge.usd_micros)).where(tables.Charge.run_id == run_id))
            return money.from_micros(total or 0)

    def costs(self, by: CostKey) -> list[CostRow]:
        """Return spending under each value of a key, largest first. A charge belongs to the month (UTC) in which it began."""
        key = func.strftime("%Y-%m", tables.Charge.since) if by == "month" else getattr(tables.Run, by)
        hours = func.sum((func.julianday(tables.Charge.until) - func.julianday(tables.Charge.since)) * 24.0)
        total = func.sum(tables.Charge.usd_micros)
        query = (
            select(key, total, hours, func.count(tables.Charge.run_id.distinct()))
            .join(tables.Run, tables.Run.run_id == tables.Charge.run_id)
            .group_by(key)
            .order_by(total.desc(), key)
        )
        with errors_of(self._path), Session(self._engine) as session:
            rows = session.execute(query).all()
        return [CostRow(key=k, usd=money.from_micros(m), hours=round(h or 0.0, 6), runs=n) for k, m, h, n in rows]

    def _one(self, cls: type[Record], query: Select[Any]) -> Record | None:
        return next(iter(self._all(cls, query)), None)

    def _all(self, cls: type[Record], query: Select[Any]) -> list[Record]:
        with errors_of(self._path), Session(self._engine) as session:
            return [_to_record(cls, row) for row in session.scalars(query)]
