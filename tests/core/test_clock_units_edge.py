"""Clock, units, and the edge that a test can break at."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core import clock, edge, units
from lumina_cloud.core.errors import EXIT_CODES, LuminaError


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_times_round_trip_to_the_millisecond(moment):
    read = clock.parse_iso(clock.iso(moment))
    assert abs(read - moment) < timedelta(milliseconds=1)
    assert clock.iso(moment).endswith("Z")


@pytest.mark.parametrize("bad", ["2026-01-01T00:00:00", "yesterday"])
def test_a_time_without_a_zone_is_refused(bad):
    with pytest.raises(ValueError, match=r"zone|isoformat"):
        clock.parse_iso(bad)
    with pytest.raises(ValueError, match="naive"):
        clock.iso(datetime(2026, 1, 1))  # noqa: DTZ001  # the point of the test


def test_the_clock_is_aware_and_in_utc():
    assert clock.SystemClock().now().tzinfo is UTC


def test_durations_and_sizes_read_well():
    assert [units.duration(s) for s in (5, 300, 7 * 3600, 3 * 86400, 86400 * 3650)] == ["5 s", "5 min", "7.0 h", "3.0 days", "10 years"]
    assert [units.n_bytes(n) for n in (10, 2048, 3 << 20, 5 << 30)] == ["10 B", "2 KiB", "3 MiB", "5 GiB"]
    assert [units.count(n) for n in (12, 1_500_000, 140e9)] == ["12", "1.5M", "140B"]


CROSS = """
from lumina_cloud.core.edge import edge, sent
with edge('a.b'):
    print('inside', flush=True)
    with edge('c.d'):
        sent()
    sent()
    print('answered', flush=True)
print('past', flush=True)
"""


@pytest.mark.parametrize(("when", "printed"), [("before", ""), ("during", "inside\n"), ("after", "inside\nanswered\n")])
def test_an_edge_dies_where_it_is_told(when, printed):
    env = {**os.environ, "LUMINA_CRASH_AT": f"a.b:1:{when}"}
    done = subprocess.run([sys.executable, "-c", CROSS], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == printed


def test_edges_are_counted():
    before = edge.passed()["x.y"]
    with edge.edge("x.y"):
        pass
    assert edge.passed()["x.y"] == before + 1


def test_every_error_has_a_documented_exit_code():
    classes, found = [LuminaError], set()
    while classes:
        cls = classes.pop()
        found.add(cls.exit_code)
        classes += cls.__subclasses__()
    assert found <= set(EXIT_CODES)
