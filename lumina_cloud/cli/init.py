"""`lumina init`: a few questions before the first run. The sandbox comes first, and no key is asked for, shown or written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.core.errors import CredentialsError, ProviderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from rich.console import RenderableType

    from lumina_cloud.api.documents.of_markets import InitDocument
    from lumina_cloud.api.lumina import Lumina


class Talk(Protocol):
    """Asks a person."""

    def choose(self, question: str, choices: Sequence[str], default: str) -> str:
        """Return one of the choices."""
        ...

    def text(self, question: str, default: str) -> str:
        """Return what was typed."""
        ...


class AtTheTerminal:
    """Asks on standard error, and reads the answer from the terminal."""

    def choose(self, question: str, choices: Sequence[str], default: str) -> str:
        """Ask again until one of the choices is typed."""
        while True:
            typed = self.text(f"{question} ({', '.join(choices)})", default).strip().lower()
            if typed in choices:
                return typed
            output.tell(f"{typed!r} is none of them")

    def text(self, question: str, default: str) -> str:
        """Ask once."""
        return str(typer.prompt(question, default=default, show_default=bool(default), err=True))


def init(
    where: Annotated[str | None, typer.Option(help="Where to begin: sandbox, local, runpod, vastai or lambda.")] = None,
    cap: Annotated[str | None, typer.Option(help="The most that a month may cost, in dollars: no launch may exceed it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what the options say, the sandbox without --where.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Set up: where to begin, whether its key is found and taken, and the most that a month may cost."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina

        usd = options.amount("--cap", cap)
        if usd is not None and usd <= 0:
            raise UsageError(f"--cap is {cap}, but must be above zero", "lumina init --cap 20; lumina budget --remove takes a cap away")
        if not yes and (json or not sys.stdin.isatty()):
            raise UsageError("init asks, and nobody is there to answer", "lumina init --yes --where sandbox, or --where vastai --cap 20")
        with Lumina() as lumina:
            document = guided(lumina, where, usd, None if yes else AtTheTerminal())
        if json:
            output.emit(document)
        else:
            output.show(*_parts(document))
        if not document.ready:
            refused = any(check.state == "failed" or (check.state == "missing" and check.provider) for check in document.checks)
            raise typer.Exit(CredentialsError.exit_code if refused else ProviderError.exit_code)


def guided(lumina: Lumina, where: str | None, cap: Decimal | None, talk: Talk | None) -> InitDocument:
    """Go through the questions, with those left out that are answered already; without `talk` nothing is asked.

    Raises UsageError for a place that is none.
    """
    from lumina_cloud.api import beginning

    if where is None:
        if talk is not None:
            for name in beginning.WAYS:
                output.tell(f"  {name:<8} {beginning.PURPOSES[name]}")
        where = "sandbox" if talk is None else talk.choose("where do you want to begin?", beginning.WAYS, "sandbox")
    document = lumina.begin_at(where)
    while talk is not None and not document.ready and beginning.needs_key(where):
        _tell_place(lumina, where)
        if talk.text("Enter looks again, s skips", "").strip().lower() == "s":
            break
        document = lumina.begin_at(where)
    if cap is None and talk is not None and where != "sandbox" and document.usd_cap_a_month is None:
        typed = talk.text("the most that a month may cost, in dollars; 0 for no cap", "20")
        cap = options.amount("the cap", typed)
    if cap:
        lumina.set_budget(cap)
        document = document.model_copy(update={"usd_cap_a_month": lumina.begin_at(where).usd_cap_a_month})
    return document


def _tell_place(lumina: Lumina, where: str) -> None:
    place = lumina.key_place(where)
    output.tell(f"{place.title}'s key is made at {place.console}. Lumina reads it where that cloud's own tools keep it:")
    for file in place.files:
        output.tell(f"  {file}")
    output.tell(f"  or the variable {place.variable}, which a new terminal then has: export {place.variable}=...")


def _parts(document: InitDocument) -> list[RenderableType]:
    from decimal import Decimal

    from rich.text import Text

    from lumina_cloud.cli import tables
    from lumina_cloud.core import money

    parts: list[RenderableType] = [Text(f"begin at: {document.where}", style="bold")]
    for check in document.checks:
        style = {"ok": "green", "failed": "bold red"}.get(check.state, "yellow")
        parts.append(Text(f"{check.state}: {check.message}", style=style))
    cap = document.usd_cap_a_month
    parts.append(
        Text("no cap on a month: lumina budget USD sets one" if cap is None else f"a month may cost {money.show(Decimal(cap))} in all")
    )
    return [*parts, tables.next_step(document.next)]
