"""A thread beside the training that keeps two promises which the training thread cannot keep when it hangs.

After SIGTERM the process has left within a stated time; and a rank that gives no sign of life is named, and ends the run. Every
rank writes `ranks/rank-00001.json` as it goes; every rank looks at all of them, so whichever still runs finds the one that does not.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer.errors import Stopped, Stuck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BEAT_SECONDS = 1.0
IDLE_STOP_SECONDS = 10.0
"""How long a stop may take while there is nothing new to keep: before the first step, in a rendezvous that hangs."""
ENDED = "ended"


class Watch:
    """Signals, signs of life, and the two deadlines. `report` is told why the process is about to be ended."""

    def __init__(self, out: Path, rank: int, *, stop_seconds: float, stuck_seconds: float, report: Callable[[str, int, str], None]) -> None:
        self._folder, self._rank = out / "ranks", rank
        self._stop_seconds, self._stuck_seconds, self._report = stop_seconds, stuck_seconds, report
        self.world = 1
        self._asked_at: float | None = None
        self._asked = 0
        self._seen: dict[int, tuple[str, float]] = {}
        self._mine, self._told = "starting", ""
        self.has_trained = False
        """Whether a step was done that a stop should keep."""
        self._patient = 0
        self._ticks = 0
        self._stopped_watching = threading.Event()
        self._inbox: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Catch SIGTERM and SIGINT and start to watch. From the main thread."""
        # The wake-up socket gets a signal's number at once, also while the main thread is in C code and runs no handler.
        self._inbox, outbox = socket.socketpair()
        outbox.setblocking(False)
        self._inbox.settimeout(BEAT_SECONDS)
        signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
        self._outbox = outbox
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def end(self) -> None:
        """Stop watching: the run is over. The other ranks are told that silence is no hang any more."""
        self._stopped_watching.set()
        self._write(ENDED)

    @contextmanager
    def patient(self, where: str) -> Iterator[None]:
        """Count as alive while something long is going on that gives no signs: another rank's work, a transfer, a file being written."""
        self.beat(where)
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    @property
    def stop_asked(self) -> bool:
        """Whether a signal asked to stop."""
        return self._asked > 0

    def leave_before_training(self) -> None:
        """Raise Stopped when a signal asked to stop; for what comes before the first step, where nothing is lost."""
        if self.stop_asked:
            raise Stopped("stopped before the first step: nothing was trained yet")

    def beat(self, where: str) -> None:
        """Give a sign of life: `where` must differ from one sign to the next, e.g. `step 12 micro batch 3`."""
        self._mine = where

    def _write(self, where: str) -> None:
        path = self._folder / f"rank-{self._rank:05d}.json"
        partial = path.with_name(f".{path.name}.part")
        try:
            self._folder.mkdir(exist_ok=True)
            partial.write_text(json.dumps({"where": where, "pid": os.getpid(), "at": time.time()}), encoding="utf-8")
            partial.replace(path)
        except OSError:
            # A full disk is found by what has to be written; the signs of life are not worth a run.
            return

    def _run(self) -> None:
        assert self._inbox is not None
        while not self._stopped_watching.is_set():
            try:
                numbers = self._inbox.recv(64)
            except TimeoutError:
                numbers = b""
            if any(number in (signal.SIGTERM, signal.SIGINT) for number in numbers):
                self._asked += 1
                self._asked_at = self._asked_at or time.monotonic()
            if self._stopped_watching.is_set():
                return
            self._look()

    def _look(self) -> None:
        self._ticks += 1
        mine = f"{self._mine} (still, {self._ticks})" if self._patient else self._mine
        if mine != self._told:
            self._told = mine
            self._write(mine)
        limit = self._stop_seconds if self.has_trained else min(self._stop_seconds, IDLE_STOP_SECONDS)
        if self._asked_at is not None and time.monotonic() - self._asked_at > limit:
            self._leave(f"stopped: no checkpoint could be completed within {limit:g} s; the one before it stands", Stopped)
        if self._asked >= 3:
            self._leave("stopped at once: asked three times; the last complete checkpoint stands", Stopped)
        stuck = self._stuck()
        if stuck:
            self._leave(stuck, Stuck)

    def _stuck(self) -> str:
        """Return which rank gave no sign of life for too long, empty when all do."""
        places = {rank: self._place_of(rank) for rank in range(self.world)}
        now = time.monotonic()
        for rank, where in places.items():
            if where is not None and where.startswith(ENDED):
                self._seen.pop(rank, None)
            elif where is not None and self._seen.get(rank, ("", 0.0))[0] != where:
                self._seen[rank] = (where, now)
        silent = {rank: now - at for rank, (_, at) in self._seen.items() if now - at > self._stuck_seconds}
        if not silent:
            return ""
        # While one rank hangs the others wait for it: the one that has come least far is the one.
        behind = min(silent, key=lambda rank: (_progress(self._seen[rank][0]), -silent[rank]))
        return (
            f"rank {behind} has given no sign of life for {silent[behind]:.0f} s: it was last seen at {self._seen[behind][0]!r}"
            f"{'' if len(silent) == 1 else f', and {len(silent) - 1} other rank(s) wait'}"
        )

    def _place_of(self, rank: int) -> str | None:
        if rank == self._rank:
            return self._told
        try:
            parsed: dict[str, Any] = json.loads((self._folder / f"rank-{rank:05d}.json").read_text(encoding="utf-8"))
            return f"{parsed['where']} ({parsed['pid']})"
        except (OSError, ValueError, KeyError):
            return None

    def _leave(self, message: str, how: type[Stopped | Stuck]) -> None:
        with self._lock:
            self._report(message, how.code, how.reason)
            print(message, file=sys.stderr, flush=True)
            os._exit(how.code)


def _progress(where: str) -> tuple[int, ...]:
    """Return the numbers in a place, by which places are ordered."""
    return tuple(int(word) for word in where.split() if word.isdigit())
