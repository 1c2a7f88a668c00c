"""`lumina controller`: a process that drives every run of a ledger that nobody else drives, for as long as it lives.

Each run has a thread with connections of its own. Whatever ends the process, another controller, or the next command, goes on from
what the ledger holds: nothing here is remembered.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.api import background
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.core import templates
from lumina_cloud.core.errors import LedgerError, LuminaError, UsageError
from lumina_cloud.runs.lock import driving
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from lumina_cloud.api.settings import Settings
    from lumina_cloud.core.clock import Clock

LOCK = "controller"
LOOK_SECONDS = 2.0
TIDY_SECONDS = 60.0
"""How often it looks for machines that no run needs."""
AGAIN_SECONDS = 60.0
"""How long a run is left alone whose driver failed."""
UNITS = {"systemd": "lumina-controller.service.j2", "launchd": "lumina-controller.plist.j2"}


def is_served(home: Path) -> bool:
    """Whether a controller works on this home now."""
    with driving(home, LOCK) as free:
        return not free


def serve(settings: Settings, clock: Clock, say: Callable[[str], None], over: threading.Event) -> None:
    """Drive runs until `over` is set. Raises UsageError when another controller works on this home, LedgerError."""
    with driving(settings.home, LOCK) as mine:
        if not mine:
            raise UsageError(f"another lumina controller works on {settings.home}", "one is enough: it drives any number of runs")
        drivers, tidied_at = _Drivers(say, clock), clock.monotonic() - TIDY_SECONDS
        with Lumina(background.Log(), clock) as lumina:
            say(f"driving the runs of {lumina.ledger.database.where}")
            while not over.is_set():
                try:
                    for run in lumina.ledger.runs(ACTIVE):
                        drivers.take(run.run_id)
                    if clock.monotonic() - tidied_at >= TIDY_SECONDS:
                        tidied_at = clock.monotonic()
                        lumina.tidy()
                except LedgerError as error:
                    # A service outlives a full disk, or a server that is started anew.
                    say(f"{error.message} (asking again)")
                over.wait(LOOK_SECONDS)


class _Drivers:
    """The threads of a controller, one a run."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._threads: dict[str, threading.Thread] = {}
        self._failed_at: dict[str, float] = {}

    def take(self, run_id: str) -> None:
        """Drive a run to its end, unless that is being done, or failed a moment ago."""
        known = self._threads.get(run_id)
        if known is not None and known.is_alive():
            return
        if self._clock.monotonic() - self._failed_at.get(run_id, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._threads[run_id] = threading.Thread(target=self._drive, args=(run_id,), daemon=True)
        self._threads[run_id].start()

    def _drive(self, run_id: str) -> None:
        try:
            background.finish(run_id, background.Log())
        except LuminaError as error:
            self._failed_at[run_id] = self._clock.monotonic()
            self._say(f"{run_id}: {error.message} (asking again in {AGAIN_SECONDS:.0f} s)")


def unit(kind: str, home: Path) -> str:
    """Return the file that lets the system start a controller at its own start. Raises UsageError for an unknown kind."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if kind not in UNITS:
        raise UsageError(f"--unit is {kind!r}", f"take {' or '.join(UNITS)}")
    environment = Environment(
        loader=FileSystemLoader(templates.folder()),
        undefined=StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(UNITS[kind]).render(lumina=str(Path(sys.executable).with_name("lumina")), home=str(home))
