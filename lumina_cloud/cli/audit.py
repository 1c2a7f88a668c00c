"""`lumina audit`: what is wrong with a table of claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents.of_claims import AuditDocument

FOUND = 1


def audit(
    file: Annotated[Path | None, typer.Argument(help="A CSV or TOML table of claims; the published benchmark without one.")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="List the columns that a table may have.")] = False,
    csv: options.Csv = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check claims about training runs against arithmetic and physics. Exit code 1 with findings, 0 without."""
    with output.errors_shown(as_json=json):
        if csv and json:
            raise UsageError("--csv and --json say two things", "leave one of them out")
        if columns:
            from lumina_cloud.api.claim_tables import COLUMNS

            for name, aliases in COLUMNS.items():
                typer.echo(name + (f"  (or {', '.join(aliases)})" if aliases else ""))
            return
        from lumina_cloud.api.auditing import audit as make

        document = make(file)
        if json:
            output.emit(document)
        elif csv:
            names = ("row", "rule", "claimed", "possible", "ratio", "text")
            output.print_csv(names, [[getattr(finding, name) for name in names] for finding in document.findings])
            for note in _notes(document):
                output.tell(note)
        else:
            output.show(*_parts(document, own=file is not None))
        if document.findings:
            raise typer.Exit(FOUND)


def _parts(document: AuditDocument, *, own: bool) -> list[RenderableType]:
    """Return the answer first, then every finding under its row. `own` is a table of the user's."""
    from itertools import groupby

    from rich.text import Text

    parts: list[RenderableType] = [Text(_answer(document, own=own), style="bold")]
    for row, found in groupby(document.findings, key=lambda f: f.row):
        parts.append(Text(f"\n{row}", style="bold"))
        parts += [Text.assemble(("  ✗ ", "yellow"), f"{f.rule}: {f.text}") for f in found]
    notes = _notes(document)
    if notes:
        parts.append(Text("\n" + "\n".join(notes), style="dim"))
    if document.findings:
        beside = "what is modelled, to hold it against" if own else "what is modelled beside what is published"
        parts.append(Text(f"\nnext: lumina plan MODEL shows {beside}", style="dim"))
    return parts


def _answer(document: AuditDocument, *, own: bool) -> str:
    n_rows = f"{document.rows} row{'' if document.rows == 1 else 's'}"
    if not document.findings:
        doubt = " in what could be checked" if document.notes else ""
        return f"nothing wrong was found{doubt}: {document.source}, {n_rows}"
    n = len(document.findings)
    findings = f"{n} finding{'' if n == 1 else 's'}"
    where = len({f.row for f in document.findings})
    if own:
        return f"{findings} in {document.source}, {n_rows}"
    return f"{findings} on {where} of the rows and sections of {document.source}"


def _notes(document: AuditDocument) -> list[str]:
    """Return what was not looked at, a line each."""
    ignored = ", ".join(document.ignored_columns)
    return document.notes + ([f"not looked at: {ignored} (lumina audit --columns lists what is known)"] if ignored else [])
