"""`status`, `costs` and `launch` walk indexes, whatever the size of the ledger: SQLite is asked how it would run each of their queries."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from lumina_cloud.api.launching import Limits
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.api.reader import COST_KEYS, STATUS_RUNS
from lumina_cloud.ledger import database, writer
from lumina_cloud.runs.workloads import WorkloadRequest
from tests.ledger.conftest import NOW
from tests.ledger.torture import a_full_ledger


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The folder of a ledger of 60 runs, which is copied and never opened."""
    folder = tmp_path_factory.mktemp("full") / "home"
    a_full_ledger(folder, runs=60)
    return folder


@pytest.fixture
def asked(full, tmp_path, monkeypatch):
    """A command's ledger, and the queries that it was asked."""
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    shutil.copytree(full, tmp_path / "home")
    queries = []
    with Lumina() as lumina:
        read = lumina.ledger.database.rows

        def rows(sql, parameters=None):
            queries.append((sql, parameters))
            return read(sql, parameters)

        monkeypatch.setattr(lumina.ledger.database, "rows", rows)
        yield lumina, queries
        monkeypatch.undo()


def scans(lumina, queries):
    """Return the steps in which a whole table or index is read."""
    queries = list(queries)
    assert queries
    plans = [(sql, step) for sql, parameters in queries for step in lumina.ledger.database.explain(sql, parameters)]
    return [(sql, step) for sql, step in plans if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"]


def test_status_reads_no_table_from_end_to_end(asked):
    lumina, queries = asked
    document = lumina.status()
    assert (len(document.runs), document.more) == (STATUS_RUNS, True)
    assert scans(lumina, queries) == []


@pytest.mark.parametrize("by", COST_KEYS)
def test_costs_reads_no_table_from_end_to_end(asked, by):
    lumina, queries = asked
    assert lumina.costs(by).rows
    assert scans(lumina, queries) == []


def test_finding_a_run_reads_no_table_from_end_to_end(asked):
    lumina, queries = asked
    assert lumina.find("last").run_id == "run-59"
    assert lumina.find("run-1").run_id == "run-1"
    assert lumina.find("run-58").run_id == "run-58"
    assert scans(lumina, queries) == []


def test_a_launch_reads_no_table_from_end_to_end(asked):
    lumina, queries = asked
    request = WorkloadRequest(model="debug", tokens="32k", global_batch="1024", settings=(("seq_len", "128"),))
    lumina.prepare(request, MachineFilter(provider="local"), Limits(max_cost=None))
    assert scans(lumina, queries) == []


def test_events_of_a_kind_are_not_looked_for_among_all(asked):
    """Every launch asks which machines failed lately, and every check which rentals have twins."""
    lumina, queries = asked
    assert lumina.ledger.events_of("run.launched", NOW - timedelta(days=9))
    assert scans(lumina, queries) == []


def test_the_test_itself_sees_a_scan(asked):
    lumina, queries = asked
    lumina.ledger.database.rows("SELECT * FROM charges WHERE usd_micros > 5")
    assert scans(lumina, queries)


def test_a_change_of_a_row_opens_no_table_that_refers_to_it(asked, monkeypatch):
    """To set the key of a run or a rental, even to what it is, makes SQLite look for its children: in all charges and events there are."""
    lumina, _queries = asked
    written = []

    class Seen(writer.SqliteWriter):
        def __init__(self, connection):
            super().__init__(connection)
            connection.set_trace_callback(written.append)

    monkeypatch.setattr(database, "SqliteWriter", Seen)
    with lumina.ledger.transaction() as tx:
        tx.update_run("run-7", state="finishing", reason="finished")
        tx.update_rental("run-7-1", state="ended")
        charge = tx.charges("run-7")[0]
        tx.put_charge(replace(charge, counted=False))
    written = [statement for statement in written if statement.startswith("UPDATE")]
    changed = {statement.split()[1] for statement in written}
    assert changed >= {"runs", "rentals", "charges"}
    children = {"runs": {"rentals", "charges", "events", "artifacts", "curves"}, "rentals": {"charges", "events"}}
    with closing(sqlite3.connect(lumina.ledger.database.path)) as own:
        own.execute("PRAGMA foreign_keys=ON")
        roots = dict(own.execute("SELECT rootpage, tbl_name FROM sqlite_master WHERE rootpage > 0"))
        for statement in written:
            steps = own.execute(f"EXPLAIN {statement}").fetchall()
            opened = {roots.get(step[3]) for step in steps if step[1] in ("OpenRead", "OpenWrite", "ReopenIdx")}
            assert not opened & children.get(statement.split()[1], set()), (statement, opened)
