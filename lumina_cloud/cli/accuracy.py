"""`lumina accuracy`: how plans turned out; with `--physics`, how far estimates are from published measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.documents import of_plans


def accuracy(
    physics: Annotated[
        bool, typer.Option("--physics", help="Compare estimates with published measurements instead, each left out of the fit.")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="With --physics: fit the constants to the measurements, and keep them (in a source checkout).")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="With --physics: write docs/accuracy.md and its plots (in a source checkout).")
    ] = False,
    csv: options.Csv = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show how plans turned out: predicted against actual, for each figure of each finished run."""
    with output.errors_shown(as_json=json):
        output.refuse_two_forms(csv=csv, json=json)
        if physics:
            _physics(fit=fit, write=write)
            return
        if fit or write:
            raise UsageError("--fit and --write are about published measurements", "lumina accuracy --physics --fit, or --physics --write")
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            document = lumina.accuracy()
        if json:
            output.emit(document)
        elif csv:
            from lumina_cloud.api.documents import of_plans

            output.print_rows(of_plans.PredictedActual, document.rows)
        else:
            _show(document)


def _physics(*, fit: bool, write: bool) -> None:
    from lumina_cloud.api import accuracy as api

    if fit:
        output.tell(f"wrote {api.fit_constants(Path.cwd())}; run without --fit to see how good they are")
        return
    found = api.measure()
    for line in api.summary_lines(found):
        typer.echo(line)
    if write:
        output.tell(f"wrote {api.write_page(Path.cwd(), found)}")


def _show(document: of_plans.AccuracyDocument) -> None:
    from lumina_cloud.cli import tables_decisions

    output.show(*tables_decisions.accuracy(document, width=output.console().width))
