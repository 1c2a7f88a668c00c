"""Two controllers never drive one run: who is stopped past its lease, and wakes, does nothing more."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import LeaseLost
from lumina_cloud.ledger import LeaseRecord, Ledger
from lumina_cloud.runs import lease
from tests.ledger.conftest import NOW, a_run
from tests.runs.test_holds import crowd

ROOT = Path(__file__).parents[2]
HERE = "boot /home"


class Later(SystemClock):
    """A clock that is some seconds ahead."""

    def __init__(self, seconds):
        self.ahead = timedelta(seconds=seconds)

    def now(self):
        return super().now() + self.ahead


@pytest.fixture
def home(tmp_path):
    ledger = Ledger.open(tmp_path, SystemClock())
    with ledger.transaction() as tx:
        tx.add_run(a_run("r", state="training"))
    ledger.close()
    return tmp_path


def kept(holder="a", place=HERE, seconds=30.0):
    return LeaseRecord("r", 1, holder, place, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("known", "lock_is_free", "free"),
    [
        (None, True, True),
        (kept(), False, False),
        (kept(), True, True),
        (kept(place="elsewhere"), True, False),
        (kept(place="elsewhere", seconds=0), False, True),
        (kept(seconds=-1), False, True),
        (kept(holder=""), False, True),
        (kept(place="elsewhere", seconds=86400), False, True),
    ],
    ids=["new", "driven", "dead here", "driven elsewhere", "dead elsewhere", "stopped here", "let go", "clock set back"],
)
def test_who_may_take_a_run(known, lock_is_free, free):
    assert lease.is_free(known, NOW, HERE, lock_is_free=lock_is_free) is free


def test_of_fifty_controllers_one_takes_the_run(home):
    # Each says that the lock is free: only the ledger is left to tell them apart, as on fifty computers.
    taken = crowd(home, lambda mine, n: lease.acquire(mine, SystemClock(), "r", f"place {n}", lock_is_free=True))
    assert sum(t is not None for t in taken) == 1


ACTS = """
import sys, pathlib
sys.path.insert(0, {root!r})
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import LeaseLost
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import lease
import os, time
home = pathlib.Path({home!r})
ledger = Ledger.open(home, SystemClock())
def act():
    if {act!r} == "write":
        with ledger.transaction() as tx:
            tx.add_event("acted", run_id="r", by="child")
    else:
        with edge("fake.act"), (home / "acts").open("a") as out:
            out.write("child\\n")
with lease.holding(ledger, SystemClock(), home, "r") as mine:
    assert mine is not None
    try:
        while True:
            act()
            os.write(1, b".")
            time.sleep(0.01)
    except LeaseLost:
        os._exit(17)
"""


def acting(home, act):
    code = ACTS.format(root=str(ROOT), home=str(home), act=act)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert os.read(child.stdout.fileno(), 1) == b"."
    return child


def acts_of(home, ledger):
    written = [e.data["by"] for e in ledger.events("r") if e.kind == "acted"]
    acted = (home / "acts").read_text().split() if (home / "acts").exists() else []
    return written + acted


@pytest.mark.pain(12)
@pytest.mark.parametrize("act", ["write", "touch"])
def test_a_controller_stopped_past_its_lease_and_continued_is_refused(home, act):
    child = acting(home, act)
    # Stopped where it waits: a write transaction that it had begun would hold the ledger.
    time.sleep(0.2)
    for _ in range(100):
        os.kill(child.pid, signal.SIGSTOP)
        ledger = Ledger.open(home, Later(0))
        if _can_write(ledger):
            break
        os.kill(child.pid, signal.SIGCONT)
    before = acts_of(home, ledger)
    with lease.holding(ledger, SystemClock(), home, "r", renewal=None) as too_early:
        assert too_early is None
    clock = Later(lease.SECONDS + 1)
    with lease.holding(ledger, clock, home, "r", renewal=None) as mine:
        assert mine.fence == 2
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(timeout=20) == 17
        with ledger.transaction() as tx, edge("fake.act"):
            tx.add_event("acted", run_id="r", by="parent")
    child.stdout.close()
    after = acts_of(home, ledger)
    if act == "write":
        assert after == [*before, "parent"]
    else:
        # A touch that was let through before the stop may end after it: one, which no look at a lease can call back.
        assert after[0] == "parent"
        assert len(before) <= len(after) - 1 <= len(before) + 1
    assert [e.kind for e in ledger.events("r") if e.kind == "run.taken_over"] == ["run.taken_over"]
    ledger.close()


def _can_write(ledger):
    """Whether nobody stopped in the middle of a write; SQLite itself says so at once."""
    import sqlite3

    probe = sqlite3.connect(ledger.database.path, timeout=0.0, isolation_level=None)
    try:
        probe.execute("BEGIN IMMEDIATE")
        probe.execute("ROLLBACK")
    except sqlite3.OperationalError:
        ledger.close()
        return False
    finally:
        probe.close()
    return True


def test_the_lock_that_a_sleeper_lets_go_of_says_nothing_of_who_took_its_run(home):
    ledger, here = Ledger.open(home, SystemClock()), "boot /home"
    assert lease.acquire(ledger, SystemClock(), "r", here, lock_is_free=True).fence == 1
    # The sleeper's lease ran out, and its lock file is still held: another takes the run without the lock.
    assert lease.acquire(ledger, Later(lease.SECONDS + 1), "r", here, lock_is_free=False).fence == 2
    # It wakes, lets go of the lock, and finds it free.
    assert lease.acquire(ledger, Later(lease.SECONDS + 2), "r", here, lock_is_free=True) is None
    assert lease.acquire(ledger, Later(2 * lease.SECONDS + 2), "r", here, lock_is_free=True).fence == 3
    ledger.close()


@pytest.mark.pain(12)
def test_a_killed_controllers_run_is_taken_at_once_in_the_same_place(home):
    child = acting(home, "write")
    child.kill()
    child.wait()
    child.stdout.close()
    ledger = Ledger.open(home, SystemClock())
    with lease.holding(ledger, SystemClock(), home, "r", renewal=None) as mine:
        assert mine.fence == 2
    with lease.holding(ledger, SystemClock(), home, "r", renewal=None) as again:
        assert again.fence == 3
    ledger.close()


def test_a_lease_that_is_renewed_is_not_taken_and_nested_runs_keep_their_own(home):
    ledger, clock = Ledger.open(home, SystemClock()), Later(0)
    with lease.holding(ledger, clock, home, "r", renewal=None) as mine:
        clock.ahead = timedelta(seconds=lease.SECONDS - 1)
        mine.renew()
        clock.ahead = timedelta(seconds=2 * lease.SECONDS - 2)
        assert lease.acquire(ledger, clock, "r", "elsewhere", lock_is_free=False) is None
        clock.ahead = timedelta(seconds=2 * lease.SECONDS + 2)
        stolen = lease.acquire(ledger, clock, "r", "elsewhere", lock_is_free=False)
        assert stolen is None or stolen.fence == 2
        with pytest.raises(LeaseLost), ledger.transaction() as tx:
            tx.add_event("acted", run_id="r")
        with pytest.raises(LeaseLost), edge("fake.act"):
            pass
        with pytest.raises(LeaseLost):
            mine.renew()
    # It was not released either: it is the other's.
    assert ledger.lease("r").fence == 2
    assert ledger.lease("r").holder
    ledger.close()
