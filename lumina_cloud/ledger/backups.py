"""Copies of a SQLite ledger: made whole while others write, and put back only after they were looked through."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from lumina_cloud.core.edge import edge

if TYPE_CHECKING:
    from pathlib import Path

    from lumina_cloud.ledger.database import Database


def before_migration(ledger: Database, revision: str) -> None:
    """Copy a ledger that is about to be migrated. A PostgreSQL server has backups of its own, and its migration is one transaction."""
    if ledger.path is not None:
        copy(ledger.path, backup_name(ledger, f"schema-{revision}"))


def backup_name(ledger: Database, word: str = "") -> Path:
    """Return a free name for a backup beside the ledger."""
    if ledger.path is None:
        raise AssertionError("a backup beside a server")
    stem = f"{ledger.path.name}.{ledger.clock.now():%Y%m%dT%H%M%S}" + (f".{word}" if word else "")
    for n in range(1000):
        name = ledger.path.with_name(f"{stem}{f'-{n}' if n else ''}.backup")
        if not name.exists():
            return name
    raise AssertionError("a thousand backups within a second")


def copy(source: Path, target: Path) -> None:
    """Copy a ledger as of one moment; the copy appears under its name only when it is whole."""
    partial = target.with_name(f".{target.name}.part")
    partial.unlink(missing_ok=True)
    with edge("ledger.backup"), closing(sqlite3.connect(source, timeout=30)) as this, closing(sqlite3.connect(partial)) as other:
        this.backup(other)
        other.execute("PRAGMA journal_mode=DELETE")
    partial.chmod(0o600)
    partial.replace(target)
