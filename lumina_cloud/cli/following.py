"""The screen of a followed run: lines and one progress line on standard error, the outcome on standard output."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from lumina_cloud.cli import output
from lumina_cloud.core import money, units
from lumina_cloud.core.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from lumina_cloud.api.following import Progress
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.ledger import RunRecord

EVERY_SECONDS = 3.0
"""How often a progress line is printed where lines cannot be rewritten."""

DETACHED = 130


class Screen:
    """Shows a run: on a terminal one line that is rewritten, elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._printed_at = 0.0
        self._open_line = False

    def line(self, text: str) -> None:
        """Show one line."""
        self._close_line()
        output.tell(text)

    def progress(self, progress: Progress) -> None:
        """Show where the run is."""
        text = _progress_text(progress)
        if self._live:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()
            self._open_line = True
        elif time.monotonic() - self._printed_at >= EVERY_SECONDS or progress.step == progress.steps:
            self._printed_at = time.monotonic()
            output.tell(text)

    def _close_line(self) -> None:
        if self._open_line:
            sys.stderr.write("\n")
            self._open_line = False


def _progress_text(p: Progress) -> str:
    parts = [p.run, p.phase or p.state]
    if p.steps and p.step:
        parts.append(f"step {p.step:,}/{p.steps:,}")
    if p.loss is not None:
        parts.append(f"loss {p.loss:.3f}")
    if p.tokens_per_second:
        parts.append(f"{p.tokens_per_second:,.0f} tokens/s")
    parts.append(f"{money.show(p.spent)} of {money.show(p.cap)}")
    if p.seconds_left is not None:
        parts.append(f"{units.duration(p.seconds_left)} left")
    return "  ".join(parts)


def follow_run(lumina: Lumina, run_id: str, *, until_at_work: bool = False) -> RunRecord:
    """Follow a run to its end, or until its trainer works; then a process in the background has it.

    Ctrl-C, and the end of the terminal, let go of it and say so, with exit code 130.
    """
    with letting_go(lumina, lambda: run_id):
        try:
            if not until_at_work:
                return lumina.follow(run_id)
            run = lumina.start(run_id)
        except ProviderError:
            # Whoever cannot reach a provider now must not forget what it rents out: the background asks on.
            lumina.hand_over(run_id)
            raise
        lumina.hand_over(run_id)
        return run


@contextmanager
def letting_go(lumina: Lumina, run: Callable[[], str | None]) -> Iterator[None]:
    """Turn Ctrl-C, a closed terminal and a polite kill into letting go: the run, if one was begun by then, goes on and is named.

    Exit code 130.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        output.tell("")
        run_id = run()
        if run_id is None:
            output.tell("interrupted: nothing was rented")
            raise typer.Exit(DETACHED) from None
        handed = lumina.hand_over(run_id)
        output.tell(f"let go of {run_id}: it goes on, and is billed until it ends")
        if handed:
            output.tell("  a process in the background keeps its machine's lease and brings the results home")
        output.tell(f"  lumina logs -f {run_id}    follows it again")
        output.tell(f"  lumina stop {run_id}       ends it")
        raise typer.Exit(DETACHED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def conclude(lumina: Lumina, run: RunRecord, *, as_json: bool, followed: bool) -> None:
    """Print how a run stands and leave with the exit code that says so."""
    from lumina_cloud.api import views
    from lumina_cloud.api.documents import of_runs
    from lumina_cloud.core.errors import RunFailed, RunStopped

    spent = lumina.spent(run)
    if as_json:
        output.emit(of_runs.LaunchDocument(run=run.run_id, state=run.state, reason=run.reason, usd=money.text(spent)))
    else:
        words = f": {lumina.why_ended(run)}" if run.reason else ""
        output.console().print(f"{run.run_id}  {run.state}{words}  {money.show(spent)}", markup=False)
        next_verb = "logs -f" if run.state in ("preparing", "training") else "results"
        output.tell(f"next: lumina {next_verb} {run.run_id}")
    if run.state == "failed":
        tell_log_tail(run)
        if not as_json:
            how = "to go on from the last checkpoint" if views.has_checkpoint(run) else "to begin again"
            output.tell(f"{how}: lumina resume {run.run_id}")
        raise typer.Exit(RunFailed.exit_code)
    if run.state == "stopped" and followed:
        raise typer.Exit(RunStopped.exit_code)


def tell_log_tail(run: RunRecord) -> None:
    """Show the end of a failed run's log, where there is one."""
    from lumina_cloud.api import views

    if tail := views.log_tail(run):
        output.tell(f"the end of its log ({run.folder}/log.txt):")
        output.tell(tail, quoted=True)
