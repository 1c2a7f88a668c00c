"""Backups, export and import, and the way back: what was written is had again, and what is damaged is never taken for true."""

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from lumina_cloud.api import disk, keeping, rebuilding
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import LedgerError, RefusedError, UsageError
from lumina_cloud.ledger import Ledger, backups, portable
from lumina_cloud.ledger.verifying import verify
from lumina_cloud.runs import tags
from providers.contract import Instance
from tests.ledger import torture
from tests.ledger.conftest import NOW, a_charge, fill

CLOCK = SystemClock()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a ledger in which there is something in each table."""
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LUMINA_LEDGER_URL", raising=False)
    torture.a_full_ledger(tmp_path / "home")
    return tmp_path / "home"


def damage(path, at=9000, length=4096):
    content = bytearray(path.read_bytes())
    content[at : at + length] = b"\xa5" * length
    path.write_bytes(bytes(content))


# --- verify --------------------------------------------------------------------------------------------------------------


def test_a_whole_ledger_is_found_whole(ledger):
    fill(ledger)
    with ledger.transaction() as tx:
        tx.put_charge(a_charge(usd="1.23", until=NOW + timedelta(hours=50)))
        tx.add_event("run.launched", run_id="debug-dense-1")
    found = verify(ledger.database)
    assert found.problems == []
    assert (found.rows["runs"], found.rows["charges"], found.rows["events"]) == (1, 1, 1)


def spoiled(ledger, sql):
    """Change the database behind Lumina's back, and return what `verify` says."""
    with ledger._engine.connect() as connection:
        connection.exec_driver_sql(sql)
        connection.commit()
    return verify(ledger.database).problems


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("UPDATE charges SET usd_micros = usd_micros + 1", "charges"),
        ("UPDATE runs SET state = 'failed'", "runs"),
        ("UPDATE rentals SET usd_per_hour_micros = 1", "rentals"),
        ("UPDATE spending SET usd_micros = 0 WHERE dimension = 'month'", "month"),
        ("DELETE FROM charges", "sum of"),
        ("UPDATE facts SET value = '0 0 0000000000000000' WHERE name = 'events'", "facts"),
    ],
)
def test_a_change_by_something_else_is_seen(ledger, sql, word):
    fill(ledger)
    with ledger.transaction() as tx:
        tx.put_charge(a_charge())
        tx.add_event("run.launched", run_id="debug-dense-1")
    assert any(word in problem for problem in spoiled(ledger, sql))


@pytest.mark.parametrize("sql", ["UPDATE events SET kind = 'other'", "DELETE FROM events"])
def test_events_can_only_be_appended(ledger, sql):
    fill(ledger)
    with ledger.transaction() as tx:
        tx.add_event("run.launched", run_id="debug-dense-1")
    with pytest.raises(Exception, match="append-only"):
        spoiled(ledger, sql)
    assert len(ledger.events("debug-dense-1")) == 1


def test_an_event_that_is_taken_out_is_missed(file_ledger):
    fill(file_ledger)
    for n in range(3):
        with file_ledger.transaction() as tx:
            tx.add_event("thing", run_id="debug-dense-1", n=n)
    path = file_ledger.database.path
    for victim in (2, 3):
        copied = path.with_name(f"copy-{victim}.db")
        backups.copy(path, copied)
        with sqlite3.connect(copied) as connection:
            connection.execute("DROP TRIGGER events_no_delete")
            connection.execute("DELETE FROM events WHERE event_id = ?", [victim])
            connection.execute(
                "CREATE TRIGGER events_no_delete BEFORE DELETE ON events WHEN OLD.seal <> '' "
                "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
            )
        connection.close()
        with pytest.raises(LedgerError, match="event"):
            backups.look_through(copied, CLOCK)


def test_a_charge_that_was_edited_is_not_read(home):
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.execute("UPDATE charges SET usd_micros = 1 WHERE run_id = 'run-3'")
    connection.close()
    ledger = Ledger.open(home, CLOCK)
    with pytest.raises(LedgerError, match=r"the row 'run-3-1' of charges does not hold what was written"):
        ledger.spent("run-3")
    ledger.close()


# --- a log that is lost --------------------------------------------------------------------------------------------------


@pytest.fixture
def killed(home):
    """A home whose last writer was killed: four transactions are in the write-ahead log alone."""
    code = torture.WRITER.replace("while True", "for _ in range(4)").format(root=str(torture.ROOT), home=str(home), first=0)
    subprocess.run([sys.executable, "-c", f"{code}\nos.kill(os.getpid(), 9)"], check=False, stdout=subprocess.DEVNULL)
    assert (home / "ledger.db-wal").stat().st_size > 0
    return home


@pytest.mark.parametrize("how", ["missing", "cut off", "damaged"])
def test_a_lost_log_is_named_with_what_is_lost_and_the_way_on(killed, how):
    log = killed / "ledger.db-wal"
    if how == "missing":
        log.unlink()
    elif how == "cut off":
        os.truncate(log, log.stat().st_size // 2)
    else:
        damage(log, at=log.stat().st_size // 2, length=64)
    with pytest.raises(LedgerError, match=r"has lost its last \d of \d+ transactions") as raised:
        Ledger.open(killed, CLOCK)
    assert "lumina ledger verify --accept" in raised.value.hint
    assert keeping.verify(CLOCK, accept=True).ok
    Ledger.open(killed, CLOCK).close()


def test_an_untouched_log_is_taken_in(killed):
    ledger = Ledger.open(killed, CLOCK)
    assert ledger.names_beginning("run-0000") == [f"run-{n:07d}" for n in range(4)]
    ledger.close()


def test_a_ledger_that_was_removed_is_missed(home):
    (home / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="there was a ledger here"):
        Ledger.open(home, CLOCK)


# --- backup and restore --------------------------------------------------------------------------------------------------


def opened(home):
    return Ledger.open(home, CLOCK)


def test_a_backup_is_restored_to_the_same_content_and_what_was_there_is_kept(home):
    truth = torture.content_of(home)
    ledger = opened(home)
    made = keeping.backup(ledger, None, CLOCK)
    fill(ledger, "later")
    ledger.close()
    done = keeping.restore(None, CLOCK)
    assert done.backup == made.path
    assert torture.content_of(home) == truth
    kept = Ledger.open(home, CLOCK, f"sqlite:///{done.kept}")
    assert kept.run("later") is not None
    kept.close()


def test_a_damaged_ledger_names_its_newest_backup_and_is_restored_from_it(home):
    ledger = opened(home)
    made = keeping.backup(ledger, None, CLOCK)
    ledger.close()
    truth = torture.content_of(home)
    damage(home / "ledger.db")
    with pytest.raises(LedgerError, match="damaged") as raised:
        opened(home)
    assert f"lumina ledger restore {made.path}" in raised.value.hint
    assert "lumina doctor --rebuild" in raised.value.hint
    keeping.restore(None, CLOCK)
    assert torture.content_of(home) == truth


def test_a_damaged_backup_is_refused_and_the_ledger_left_alone(home):
    ledger = opened(home)
    made = keeping.backup(ledger, home / "mine.backup", CLOCK)
    ledger.close()
    truth = torture.content_of(home)
    with sqlite3.connect(made.path) as connection:
        connection.execute("UPDATE charges SET usd_micros = 0")
    connection.close()
    with pytest.raises(LedgerError, match="backup is damaged itself"):
        keeping.restore(home / "mine.backup", CLOCK)
    assert torture.content_of(home) == truth


def test_a_kill_while_a_backup_is_put_in_place_loses_neither(home):
    ledger = opened(home)
    keeping.backup(ledger, None, CLOCK)
    ledger.close()
    truth = torture.content_of(home)
    # What is after one rename is before the next.
    for nth, when in [(1, "before"), (2, "before"), (3, "before"), (4, "before"), (4, "after")]:
        done = subprocess.run(
            [Path(sys.executable).with_name("lumina"), "ledger", "restore", "--yes"],
            env={**os.environ, "LUMINA_CRASH_AT": f"ledger.swap:{nth}:{when}"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == -9, done.stderr
        try:
            opened(home).close()
        except LedgerError as error:
            assert "lumina ledger restore" in error.hint
        keeping.restore(None, CLOCK)
        assert torture.content_of(home) == truth


def test_a_backup_is_of_one_moment_while_others_write(file_ledger, tmp_path):
    code = torture.WRITER.format(root=str(torture.ROOT), home=str(tmp_path / "home"), first=0)
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        os.read(writer.stdout.fileno(), 1)
        for n in range(3):
            keeping.backup(file_ledger, tmp_path / f"b{n}.backup", CLOCK)
    finally:
        writer.kill()
        writer.stdout.close()
        writer.wait()


# --- export and import ---------------------------------------------------------------------------------------------------


def test_an_export_is_the_same_ledger_elsewhere(home, ledger):
    """From a file into an empty ledger of either database, and back."""
    source = opened(home)
    lines = list(portable.lines(source.database))
    added = portable.put(ledger.database, portable.read(lines))
    assert added["charges"] == 6
    assert verify(ledger.database).problems == []
    assert ledger.runs() == source.runs()
    assert ledger.charges() == source.charges()
    assert [(r.key, r.usd, r.runs) for r in ledger.costs("day")] == [(r.key, r.usd, r.runs) for r in source.costs("day")]
    again = portable.put(ledger.database, portable.read(list(portable.lines(source.database))))
    assert again == {}
    source.close()


def test_an_export_that_contradicts_adds_nothing(home, ledger):
    source = opened(home)
    records = portable.read(list(portable.lines(source.database)))
    source.close()
    fill(ledger, "run-2")
    with pytest.raises(LedgerError, match="holds something else"):
        portable.put(ledger.database, records)
    assert ledger.run_names() == ["run-2"]


@pytest.mark.parametrize("spoil", ["cut", "row", "end", "head", "amount"])
def test_an_export_that_was_changed_is_refused(home, spoil):
    source = opened(home)
    lines = list(portable.lines(source.database))
    source.close()
    if spoil == "cut":
        lines = lines[:-1]
    elif spoil == "row":
        del lines[3]
    elif spoil == "end":
        lines[-1] = json.dumps({"rows": 1, "sha256": "0" * 64})
    elif spoil == "head":
        lines[0] = json.dumps({"format": "something else"})
    else:
        lines = [line.replace('"usd_micros": 3000', '"usd_micros": 4000') for line in lines]
    with pytest.raises(LedgerError, match=r"damaged|cut off|no export"):
        portable.read(lines)


# --- the way back without a backup ---------------------------------------------------------------------------------------


class Cloud:
    """A provider on which one machine of ours still runs."""

    name = "runpod"

    def list_owned(self):
        return [
            Instance(
                instance_id="pod-1",
                tag="lumina-debug-mod-abcd-2",
                state="running",
                usd_per_hour=Decimal("1.89"),
                created_at=NOW,
                ended_at=None,
                address=None,
            )
        ]


def test_rebuild_reads_what_can_be_read_and_finds_what_runs(home):
    size = (home / "ledger.db").stat().st_size
    damage(home / "ledger.db", at=size // 2, length=4096)
    with pytest.raises(LedgerError):
        opened(home)
    done = rebuilding.rebuild(CLOCK, lambda name: Cloud(), ["runpod"])
    assert done.adopted == ["lumina-debug-mod-abcd-2"]
    assert done.rows["run"] >= 2
    ledger = opened(home)
    assert verify(ledger.database).problems == []
    found = [r for r in ledger.open_rentals() if r.instance_id == "pod-1"]
    assert [(r.run_id, r.attempt, r.state) for r in found] == [("debug-mod-abcd", 2, "ready")]
    assert ledger.run("debug-mod-abcd").state == "finishing"
    ledger.close()


def labelled(instance_id, tag):
    return replace(Cloud().list_owned()[0], instance_id=instance_id, tag=tag)


def test_rebuild_leaves_the_machines_of_another_ledger_on_the_account_alone(home):
    """They were taken for ours, and the next command ended them."""
    ledger = opened(home)
    mine, theirs = tags.make(ledger.ledger_id(), "debug-mod-abcd", 3), tags.make("another", "b7-dense-beef", 1)
    ledger.close()
    damage(home / "ledger.db", at=0, length=200)
    cloud = SimpleNamespace(list_owned=lambda: [labelled("pod-1", mine), labelled("pod-2", theirs)])
    done = rebuilding.rebuild(CLOCK, lambda name: cloud, ["runpod"])
    assert done.adopted == [mine]
    assert any("pod-2" in note for note in done.notes)
    ledger = opened(home)
    assert [r.instance_id for r in ledger.open_rentals() if r.provider == "runpod" and r.tag in (mine, theirs)] == ["pod-1"]
    ledger.close()


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/b", ".", "..", "x" * 90])
def test_a_label_names_no_folder_but_one_of_ours(name):
    chosen = SimpleNamespace(runs_folder=Path("/home/runs"))
    assert rebuilding.placeholder("runpod", labelled("pod-1", f"lumina-{name}-1"), chosen, NOW) is None


def test_rebuild_takes_from_a_backup_what_the_ledger_has_lost(home):
    ledger = opened(home)
    keeping.backup(ledger, None, CLOCK)
    fill(ledger, "later")
    runs, charges = ledger.runs(), ledger.charges()
    ledger.close()
    damage(home / "ledger.db", at=0, length=200)
    done = rebuilding.rebuild(CLOCK, lambda name: Cloud(), [])
    assert len(done.sources) == 2
    ledger = opened(home)
    assert ledger.runs() == [run for run in runs if run.run_id != "later"]
    assert ledger.charges() == charges
    ledger.close()


# --- disk ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(home):
    """Runs of the ledger with files, and the api on them."""
    from lumina_cloud.api.lumina import Lumina

    with Lumina() as lumina:
        for n in range(3):
            folder = lumina.settings.runs_folder / f"run-{n}"
            folder.mkdir(parents=True)
            (folder / "weights").write_bytes(b"x" * 1000 * (n + 1))
            with lumina.ledger.transaction() as tx:
                tx.update_run(f"run-{n}", folder=str(folder), ended_at=NOW + timedelta(days=n))
        yield lumina


def test_rm_frees_disk_and_keeps_history(files):
    before = files.costs("model")
    done = disk.remove(files.session, [disk.removable(files.session, files.find("run-1"))])
    assert (done.runs, done.bytes) == (["run-1"], 2000)
    assert not (files.settings.runs_folder / "run-1").exists()
    assert files.ledger.artifacts("run-1")
    assert files.ledger.events("run-1")[-1].kind == "run.files_removed"
    assert files.costs("model").rows == before.rows
    with pytest.raises(UsageError, match="no files"):
        disk.removable(files.session, files.find("run-1"))


def test_what_runs_is_not_removed_and_nothing_outside_the_folder_of_runs(files, tmp_path):
    run = files.find("run-0")
    with pytest.raises(RefusedError, match="training"):
        disk.removable(files.session, replace(run, state="training"))
    with pytest.raises(RefusedError, match="not below"):
        disk.removable(files.session, replace(run, folder=str(tmp_path)))
    with pytest.raises(RefusedError, match="not below"):
        disk.removable(files.session, replace(run, folder=str(files.settings.runs_folder / ".." / "..")))


def test_prune_takes_what_is_old(files):
    now = NOW + timedelta(days=10)
    assert [f.run.run_id for f in disk.older_than(files.session, 9, now)] == ["run-1", "run-0"]
    assert disk.older_than(files.session, 30, now) == []
