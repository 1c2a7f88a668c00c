"""The ledger as a SQLite file: what is looked at before anything touches it. Standard library only."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

CHECKED_BYTES = 4 << 20
"""A ledger up to this size is looked through page by page whenever it is opened; a larger one by `lumina ledger verify`."""

MAGIC = b"SQLite format 3\0"


def connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection for reading, whose rows have names. The file has to be there."""
    connection = sqlite3.connect(
        f"file:{_quoted(path)}?mode=rw", uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA query_only=ON")
    return connection


def prepare(path: Path) -> bool:
    """Make the folder, private to its user, and return whether the ledger is new. Raises LedgerError."""
    if path.parent.exists() and not path.parent.is_dir():
        raise LedgerError(f"{path.parent} is a file, but the ledger's folder is to be there", "set LUMINA_HOME to a folder")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_dir():
        raise LedgerError(f"{path} is a folder, but the ledger is to be there", "move it away")
    if path.exists() and path.stat().st_size > 0:
        return False
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0 and path.exists():
        # SQLite would throw the log away: it may be all that is left.
        raise LedgerError(f"{path} is empty, but {log.name} beside it is not: the ledger was cut off", _way_back(path))
    if path.with_name(f"{path.name}-mark").exists():
        state = "is empty" if path.exists() else "is missing"
        raise LedgerError(f"{path} {state}, but there was a ledger here", f"{_way_back(path)}\nto begin a new one: remove {path.name}-mark")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with _known_lock:
        # From here on this process has it open, and it is not looked into past SQLite.
        here = os.fstat(handle)
        _known.add((here.st_dev, here.st_ino))
    os.close(handle)
    return True


@dataclass(frozen=True)
class Look:
    """What a file says of itself. The facts are empty before the release that brought them."""

    revision: str | None
    """None for an empty database."""
    facts: dict[str, str]


def look(path: Path, busy_seconds: float) -> Look:
    """Look at a file. Raises LedgerError for one that is no ledger or is damaged, BrokenSeal."""
    if not _is_sqlite(path):
        raise LedgerError(f"{path} is no ledger: it is not a SQLite database", _way_back(path))
    with closing(connect(path, busy_seconds)) as connection:
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return Look(None, {})
        if "alembic_version" not in tables:
            raise LedgerError(f"{path} is a database of something else", "move it away, or set LUMINA_HOME to another folder")
        if path.stat().st_size <= CHECKED_BYTES:
            refuse_damaged(path, connection)
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        facts = _facts(connection) if "facts" in tables else {}
        if facts.get("schema", schema_hash(connection)) != schema_hash(connection):
            raise LedgerError(f"{path} is damaged: its tables are not those that were made", _way_back(path))
        return Look(None if found is None else str(found[0]), facts)


_known: set[tuple[int, int]] = set()
_known_lock = threading.Lock()


def _is_sqlite(path: Path) -> bool:
    """Whether a file begins as a SQLite database does. Each file is read once in a process, before anything here has it open.

    To close a file lets go of all locks that this process has on it (POSIX): of another connection's too, which then goes on writing
    into a log that others take for abandoned, and remove.
    """
    with _known_lock:
        here = path.stat()
        if (here.st_dev, here.st_ino) in _known:
            return True
        with path.open("rb") as handle:
            found = handle.read(16) == MAGIC
        if found:
            _known.add((here.st_dev, here.st_ino))
        return found


def schema_hash(connection: sqlite3.Connection) -> str:
    """Return a hash of what the tables, indexes, triggers and views were made by."""
    made = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_' ORDER BY type, name"
    )
    return blake2b(repr([tuple(row) for row in made]).encode(), digest_size=8).hexdigest()


def refuse_damaged(path: Path, connection: sqlite3.Connection) -> None:
    """Raise LedgerError when SQLite's own checks find something wrong."""
    problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
    if problems != ["ok"]:
        raise LedgerError(f"{path} is damaged: {'; '.join(problems[:3])}", _way_back(path))
    broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    if broken is not None:
        raise LedgerError(f"{path} is damaged: a row of {broken[0]} speaks of one of {broken[2]} that is not there", _way_back(path))


def _facts(connection: sqlite3.Connection) -> dict[str, str]:
    from lumina_cloud.ledger.records import FactRecord
    from lumina_cloud.ledger.rows import to_record

    records = [to_record(FactRecord, dict(row)) for row in connection.execute("SELECT * FROM facts")]
    return {record.name: record.value for record in records}


def backups(path: Path) -> list[Path]:
    """Return the backups beside a ledger, oldest first."""
    return sorted(path.parent.glob(f"{path.name}.*.backup"), key=lambda p: (p.stat().st_mtime, p.name))


def newest_backup(path: Path) -> Path | None:
    """Return the newest backup beside a ledger."""
    return next(reversed(backups(path)), None)


def _way_back(path: Path) -> str:
    from lumina_cloud.ledger.database import way_back

    return way_back(path)


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))
