"""SQLAlchemy engines for the two databases. pysqlite's own transaction handling is switched off, as SQLAlchemy's documentation of the
dialect describes, so that each write transaction starts with BEGIN IMMEDIATE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import and_, create_engine, delete, event, insert, inspect, make_url, text, update

from lumina_cloud.core.errors import LedgerError, UsageError
from lumina_cloud.ledger.derived import table
from lumina_cloud.ledger.rows import TABLES, to_record, to_row
from lumina_cloud.ledger.writer import PRAGMAS, columns_beside_the_key, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL, Connection, Engine


Record = TypeVar("Record")


class TableWriter:
    """Writes through SQLAlchemy's tables, into any database that it knows: a `lumina_cloud.ledger.writer.Writer`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def select(self, cls: type[Record], tail: str = "", parameters: Mapping[str, Any] | None = None) -> list[Record]:
        """Return records."""
        found = self._connection.execute(text(f"SELECT * FROM {TABLES[cls]} {tail}"), dict(parameters or {}))
        return [to_record(cls, dict(row)) for row in found.mappings()]

    def insert(self, record: Any) -> None:
        """Add a record."""
        self._connection.execute(insert(table(type(record))).values(to_row(record)))

    def replace(self, record: Any) -> bool:
        """Put a record in the place of the one with its key."""
        target, row = table(type(record)), to_row(record)
        where = [target.c[name] == value for name, value in key_of(record).items()]
        values = {name: row[name] for name in columns_beside_the_key(record, row)}
        return self._connection.execute(update(target).where(*where).values(values)).rowcount == 1

    def delete(self, cls: type[Any], **equal: Any) -> int:
        """Remove rows."""
        target = table(cls)
        return self._connection.execute(delete(target).where(and_(*(target.c[name] == value for name, value in equal.items())))).rowcount

    def commit(self) -> None:
        """Make the transaction last."""
        self._connection.commit()


def make(url: str, busy_seconds: float) -> Engine:
    """Return an engine whose transactions are ours to begin."""
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": busy_seconds})
        _configure_sqlite(engine, busy_seconds)
    else:
        # A server may be set to give a transaction what was there when it began: here that is before it waited for the others.
        session = {"connect_timeout": 10, "options": "-c timezone=UTC"}
        engine = create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=session)
        _configure_postgresql(engine)
    return engine


def address(url: str) -> URL:
    """Return a PostgreSQL address as SQLAlchemy takes it. Raises UsageError for a malformed one or without its driver."""
    from importlib.util import find_spec

    if find_spec("psycopg") is None:
        raise UsageError("a ledger in PostgreSQL needs the package psycopg", "pip install 'lumina-cloud[postgres]'")
    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except Exception as error:
        raise UsageError("LUMINA_LEDGER_URL is no address of a database", "e.g. postgresql://user@host/lumina") from error


def revision(engine: Engine) -> str | None:
    """Return the schema's revision, None for an empty database. Raises LedgerError for one of something else."""
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if not tables:
            return None
        if "alembic_version" not in tables:
            name = engine.url.render_as_string(hide_password=True)
            raise LedgerError(f"{name} is a database of something else", "make one for Lumina: createdb lumina")
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if found is None else str(found)


def _configure_sqlite(engine: Engine, busy_seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={int(busy_seconds * 1000)}", *PRAGMAS):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
        connection.exec_driver_sql(f"BEGIN {mode}")


def _configure_postgresql(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            from lumina_cloud.ledger.database import ADVISORY_LOCK

            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
