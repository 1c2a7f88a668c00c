"""The emulator's time: whole milliseconds since 1970 in UTC, always handed in."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Protocol

Moment = int
"""Milliseconds since 1970-01-01T00:00:00Z."""

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class Clock(Protocol):
    """Tells the emulator's time."""

    def now(self) -> Moment:
        """Return the current moment."""
        ...


class ScaledClock:
    """The machine's clock from now on, `scale` times as fast."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._wall = time.time()
        self._start = time.monotonic()

    def now(self) -> Moment:
        """Return the current moment. It never goes back."""
        return int((self._wall + (time.monotonic() - self._start) * self.scale) * SECOND)


class VirtualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: Moment = 1_790_000_000_000) -> None:
        self._now = start

    def now(self) -> Moment:
        """Return the current moment."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._now += round(seconds * SECOND)


def utc(moment: Moment) -> datetime:
    """Return a moment as an aware datetime."""
    return datetime.fromtimestamp(moment / SECOND, UTC)


def rfc3339(moment: Moment) -> str:
    """Return `2026-08-20T06:16:19.436Z`."""
    return utc(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def go_style(moment: Moment) -> str:
    """Return `2026-08-20 06:16:19.436 +0000 UTC`, as Go prints a time."""
    return f"{utc(moment):%Y-%m-%d %H:%M:%S}.{moment % SECOND:03d} +0000 UTC"


def http_date(moment: Moment) -> str:
    """Return the value of an HTTP Date header."""
    return format_datetime(utc(moment), usegmt=True)


def parse(text: str) -> Moment:
    """Read an ISO 8601 time with a zone. Raises ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {text!r}")
    return round(moment.timestamp() * SECOND)
