"""`lumina status --watch`: all runs, live. On a terminal a screen that is drawn anew; elsewhere a line whenever a run has moved on."""

from __future__ import annotations

import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.cli import output
from lumina_cloud.cli.sparks import sparkline
from lumina_cloud.core import money, units
from lumina_cloud.core.clock import parse_iso

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_runs
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.api.watching import Pulse

EVERY_SECONDS = 2.0


def watch(lumina: Lumina, *, as_json: bool, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show runs until none goes on any more, or until Ctrl-C, which ends no run."""
    try:
        if sys.stdout.isatty() and not as_json:
            _on_a_terminal(lumina, sleep)
        else:
            _elsewhere(lumina, sleep, as_json=as_json)
    except KeyboardInterrupt:
        output.tell("the runs go on without the screen")
    if not as_json:
        output.tell("next: lumina status    or    lumina results last")


def _on_a_terminal(lumina: Lumina, sleep: Callable[[float], None]) -> None:
    from rich.live import Live

    from lumina_cloud.api import watching

    console = output.console()
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            document = lumina.status()
            runs = watching.shown(document)
            pulses = lumina.pulses([run.run for run in runs])
            live.update(screen(document, runs, pulses, lumina.clock.now(), width=console.width), refresh=True)
            if not _goes_on(document):
                return
            sleep(EVERY_SECONDS)


def _elsewhere(lumina: Lumina, sleep: Callable[[float], None], *, as_json: bool) -> None:
    said: dict[str, str] | None = None
    while True:
        document = lumina.status()
        if as_json:
            now = {"": document.model_dump_json()}
        else:
            # A run that had ended before is not told: it does not move.
            now = {run.run: line(run) for run in document.runs if said is not None or run.state not in _ended()}
        for name, text in now.items():
            if (said or {}).get(name) != text:
                sys.stdout.write(text + "\n")
        sys.stdout.flush()
        said = {run.run: line(run) for run in document.runs} | now
        if not _goes_on(document):
            return
        sleep(EVERY_SECONDS)


def line(run: of_runs.RunStatus) -> str:
    """Return a run in one plain line."""
    parts = [run.run, run.state]
    if run.step and run.steps:
        parts.append(f"step {run.step:,}/{run.steps:,}")
    if run.loss is not None:
        parts.append(f"loss {run.loss:.3f}")
    parts.append(f"{money.show(Decimal(run.usd_spent))} of {money.show(Decimal(run.usd_cap))}")
    return "  ".join(parts)


def screen(
    document: of_runs.StatusDocument, runs: list[of_runs.RunStatus], pulses: Mapping[str, Pulse], now: datetime, *, width: int
) -> RenderableType:
    """Return one frame for a terminal of `width` columns."""
    from rich.console import Group
    from rich.text import Text

    from lumina_cloud.cli.tables import STATE_STYLES, table

    going = [run for run in runs if run.state not in _ended()]
    spent = sum((Decimal(run.usd_spent) for run in going), Decimal(0))
    head = Text(f"{len(going)} of {len(runs)} runs go on", style="bold")
    head.append(f", {money.show(spent)} of at most {money.show(sum((Decimal(r.usd_cap) for r in going), Decimal(0)))} spent on them")
    head.append(f"   {now.astimezone():%H:%M:%S}", style="dim")
    names, (loss_bars, spent_bars) = _layout(width)
    right, whole = ("done", "tokens/s", "loss", "spent", "cap", "left"), ("run", "state", "where", "its loss", "its cost")
    made = table("", *(TITLES.get(name, name) for name in names), right=right, whole=(*whole, *TITLES.values()))
    for run in runs:
        one = pulses[run.run]
        cells: dict[str, RenderableType] = {
            "run": run.run,
            "state": Text(run.state, style=STATE_STYLES.get(run.state, "cyan")),
            "done": f"{run.step / run.steps:.0%}" if run.step and run.steps else "-",
            "where": f"{run.provider} {run.gpu}",
            "tokens/s": "-" if run.tokens_per_second is None else units.count(run.tokens_per_second),
            "loss": "-" if run.loss is None else f"{run.loss:.3f}",
            "its loss": Text(sparkline(one.losses, loss_bars), style="cyan"),
            "spent": money.show(Decimal(run.usd_spent)),
            "cap": money.show(Decimal(run.usd_cap)),
            "its cost": Text(sparkline(one.spent, spent_bars), style="yellow"),
            "left": _left(run, now),
        }
        made.add_row(*(cells[name] for name in names), style="dim" if run.state in _ended() else None)
    rented = f"{len(document.rentals)} machines are rented" if document.rentals else "nothing is rented"
    return Group(head, made, Text(f"{rented}; Ctrl-C leaves the screen, and the runs go on", style="dim"))


TITLES = {"its loss": "", "its cost": " "}
"""Curves stand beside their figures and need no title: it would be wider than they are on a narrow terminal."""

LAYOUTS: tuple[tuple[int, tuple[str, ...], tuple[int, int]], ...] = (
    (150, ("run", "state", "done", "where", "tokens/s", "loss", "its loss", "spent", "cap", "its cost", "left"), (20, 10)),
    (116, ("run", "state", "done", "tokens/s", "loss", "its loss", "spent", "cap", "its cost", "left"), (16, 8)),
    (0, ("run", "state", "loss", "its loss", "spent", "its cost", "left"), (6, 5)),
)
"""From how many columns on, what is shown, and how many bars the two curves have."""


def _layout(width: int) -> tuple[tuple[str, ...], tuple[int, int]]:
    return next((names, curves) for least, names, curves in LAYOUTS if width >= least)


def _left(run: of_runs.RunStatus, now: datetime) -> str:
    return "-" if run.estimated_end is None else units.duration(max(0.0, (parse_iso(run.estimated_end) - now).total_seconds()))


def _goes_on(document: of_runs.StatusDocument) -> bool:
    return any(run.state not in _ended() for run in document.runs)


def _ended() -> tuple[str, ...]:
    from lumina_cloud.api import views

    return views.ENDED
