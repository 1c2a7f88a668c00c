"""`status`, `costs` and `launch` walk indexes, whatever the size of the ledger: SQLite is asked how it would run each of their queries."""

import pytest

from lumina_cloud.api.launching import Limits
from lumina_cloud.api.lumina import COST_KEYS, Lumina
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.runs.workloads import WorkloadRequest
from tests.ledger.torture import a_full_ledger


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A command's ledger, and the queries that it was asked."""
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    a_full_ledger(tmp_path / "home", runs=60)
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
    assert (len(document.runs), document.more) == (50, True)
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


def test_the_test_itself_sees_a_scan(asked):
    lumina, queries = asked
    lumina.ledger.database.rows("SELECT * FROM charges WHERE usd_micros > 5")
    assert scans(lumina, queries)
