"""Opening: migrations, what is refused and left alone, many writers, and a kill at each commit."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import create_engine

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import Ledger, database, writer
from lumina_cloud.ledger.tables import Base
from tests.ledger.conftest import fill


def opened(home):
    return Ledger.open(home, SystemClock())


def child(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_migrated_schema_is_the_one_that_the_code_speaks_of(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    opened(tmp_path).close()
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == database.HEAD
    engine.dispose()


def test_the_head_is_the_newest_migration():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "lumina_cloud:ledger/migrations")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == database.HEAD
    assert {s.revision for s in scripts.walk_revisions()} == set(database.KNOWN)


def test_a_current_ledger_opens_without_alembic(tmp_path):
    opened(tmp_path).close()
    done = child(
        "import sys, pathlib; from lumina_cloud.ledger import Ledger; from lumina_cloud.core.clock import SystemClock\n"
        f"Ledger.open(pathlib.Path({str(tmp_path)!r}), SystemClock()).close(); print('alembic' in sys.modules)"
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.pain(11)
def test_the_ledger_is_private_durable_and_checked(file_ledger, tmp_path):
    path = tmp_path / "home" / "ledger.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    by_engine = file_ledger._engine.connect()
    with closing(writer.connect(path, 1.0)) as own, closing(by_engine):
        for asked in (own.execute, by_engine.exec_driver_sql):
            pragmas = {p: asked(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous", "foreign_keys")}
            assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert by_engine.exec_driver_sql("PRAGMA busy_timeout").scalar() >= 30_000


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"somebody's notes" * 500)
    with pytest.raises(LedgerError, match=r"no ledger"):
        opened(tmp_path)
    assert path.read_bytes() == b"somebody's notes" * 500


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as other:
        other.execute("create table music (title text)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="something else"):
        opened(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_ledger_is_refused_by_name(tmp_path):
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    with pytest.raises(LedgerError, match=r"newer lumina \(schema 9999"):
        opened(tmp_path)


def test_a_damaged_ledger_is_named(tmp_path):
    ledger = opened(tmp_path)
    fill(ledger)
    ledger.close()
    path = tmp_path / "ledger.db"
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"damaged|no ledger"):
        opened(tmp_path)


def test_a_home_that_is_a_file_is_named(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(LedgerError, match="is a file"):
        opened(tmp_path / "home")


def test_a_locked_ledger_says_so(file_ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    impatient = opened(tmp_path / "home")
    other = sqlite3.connect(tmp_path / "home" / "ledger.db")
    other.execute("begin immediate")
    with pytest.raises(LedgerError, match="locked by another process"):
        fill(impatient)
    other.rollback()
    other.close()
    fill(impatient)
    impatient.close()


def test_a_full_disk_is_named_and_harms_nothing(file_ledger, tmp_path, monkeypatch):
    """SQLite's own page limit gives the error of a full disk, SQLITE_FULL."""
    fill(file_ledger)
    monkeypatch.setattr(writer, "PRAGMAS", (*writer.PRAGMAS, "max_page_count=1"))
    file_ledger.close()
    with pytest.raises(LedgerError, match="is full"):
        for n in range(200):
            fill(file_ledger, f"big-{n}", config_json="x" * 20_000)
    reader = opened(tmp_path / "home")
    assert "debug-dense-1" in reader.run_names()
    reader.close()


WRITE = """
import sys, pathlib
sys.path.insert(0, {root!r})
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from tests.ledger.conftest import fill
ledger = Ledger.open(pathlib.Path({home!r}), SystemClock())
for n in range({count}):
    fill(ledger, f"{name}-{{n}}")
"""
ROOT = str(__import__("pathlib").Path(__file__).resolve().parents[2])


@pytest.mark.pain(11)
def test_many_writers_lose_nothing(tmp_path):
    """They start on an empty home, so they race for the migration too."""
    with ThreadPoolExecutor(6) as pool:
        codes = [WRITE.format(root=ROOT, home=str(tmp_path), count=10, name=f"w{n}") for n in range(6)]
        results = list(pool.map(child, codes))
    assert [r.stderr for r in results] == [""] * 6
    ledger = opened(tmp_path)
    assert len(ledger.run_names()) == 60
    ledger.close()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_servers_own_isolation_does_not_let_a_write_rest_on_what_was_before_it(postgresql, tmp_path, isolation):
    """A transaction that waited for another sees what that one wrote, as on a file."""
    import psycopg

    url = postgresql.new(template=postgresql.migrated)
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"ALTER DATABASE {url.split('/')[3].split('?')[0]} SET default_transaction_isolation = '{isolation}'")

    def write(name):
        ledger = Ledger.open(tmp_path / name, SystemClock(), url)
        for n in range(10):
            fill(ledger, f"{name}-{n}")
        ledger.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, ("a", "b", "c", "d")))
    ledger = Ledger.open(tmp_path / "e", SystemClock(), url)
    assert len(ledger.run_names()) == 40
    ledger.close()


@pytest.mark.parametrize(("when", "kept"), [("before", 2), ("after", 3)])
def test_a_kill_at_a_commit_keeps_all_of_it_or_nothing(tmp_path, when, kept):
    opened(tmp_path).close()
    done = child(WRITE.format(root=ROOT, home=str(tmp_path), count=5, name="w"), LUMINA_CRASH_AT=f"ledger.commit:3:{when}")
    assert done.returncode == -signal.SIGKILL
    ledger = opened(tmp_path)
    assert len(ledger.run_names()) == kept
    assert len(ledger.open_rentals()) == kept
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_ledger_opened_twice_in_a_process_keeps_its_locks(tmp_path):
    """Else another process would take the first one's log for abandoned, and what it commits afterwards would be lost."""
    first = opened(tmp_path)
    fill(first, "before")
    opened(tmp_path).close()
    look = (
        f"import sys, pathlib; sys.path.insert(0, {ROOT!r})\n"
        "from lumina_cloud.ledger import Ledger; from lumina_cloud.core.clock import SystemClock\n"
        f"ledger = Ledger.open(pathlib.Path({str(tmp_path)!r}), SystemClock())\n"
        "print(*sorted(ledger.run_names())); ledger.close()"
    )
    assert child(look).stdout.split() == ["before"]
    fill(first, "later")
    assert child(look).stdout.split() == ["before", "later"]
    first.close()
