"""Records as rows and back, by the records' own annotations: no database library is needed to read.

Every row carries a seal, a hash of its content. A row that does not match its seal was changed by something else than Lumina: a
damaged disk, an editor, another program. It is never taken for true.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lumina_cloud.core import money
from lumina_cloud.ledger import records

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["text", "whole", "float", "flag", "time", "json", "usd"]

TABLES: dict[type[Any], str] = {
    records.PlanRecord: "plans",
    records.RunRecord: "runs",
    records.RentalRecord: "rentals",
    records.ChargeRecord: "charges",
    records.HoldRecord: "holds",
    records.LeaseRecord: "leases",
    records.EventRecord: "events",
    records.ArtifactRecord: "artifacts",
    records.CurveRecord: "curves",
    records.PriceRecord: "prices_seen",
    records.SpendingRecord: "spending",
    records.BudgetRecord: "budgets",
    records.NoticeRecord: "notices",
    records.SweepRecord: "sweeps",
    records.FactRecord: "facts",
}
"""Where the records of a class are kept, in an order in which they can be inserted."""

KEYS: dict[type[Any], tuple[str, ...]] = {
    records.PlanRecord: ("plan_id",),
    records.RunRecord: ("run_id",),
    records.RentalRecord: ("rental_id",),
    records.ChargeRecord: ("charge_id",),
    records.HoldRecord: ("rental_id",),
    records.LeaseRecord: ("run_id",),
    records.EventRecord: ("event_id",),
    records.ArtifactRecord: ("run_id", "path"),
    records.CurveRecord: ("run_id",),
    records.PriceRecord: ("provider", "gpu", "count", "interruptible", "seen_at"),
    records.SpendingRecord: ("dimension", "key"),
    records.BudgetRecord: ("project", "month"),
    records.NoticeRecord: ("notice_id",),
    records.SweepRecord: ("sweep_id",),
    records.FactRecord: ("name",),
}
"""What makes two rows of a table the same one."""

FIRST_EVENT = "0" * 16
"""What the first event names as the seal of the one before it."""

_MONEY = ("usd", "usd_per_hour", "usd_cap")
_KINDS: dict[str, Kind] = {"int": "whole", "float": "float", "bool": "flag", "datetime": "time", "Decimal": "usd"}

Record = TypeVar("Record")


class BrokenSeal(Exception):
    """A row does not hold what Lumina wrote. The ledger's opener turns it into a LedgerError with the way back."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One field of a record and the column that holds it."""

    field: str
    name: str
    kind: Kind


_columns: dict[type[Any], tuple[Column, ...]] = {}


def columns(cls: type[Any]) -> tuple[Column, ...]:
    """Return the columns of a record class, in the order of its fields."""
    if cls not in _columns:
        _columns[cls] = _made_columns(cls)
    return _columns[cls]


def _made_columns(cls: type[Any]) -> tuple[Column, ...]:
    made = []
    for field in dataclasses.fields(cls):
        bare = str(field.type).removesuffix(" | None")
        kind: Kind = "json" if bare.startswith(("dict", "list")) else _KINDS.get(bare, "text")
        made.append(Column(field.name, f"{field.name}_micros" if field.name in _MONEY else field.name, kind))
    return tuple(made)


def to_row(record: Any) -> dict[str, Any]:
    """Return a record as columns, sealed: dollars become micro-dollars."""
    row: dict[str, Any] = {}
    for column in columns(type(record)):
        value = getattr(record, column.field)
        row[column.name] = money.to_micros(value) if column.kind == "usd" else value
    row["seal"] = seal(record)
    return row


def stored_row(record: Any) -> dict[str, Any]:
    """Return a record as columns of a SQLite file: times in UTC as text, flags as 0 and 1. Raises ValueError for a naive time."""
    kinds = {column.name: column.kind for column in columns(type(record))}
    return {name: _stored(kinds.get(name, "text"), value) for name, value in to_row(record).items()}


def stored_moment(moment: datetime) -> str:
    """Return a moment as a SQLite file holds it. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError(f"naive time: {moment!r}")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _stored(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind == "time":
        return stored_moment(value)
    if kind == "json":
        return json.dumps(value)
    return int(value) if kind == "flag" else value


def to_record(cls: type[Record], row: Mapping[str, Any]) -> Record:
    """Return a row as a record. Raises BrokenSeal when it does not hold what was written."""
    try:
        record = cls(**{c.field: from_stored(c.kind, row[c.name]) for c in columns(cls)})
        whole = row["seal"] == seal(record)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise BrokenSeal(f"a row of {TABLES[cls]} cannot be read: {error}") from error
    if not whole:
        name = "/".join(str(getattr(record, key)) for key in KEYS[cls])
        raise BrokenSeal(f"the row {name!r} of {TABLES[cls]} does not hold what was written")
    return record


def seal(record: Any) -> str:
    """Return the hash of a record's content."""
    parts: list[Any] = [TABLES[type(record)]]
    parts += [_canonical(c.kind, getattr(record, c.field)) for c in columns(type(record))]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _canonical(kind: Kind, value: Any) -> Any:
    """Return a value in the one form in which it is hashed, whichever database it comes from."""
    if value is None or kind in ("text", "json"):
        return value
    if kind == "usd":
        return money.to_micros(value)
    if kind == "time":
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return bool(value) if kind == "flag" else int(value) if kind == "whole" else float(value)


def from_stored(kind: Kind, value: Any) -> Any:
    """Return a stored value as a record holds it, whichever database it comes from."""
    if value is None:
        return None
    if kind == "time":
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if kind == "json":
        return json.loads(value) if isinstance(value, str) else value
    if kind == "usd":
        return Decimal(int(value)) / money.MICROS
    if kind == "float":
        return float(value)
    return bool(value) if kind == "flag" else int(value) if kind == "whole" else value
