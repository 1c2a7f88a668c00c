"""The first page: `lumina`, `lumina --help`. What there is, by what it is for, in the plainest print.

It is printed by hand: typer would build the options of every verb, and import rich and a Markdown parser, to show a list of names.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTIONS: dict[str, tuple[str, ...]] = {
    "Before you spend": ("init", "doctor", "plan", "offers", "prices", "data", "sandbox"),
    "Train": ("launch", "status", "logs", "stop", "resume", "extend", "ssh", "sweep", "controller", "reconcile"),
    "What came of it": ("results", "sample", "weights", "compare", "report", "ui", "accuracy"),
    "Money and books": ("costs", "budget", "ledger", "config", "rm", "prune"),
    "For other tools": ("audit", "estimate", "jobfile"),
}
"""Verbs by what they are for; one that stands nowhere is shown at the end."""

WIDEST = 110
"""Columns beyond which lines are hard to read."""


def page(verbs: Mapping[str, str], *, columns: int, bold: bool) -> str:
    """Return the page. `verbs` are what each verb is for, by name."""
    columns = max(40, min(columns, WIDEST))
    known = {name for names in SECTIONS.values() for name in names}
    rest = {"More": tuple(name for name in verbs if name not in known)}
    mark, unmark = ("\x1b[1m", "\x1b[0m") if bold else ("", "")
    lines = [
        f"{mark}lumina VERB [OPTIONS]{unmark}    each verb has --help; most have --json",
        "",
        *textwrap.wrap("Plan, rent, train, bring back, switch off, and account for language models on rented GPUs.", columns),
    ]
    for title, names in (SECTIONS | rest).items():
        shown = [name for name in names if name in verbs]
        if shown:
            lines += ["", f"{mark}{title}{unmark}", *(line for name in shown for line in _row(name, verbs[name], columns))]
    lines += ["", f"{mark}On any verb{unmark}", *_row("--sandbox", "Rehearse it: three clouds on this computer, nothing is paid.", columns)]
    lines += ["", "--version, --install-completion (of verbs, runs and GPUs), --show-completion", "", "next: lumina init"]
    return "\n".join(lines) + "\n"


def _row(name: str, purpose: str, columns: int) -> list[str]:
    text = f"  {name:<11} {_first_sentence(purpose)}"
    return textwrap.wrap(text, columns, subsequent_indent=" " * 14, break_long_words=False, break_on_hyphens=False)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a docstring's first paragraph, without its full stop."""
    paragraph = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return paragraph.split(". ", maxsplit=1)[0].rstrip(".")


def show(verbs: Mapping[str, str]) -> None:
    """Print the page on standard output."""
    coloured = sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))
    bold = coloured and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    sys.stdout.write(page(verbs, columns=shutil.get_terminal_size((80, 24)).columns, bold=bold))
    sys.stdout.flush()
