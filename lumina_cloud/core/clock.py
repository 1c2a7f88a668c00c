"""Time as the product sees it: UTC, timezone-aware, handed in, so that tests need not wait."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """Return the current moment in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the current moment in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since the computer was started: they never jump, and where the system can tell they go on while it sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()

    def boot_id(self) -> str:
        """Return a name of this start of the computer, empty where the system gives none: readings of one start can be compared."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def boot_of(clock: Clock) -> str:
    """Return the name of the computer's start that a clock counts from, empty where it has none."""
    boot = getattr(clock, "boot_id", None)
    return boot() if boot is not None else ""


def iso(moment: datetime) -> str:
    """Return `moment` as ISO 8601 in UTC with a `Z`, to the millisecond. Raises ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError(f"naive time: {moment!r}")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_iso(text: str) -> datetime:
    """Read what `iso` wrote. Raises ValueError for anything else, naive times included."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {text!r}")
    return moment.astimezone(UTC)
