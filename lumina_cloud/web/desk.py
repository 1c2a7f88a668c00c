"""What the pages read from: one ledger, looked at by one page at a time, and a thread that settles runs beside it.

A page never waits for a provider: it says what the ledger holds. Runs that nobody else drives are driven on by the thread, as any
command would.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumina_cloud.api.lumina import Lumina
from lumina_cloud.core import commands
from lumina_cloud.core.errors import LuminaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTLE_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
"""The longest pause after a provider failed."""


class Desk:
    """The ledger of one `lumina ui`. `trouble` says what kept runs from being settled; empty when nothing did."""

    def __init__(self) -> None:
        self._lumina = Lumina(settles=False)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._settler: threading.Thread | None = None
        self._asked_to_close: Callable[[], bool] = lambda: False
        self.trouble = ""

    @contextmanager
    def reading(self) -> Iterator[Lumina]:
        """Give the ledger's verbs to one page."""
        with self._lock:
            yield self._lumina

    def typed(self, text: str) -> str:
        """Return a text with its commands as they have to be typed: those of a rehearsal's pages are of the rehearsal."""
        return commands.in_sandbox(text) if self._lumina.settings.sandbox else text

    @property
    def closing(self) -> bool:
        """Whether streams should end."""
        return self._closing.is_set() or self._asked_to_close()

    def closes_when(self, asked: Callable[[], bool]) -> None:
        """Let streams end as soon as `asked` says so."""
        self._asked_to_close = asked

    def settle(self) -> None:
        """Begin to drive runs that nobody drives, until `close`."""
        self._settler = threading.Thread(target=self._settle, name="settles runs", daemon=True)
        self._settler.start()

    def _settle(self) -> None:
        pause = SETTLE_SECONDS
        with Lumina() as lumina:
            while not self._closing.wait(pause):
                try:
                    lumina.settle()
                except LuminaError as error:
                    self.trouble = error.message
                    pause = min(PATIENCE_SECONDS, pause * 2)
                else:
                    self.trouble = ""
                    pause = SETTLE_SECONDS

    def close(self) -> None:
        """Let go of the ledger."""
        self._closing.set()
        if self._settler is not None:
            self._settler.join(5.0)
        with self._lock:
            self._lumina.ledger.close()
