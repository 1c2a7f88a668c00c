"""The supervisor as a real process: it stops the trainer at its deadline, and takes another deadline while it waits."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumina_cloud.remote import supervisor

TRAINER = """
import pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path("out/saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("out/works").touch()
time.sleep(60)
"""


@pytest.fixture
def machine(tmp_path):
    """A machine's folder, and its supervisor at work."""
    package = tmp_path / "bundle" / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TRAINER)
    job = {"seconds_cap": 50, "seconds_off": 55, "grace_seconds": 5, "linger_seconds": 0, "power_off_file": "poweroff", "processes": 1}
    (tmp_path / "bundle" / "job.json").write_text(json.dumps({**job, "data": None, "resume": False}))
    process = subprocess.Popen([sys.executable, supervisor.__file__, "bundle/job.json"], cwd=tmp_path)
    wait_for(tmp_path / "out" / "works")
    yield tmp_path
    process.terminate()
    (tmp_path / "stop").touch()
    process.wait(timeout=30)


def wait_for(path: Path, seconds=30):
    give_up = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < give_up, f"{path.name} did not come"
        time.sleep(0.05)


def test_a_deadline_that_is_told_later_ends_the_trainer_in_good_order(machine):
    told = machine / "cap.json"
    told.write_text("{half of a fi")
    told.write_text(json.dumps({"seq": 1, "seconds_cap": 0.2, "seconds_off": 20}))
    wait_for(machine / "exit.json")
    wait_for(machine / "poweroff")
    ended = json.loads((machine / "exit.json").read_text())
    assert (ended["reason"], ended["returncode"]) == ("deadline", 75)
    assert (machine / "out" / "saved").exists()


def test_what_a_full_disk_refuses_is_written_when_there_is_room_again(machine):
    in_the_way = machine / ".exit.json.part"
    in_the_way.mkdir()
    (machine / "stop").touch()
    wait_for(machine / "out" / "saved")
    time.sleep(0.5)
    assert not (machine / "exit.json").exists()
    in_the_way.rmdir()
    wait_for(machine / "exit.json")
    wait_for(machine / "poweroff")


JOB = {"seconds_cap": 100, "seconds_off": 130}


def test_a_deadline_counts_from_when_it_is_found_and_is_taken_once():
    cap = supervisor.Cap(JOB, 1000.0)
    assert (cap.stop_at, cap.off_at) == (1100.0, 1130.0)
    told = {"seq": 1, "seconds_cap": 500, "seconds_off": 530}
    cap.look(told, 1050.0)
    cap.look(told, 1090.0)
    assert (cap.stop_at, cap.off_at) == (1550.0, 1580.0)


NONSENSE = [{"seq": 1, "seconds_cap": bad, "seconds_off": 9} for bad in (-1, math.nan, "9", 1e12, True)]


@pytest.mark.parametrize("told", [None, [], {}, {"seq": 1}, *NONSENSE])
def test_what_makes_no_sense_moves_no_deadline(told):
    cap = supervisor.Cap(JOB, 0.0)
    cap.look(told, 1.0)
    assert (cap.stop_at, cap.off_at) == (100.0, 130.0)
