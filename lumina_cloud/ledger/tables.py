"""The tables. Money is whole micro-dollars, times are aware and stored in UTC, states are of the closed lists.

Their columns are the fields of the records of the same name, and a seal (`lumina_cloud.ledger.rows`); a test holds the two equal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from lumina_cloud.ledger.records import RENTAL_STATES, RUN_STATES


class UtcDateTime(TypeDecorator[datetime]):
    """A moment; refuses naive times, and returns aware ones where the database drops the zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC. Raises ValueError for a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Root of all tables; constraints have names, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # SQLAlchemy's own shape.
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        int: Integer,
        float: Float,
        bool: Boolean(create_constraint=False),
    }
    seal: Mapped[str] = mapped_column(String(16), sort_order=1000)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


class Plan(Base):
    """A plan and the request that it answers."""

    __tablename__ = "plans"
    plan_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    request: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]]


class Run(Base):
    """One training job."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(_one_of("state", RUN_STATES), name="state"),
        CheckConstraint("usd_cap_micros >= 0", name="cap"),
        Index("ix_runs_state_created", "state", "created_at"),
    )
    run_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    model: Mapped[str] = mapped_column(String(40))
    arch: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(String(40))
    config_json: Mapped[str] = mapped_column(Text)
    plan_id: Mapped[str | None] = mapped_column(ForeignKey("plans.plan_id"))
    provider: Mapped[str] = mapped_column(String(20))
    gpu: Mapped[str] = mapped_column(String(60))
    count: Mapped[int]
    usd_per_hour_micros: Mapped[int] = mapped_column(BigInteger)
    planned: Mapped[dict[str, Any]]
    usd_cap_micros: Mapped[int] = mapped_column(BigInteger)
    seconds_cap: Mapped[float]
    data_path: Mapped[str | None] = mapped_column(Text)
    folder: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    stop_requested_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]]
    project: Mapped[str] = mapped_column(String(80))
    labels: Mapped[list[str]]


class Rental(Base):
    """One machine, from intent to end."""

    __tablename__ = "rentals"
    __table_args__ = (
        CheckConstraint(_one_of("state", RENTAL_STATES), name="state"),
        CheckConstraint("usd_per_hour_micros >= 0", name="price"),
        Index("ix_rentals_run_attempt", "run_id", "attempt", unique=True),
        Index("ix_rentals_provider_intended", "provider", "intended_at"),
        Index("ix_rentals_instance", "instance_id"),
    )
    rental_id: Mapped[str] = mapped_column(String(100), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"))
    attempt: Mapped[int]
    tag: Mapped[str] = mapped_column(String(120), unique=True)
    provider: Mapped[str] = mapped_column(String(20))
    gpu: Mapped[str] = mapped_column(String(60))
    count: Mapped[int]
    usd_per_hour_micros: Mapped[int] = mapped_column(BigInteger)
    offer_id: Mapped[str] = mapped_column(String(120))
    instance_id: Mapped[str | None] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(20), index=True)
    intended_at: Mapped[datetime]
    ready_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    training_at: Mapped[datetime | None]
    work_ended_at: Mapped[datetime | None]
    saved_at: Mapped[datetime | None]
    ending: Mapped[str] = mapped_column(String(20))
    interruptible: Mapped[bool]


class PriceSeen(Base):
    """The lowest price of one kind of machine at a moment."""

    __tablename__ = "prices_seen"
    __table_args__ = (CheckConstraint("usd_per_hour_micros >= 0", name="price"), Index("ix_prices_seen_gpu", "gpu", "seen_at"))
    provider: Mapped[str] = mapped_column(String(20), primary_key=True)
    gpu: Mapped[str] = mapped_column(String(60), primary_key=True)
    count: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    interruptible: Mapped[bool] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(primary_key=True)
    usd_per_hour_micros: Mapped[int] = mapped_column(BigInteger)
    offers: Mapped[int]


class Charge(Base):
    """Money for an interval of a rental."""

    __tablename__ = "charges"
    __table_args__ = (
        CheckConstraint("usd_micros >= 0", name="amount"),
        CheckConstraint("basis IN ('metered', 'billed')", name="basis"),
        CheckConstraint("kind IN ('gpu', 'storage', 'traffic', 'other')", name="kind"),
    )
    charge_id: Mapped[str] = mapped_column(String(120), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), index=True)
    rental_id: Mapped[str] = mapped_column(ForeignKey("rentals.rental_id"), index=True)
    provider: Mapped[str] = mapped_column(String(20))
    usd_micros: Mapped[int] = mapped_column(BigInteger)
    usd_per_hour_micros: Mapped[int] = mapped_column(BigInteger)
    since: Mapped[datetime]
    until: Mapped[datetime]
    basis: Mapped[str] = mapped_column(String(10))
    kind: Mapped[str] = mapped_column(String(10))
    counted: Mapped[bool]
    source: Mapped[str] = mapped_column(String(200))


class Hold(Base):
    """Money kept back for a rental before it is created."""

    __tablename__ = "holds"
    __table_args__ = (CheckConstraint("usd_micros >= 0", name="amount"),)
    rental_id: Mapped[str] = mapped_column(ForeignKey("rentals.rental_id"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), index=True)
    usd_micros: Mapped[int] = mapped_column(BigInteger)
    made_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]


class Lease(Base):
    """Which controller drives a run."""

    __tablename__ = "leases"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    fence: Mapped[int]
    holder: Mapped[str] = mapped_column(String(80))
    place: Mapped[str] = mapped_column(String(200))
    until: Mapped[datetime]


class Event(Base):
    """Something that happened. Triggers refuse to change or to remove a row; each row's seal covers that of the row before it."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_kind_at", "kind", "at"),)
    event_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    previous: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.run_id"), index=True)
    rental_id: Mapped[str | None] = mapped_column(ForeignKey("rentals.rental_id"))
    kind: Mapped[str] = mapped_column(String(60))
    data: Mapped[dict[str, Any]]


class Curve(Base):
    """A run's metrics, thinned out. The view `metrics` shows its steps as rows."""

    __tablename__ = "curves"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    stride: Mapped[int]
    last_step: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[dict[str, Any]]


class Artifact(Base):
    """A file that came home."""

    __tablename__ = "artifacts"
    __table_args__ = (CheckConstraint("n_bytes >= 0", name="size"),)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(400), primary_key=True)
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class Spending(Base):
    """Money under one key of one dimension: what `costs` reads."""

    __tablename__ = "spending"
    dimension: Mapped[str] = mapped_column(String(20), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    usd_micros: Mapped[int] = mapped_column(BigInteger)
    training_micros: Mapped[int] = mapped_column(BigInteger)
    boot_micros: Mapped[int] = mapped_column(BigInteger)
    failed_micros: Mapped[int] = mapped_column(BigInteger)
    interrupted_micros: Mapped[int] = mapped_column(BigInteger)
    idle_micros: Mapped[int] = mapped_column(BigInteger)
    storage_micros: Mapped[int] = mapped_column(BigInteger)
    traffic_micros: Mapped[int] = mapped_column(BigInteger)
    other_micros: Mapped[int] = mapped_column(BigInteger)
    billed_micros: Mapped[int] = mapped_column(BigInteger)
    microseconds: Mapped[int] = mapped_column(BigInteger)
    runs: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    loss_drop_millionths: Mapped[int] = mapped_column(BigInteger)
    planned_micros: Mapped[int] = mapped_column(BigInteger)
    planned_actual_micros: Mapped[int] = mapped_column(BigInteger)


class Budget(Base):
    """The most that a project may cost in a month."""

    __tablename__ = "budgets"
    __table_args__ = (CheckConstraint("usd_cap_micros >= 0", name="cap"),)
    project: Mapped[str] = mapped_column(String(80), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    usd_cap_micros: Mapped[int] = mapped_column(BigInteger)
    set_at: Mapped[datetime]


class Notice(Base):
    """Something that the user is to be told."""

    __tablename__ = "notices"
    __table_args__ = (CheckConstraint("state IN ('due', 'sent', 'given_up')", name="state"), Index("ix_notices_due", "state", "due_at"))
    notice_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(40))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.run_id"))
    body: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(10))
    attempts: Mapped[int]
    due_at: Mapped[datetime]
    error: Mapped[str] = mapped_column(Text)


class Sweep(Base):
    """Many runs over a grid of settings. Its runs carry the label `sweep=ID`."""

    __tablename__ = "sweeps"
    __table_args__ = (CheckConstraint("state IN ('running', 'finished', 'stopped')", name="state"),)
    sweep_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    created_at: Mapped[datetime]
    spec: Mapped[dict[str, Any]]
    usd_cap_micros: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(10))


class Fact(Base):
    """What the ledger knows about itself."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
