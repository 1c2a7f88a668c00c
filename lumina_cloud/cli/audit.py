"""`lumina audit`: what is wrong with a table of claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents.of_claims import AuditDocument

FOUND = 1


def audit(
    file: Annotated[Path | None, typer.Argument(help="A CSV or TOML table of claims; the published benchmark without one.")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="List the columns that a table may have.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check claims about training runs against arithmetic and physics. Exit code 1 with findings, 0 without."""
    with output.errors_shown(as_json=json):
        if columns:
            from lumina_cloud.api.claim_tables import COLUMNS

            for name, aliases in COLUMNS.items():
                typer.echo(name + (f"  (or {', '.join(aliases)})" if aliases else ""))
            return
        from lumina_cloud.api.auditing import audit as make

        document = make(file)
        if json:
            output.emit(document)
        else:
            output.show(*_parts(document))
        if document.findings:
            raise typer.Exit(FOUND)


def _parts(document: AuditDocument) -> list[RenderableType]:
    """Return the answer first, then every finding under its row."""
    from itertools import groupby

    from rich.text import Text

    rows = {f.row for f in document.findings}
    answer = f"{len(document.findings)} findings on {len(rows)} of the rows and sections of {document.source}"
    parts: list[RenderableType] = [Text(answer if rows else f"nothing is wrong with {document.source}: {document.rows} rows", style="bold")]
    for row, found in groupby(document.findings, key=lambda f: f.row):
        parts.append(Text(f"\n{row}", style="bold"))
        parts += [Text.assemble(("  ✗ ", "yellow"), f"{f.rule}: {f.text}") for f in found]
    if document.ignored_columns:
        parts.append(
            Text(f"\nnot looked at: {', '.join(document.ignored_columns)} (lumina audit --columns lists what is known)", style="dim")
        )
    if rows:
        parts.append(Text("\nnext: lumina plan MODEL shows what is modelled beside what is published", style="dim"))
    return parts
