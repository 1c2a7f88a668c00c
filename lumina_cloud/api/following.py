"""What a follower of a run hears: lines of what happened, and progress with money and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lumina_cloud.api import views

if TYPE_CHECKING:
    from decimal import Decimal

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import Ledger, RunRecord


@dataclass(frozen=True)
class Progress:
    """Where a run is. `loss`, `tokens_per_second` and `seconds_left` are None before the first step."""

    run: str
    state: str
    phase: str
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    spent: Decimal
    cap: Decimal


class Listener(Protocol):
    """Shows what happens to somebody."""

    def line(self, text: str) -> None:
        """Show one line."""
        ...

    def progress(self, progress: Progress) -> None:
        """Show where the run is."""
        ...


class Follower:
    """Passes on what the controller reports, each thing once."""

    def __init__(self, listener: Listener, ledger: Ledger, clock: Clock) -> None:
        self._listener = listener
        self._ledger = ledger
        self._clock = clock
        self._last: tuple[str, str, int] | None = None

    def said(self, run_id: str, text: str) -> None:
        """Pass a line on."""
        self._listener.line(f"{run_id}: {text}")

    def progressed(self, run: RunRecord) -> None:
        """Pass progress on when there is any."""
        p = run.progress
        now = (run.state, p.get("phase", ""), p.get("step", 0))
        if now == self._last:
            return
        self._last = now
        rentals = [r for r in self._ledger.rentals(run.run_id) if r.ended_at is None]
        self._listener.progress(
            Progress(
                run=run.run_id,
                state=run.state,
                phase=p.get("phase", ""),
                step=p.get("step", 0),
                steps=p.get("steps", 0),
                loss=p.get("loss"),
                tokens_per_second=p.get("tokens_per_second"),
                seconds_left=views.seconds_left(run),
                spent=views.running_cost(self._ledger.charges(run.run_id), rentals, self._clock.now()),
                cap=run.usd_cap,
            )
        )
