"""What follows from the rest of the ledger, and can be made anew from it: seals, spending, and facts about the ledger itself."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from lumina_cloud.ledger import spending, sqlite_file
from lumina_cloud.ledger.records import ChargeRecord, EventRecord, FactRecord, RentalRecord, RunRecord, SpendingRecord
from lumina_cloud.ledger.rows import FIRST_EVENT, KEYS, TABLES, columns, from_stored, seal, to_record, to_row
from lumina_cloud.ledger.tables import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import Connection, Table

    from lumina_cloud.ledger.spending import Cells

    Query = Callable[[str], Iterable[Mapping[str, Any]]]

BATCH = 1000


def table(cls: type[Any]) -> Table:
    """Return the table of a record class."""
    return Base.metadata.tables[TABLES[cls]]


def refresh(connection: Connection, ledger_id: str) -> dict[str, str]:
    """Make anew what is derived, within the caller's transaction, and return the facts. `ledger_id` names a ledger that has no name yet."""
    for cls in TABLES:
        if cls not in (EventRecord, FactRecord, SpendingRecord):
            _reseal(connection, cls)
    _chain(connection)
    refresh_spending(connection)
    return write_facts(connection, ledger_id)


def refresh_spending(connection: Connection) -> None:
    """Fill the spending table anew from runs, rentals and charges."""
    connection.execute(delete(table(SpendingRecord)))
    made = spending_of_all(lambda sql: stream(connection, sql))
    rows = [to_row(spending.record(cell, measures)) for cell, measures in sorted(made.items())]
    for start in range(0, len(rows), BATCH):
        connection.execute(insert(table(SpendingRecord)), rows[start : start + BATCH])


def write_facts(connection: Connection, ledger_id: str) -> dict[str, str]:
    """Note the head of the events and one more commit; return all facts."""
    facts = table(FactRecord)
    kept = {row["name"]: row["value"] for row in connection.execute(select(facts)).mappings()}
    last = connection.exec_driver_sql("SELECT event_id, seal FROM events ORDER BY event_id DESC LIMIT 1").first()
    count = connection.exec_driver_sql("SELECT count(*) FROM events").scalar()
    kept = {
        "ledger": ledger_id,
        **kept,
        "commits": str(int(kept.get("commits", "0")) + 1),
        "events": f"{count} {last[0]} {last[1]}" if last else f"0 0 {FIRST_EVENT}",
    }
    if connection.dialect.name == "sqlite":
        kept["schema"] = sqlite_file.schema_hash(connection.connection.driver_connection)  # type: ignore[arg-type]  # it is sqlite3's
    connection.execute(delete(facts))
    connection.execute(insert(facts), [to_row(FactRecord(name, value)) for name, value in kept.items()])
    return kept


def stream(connection: Connection, sql: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a query without holding all of them."""
    result = connection.exec_driver_sql(sql, execution_options={"yield_per": BATCH})
    for row in result.mappings():
        yield dict(row)


# --- seals ---------------------------------------------------------------------------------------------------------------


def _plain(cls: type[Any], row: Mapping[str, Any]) -> Any:
    """Return a row of a release without seals as a record."""
    return cls(**{c.field: from_stored(c.kind, row[c.name]) for c in columns(cls)})


def _reseal(connection: Connection, cls: type[Any]) -> None:
    target = table(cls)
    keys = KEYS[cls]
    for row in list(stream(connection, f"SELECT * FROM {target.name} WHERE seal = ''")):
        record = _plain(cls, row)
        where = [target.c[key] == getattr(record, key) for key in keys]
        connection.execute(update(target).where(*where).values(seal=seal(record)))


def _chain(connection: Connection) -> None:
    """Seal events that have no seal, each one over that of the event before it."""
    events, previous = table(EventRecord), FIRST_EVENT
    for row in list(stream(connection, "SELECT * FROM events WHERE seal = '' ORDER BY event_id")):
        record = _plain(EventRecord, {**row, "previous": previous})
        previous = seal(record)
        connection.execute(update(events).where(events.c.event_id == row["event_id"]).values(previous=record.previous, seal=previous))


# --- spending ------------------------------------------------------------------------------------------------------------


def spending_of_all(query: Query) -> Cells:
    """Return what the spending table has to hold. Reads each run, rental and charge once, in the order of the runs."""
    return spending.summed(cells for _run, cells in spending_of_each(query))


def spending_of_each(query: Query) -> Iterator[tuple[str, Cells]]:
    """Yield each charged run's share of the spending table."""
    charges = groupby((to_record(ChargeRecord, row) for row in query("SELECT * FROM charges ORDER BY run_id")), key=lambda c: c.run_id)
    rentals = groupby((to_record(RentalRecord, row) for row in query("SELECT * FROM rentals ORDER BY run_id")), key=lambda r: r.run_id)
    runs = (to_record(RunRecord, row) for row in query("SELECT * FROM runs ORDER BY run_id"))
    run = next(runs, None)
    rented = next(rentals, None)
    for run_id, charged in charges:
        mine = list(charged)
        while run is not None and run.run_id != run_id:
            run = next(runs, None)
        while rented is not None and rented[0] != run_id:
            rented = next(rentals, None)
        if run is not None:
            yield run_id, spending.cells(run, list(rented[1]) if rented is not None else [], mine)
    # Read to their ends, so that no cursor stays open on a server.
    for rest in (runs, rentals):
        for _row in rest:
            pass
