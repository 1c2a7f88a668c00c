"""Looks through a whole ledger: what the database checks itself, and what only we know to be true."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import derived, mark, sqlite_file
from lumina_cloud.ledger.database import errors_of
from lumina_cloud.ledger.records import EventRecord, SpendingRecord
from lumina_cloud.ledger.rows import FIRST_EVENT, TABLES, BrokenSeal, columns, from_stored, to_record
from lumina_cloud.ledger.spending import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lumina_cloud.ledger.database import Database

MOST = 50
"""Problems that are listed; a damaged page makes hundreds."""


@dataclass
class Verified:
    """What was looked at, and what is wrong."""

    rows: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < MOST:
            self.problems.append(problem)


def verify(database: Database) -> Verified:
    """Check pages, references, tables, seals, the chain of events, spending, and how far the ledger has come. Reads all of it."""
    found = Verified()
    try:
        with errors_of(database.where, database.path):
            if database.path is not None:
                _file(database, found)
            if not found.problems:
                _rows(database, found)
            if not found.problems:
                _spending(database, found)
    except LedgerError as error:
        # What the database itself cannot read any more.
        found.add(error.message)
    return found


def _file(database: Database, found: Verified) -> None:
    if database.path is None:
        raise AssertionError("only a file has pages")
    try:
        with closing(sqlite_file.connect(database.path, 30.0)) as connection:
            sqlite_file.refuse_damaged(database.path, connection)
        noted = mark.read(database.path)
        seen = sqlite_file.look(database.path, 30.0)
        if noted is not None:
            mark.refuse_older(database.path, noted, seen.facts)
    except (LedgerError, BrokenSeal) as error:
        found.add(str(error))


def _rows(database: Database, found: Verified) -> None:
    for cls, name in TABLES.items():
        count = 0
        for row in _stream(database, f"SELECT * FROM {name}" + (" ORDER BY event_id" if cls is EventRecord else "")):
            count += 1
            try:
                to_record(cls, row)
            except BrokenSeal as error:
                found.add(str(error))
        found.rows[name] = count
    _chain(database, found)


def _chain(database: Database, found: Verified) -> None:
    """Each event names the seal of the one before it, and the ledger knows the last of them: none was taken out or put in."""
    previous, count, last = FIRST_EVENT, 0, 0
    for row in _stream(database, "SELECT event_id, previous, seal FROM events ORDER BY event_id"):
        if row["previous"] != previous:
            found.add(f"the event before {row['event_id']} was taken out or changed")
            return
        previous, count, last = row["seal"], count + 1, row["event_id"]
    facts = {row["name"]: row["value"] for row in database.rows("SELECT name, value FROM facts")}
    if facts.get("events") != f"{count} {last} {previous}":
        found.add(f"the last events are not those that were written: {count} are here")


def _spending(database: Database, found: Verified) -> None:
    expected = {cell: record(cell, m) for cell, m in derived.spending_of_all(lambda sql: _stream(database, sql)).items()}
    kept = {(r.dimension, r.key): r for r in _plain_spending(database)}
    for cell in expected.keys() | kept.keys():
        if expected.get(cell) != kept.get(cell):
            found.add(f"the sum of {cell[0]} {cell[1]!r} is not that of its charges")


def _plain_spending(database: Database) -> Iterable[SpendingRecord]:
    for row in database.rows("SELECT * FROM spending"):
        yield SpendingRecord(**{c.field: from_stored(c.kind, row[c.name]) for c in columns(SpendingRecord)})


def _stream(database: Database, sql: str) -> Iterable[Mapping[str, Any]]:
    """Yield rows without holding all of them."""
    if database.path is None:
        with database.engine.connect() as connection:
            yield from derived.stream(connection, sql)
        return
    with closing(sqlite_file.connect(database.path, 30.0)) as reader:
        for row in reader.execute(sql):
            yield dict(row)
