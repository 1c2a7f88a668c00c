"""One bucket per key, shared by processes; a turn is waited for, or refused at once when it is too far off."""

import subprocess
import sys
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core.errors import RateLimited
from providers.rate import Bucket, Limit
from tests.providers.conftest import TestClock

EACH = Limit("request", 1.0)
LAUNCH = Limit("launch", 12.0)


def test_requests_come_one_interval_apart(tmp_path, clock):
    bucket = Bucket(tmp_path, "lambda", "key", clock)
    times = []
    for _ in range(4):
        bucket.wait((EACH,), 60)
        times.append(clock.monotonic())
    assert times == [0, 1, 2, 3]


def test_a_launch_takes_a_turn_of_both_limits(tmp_path, clock):
    bucket = Bucket(tmp_path, "lambda", "key", clock)
    times = []
    for limits in ((EACH, LAUNCH), (EACH,), (EACH, LAUNCH)):
        bucket.wait(limits, 60)
        times.append(clock.monotonic())
    assert times == [0, 1, 12]


@given(st.lists(st.floats(0, 30), max_size=40), st.integers(1, 6), st.sampled_from([0.5, 1.0, 6.0]))
def test_no_window_holds_more_than_its_share(pauses, burst, seconds):
    clock = TestClock()
    bucket, limit, times = Bucket(None, "x", "key", clock), Limit("request", seconds, burst), []
    for pause in pauses:
        clock.sleep(pause)
        bucket.wait((limit,), 1e6)
        times.append(clock.monotonic())
    for first, last in zip(times, times[burst:], strict=False):
        assert last - first >= seconds - 1e-3


def test_two_processes_share_a_key_and_two_keys_do_not_share(tmp_path, clock):
    Bucket(tmp_path, "lambda", "key", clock).wait((LAUNCH,), 60)
    Bucket(tmp_path, "lambda", "other", clock).wait((LAUNCH,), 60)
    assert clock.slept == []
    Bucket(tmp_path, "lambda", "key", clock).wait((LAUNCH,), 60)
    assert clock.slept == [12]


@pytest.mark.pain(4)
def test_real_processes_queue_up(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from lumina_cloud.core.clock import SystemClock; from providers.rate import *\n"
        "b = Bucket(Path(sys.argv[1]), 'lambda', 'key', SystemClock())\n"
        "for _ in range(3): b.wait((Limit('request', 0.2),), 60); print(time.time())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    times = sorted(float(line) for child in running for line in child.communicate(timeout=60)[0].split())
    assert len(times) == 9
    # A sleep may end late, never early: nine turns take eight intervals.
    assert times[-1] - times[0] >= 8 * 0.2 - 0.05


def test_the_file_names_no_key(tmp_path, clock):
    Bucket(tmp_path, "lambda", "secret-canary", clock).wait((EACH,), 60)
    (path,) = tmp_path.iterdir()
    assert "canary" not in path.name + path.read_text()


def test_a_turn_beyond_patience_is_refused_and_not_taken(tmp_path, clock):
    bucket = Bucket(tmp_path, "lambda", "key", clock)
    bucket.wait((LAUNCH,), 60)
    with pytest.raises(RateLimited) as caught:
        bucket.wait((LAUNCH,), 5)
    assert caught.value.retry_after == pytest.approx(12)
    bucket.wait((LAUNCH,), 60)
    assert clock.slept == [pytest.approx(12)]


def test_a_clock_that_was_set_back_locks_nobody_out(tmp_path):
    clock = TestClock()
    Bucket(tmp_path, "lambda", "key", clock).wait((EACH,), 60)
    clock.at -= timedelta(days=1)
    Bucket(tmp_path, "lambda", "key", clock).wait((EACH,), 60)
    assert clock.slept == []


def test_a_damaged_file_is_a_new_one(tmp_path, clock):
    bucket = Bucket(tmp_path, "lambda", "key", clock)
    bucket.wait((EACH,), 60)
    next(tmp_path.iterdir()).write_text("{half")
    started = time.monotonic()
    bucket.wait((EACH,), 60)
    assert clock.slept == []
    assert time.monotonic() - started < 60
