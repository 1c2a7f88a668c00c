"""How a write transaction reaches its database: records in and out, by tables and keys.

A SQLite file needs the standard library alone: to import SQLAlchemy takes longer than most commands that write. PostgreSQL is written
through SQLAlchemy (`lumina_cloud.ledger.engines`). A test holds what the two of them store equal.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lumina_cloud.ledger.rows import KEYS, TABLES, stored_row, to_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Record = TypeVar("Record")

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
"""How a SQLite file is written: money that was committed stays, and no row speaks of one that is not there."""


class Writer(Protocol):
    """A write transaction's way to its database."""

    def select(self, cls: type[Record], tail: str = "", parameters: Mapping[str, Any] | None = None) -> list[Record]:
        """Return records; `tail` is what follows the table's name in plain SQL, with `:name` parameters. Raises BrokenSeal."""
        ...

    def insert(self, record: Any) -> None:
        """Add a record."""
        ...

    def replace(self, record: Any) -> bool:
        """Put a record in the place of the one with its key; return whether there was one."""
        ...

    def delete(self, cls: type[Any], **equal: Any) -> int:
        """Remove the rows whose columns hold these values; return how many there were."""
        ...

    def commit(self) -> None:
        """Make the transaction last."""
        ...


def columns_beside_the_key(record: Any, row: Mapping[str, Any]) -> list[str]:
    """Return what an update sets: a key that is set, even to what it is, lets SQLite look through every table that refers to it."""
    return [name for name in row if name not in KEYS[type(record)]]


def key_of(record: Any) -> dict[str, Any]:
    """Return the columns that tell a record from the others of its table."""
    return {name: getattr(record, name) for name in KEYS[type(record)]}


class SqliteWriter:
    """Writes a SQLite file with the standard library."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def select(self, cls: type[Record], tail: str = "", parameters: Mapping[str, Any] | None = None) -> list[Record]:
        """Return records."""
        found = self._connection.execute(f"SELECT * FROM {TABLES[cls]} {tail}", parameters or {})
        return [to_record(cls, dict(row)) for row in found]

    def insert(self, record: Any) -> None:
        """Add a record."""
        row = stored_row(record)
        names, marks = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
        self._connection.execute(f"INSERT INTO {TABLES[type(record)]} ({names}) VALUES ({marks})", row)

    def replace(self, record: Any) -> bool:
        """Put a record in the place of the one with its key."""
        row = stored_row(record)
        put = _equal(columns_beside_the_key(record, row), ", ")
        found = self._connection.execute(f"UPDATE {TABLES[type(record)]} SET {put} WHERE {_equal(KEYS[type(record)])}", row)
        return found.rowcount == 1

    def delete(self, cls: type[Any], **equal: Any) -> int:
        """Remove rows."""
        return self._connection.execute(f"DELETE FROM {TABLES[cls]} WHERE {_equal(list(equal))}", equal).rowcount

    def commit(self) -> None:
        """Make the transaction last."""
        self._connection.execute("COMMIT")


def connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection for writing. Its transactions are ours to begin."""
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _equal(names: Sequence[str], between: str = " AND ") -> str:
    return between.join(f'"{name}" = :{name}' for name in names)
