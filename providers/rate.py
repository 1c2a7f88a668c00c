"""How often a provider may be asked: one bucket per key, shared by every process of this user.

The bucket is a small file below `LUMINA_HOME/rates`, named after a hash of the key, changed under a file lock. Each limit in it
is a virtual schedule (GCRA): the moment at which the next request would be due if all came evenly; a request may come early
by the limit's burst. A reservation is made first and waited for after, so processes queue up without holding the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from lumina_cloud.core.errors import LedgerError, RateLimited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lumina_cloud.core.clock import Clock

SANE_SECONDS = 900.0
"""A reservation farther ahead than this comes from a clock that was set back: it is forgotten."""


@dataclass(frozen=True)
class Limit:
    """At most one request each `seconds`, `burst` of them at once after a pause."""

    name: str
    seconds: float
    burst: int = 1


class Bucket:
    """The limits of one key at one provider."""

    def __init__(self, folder: Path | None, provider: str, key: str, clock: Clock) -> None:
        self._path = None if folder is None else folder / f"{provider}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        self._provider = provider
        self._clock = clock
        self._memory: dict[str, float] = {}

    def wait(self, limits: Sequence[Limit], patience: float) -> None:
        """Wait for a turn under all of `limits`. Raises RateLimited at once when it would take longer than `patience` seconds."""
        seconds = self._reserve(limits, patience)
        if seconds > patience:
            raise RateLimited(f"{self._provider} may be asked again in {seconds:.0f} s: this key has asked often", retry_after=seconds)
        if seconds > 0:
            self._clock.sleep(seconds)

    def hold(self, limits: Sequence[Limit], seconds: float) -> None:
        """Let nobody ask under `limits` for that long: the provider said so."""
        with self._locked() as due:
            until = self._now() + min(seconds, SANE_SECONDS / 2)
            for limit in limits:
                due[limit.name] = max(due.get(limit.name, 0.0), until + (limit.burst - 1) * limit.seconds)

    def _reserve(self, limits: Sequence[Limit], patience: float) -> float:
        with self._locked() as due:
            now = self._now()
            waits = [self._due(due, limit, now) - (limit.burst - 1) * limit.seconds - now for limit in limits]
            wait = max(0.0, *waits) if waits else 0.0
            if wait <= patience:
                for limit in limits:
                    due[limit.name] = max(self._due(due, limit, now), now + wait) + limit.seconds
            return wait

    @staticmethod
    def _due(due: dict[str, float], limit: Limit, now: float) -> float:
        known = due.get(limit.name, 0.0)
        return known if known - now <= SANE_SECONDS else now

    def _now(self) -> float:
        return self._clock.now().timestamp()

    @contextmanager
    def _locked(self) -> Iterator[dict[str, float]]:
        """Give the moments at which each limit's next request is due, and keep what was changed in them."""
        if self._path is None:
            yield self._memory
            return
        with _opened(self._path) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            due = _parsed(handle.read(10_000))
            yield due
            handle.seek(0)
            handle.truncate()
            handle.write(json.dumps(due))


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror}", "make it writable, or set LUMINA_HOME") from error


def _parsed(text: str) -> dict[str, float]:
    """Read a bucket's file. A damaged one is a new one: it holds nothing but moments that pass."""
    try:
        raw = json.loads(text)
    except ValueError:
        return {}
    return {str(k): float(v) for k, v in raw.items() if isinstance(v, int | float)} if isinstance(raw, dict) else {}
