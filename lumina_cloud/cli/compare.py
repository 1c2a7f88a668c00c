"""`lumina compare`: runs side by side, or without any, the published document's sections beside modelled figures."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.cli.sparks import bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_runs


def compare(
    run: Annotated[list[str] | None, typer.Argument(metavar="[RUN…]", help="Names of runs, their beginnings, or last.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show runs side by side, with their curves; without runs, the published document's sections beside modelled figures."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina

        if not run:
            _sections(as_json=json)
            return
        with Lumina() as lumina:
            document = lumina.compare(run)
        if json:
            output.emit(document)
        else:
            output.show(*_tables(document))


def _sections(*, as_json: bool) -> None:
    from lumina_cloud.api import sections, settings

    document = sections.compare(settings.load())
    if as_json:
        output.emit(document)
        return
    from lumina_cloud.cli import tables_sections

    output.show(*tables_sections.sections(document))


def _tables(document: of_runs.ComparisonDocument) -> list[RenderableType]:
    from rich.text import Text

    from lumina_cloud.cli import tables
    from lumina_cloud.cli.tables import table
    from lumina_cloud.core import money, units

    figures = ("tokens", "time", "cost", "planned", "$/B tokens", "tokens/s", "loss", "loss planned", "at the same tokens")
    made = table("runs side by side", "run", "state", "where", *figures, right=figures, whole=("run",))
    for r in document.runs:
        made.add_row(
            r.run,
            r.state,
            f"{r.provider} {r.gpu}",
            units.count(r.tokens) if r.tokens else "-",
            "-" if r.actual.seconds is None else units.duration(r.actual.seconds),
            "-" if r.actual.usd is None else money.show(Decimal(r.actual.usd)),
            "-" if r.planned.usd is None else money.show(Decimal(r.planned.usd)),
            "-" if r.usd_per_billion_tokens is None else money.show(Decimal(r.usd_per_billion_tokens)),
            _figure(r.actual.tokens_per_second, ",.0f"),
            _figure(r.actual.loss, ".3f"),
            _figure(r.planned.loss, ".3f"),
            _figure(r.loss_in_common, ".3f"),
        )
    curves = _curves(document.runs)
    note = f"at the same tokens: the training loss when each had seen {units.count(document.tokens_in_common)}"
    return [made, *curves, Text(note, style="dim"), tables.next_step(f"lumina report {' '.join(r.run for r in document.runs)}")]


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


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
