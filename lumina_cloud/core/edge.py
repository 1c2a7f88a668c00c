"""The one place through which the outside is touched.

`with edge("local.create"):` stands around every provider call, every transfer to or from a machine and every commit. A test counts the
edges that a command passes (`LUMINA_EDGE_LOG=FILE`) and kills the process before, during or after any one of them
(`LUMINA_CRASH_AT=<site>:<n>:<when>`, where `<site>@<place>` is the site as it is reached from one place in the code, and `*` is any
site), so a new call is covered by itself. `during` is where the touch itself says `sent()`: the other side has the request, and nobody
here has taken in its reply.
"""

from __future__ import annotations

import os
import signal
import sys
import zlib
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_passed: Counter[str] = Counter()
_allowed: ContextVar[Callable[[], None] | None] = ContextVar("allowed", default=None)
_watch: ContextVar[Callable[[str, str], None] | None] = ContextVar("watch", default=None)
_inside: ContextVar[tuple[_Passage, ...]] = ContextVar("inside", default=())
_OURS = (Path(__file__).parents[1], Path(__file__).parents[2] / "providers")


@dataclass(frozen=True)
class _Passage:
    """One passage, under all of its names, and the lines of code that led to it."""

    names: tuple[str, ...]
    """The n-th of its site, the n-th of all, and where that is asked for the n-th of its site from one place in the code."""
    lines: str = ""


@contextmanager
def edge(site: str) -> Iterator[None]:
    """Mark a touch of the outside. `site` is `subject.verb`, e.g. `ledger.commit`."""
    passage = _passage(site)
    watch = _watch.get()
    if watch is not None:
        watch(site, "before")
    # Last of all: whoever was stopped above, and lost the right meanwhile, does not act on an old answer.
    allowed = _allowed.get()
    if allowed is not None and not site.startswith("ledger."):
        allowed()
    _at(passage, "before")
    within = _inside.set((*_inside.get(), passage))
    try:
        yield
    finally:
        _inside.reset(within)
    _at(passage, "after")
    if watch is not None:
        watch(site, "after")


def sent() -> None:
    """Say, within an edge, that what it asks for is on its way and cannot be called back, and that no reply was taken in yet."""
    around = _inside.get()
    if around:
        _at(around[-1], "during")


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
    return Counter({site: n for site, n in _passed.items() if "@" not in site and site != "*"})


# --- where a test looks on, or kills -------------------------------------------------------------------------------------


def _passage(site: str) -> _Passage:
    if not (os.environ.get("LUMINA_EDGE_LOG") or "@" in os.environ.get("LUMINA_CRASH_AT", "")):
        return _Passage((_count(site), _count("*")))
    lines = _callers()
    return _Passage((_count(site), _count("*"), _count(f"{site}@{zlib.crc32(lines.encode()):08x}")), lines)


def _count(name: str) -> str:
    _passed[name] += 1
    return f"{name}:{_passed[name]}"


def _callers() -> str:
    """Return the lines of our own code from which this is called, the innermost first."""
    frame, lines = sys._getframe(1), []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.name != "edge.py" and any(ours in file.parents for ours in _OURS):
            lines.append(f"{file.parent.name}/{file.name}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " ".join(lines)


def _at(passage: _Passage, when: str) -> None:
    """Write a passage down, or die here, where the environment says so."""
    log = os.environ.get("LUMINA_EDGE_LOG")
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(handle, f"{passage.names[-1]}:{when}\t{passage.lines}\n".encode())
        os.close(handle)
    if os.environ.get("LUMINA_CRASH_AT") in [f"{name}:{when}" for name in passage.names]:
        os.kill(os.getpid(), signal.SIGKILL)
