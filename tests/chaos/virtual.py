"""Virtual time: tasks that wait, and a hub that wakes whoever is next. One thread; the same seed gives the same order of everything.

A task is a greenlet: product code runs in it as it is, and where it waits, the clock that it was handed gives way to the others. Tasks
belong to a `Party`, a process on the user's computer or a machine's boot, and end together when it is killed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from greenlet import getcurrent, greenlet

BEGAN = 1_790_000_000.0
"""Seconds since 1970 at which every simulation begins."""


class Killed(BaseException):
    """The party is dead: whatever its code still tries ends here. No `except Exception` of the product sees it."""


class Party:
    """What lives and dies as one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.stopped_until = 0.0
        """It gets no time before: SIGSTOP, a laptop that sleeps."""
        self.tasks: list[Task] = []


class Task:
    """Something that goes on by itself."""

    def __init__(self, party: Party, run: Callable[[], None], parent: greenlet) -> None:
        self.party = party
        self.turn = 0
        """Counts its waits: a wake-up that was planned for an earlier one is dropped."""
        self.over = False
        self.green = greenlet(self._go, parent)
        self._run = run

    def _go(self) -> None:
        try:
            self._run()
        except Killed:
            pass
        finally:
            self.over = True


class Hub:
    """The time, and who waits for it."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.switches = 0
        self._due: list[tuple[float, int, Task, int]] = []
        self._order = itertools.count()
        self._current: Task | None = None
        self._green = getcurrent()

    def spawn(self, party: Party, run: Callable[[], None], after: float = 0.0) -> Task:
        """Let something begin some seconds from now."""
        task = Task(party, run, self._green)
        party.tasks.append(task)
        self._plan(task, self.now + after)
        return task

    def sleep(self, seconds: float) -> None:
        """Let the others go on, and return when the time has come. Raises Killed where the caller's party has died meanwhile."""
        task = self._current
        if task is None:
            raise RuntimeError("only a task can wait")
        if task.party.dead:
            raise Killed
        self._plan(task, self.now + max(0.0, seconds))
        self._green.switch()
        if task.party.dead:
            raise Killed

    def kill(self, party: Party) -> None:
        """End a party: its tasks go no further than where they are."""
        if party.dead:
            return
        party.dead = True
        for task in party.tasks:
            if not task.over and task is not self._current:
                self._plan(task, self.now)

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until `until` holds, or nobody waits for anything any more."""
        while self._due and not until():
            at, _n, task, turn = heapq.heappop(self._due)
            if task.over or turn != task.turn:
                continue
            if task.party.stopped_until > max(at, self.now) and not task.party.dead:
                self._plan(task, task.party.stopped_until)
                continue
            self.now = max(self.now, at)
            self.switches += 1
            if task.party.dead and not task.green:
                # It never began.
                task.over = True
                continue
            self._current = task
            task.green.switch()
            self._current = None

    def close(self) -> None:
        """End whatever still waits."""
        for _at, _n, task, _turn in list(self._due):
            self.kill(task.party)
        self.run(lambda: False)

    def _plan(self, task: Task, at: float) -> None:
        task.turn += 1
        heapq.heappush(self._due, (at, next(self._order), task, task.turn))


class Clock:
    """A computer's clock: `ahead` seconds wrong, its waits a little longer than asked for, as those of a busy computer are."""

    def __init__(self, hub: Hub, ahead: float = 0.0, patience: Callable[[float], float] = lambda seconds: seconds) -> None:
        self._hub = hub
        self._ahead = ahead
        self._patience = patience

    def now(self) -> datetime:
        """Return the moment that it shows."""
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=round(self._hub.now + self._ahead, 6))

    def monotonic(self) -> float:
        """Return seconds since its computer was started."""
        return self._hub.now - BEGAN + 1000.0

    def boot_id(self) -> str:
        """Return the one start that there is."""
        return "virtual"

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._hub.sleep(self._patience(seconds))


class EmulatorClock:
    """The same time as the emulator counts it: whole milliseconds."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def now(self) -> int:
        """Return the current moment."""
        return int(self._hub.now * 1000)
