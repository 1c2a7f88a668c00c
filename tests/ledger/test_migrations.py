"""From every released schema to this one: nothing is lost, a backup lies beside it, a kill at any statement leaves a ledger that opens."""

import signal
import sqlite3
from datetime import timedelta
from unittest.mock import patch

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, inspect

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger, database, derived
from lumina_cloud.ledger.verifying import verify
from tests.ledger.conftest import NOW
from tests.ledger.test_database import ROOT, child

OLD = [revision for revision in database.KNOWN if revision != database.HEAD]
AT = "2026-03-04 05:06:07.000890"


def a_ledger_of(path, revision, runs=2):
    """Make a ledger as the release of that schema left it, with rows in each of its tables."""
    if revision >= "0003":
        # Since then rows are sealed and summed up: by the same code as a migration's end.
        a_ledger_of(path, "0002", runs)
        raised(path, revision)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    raised(path, revision)
    _fill(path, runs)


def raised(path, revision):
    """Bring a ledger's schema to a revision, and no further."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _own_transactions(connection, _record):
        connection.isolation_level = None

    config = Config()
    config.set_main_option("script_location", "lumina_cloud:ledger/migrations")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if revision >= "0003":
            there = set(inspect(connection).get_table_names())
            with patch.object(derived, "TABLES", {cls: name for cls, name in derived.TABLES.items() if name in there}):
                derived.refresh(connection, "0123456789abcdef")
        connection.commit()
    engine.dispose()


def _fill(path, runs):
    with sqlite3.connect(path) as old:
        old.execute("PRAGMA journal_mode=WAL")
        for n in range(runs):
            planned = '{"usd": {"low": "0.01", "mid": "0.02", "high": "0.03"}}'
            result = '{"loss_first": 6.0, "loss_last": 4.5, "tokens": 32768, "seconds": 10.0}'
            old.execute("INSERT INTO plans VALUES (?, ?, '{}', '{}')", [f"p-{n}", AT])
            old.execute(
                "INSERT INTO runs VALUES (?, ?, 'debug', 'dense', 'succeeded', 'finished', '{}', ?, 'local', 'cpu', 1, 50000, ?, 100000, "
                "7200, NULL, '/runs/x', ?, ?, NULL, '{}', ?)",
                [f"run-{n}", AT, f"p-{n}", planned, AT, AT, result],
            )
            rental = [f"run-{n}-1", f"run-{n}", f"lumina-run-{n}-1", f"i-{n}", AT, AT, AT]
            old.execute("INSERT INTO rentals VALUES (?, ?, 1, ?, 'local', 'cpu', 1, 50000, 'local', ?, 'ended', ?, ?, ?)", rental)
            until = f"{NOW + timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}"
            charge = [f"run-{n}-1-time", f"run-{n}", f"run-{n}-1", AT, until]
            old.execute("INSERT INTO charges VALUES (?, ?, ?, 'local', 50000, 50000, ?, ?, 'metered')", charge)
            old.execute(
                "INSERT INTO events (at, run_id, rental_id, kind, data) VALUES (?, ?, NULL, 'run.launched', '{}')", [AT, f"run-{n}"]
            )
            for step in (1, 2, 3):
                old.execute("INSERT INTO metrics VALUES (?, ?, ?)", [f"run-{n}", step, f'{{"step": {step}, "loss": {6.0 / step}}}'])
            old.execute("INSERT INTO artifacts VALUES (?, 'result.json', 10, ?)", [f"run-{n}", "0" * 64])
    old.close()


def check_whole(home, runs=2):
    """Check that a migrated ledger holds what the old one held."""
    ledger = Ledger.open(home, SystemClock())
    assert verify(ledger.database).problems == []
    assert ledger.run_names() == [f"run-{n}" for n in range(runs)]
    assert [str(ledger.spent(name)) for name in ledger.run_names()] == ["0.05"] * runs
    assert [(m.step, m.data["loss"]) for m in ledger.metrics("run-0")] == [(1, 6.0), (2, 3.0), (3, 2.0)]
    (row,) = ledger.costs("model")
    assert (row.usd, row.hours, row.runs, row.spending.tokens) == (ledger.spent("run-0") * runs, float(runs), runs, 32768 * runs)
    assert ledger.run("run-0").project == ""
    ledger.close()
    with sqlite3.connect(home / "ledger.db") as connection:
        # What scripts read: the steps, as rows.
        assert connection.execute("SELECT step FROM metrics WHERE run_id = 'run-1' ORDER BY step").fetchall() == [(1,), (2,), (3,)]
    connection.close()


@pytest.mark.pain(11)
@pytest.mark.parametrize("revision", OLD)
def test_every_released_schema_is_migrated_with_a_backup_before(tmp_path, revision):
    a_ledger_of(tmp_path / "ledger.db", revision)
    check_whole(tmp_path)
    (backup,) = tmp_path.glob("*.backup")
    with sqlite3.connect(backup) as old:
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
        assert old.execute("SELECT count(*) FROM charges").fetchone() == (2,)
    old.close()


OPEN = """
import sys, pathlib
sys.path.insert(0, {root!r})
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
Ledger.open(pathlib.Path({home!r}), SystemClock()).close()
"""


def statements_of_a_migration(home, revision):
    from lumina_cloud.core import edge

    a_ledger_of(home / "ledger.db", revision)
    before = edge.passed()["ledger.migrate"]
    Ledger.open(home, SystemClock()).close()
    return edge.passed()["ledger.migrate"] - before


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_statement_of_a_migration_leaves_the_old_ledger_and_the_next_command_migrates_it(tmp_path, when):
    """Every sixteenth statement here, those of `after` between those of `before`; all of them by LUMINA_EVERY_STATEMENT=1."""
    import os

    stride = 1 if os.environ.get("LUMINA_EVERY_STATEMENT") else 16
    count = statements_of_a_migration(tmp_path / "count", "0001")
    assert count > 40
    a_ledger_of(tmp_path / "old" / "ledger.db", "0001")
    for nth in range(1 + (when == "after") * (stride // 2), count + 1, stride):
        home = tmp_path / f"kill-{nth}"
        home.mkdir()
        (home / "ledger.db").write_bytes((tmp_path / "old" / "ledger.db").read_bytes())
        done = child(OPEN.format(root=ROOT, home=str(home)), LUMINA_CRASH_AT=f"ledger.migrate:{nth}:{when}")
        assert done.returncode == -signal.SIGKILL, (nth, done.stderr)
        with sqlite3.connect(home / "ledger.db") as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
        connection.close()
        check_whole(home)


@pytest.mark.parametrize(("when", "expected"), [("before", "0001"), ("after", database.HEAD)])
def test_a_kill_at_the_commit_of_a_migration_is_all_or_nothing(tmp_path, when, expected):
    a_ledger_of(tmp_path / "ledger.db", "0001")
    done = child(OPEN.format(root=ROOT, home=str(tmp_path)), LUMINA_CRASH_AT=f"ledger.commit:1:{when}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (expected,)
    connection.close()
    check_whole(tmp_path)
