"""Opens the database: settings, schema version, migrations, and one place where its errors become ours.

SQLite runs in WAL mode with full synchronisation: money that was committed stays. pysqlite's own transaction handling is
switched off, and each write transaction starts with BEGIN IMMEDIATE, as SQLAlchemy's documentation of the dialect describes, so
that two writers wait for each other instead of failing half way.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from lumina_cloud.core.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from lumina_cloud.core.clock import Clock

HEAD = "0002"
"""The newest revision in `migrations/versions`; a test holds the two equal."""

KNOWN = ("0001", "0002")
"""Every revision that this version can migrate from."""

BUSY_SECONDS = 30.0


def open_engine(path: Path, clock: Clock) -> Engine:
    """Return an engine on the ledger at `path`, made or migrated where needed. Raises LedgerError."""
    with errors_of(path):
        fresh = _prepare_folder(path)
        if not fresh:
            _refuse_foreign(path)
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})
        _configure(engine)
        version = None if fresh else _version(engine)
        if version != HEAD:
            _migrate(engine, path, version, clock)
        return engine


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn what the database and the disk say into errors with a way out."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise _translated(error, path) from error


def _translated(error: Exception, path: Path) -> LedgerError:
    cause = error.orig if isinstance(error, DatabaseError) and error.orig is not None else error
    words = str(cause)
    name = getattr(cause, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LedgerError(f"the ledger {path} is locked by another process", "wait until it is done, then type the command again")
    if name.startswith("SQLITE_FULL") or "No space left" in words:
        return LedgerError(f"the disk of the ledger {path} is full", "free some space, or set LUMINA_HOME to another disk")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return LedgerError(
            f"{path} is damaged or no ledger at all: {words}", f"move it away, or put a backup in its place: {path}.*.backup"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or isinstance(cause, PermissionError):
        return LedgerError(f"the ledger {path} cannot be written: {words}", "make the folder and the file writable, or set LUMINA_HOME")
    return LedgerError(f"the ledger {path} failed: {words}", "the message above is the database's own")


def _prepare_folder(path: Path) -> bool:
    """Make the folder, private to its user, and return whether the ledger is new."""
    if path.parent.exists() and not path.parent.is_dir():
        raise LedgerError(f"{path.parent} is a file, but the ledger's folder is to be there", "set LUMINA_HOME to a folder")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_dir():
        raise LedgerError(f"{path} is a folder, but the ledger is to be there", "move it away")
    if path.exists() and path.stat().st_size > 0:
        return False
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return True


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that is no database of ours before anything touches it."""
    with path.open("rb") as handle:
        if handle.read(16) != b"SQLite format 3\0":
            raise LedgerError(f"{path} is no ledger: it is not a SQLite database", "move it away, or put a backup in its place")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_SECONDS) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "alembic_version" not in tables:
            raise LedgerError(f"{path} is a database of something else", "move it away, or set LUMINA_HOME to another folder")
        if "alembic_version" in tables:
            _refuse_newer(path, connection.execute("SELECT version_num FROM alembic_version").fetchone())
    connection.close()


def _refuse_newer(path: Path, row: tuple[str] | None) -> None:
    if row is not None and row[0] not in KNOWN:
        raise LedgerError(
            f"{path} was written by a newer lumina (schema {row[0]}, this one knows up to {HEAD})", "pip install --upgrade lumina-cloud"
        )


def _configure(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(BUSY_SECONDS * 1000)}", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
        connection.exec_driver_sql(f"BEGIN {mode}")


def _version(engine: Engine) -> str | None:
    """Return the schema's revision by plain SQL: importing alembic costs a third of a second."""
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except OperationalError as error:
        if "no such table" in str(error.orig):
            return None
        raise


def _migrate(engine: Engine, path: Path, version: str | None, clock: Clock) -> None:
    """Bring the schema up to date, after a copy of a ledger that held something."""
    from alembic import command
    from alembic.config import Config

    if version is not None:
        backup = path.with_name(f"{path.name}.{clock.now():%Y%m%dT%H%M%S}.backup")
        with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
            source.backup(target)
        backup.chmod(0o600)
    config = Config()
    config.set_main_option("script_location", "lumina_cloud:ledger/migrations")
    with engine.connect().execution_options(writes=True) as connection:
        # Another process may have migrated while this one waited for the lock: alembic then finds nothing to do.
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
