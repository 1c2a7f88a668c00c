"""The one place through which the outside is touched.

`with edge("local.create"):` stands around every provider call, every transfer to or from a machine and every commit. A test
counts the edges that a command passes and kills the process before, inside or after any one of them
(`LUMINA_CRASH_AT=<site>:<n>:<before|after>`), so a new call is covered by itself.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_passed: Counter[str] = Counter()
_allowed: ContextVar[Callable[[], None] | None] = ContextVar("allowed", default=None)
_watch: ContextVar[Callable[[str, str], None] | None] = ContextVar("watch", default=None)


@contextmanager
def edge(site: str) -> Iterator[None]:
    """Mark a touch of the outside. `site` is `subject.verb`, e.g. `ledger.commit`."""
    allowed = _allowed.get()
    if allowed is not None and not site.startswith("ledger."):
        allowed()
    _passed[site] += 1
    nth = _passed[site]
    watch = _watch.get()
    if watch is not None:
        watch(site, "before")
    _crash_if_asked(site, nth, "before")
    yield
    _crash_if_asked(site, nth, "after")
    if watch is not None:
        watch(site, "after")


@contextmanager
def allowed_by(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every touch of the outside but the ledger's, which asks by itself. It raises where we may act no more."""
    token = _allowed.set(check)
    try:
        yield
    finally:
        _allowed.reset(token)


@contextmanager
def watched_by(watch: Callable[[str, str], None]) -> Iterator[None]:
    """Call `watch` with each site, `before` and `after` it. A simulation notes them, and ends a controller by raising there."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def passed() -> Counter[str]:
    """Return how often each site was entered in this process."""
    return Counter(_passed)


def _crash_if_asked(site: str, nth: int, when: str) -> None:
    wanted = os.environ.get("LUMINA_CRASH_AT")
    if wanted and wanted == f"{site}:{nth}:{when}":
        os.kill(os.getpid(), signal.SIGKILL)
