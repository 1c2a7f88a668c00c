"""Moments in replies are the cloud's, wherever this computer stands."""

import time
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from providers.replies import Moment

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class Said(BaseModel):
    """A reply that says when."""

    at: Moment


@pytest.fixture(params=["UTC", "America/Los_Angeles", "Asia/Kolkata"])
def at_home(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    "told", ["2026-03-04T12:00:00Z", "2026-03-04T12:00:00", "2026-03-04 12:00:00", "2026-03-04T13:00:00+01:00", int(NOON.timestamp())]
)
def test_a_moment_is_the_same_in_every_time_zone(told):
    assert Said(at=told).at == NOON
