"""How results and errors reach a person or a script.

Answers go to standard output, progress and errors to standard error. Texts from outside have passed `untrusted` before they
come here, and are printed without markup.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lumina_cloud.cli import sandboxed
from lumina_cloud.core import commands, untrusted
from lumina_cloud.core.errors import LuminaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType

    from lumina_cloud.api.documents.root import Document

PLAIN_WIDTH = 160
"""Width of tables when the output is not a terminal, so that no figure is cut off."""


def console(*, stderr: bool = False) -> Console:
    """Return a console for people: coloured on a terminal, plain elsewhere and under NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


def show(*parts: RenderableType) -> None:
    """Print tables and text on standard output. What can be typed next is one line, so that it can be copied."""
    out = console()
    for part in parts:
        following = str(part).startswith("next:")
        out.print(_of_this_world(part), soft_wrap=following)


def tell(text: str, *, quoted: bool = False) -> None:
    """Print plain lines on standard error: progress, notes, what to do next. `quoted` ones are another's words, and stay as they are."""
    shown = text if quoted else "\n".join(map(typed_here, text.split("\n")))
    console(stderr=True).print(shown, markup=False, soft_wrap=True)


def typed_here(line: str) -> str:
    """Return a line with its commands as they have to be typed: with --sandbox where that was typed now, else they mean the real ledger.

    After `next:` a command ends at a comma, at two spaces, or with its line; elsewhere it stands in a sentence.
    """
    if not sandboxed.typed():
        return line
    if not line.startswith("next:"):
        return commands.in_sandbox(line)
    return re.sub(r"\blumina (?!sandbox )(?:[^\s,]+ ?)+(?<! )", lambda found: _marked(found[0]), line)


def _marked(command: str) -> str:
    return command if commands.SANDBOX in command.split() else f"{command} {commands.SANDBOX}"


def _of_this_world(part: RenderableType) -> RenderableType:
    """Return a part of an answer with its commands as they have to be typed."""
    if not sandboxed.typed():
        return part
    from rich.table import Table
    from rich.text import Text

    if isinstance(part, Table):
        if isinstance(part.caption, str):
            part.caption = typed_here(part.caption)
        return part
    if isinstance(part, Text) and not part.spans:
        return Text(typed_here(part.plain), style=part.style)
    return typed_here(part) if isinstance(part, str) else part


def emit(document: Document) -> None:
    """Print one JSON document on a line of standard output."""
    sys.stdout.write(document.model_dump_json() + "\n")
    sys.stdout.flush()


def print_csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table as comma-separated values. A cell that a spreadsheet would take for a formula gets an apostrophe before it."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if cell is None else _inert(cell) for cell in row])
    sys.stdout.flush()


def print_rows(kind: type[Document], rows: Sequence[Document], without: Sequence[str] = ()) -> None:
    """Print documents of one kind as comma-separated values, the header also where there are none.

    A range is three columns (`usd_low`, `usd_mid`, `usd_high`); words and settings of a cell stand beside each other.
    """
    inner = {name: getattr(field.annotation, "model_fields", None) for name, field in kind.model_fields.items() if name not in without}
    names = [n for name, fields in inner.items() for n in ([name] if fields is None else [f"{name}_{k}" for k in fields])]
    cells = []
    for row in rows:
        values = [(fields, getattr(row, name)) for name, fields in inner.items()]
        cells.append([c for fields, v in values for c in ([_cell(v)] if fields is None else [_cell(getattr(v, k)) for k in fields])])
    print_csv(names, cells)


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{name}={v}" for name, v in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value


def refuse_two_forms(*, csv: bool, json: bool) -> None:
    """Refuse two forms of one answer. Raises UsageError."""
    if csv and json:
        raise UsageError("--csv and --json say two things", "leave one of them out")


def _inert(cell: Any) -> Any:
    formula = isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t") and not re.fullmatch(r"-?\d+(\.\d+)?", cell)
    return f"'{cell}" if formula else cell


def fail(error: LuminaError, *, as_json: bool) -> None:
    """Print an error on standard error: one panel for a person, one JSON line for a script."""
    hint = "\n".join(map(typed_here, error.hint.split("\n")))
    if as_json:
        from lumina_cloud.api.documents import SCHEMA_VERSION

        # By hand: an error about what was typed does not wait for pydantic.
        body = {"schema_version": SCHEMA_VERSION, "error": {"kind": error.kind, "message": error.message, "hint": hint}}
        sys.stderr.write(json.dumps(body) + "\n")
        return
    from rich.panel import Panel
    from rich.text import Text

    text = Text(error.message)
    if hint:
        text.append(f"\n{hint}", style="dim")
    console(stderr=True).print(Panel(text, title=error.kind.replace("_", " "), title_align="left", border_style="red", expand=False))


def _shadowed(error: Exception) -> LuminaError | None:
    """Return what is wrong when another package stands in the way of one of ours, whose names others have too."""
    if not isinstance(error, ImportError):
        return None
    from pathlib import Path

    name = (error.name or "").split(".", maxsplit=1)[0]
    there = [Path(path) for path in getattr(sys.modules.get(name), "__path__", ())]
    if name not in ("providers", "trainer") or not there or Path(__file__).parents[2] / name in there:
        return None
    return LuminaError(
        f"{there[0]} stands in the way of Lumina's own package {name!r}",
        "install Lumina into an environment of its own (pipx install lumina-cloud, or uvx), or clear PYTHONPATH",
    )


@contextmanager
def errors_shown(*, as_json: bool) -> Iterator[None]:
    """Turn an error into its panel and its exit code."""
    import typer

    try:
        yield
    except LuminaError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        fail(error, as_json=as_json)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        # The reader of our output went away (`lumina status | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001  # the last border: whatever it is, a user reads one panel, and a bug report has --debug
        if "--debug" in sys.argv:
            traceback.print_exc()
        internal = LuminaError(
            f"an error of ours: {type(error).__name__}: {untrusted.line(error, 400)}", "the same command with --debug shows where"
        )
        fail(_shadowed(error) or internal, as_json=as_json)
        raise typer.Exit(LuminaError.exit_code) from None
