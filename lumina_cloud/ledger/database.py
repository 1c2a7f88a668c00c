"""The database under the ledger: a SQLite file by default, PostgreSQL by address. Opens, reads, and hands out write transactions.

Reading uses plain SQL that both databases understand. A SQLite file is read and written by the standard library alone: no command waits
for SQLAlchemy, which makes the tables, brings them up to date, and writes to PostgreSQL. SQLite runs in WAL mode with full
synchronisation: money that was committed stays. On both databases one write transaction runs at a time (BEGIN IMMEDIATE; an advisory
lock), so that what a transaction has read is still true when it commits.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import LedgerError, UsageError
from lumina_cloud.ledger import mark, sqlite_file
from lumina_cloud.ledger.rows import BrokenSeal
from lumina_cloud.ledger.writer import SqliteWriter
from lumina_cloud.ledger.writer import connect as connect_for_writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger.writer import Writer

HEAD = "0007"
"""The newest revision in `migrations/versions`; a test holds the two equal."""

KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""Every revision that this version can migrate from."""

BUSY_SECONDS = 30.0
"""How long SQLite itself waits for another writer, each time it is asked."""

PATIENCE_SECONDS = 120.0
"""How long a write transaction goes on asking; another's takes milliseconds."""

ADVISORY_LOCK = 0x6C756D69
"""Key of the lock that lets one PostgreSQL transaction write at a time."""

Row = dict[str, Any]


@dataclass
class Database:
    """An open ledger: where it is, and how to read and write it."""

    where: str
    """The file, or the address without its password: for messages."""
    path: Path | None
    """None for PostgreSQL."""
    url: str
    clock: Clock
    _reader: sqlite3.Connection | None = None
    _writers: list[sqlite3.Connection] = field(default_factory=list)
    """Connections for writing that wait for the next transaction."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def engine(self) -> Engine:
        """Return SQLAlchemy's engine: for migrations and imports, and for all of PostgreSQL."""
        from lumina_cloud.ledger import engines

        return engines.make(self.url, BUSY_SECONDS)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of a query with `:name` parameters. Raises LedgerError."""
        with errors_of(self.where, self.path):
            if self.path is None:
                from sqlalchemy import text

                with self.engine.connect() as connection:
                    return [dict(row) for row in connection.execute(text(sql), dict(parameters or {})).mappings()]
            with self._lock:
                if self._reader is None:
                    self._reader = sqlite_file.connect(self.path, BUSY_SECONDS)
                return [dict(row) for row in self._reader.execute(sql, parameters or {})]

    def explain(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[str]:
        """Return SQLite's plan for a query, a line each step."""
        return [str(row["detail"]) for row in self.rows(f"EXPLAIN QUERY PLAN {sql}", parameters)]

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Give a writer within a write transaction; it is committed by `commit`, else rolled back. Raises LedgerError."""
        if self.path is None:
            from lumina_cloud.ledger.engines import TableWriter

            with self.writing_by_engine() as connection:
                yield TableWriter(connection)
            return
        with errors_of(self.where, self.path):
            own = self._take_connection(self.path)
            try:
                _begin(lambda: own.execute("BEGIN IMMEDIATE"), own.rollback, sqlite3.OperationalError)
                yield SqliteWriter(own)
            except BaseException:
                own.close()  # which rolls back
                raise
            if own.in_transaction:
                own.rollback()
            with self._lock:
                self._writers.append(own)

    @contextmanager
    def writing_by_engine(self) -> Iterator[Connection]:
        """Give SQLAlchemy's connection within a write transaction, for migrations and imports; else as `writing`."""
        from sqlalchemy.exc import OperationalError

        with errors_of(self.where, self.path), self.engine.connect().execution_options(writes=True) as connection:
            _begin(connection.begin, connection.rollback, OperationalError)
            yield connection

    def commit(self, writer: Writer | Connection, commits: int, ledger_id: str) -> None:
        """Commit, and note beside a SQLite file how far it has come."""
        with edge("ledger.commit"):
            writer.commit()
            sent()
            if self.path is not None:
                mark.write(self.path, mark.Mark(ledger_id, commits))

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            for connection in (*self._writers, *([] if self._reader is None else [self._reader])):
                connection.close()
            self._reader = None
            self._writers.clear()
        if "engine" in self.__dict__:
            self.engine.dispose()

    def _take_connection(self, path: Path) -> sqlite3.Connection:
        """Return a connection for writing that no other thread has."""
        with self._lock:
            if self._writers:
                return self._writers.pop()
        return connect_for_writing(path, BUSY_SECONDS)


def _begin(begin: Callable[[], object], undo: Callable[[], object], busy_error: type[Exception]) -> None:
    """Begin, asking again while others hold the lock: SQLite serves writers in no order, so one may be late many times."""
    give_up = time.monotonic() + max(PATIENCE_SECONDS if BUSY_SECONDS >= 1 else 0.0, BUSY_SECONDS)
    while True:
        try:
            begin()
            return
        except busy_error as error:
            cause = getattr(error, "orig", None) or error
            busy = (getattr(cause, "sqlite_errorname", "") or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
            if not busy or time.monotonic() > give_up:
                raise
            undo()


def open_database(home: Path, clock: Clock, url: str = "") -> Database:
    """Open the ledger of `home`, or the one at `url`; it is made or migrated where needed. Raises LedgerError, UsageError."""
    url = url or os.environ.get("LUMINA_LEDGER_URL", "")
    if url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        return _open_postgresql(url, clock)
    if url and not url.startswith("sqlite:///"):
        raise UsageError(
            f"LUMINA_LEDGER_URL begins with {url.split(':', maxsplit=1)[0]!r}, but must be postgresql:// or sqlite:///",
            "e.g. postgresql://user@host/lumina; without it the ledger is a file in LUMINA_HOME",
        )
    from pathlib import Path as FilePath

    return _open_file(FilePath(url.removeprefix("sqlite:///")) if url else home / "ledger.db", clock)


def _open_file(path: Path, clock: Clock) -> Database:
    database = Database(where=str(path), path=path, url=f"sqlite:///{path}", clock=clock)
    with errors_of(database.where, path):
        # Read before the database: a mark is written after its commit, so what is read later must hold it.
        noted = mark.read(path)
        seen = sqlite_file.Look(None, {}) if sqlite_file.prepare(path) else sqlite_file.look(path, BUSY_SECONDS)
        _refuse_newer(database.where, seen.revision)
        if noted is not None and seen.facts:
            mark.refuse_older(path, noted, seen.facts)
        if seen.revision != HEAD:
            from lumina_cloud.ledger import migrating

            migrating.migrate(database, seen.revision)
    return database


def _open_postgresql(url: str, clock: Clock) -> Database:
    from lumina_cloud.ledger import engines, migrating

    address = engines.address(url)
    database = Database(where=address.render_as_string(hide_password=True), path=None, url=address.render_as_string(False), clock=clock)
    with errors_of(database.where, None):
        revision = engines.revision(database.engine)
        _refuse_newer(database.where, revision)
        if revision != HEAD:
            migrating.migrate(database, revision)
    return database


def _refuse_newer(where: str, revision: str | None) -> None:
    if revision is not None and revision not in KNOWN:
        raise LedgerError(
            f"{where} was written by a newer lumina (schema {revision}, this one knows up to {HEAD})", "pip install --upgrade lumina-cloud"
        )


# --- errors --------------------------------------------------------------------------------------------------------------


@contextmanager
def errors_of(where: str | Path, path: Path | None = None) -> Iterator[None]:
    """Turn what the database and the disk say into errors with a way out."""
    try:
        yield
    except BrokenSeal as error:
        raise LedgerError(f"the ledger {where} is damaged: {error}", way_back(path)) from error
    except UnicodeDecodeError as error:
        # sqlite3 may fail to decode the very message that something is damaged.
        raise LedgerError(f"{where} is damaged: what is in it is no text any more", way_back(path)) from error
    except (sqlite3.Error, OSError) as error:
        raise _translated(error, where, path) from error
    except Exception as error:
        if not _is_sqlalchemys(error):
            raise
        raise _translated(error, where, path) from error


def way_back(path: Path | None) -> str:
    """Return what to type when a ledger is damaged: the newest backup by its name, or how to do without one."""
    rebuild = "lumina doctor --rebuild   makes a new ledger of what can still be read, the run folders and the providers' lists"
    if path is None:
        return rebuild
    newest = sqlite_file.newest_backup(path)
    if newest is None:
        return f"there is no backup beside it;\n{rebuild}"
    return f"lumina ledger restore {newest}   puts the newest backup in its place\n{rebuild}"


def _is_sqlalchemys(error: Exception) -> bool:
    return type(error).__module__.startswith("sqlalchemy.")


def _translated(error: Exception, where: str | Path, path: Path | None) -> LedgerError:
    orig = getattr(error, "orig", None)
    cause = error if orig is None else orig
    words = str(cause).strip()
    name = getattr(cause, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LedgerError(f"the ledger {where} is locked by another process", "wait until it is done, then type the command again")
    if name.startswith("SQLITE_FULL") or "No space left" in words:
        return LedgerError(f"the disk of the ledger {where} is full", "free some space, or set LUMINA_HOME to another disk")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or "decode to UTF-8" in words or "malformed" in words:
        return LedgerError(f"{where} is damaged or no ledger at all: {words}", way_back(path))
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or isinstance(cause, PermissionError):
        return LedgerError(f"the ledger {where} cannot be written: {words}", "make the folder and the file writable, or set LUMINA_HOME")
    if path is not None and isinstance(cause, OSError):
        what = f"{path.parent} cannot be the folder of the ledger: {cause.strerror or words}"
        return LedgerError(what, "set LUMINA_HOME to a folder that can be written: export LUMINA_HOME=~/lumina")
    if path is None and type(cause).__name__ == "OperationalError":
        return LedgerError(f"the ledger {where} cannot be reached: {words}", "is the server up? LUMINA_LEDGER_URL says where it is")
    if path is not None and name in ("SQLITE_ERROR", "") and ("no such table" in words or "no such column" in words):
        return LedgerError(f"{where} is damaged: {words}", way_back(path))
    return LedgerError(f"the ledger {where} failed: {words}", "the message above is the database's own")


__all__: Sequence[str] = ("HEAD", "KNOWN", "Database", "errors_of", "open_database", "way_back")
