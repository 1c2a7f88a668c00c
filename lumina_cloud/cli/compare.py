"""`lumina compare`: runs side by side, or without any, the published document's sections beside modelled figures."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import completing, options, output
from lumina_cloud.cli.sparks import bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_runs


def compare(
    run: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN…]", help="Names of runs, their beginnings, or last.", autocompletion=completing.run)
    ] = None,
    csv: options.Csv = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show runs side by side, with their curves; without runs, the published document's sections beside modelled figures."""
    with output.errors_shown(as_json=json):
        output.refuse_two_forms(csv=csv, json=json)
        if not run:
            _sections(as_json=json, as_csv=csv)
            return
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            document = lumina.compare(run)
        if json:
            output.emit(document)
        elif csv:
            from lumina_cloud.api.documents import of_runs

            output.print_rows(of_runs.ComparedRun, document.runs, without=("curve",))
        else:
            output.show(*_tables(document, width=output.console().width))


def _sections(*, as_json: bool, as_csv: bool) -> None:
    from lumina_cloud.api import sections, settings

    document = sections.compare(settings.load())
    if as_json:
        output.emit(document)
    elif as_csv:
        from lumina_cloud.cli import csv_sections

        output.print_csv(csv_sections.NAMES, csv_sections.rows(document))
    else:
        from lumina_cloud.cli import tables_sections

        output.show(*tables_sections.sections(document))


WIDEST = 160
"""Columns from which on all figures of a comparison stand beside each other."""


def _tables(document: of_runs.ComparisonDocument, *, width: int) -> list[RenderableType]:
    from rich.text import Text

    from lumina_cloud.cli import tables, tables_sections
    from lumina_cloud.cli.tables import table
    from lumina_cloud.core import units

    all_of_them = ("tokens", "time", "cost", "planned", "$/B tokens", "tokens/s", "loss", "loss planned", "at the same tokens")
    figures = all_of_them if width >= WIDEST else ("tokens", "cost", "loss", "at the same tokens")
    where = ("where",) if width >= WIDEST else ()
    made = table("runs side by side", "run", "state", *where, *figures, right=figures, whole=("run", "state"))
    for r in document.runs:
        cells = {
            "tokens": units.count(r.tokens) if r.tokens else "-",
            "time": "-" if r.actual.seconds is None else units.duration(r.actual.seconds),
            "cost": _usd(r.actual.usd),
            "planned": _usd(r.planned.usd),
            "$/B tokens": _usd(r.usd_per_billion_tokens),
            "tokens/s": _figure(r.actual.tokens_per_second, ",.0f"),
            "loss": _figure(r.actual.loss, ".3f"),
            "loss planned": _figure(r.planned.loss, ".3f"),
            "at the same tokens": _figure(r.loss_in_common, ".3f"),
        }
        made.add_row(r.run, r.state, *([f"{r.provider} {r.gpu}"] if where else []), *(cells[name] for name in figures))
    curves = _curves(document.runs)
    note = f"at the same tokens: the training loss when each had seen {units.count(document.tokens_in_common)}"
    notes = [Text(note, style="dim"), *tables_sections.other_tokens((r.model, r.vocab) for r in document.runs)]
    return [made, *curves, *notes, tables.next_step(f"lumina report {' '.join(r.run for r in document.runs)}")]


def _curves(runs: Sequence[of_runs.ComparedRun]) -> list[RenderableType]:
    """Return each run's loss as a row of bars, all on one scale."""
    from rich.text import Text

    losses = [p.loss for r in runs for p in r.curve]
    if not losses:
        return []
    low, high = min(losses), max(losses)
    width = max(len(r.run) for r in runs)
    lines: list[RenderableType] = [Text(f"training loss, {low:.3f} ▁ to {high:.3f} █", style="bold")]
    for r in runs:
        lines.append(Text(f"{r.run:<{width}}  {bars([p.loss for p in r.curve], low, high)}"))
    return lines


def _usd(text: str | None) -> str:
    from lumina_cloud.core import money

    return "-" if text is None else money.show(Decimal(text))


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
