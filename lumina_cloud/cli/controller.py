"""`lumina controller`: drive every run that nobody else drives, as a service."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output

if TYPE_CHECKING:
    from types import FrameType


def controller(
    unit: Annotated[str | None, typer.Option(help="Print the file that lets the system start it: systemd or launchd.")] = None,
    debug: options.Debug = False,
) -> None:
    """Drive the runs that `launch --detach` and others leave behind, until it is ended; another one goes on where it was."""
    with output.errors_shown(as_json=False):
        from lumina_cloud.api import service, settings
        from lumina_cloud.core.clock import SystemClock

        chosen = settings.load()
        if unit is not None:
            typer.echo(service.unit(unit, chosen.home), nl=False)
            return
        over = threading.Event()

        def end(_number: int, _frame: FrameType | None) -> None:
            over.set()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, end)
        service.serve(chosen, SystemClock(), output.tell, over)
        output.tell("the runs go on without it, and whoever comes next takes them over")
        output.tell("next: lumina status")
