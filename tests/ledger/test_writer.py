"""What the standard library writes into a SQLite file is, cell for cell, what SQLAlchemy would have written; and it waits for none."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_cloud.ledger import PlanRecord, PriceRecord, writer
from lumina_cloud.ledger.engines import TableWriter, make
from tests.ledger.conftest import a_charge, a_rental, a_run

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
zones = st.integers(-12, 12).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(1999, 1, 1), datetime(2100, 1, 1), timezones=zones)  # noqa: DTZ001  # bounds; each has a zone
bodies = st.dictionaries(
    words, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words | st.lists(words), max_size=4
)
dollars = st.decimals(0, 10**6, places=6)


def contents(path):
    """Every table, each cell with its type in the file."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        found = {}
        for table in tables:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            cells = ", ".join(f'"{name}", typeof("{name}")' for name in names)
            found[table] = sorted(map(repr, connection.execute(f"SELECT {cells} FROM {table}")))
        return found


def put(one, records, after, other_run):
    for record in records:
        one.insert(record)
    assert one.replace(after)
    assert not one.replace(other_run)
    assert one.delete(PlanRecord, plan_id="p-2") == 1
    assert one.delete(PlanRecord, plan_id="p-2") == 0
    one.commit()


@settings(max_examples=25)
@given(st.data())
def test_both_writers_store_the_same(another_ledger, data):
    word, at, body, usd = (data.draw(one) for one in (words, moments, bodies, dollars))
    flag, labels, ended = (data.draw(one) for one in (st.booleans(), st.lists(words, max_size=3), st.none() | moments))
    run = a_run(reason=word, created_at=at, planned=body, usd_cap=usd, labels=labels, ended_at=ended)
    records = [
        PlanRecord("p-1", at, body, {"rows": [body]}),
        PlanRecord("p-2", at, {}, {}),
        run,
        a_rental(interruptible=flag, ready_at=ended),
        a_charge(usd=usd, since=at, until=at),
        PriceRecord(at, word, "RTX4090", 1, flag, usd, 3),
    ]
    after = a_run(reason=word[::-1], created_at=at, planned={"was": body}, usd_cap=usd + Decimal("0.000001"), started_at=at)
    stored = []
    for how in ("sqlite3", "sqlalchemy"):
        ledger = another_ledger()
        path = ledger.database.path
        ledger.close()
        if how == "sqlite3":
            with closing(writer.connect(path, 5.0)) as own:
                own.execute("BEGIN IMMEDIATE")
                one = writer.SqliteWriter(own)
                put(one, records, after, a_run("another"))
                assert one.select(type(run), "WHERE run_id = :name", {"name": run.run_id}) == [after]
        else:
            engine = make(f"sqlite:///{path}", 5.0)
            with engine.connect().execution_options(writes=True) as connection:
                put(TableWriter(connection), records, after, a_run("another"))
            engine.dispose()
        stored.append(contents(path))
    assert stored[0]["runs"]
    # Facts name the moment's ledger: each copy has the same.
    assert stored[0] == stored[1]


def test_writing_waits_for_no_sqlalchemy(another_ledger):
    ledger = another_ledger()
    home = ledger.database.path.parent
    ledger.close()
    code = (
        "import sys, pathlib, datetime; from lumina_cloud.ledger import Ledger, PlanRecord\n"
        "from lumina_cloud.core.clock import SystemClock\n"
        f"ledger = Ledger.open(pathlib.Path({str(home)!r}), SystemClock())\n"
        "with ledger.transaction() as tx: tx.add_plan(PlanRecord('p-1', datetime.datetime.now(datetime.UTC), {}, {}))\n"
        "print(ledger.last_plan().plan_id, 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["p-1", "False"]


def test_a_connection_is_used_again_and_never_by_two_at_once(another_ledger):
    ledger = another_ledger()
    taken = []
    with ledger.database.writing() as first:
        taken.append(first._connection)
        assert ledger.database._writers == []
    with ledger.database.writing() as second:
        taken.append(second._connection)
    assert taken[0] is taken[1]
    assert not taken[0].in_transaction
    ledger.close()


def test_a_moment_is_stored_in_utc_with_all_its_digits():
    from lumina_cloud.ledger.rows import stored_moment

    east = timezone(timedelta(hours=9))
    assert stored_moment(datetime(2026, 3, 4, 5, 6, 7, tzinfo=east)) == "2026-03-03 20:06:07.000000"
    assert stored_moment(datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)) == "2026-03-04 05:06:07.000089"
