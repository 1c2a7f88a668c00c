"""`lumina sweep FILE.toml`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.core.errors import RunFailed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_runs


def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE.toml", help="What varies, what is fixed, and the budget of the whole.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the combinations and what each may cost.")] = False,
    yes: options.Yes = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run every combination of a grid under one budget; typed again, it goes on where it was."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import sweep_files, sweeping
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli.launch import confirm
        from lumina_cloud.core import money

        spec = sweep_files.read(Path(file).expanduser())
        with Lumina() as lumina:
            if dry_run:
                document = sweeping.planned(lumina, spec)
            else:
                head = f"{len(spec.trials())} combinations, {spec.concurrency} at once, at most {money.show(spec.budget)} in all"
                output.tell(f"{spec.name}: {head}")
                confirm("run them?", yes=yes)
                try:
                    document = sweeping.run(lumina, spec, output.tell)
                except KeyboardInterrupt:
                    output.tell(f"let go of {spec.name}: runs that were begun go on\n  lumina sweep {file}    goes on with the rest")
                    raise typer.Exit(130) from None
        if json:
            output.emit(document)
        else:
            output.show(*_tables(document))
        if not dry_run and document.best is None:
            raise RunFailed(f"no run of the sweep {document.sweep} succeeded", "lumina status --all, lumina results RUN")


def _tables(document: of_runs.SweepDocument) -> list[RenderableType]:
    from rich.text import Text

    from lumina_cloud.cli.tables import table
    from lumina_cloud.core import money

    names = list(dict.fromkeys(name for t in document.trials for name in t.values))
    made = table(f"sweep {document.sweep}", "", *names, "run", "state", "loss", "cost", "", right=("loss", "cost"))
    for t in document.trials:
        made.add_row(
            str(t.trial),
            *(str(t.values.get(name, "")) for name in names),
            t.run or "-",
            "stopped early" if t.stopped_early else t.state,
            "-" if t.loss is None else f"{t.loss:.3f}",
            money.show(Decimal(t.usd)),
            t.why,
            style="bold" if t.run is not None and t.run == document.best else None,
        )
    parts: list[RenderableType] = [made]
    parts.append(Text(f"{money.show(Decimal(document.usd_spent))} of {money.show(Decimal(document.usd_budget))}"))
    if document.note:
        parts.append(Text(f"· {document.note}", style="yellow"))
    if document.best is not None:
        parts.append(Text(f"next: lumina results {document.best}", style="dim"))
    return parts
