"""A ledger as text, one JSON object a line: to look at, to keep, or to move between SQLite and PostgreSQL.

The first line names the format, the last one holds the number of rows and a hash of all lines before it, so that a file that was cut
off or changed is not taken for whole. Money is in whole micro-dollars, times are ISO 8601 in UTC.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import database as databases
from lumina_cloud.ledger import derived
from lumina_cloud.ledger.records import EventRecord, FactRecord, LeaseRecord, SpendingRecord
from lumina_cloud.ledger.rows import KEYS, TABLES, BrokenSeal, seal, to_record, to_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from lumina_cloud.ledger.database import Database

FORMAT = "lumina-ledger"
KEPT = [cls for cls in TABLES if cls not in (SpendingRecord, FactRecord, LeaseRecord)]
"""What is written out; sums and facts are made anew, and who drives a run now is of no use elsewhere."""


def lines(database: Database) -> Iterator[str]:
    """Yield a ledger's lines, all of one moment."""
    digest, count = sha256(), 0
    with database.engine.connect() as connection:
        if connection.dialect.name != "sqlite":
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        head = {"format": FORMAT, "schema": databases.HEAD, "exported_at": database.clock.now().isoformat()}
        for line in _all_lines(connection, head):
            digest.update(line.encode() + b"\n")
            count += 1
            yield line
    yield json.dumps({"rows": count - 1, "sha256": digest.hexdigest()})


def _all_lines(connection: Connection, head: dict[str, Any]) -> Iterator[str]:
    yield json.dumps(head)
    for cls in KEPT:
        order = ", ".join(KEYS[cls])
        for row in derived.stream(connection, f"SELECT * FROM {TABLES[cls]} ORDER BY {order}"):
            record = to_record(cls, row)
            kept = {k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in to_row(record).items()}
            yield json.dumps({"table": TABLES[cls], "row": kept})


def read(text: Iterable[str]) -> list[Any]:
    """Return the records of exported lines. Raises LedgerError for a file that is not whole, or of another schema."""
    digest, records, previous = sha256(), [], ""
    by_table = {TABLES[cls]: cls for cls in KEPT}
    for nth, line in enumerate(text):
        if nth:
            digest.update(previous.encode() + b"\n")
        try:
            parsed = json.loads(line)
        except ValueError:
            raise LedgerError(f"line {nth + 1} of the export is damaged", "export it again: lumina ledger export FILE") from None
        if nth == 0:
            _check_head(parsed)
        elif "table" in parsed:
            records.append(_record(by_table, parsed, nth))
        elif "sha256" in parsed:
            if parsed != {"rows": nth - 1, "sha256": digest.hexdigest()}:
                raise LedgerError("the export is damaged: it is not what was written", "export it again: lumina ledger export FILE")
            return records
        previous = line.rstrip("\n")
    raise LedgerError("the export is cut off: its last line is missing", "export it again: lumina ledger export FILE")


def _check_head(parsed: Any) -> None:
    if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
        raise LedgerError("this is no export of a ledger", "lumina ledger export FILE makes one")
    if parsed.get("schema") != databases.HEAD:
        raise LedgerError(
            f"the export is of schema {parsed.get('schema')}, and this lumina reads {databases.HEAD}",
            "export and import with the same release of lumina",
        )


def _record(by_table: dict[str, type[Any]], parsed: dict[str, Any], nth: int) -> Any:
    try:
        return to_record(by_table[parsed["table"]], parsed["row"])
    except (KeyError, TypeError, BrokenSeal) as error:
        raise LedgerError(f"line {nth + 1} of the export is damaged: {error}", "export it again: lumina ledger export FILE") from error


def put(database: Database, records: Iterable[Any], *, event: str = "ledger.imported") -> dict[str, int]:
    """Add records to a ledger, all or none; those that it holds already are left out. Return how many were added, by table.

    Events get new places after those that are there. Raises LedgerError when a row is there already and holds something else.
    """
    added: dict[str, int] = {}
    with database.writing_by_engine() as connection:
        facts = {row["name"]: row["value"] for row in connection.execute(select(derived.table(FactRecord))).mappings()}
        _count, last, head = facts["events"].split()
        chain = _Chain(int(last), head, _known_events(connection))
        for record in records:
            new = chain.appended(record) if isinstance(record, EventRecord) else _unless_known(connection, record)
            if new is not None:
                connection.execute(insert(derived.table(type(new))).values(to_row(new)))
                added[TABLES[type(new)]] = added.get(TABLES[type(new)], 0) + 1
        noted = chain.appended(EventRecord(0, database.clock.now(), None, None, event, {"rows": sum(added.values())}))
        connection.execute(insert(derived.table(EventRecord)).values(to_row(noted)))
        derived.refresh_spending(connection)
        written = derived.write_facts(connection, facts["ledger"])
        database.commit(connection, int(written["commits"]), written["ledger"])
    return added


def _unless_known(connection: Connection, record: Any) -> Any:
    """Return a record that the ledger does not hold, None for one that it holds. Raises LedgerError when it holds another."""
    cls = type(record)
    target = derived.table(cls)
    where = [target.c[key] == getattr(record, key) for key in KEYS[cls]]
    known = connection.execute(select(target).where(*where)).mappings().first()
    if known is None:
        return record
    if to_record(cls, dict(known)) != record:
        name = "/".join(str(getattr(record, key)) for key in KEYS[cls])
        raise LedgerError(f"{TABLES[cls]} {name!r} is in this ledger already, and holds something else", "nothing was imported")
    return None


def _known_events(connection: Connection) -> set[str]:
    """Return what events are here, each by its content alone."""
    return {_content(to_record(EventRecord, row)) for row in derived.stream(connection, "SELECT * FROM events")}


def _content(event: EventRecord) -> str:
    return seal(replace(event, event_id=0, previous=""))


class _Chain:
    """Gives events their places, each after the one before it."""

    def __init__(self, last: int, head: str, known: set[str]) -> None:
        self._last, self._head, self._known = last, head, known

    def appended(self, event: EventRecord) -> Any:
        """Return an event in its new place, None for one that is there already."""
        if _content(event) in self._known:
            return None
        self._last += 1
        placed = replace(event, event_id=self._last, previous=self._head)
        self._head = seal(placed)
        return placed
