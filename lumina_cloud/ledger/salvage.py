"""What can still be read of a damaged ledger: every row that holds what was written, whatever lies around it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from lumina_cloud.ledger import sqlite_file
from lumina_cloud.ledger.records import FactRecord, SpendingRecord
from lumina_cloud.ledger.rows import KEYS, TABLES, BrokenSeal, to_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 256
HIGHEST_ROWID = 1 << 40

Key = tuple[type[Any], tuple[Any, ...]]


def readable(path: Path) -> dict[Key, Any]:
    """Return the records of a file that match their seals, by their keys; none when it cannot be opened at all."""
    found: dict[Key, Any] = {}
    with suppress(sqlite3.Error, OSError, UnicodeDecodeError), closing(sqlite_file.connect(path, 5.0)) as connection:
        for cls, name in TABLES.items():
            if cls in (SpendingRecord, FactRecord):
                continue
            for row in _rows(connection, name):
                with suppress(BrokenSeal, KeyError):
                    record = to_record(cls, row)
                    found[cls, tuple(getattr(record, key) for key in KEYS[cls])] = record
    return found


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    """Yield a table's rows, passing over what cannot be read."""
    top = _highest(connection, table)
    low = 1
    while low <= top:
        yield from _span(connection, table, low, min(low + CHUNK, top + 1))
        low += CHUNK


def _highest(connection: sqlite3.Connection, table: str) -> int:
    for order in ("DESC", "ASC"):
        with suppress(sqlite3.Error, UnicodeDecodeError):
            row = connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid {order} LIMIT 1").fetchone()
            if order == "DESC":
                return min(int(row[0]), HIGHEST_ROWID) if row is not None else 0
    # The far end cannot be read: look for the last row that can.
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high + 1) // 2
        try:
            row = connection.execute(f"SELECT rowid FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT 1", [middle]).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            row = None
        low, high = (middle, high) if row is not None else (low, middle - 1)
    return low + CHUNK


def _span(connection: sqlite3.Connection, table: str, low: int, high: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a range; where it cannot be read as a whole, those of its halves."""
    try:
        rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table} WHERE rowid >= ? AND rowid < ?", [low, high])]
    except (sqlite3.Error, UnicodeDecodeError):
        if high - low <= 1:
            return
        middle = (low + high) // 2
        yield from _span(connection, table, low, middle)
        yield from _span(connection, table, middle, high)
        return
    yield from rows
