"""Copies of a SQLite ledger: made whole while others write, and put back only after they were looked through."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import mark

if TYPE_CHECKING:
    from pathlib import Path

    from lumina_cloud.core.clock import Clock
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


def restore(home_ledger: Path, backup: Path, clock: Clock) -> Path | None:
    """Put a backup in the place of a ledger, and return where the one that was there is kept now, None when there was none.

    The backup is looked through first, and migrated where it is older. Raises LedgerError for one that is damaged.
    """
    if not backup.is_file():
        raise LedgerError(f"there is no backup {backup}", "lumina ledger backup makes one")
    incoming = home_ledger.with_name(f".{home_ledger.name}.incoming")
    discard(incoming)
    shutil.copyfile(backup, incoming)
    incoming.chmod(0o600)
    try:
        look_through(incoming, clock)
        return swap_in(incoming, home_ledger, clock)
    finally:
        discard(incoming)


def look_through(path: Path, clock: Clock) -> None:
    """Open a copy of a ledger, migrate it where it is older, and verify it. Raises LedgerError."""
    from lumina_cloud.ledger.database import open_database
    from lumina_cloud.ledger.verifying import verify

    copied = open_database(path.parent, clock, f"sqlite:///{path}")
    try:
        problems = verify(copied).problems
    finally:
        copied.close()
    if problems:
        raise LedgerError(f"the backup is damaged itself: {problems[0]}", "take an older one: ls -t *.backup")


def look_through_copy(path: Path, clock: Clock) -> None:
    """Look a backup through in a copy, so that nothing is left beside it. Raises LedgerError."""
    copied = path.with_name(f".{path.name}.looked-at")
    discard(copied)
    shutil.copyfile(path, copied)
    try:
        look_through(copied, clock)
    finally:
        discard(copied)


def swap_in(incoming: Path, ledger: Path, clock: Clock) -> Path | None:
    """Put a whole ledger in the place of another, which is kept. A kill in between leaves both, and a message that says so."""
    with closing(sqlite3.connect(incoming)) as connection:
        # All of it into the one file that is moved.
        connection.execute("PRAGMA journal_mode=DELETE")
        facts = dict(connection.execute("SELECT name, value FROM facts WHERE name IN ('ledger', 'commits')").fetchall())
    kept = ledger.with_name(f"{ledger.name}.{clock.now():%Y%m%dT%H%M%S%f}.replaced")
    # The log first: it must never lie beside a file that it does not belong to.
    for end in ("-wal", "-shm", ""):
        part = ledger.with_name(f"{ledger.name}{end}")
        with edge("ledger.swap"), suppress(FileNotFoundError):
            part.rename(kept.with_name(f"{kept.name}{end}"))
    with edge("ledger.swap"):
        with incoming.open("rb") as handle:
            os.fsync(handle.fileno())
        incoming.rename(ledger)
    mark.write(ledger, mark.Mark(facts["ledger"], int(facts["commits"])))
    return kept if kept.exists() else None


def discard(path: Path) -> None:
    """Remove a copy and everything that belongs to it."""
    for part in (path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-mark", "-journal"))):
        part.unlink(missing_ok=True)
    for old in path.parent.glob(f"{path.name}.*.backup"):
        old.unlink()
