"""`lumina accuracy`: how far estimates are from published measurements that they were not fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lumina_cloud.cli import options, output


def accuracy(
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit the constants to the measurements first, and keep them (in a source checkout).")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Write docs/accuracy.md and its plots (in a source checkout).")] = False,
    debug: options.Debug = False,
) -> None:
    """Compare estimates with published measurements, each left out of the fit."""
    with output.errors_shown(as_json=False):
        from lumina_cloud.api import accuracy as api

        if fit:
            output.tell(f"wrote {api.fit_constants(Path.cwd())}; run without --fit to see how good they are")
            return
        found = api.measure()
        for line in api.summary_lines(found):
            typer.echo(line)
        if write:
            output.tell(f"wrote {api.write_page(Path.cwd(), found)}")
