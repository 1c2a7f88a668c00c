"""A look at the names in a ledger's file, for a shell that completes a word: quick, read only, and silent about whatever is wrong.

Nothing is made, migrated, checked or waited for. Standard library only. A ledger in PostgreSQL is not asked.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_SECONDS = 0.2
MOST = 50


def runs(home: Path, beginning: str) -> list[tuple[str, str]]:
    """Return the newest runs whose names begin so, each with its state. A ledger that cannot be read has none."""
    sql = "SELECT run_id, state FROM runs WHERE run_id >= ? AND run_id < ? ORDER BY created_at DESC LIMIT ?"
    return _rows(home, sql, (beginning, f"{beginning}\U0010ffff", MOST))


def plans(home: Path, beginning: str) -> list[tuple[str, str]]:
    """Return the newest plans whose ids begin so, each with its moment (UTC)."""
    sql = "SELECT plan_id, substr(created_at, 1, 16) FROM plans WHERE plan_id >= ? AND plan_id < ? ORDER BY created_at DESC LIMIT ?"
    return _rows(home, sql, (beginning, f"{beginning}\U0010ffff", MOST))


def _rows(home: Path, sql: str, parameters: tuple[str, str, int]) -> list[tuple[str, str]]:
    try:
        address = f"file:{quote(str(home / 'ledger.db'))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE_SECONDS)) as connection:
            return [(str(name), str(about)) for name, about in connection.execute(sql, parameters)]
    except (sqlite3.Error, UnicodeDecodeError):
        return []
