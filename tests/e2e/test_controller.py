"""The controller as a service: it drives what others left, and any other takes over where it was."""

import json
import signal
import time

import pytest

from tests.e2e.rented import Sandbox

pytestmark = pytest.mark.trains


@pytest.fixture
def sandbox(lumina):
    made = Sandbox(lumina)
    yield made
    made.down()


def wait_for(sandbox, states, seconds=60):
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        # Asked of the ledger alone: `status` would drive the run itself.
        run = state_of(sandbox)
        if run in states:
            return run
        time.sleep(0.3)
    raise AssertionError(f"the run is {run}\n{(sandbox.cli.home / 'controller.log').read_text()}")


def state_of(sandbox):
    import sqlite3

    connection = sqlite3.connect(sandbox.cli.home / "sandbox" / "ledger.db", timeout=10)
    try:
        return connection.execute("SELECT state FROM runs").fetchone()[0]
    finally:
        connection.close()


@pytest.mark.pain(12)
def test_a_detached_launch_is_driven_by_one_controller_after_another(sandbox):
    """One is killed, the next is stopped past its lease while a third takes the run over, and then goes on: one machine, one bill."""
    sandbox.up()
    first = sandbox.controller()
    done = sandbox(*sandbox.words("vastai", "--detach", tokens="409600", follow=()))
    assert done.returncode == 0, done.stderr
    wait_for(sandbox, {"preparing", "training"})
    first.kill()
    first.wait()
    second = sandbox.controller()
    wait_for(sandbox, {"training"})
    second.send_signal(signal.SIGSTOP)
    # Its file lock is held by the one that sleeps, so only its lease's end lets another command in.
    ended = wait_until_taken_over(sandbox)
    second.send_signal(signal.SIGCONT)
    # The trainer did not wait for any of them: it may have come to its end by then.
    assert ended["state"] in ("stopped", "succeeded"), ended
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=30) == 0
    assert len(sandbox.status()["instances"]) == 1
    sandbox.judge()


def wait_until_taken_over(sandbox):
    """Stop the run by a command of its own, which waits until the sleeper's lease is over."""
    done = sandbox("stop", "last", "--yes", "--json", timeout=200)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_controller_of_a_home_is_refused_and_both_end_when_told(sandbox):
    sandbox.cli.home.mkdir(exist_ok=True)
    first = sandbox.cli.start("controller")
    time.sleep(1.5)
    done = sandbox.cli("controller")
    assert done.returncode == 2, done.stderr
    assert "another lumina controller" in done.stderr
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=20) == 0
    first.communicate()


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
def test_a_units_file_is_well_formed(sandbox, kind, tmp_path):
    done = sandbox.cli("controller", "--unit", kind)
    assert done.returncode == 0, done.stderr
    assert str(sandbox.cli.home) in done.stdout
    if kind == "launchd":
        import plistlib

        assert plistlib.loads(done.stdout.encode())["ProgramArguments"][1:] == ["controller"]
    else:
        import configparser

        read = configparser.ConfigParser(strict=False, interpolation=None)
        read.read_string(done.stdout)
        assert read["Service"]["ExecStart"].endswith('/lumina" controller')
        assert read["Service"]["Restart"] == "always"


def test_follow_and_detach_exclude_each_other(sandbox):
    done = sandbox.cli("launch", "debug", "--follow", "--detach", "--yes")
    assert done.returncode == 2
