"""Rate limits: so many requests at once, then one per interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from providers.emulator.clock import SECOND

if TYPE_CHECKING:
    from providers.emulator.clock import Moment


SLACK = 300
"""Milliseconds by which a request may come early: a client that counts from when it sent cannot know when the last one arrived."""


class Intervals:
    """A bucket for each key: it holds `burst` requests and gains one per interval."""

    def __init__(self, time_scale: float = 1.0) -> None:
        self._slack = round(SLACK * time_scale)
        self._free_at: dict[str, Moment] = {}

    def wait(self, key: str, seconds: float, burst: int, now: Moment) -> float:
        """Take a request from the bucket, and return 0; or return the seconds until there is one."""
        interval = round(seconds * SECOND)
        free_at = max(self._free_at.get(key, now), now)
        wait = free_at - (burst - 1) * interval - now
        if wait > min(self._slack, interval // 2):
            return wait / SECOND
        self._free_at[key] = free_at + interval
        return 0.0


class Window:
    """A count of requests for each key in fixed windows of a minute."""

    def __init__(self, quota: int, seconds: int = 60) -> None:
        self.quota = quota
        self.seconds = seconds
        self._used: dict[str, tuple[Moment, int]] = {}

    def take(self, key: str, now: Moment) -> tuple[int, int, bool]:
        """Count a request. Return how many remain, the seconds until the window ends, and whether this one was within it."""
        window = now // (self.seconds * SECOND)
        at, used = self._used.get(key, (window, 0))
        used = used + 1 if at == window else 1
        self._used[key] = (window, used)
        left = self.seconds - (now // SECOND) % self.seconds
        return max(0, self.quota - used), left, used <= self.quota
