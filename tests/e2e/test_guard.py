"""The guard ends rentals when nobody else does: the controller is killed and never comes back, and worse. The judge is the emulator."""

import os
import signal
import time

import psutil
import pytest

from tests.e2e.guards import GRACE, SLACK, abandoned
from tests.e2e.rented import Sandbox

pytestmark = pytest.mark.trains

LEASE = 10.0
"""Seconds. Short, since each test waits for its end."""


@pytest.fixture
def sandbox(lumina):
    made = Sandbox(lumina)
    yield made
    made.down()


def abandon(sandbox, provider, *more):
    """Launch with a short lease, wait until the trainer works, and kill every process of ours on this side."""
    follower = sandbox.start(*sandbox.words(provider, "--lease", f"{LEASE:.0f}s", *more, tokens="4096000"))
    give_up = time.monotonic() + 150
    while time.monotonic() < give_up and not on_box(sandbox, "trainer"):
        time.sleep(0.3)
    os.kill(follower.pid, signal.SIGKILL)
    follower.communicate()
    assert sandbox.live(), "the machine should be rented"


def on_box(sandbox, word):
    """Return the processes on the boxes whose command line has a word."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = process.info["cmdline"] or []
        if word in words and str(sandbox.cli.home) in str((process.info["environ"] or {}).get("HOME", "")):
            found.append(process)
    return found


def settled(sandbox):
    """The next command settles what was left alone, to the cent."""
    done = sandbox("status", "--json")
    assert done.returncode == 0, done.stderr
    sandbox.judge()


@pytest.mark.pain(4)
@pytest.mark.parametrize("provider", ["vastai", "runpod"])
def test_a_killed_controller_costs_no_more_than_lease_and_grace(sandbox, provider):
    sandbox.up()
    abandon(sandbox, provider)
    assert sandbox.wait_all_ended(LEASE + GRACE + SLACK)
    settled(sandbox)


@pytest.mark.pain(6)
def test_a_killed_guard_is_started_again(sandbox):
    sandbox.up()
    abandon(sandbox, "vastai")
    for word in ("guard.sh", "guard.py"):
        for process in on_box(sandbox, word):
            process.kill()
    assert sandbox.wait_all_ended(LEASE + GRACE + SLACK)
    settled(sandbox)


def test_a_wrong_wall_clock_and_a_trainer_that_hangs_change_nothing(sandbox):
    sandbox.up("--fault", "box_clock_skew")
    abandon(sandbox, "runpod")
    for process in on_box(sandbox, "trainer"):
        process.suspend()
    assert sandbox.wait_all_ended(LEASE + GRACE + SLACK)
    settled(sandbox)


def test_a_machine_that_reaches_nobody_is_ended_as_soon_as_it_does(sandbox):
    """Its lease ends in the middle of the outage, and its provider answers with errors at first when it is over."""
    sandbox.up()
    abandon(sandbox, "vastai")
    sandbox.fault("error_500", "--call", "terminate", "--times", "2")
    sandbox.fault("network_partition", "--now", "--seconds", "30")
    assert sandbox.wait_all_ended(30 + GRACE + 2 * SLACK)
    settled(sandbox)


def test_rentals_whose_controllers_never_come_back(sandbox):
    """The small form of `python -m tests.e2e.guards --count 20`."""
    sandbox.up()
    found = abandoned(sandbox, 4, LEASE)
    assert found["working_when_killed"] == found["rentals"] == 4
    assert found["controllers_killed"] >= 1
    assert (found["left_running"], found["ledger_minus_invoice_usd"]) == (0, "0")
    sandbox.judge()
