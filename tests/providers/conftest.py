"""Clients on a transport that is handed in: no network, no waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
import stamina

from providers import registry
from providers.http import ATTEMPTS

KEY = "key-0123456789abcdef"
VARIABLES = {"vastai": "VAST_API_KEY", "runpod": "RUNPOD_API_KEY", "lambda": "LAMBDA_API_KEY"}
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class TestClock:
    """A clock that moves only when somebody waits."""

    __test__ = False

    def __init__(self, now=NOW):
        self.at, self.slept = now, []
        self._began = now

    def now(self):
        return self.at

    def monotonic(self):
        return (self.at - self._began).total_seconds()

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return TestClock()


@pytest.fixture(autouse=True)
def retries_without_waiting():
    """stamina's own testing mode: as many attempts as in life, no pause between them."""
    stamina.set_testing(True, attempts=ATTEMPTS)
    yield
    stamina.set_testing(False)


@pytest.fixture
def client(tmp_path, clock):
    """Return a function that connects a cloud's client to a handler of requests."""

    def connect(name, handler, *, key=KEY, **more):
        env = {"HOME": str(tmp_path), **({VARIABLES[name]: key} if key else {})}
        transport = handler if isinstance(handler, httpx.BaseTransport) else httpx.MockTransport(handler)
        return registry.connect(
            name, home=tmp_path / "home", local_usd_per_hour=Decimal("0.05"), clock=clock, env=env, transport=transport, **more
        )

    return connect
