"""What a shell that completes a word is told, and whether one is asking. Typer's own writing of it knows the shells."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lumina_cloud.cli.sandboxed import VARIABLE
from lumina_cloud.core.commands import SANDBOX

ASKING = "_LUMINA_COMPLETE"
"""Set by the shell's own function; `lumina --install-completion` writes that."""

Words = list[tuple[str, str]]


class _Word(str):
    """A word that typer takes for a completion of whatever was typed.

    Typer drops those that do not begin with just that: `rtx40` and `4090` would find no RTX4090. What bash and fish are told they put in
    the typed word's place; zsh looks at the case unless its matcher-list says otherwise.
    """

    __slots__ = ()

    def startswith(self, *_of: object) -> bool:
        return True


def typed() -> list[str] | None:
    """Return the whole words of the line that is being completed, without the command; None when no shell is asking."""
    if ASKING not in os.environ:
        return None
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    # Quotes may still be open; the words before do not need them.
    return line.split()[1:]


def run(incomplete: str) -> Words:
    """Complete a run's name."""
    from lumina_cloud.api import completing

    return completing.runs(incomplete, _environment())


def plan(incomplete: str) -> Words:
    """Complete a plan's id."""
    from lumina_cloud.api import completing

    return completing.plans(incomplete, _environment())


def gpu(incomplete: str) -> Words:
    """Complete a GPU's name."""
    from lumina_cloud.api import completing

    return _whatever_was_typed(completing.gpus(incomplete))


def provider(incomplete: str) -> Words:
    """Complete a provider's name."""
    from lumina_cloud.api import completing

    return _whatever_was_typed(completing.providers(incomplete))


def model(incomplete: str) -> Words:
    """Complete a model's name."""
    from lumina_cloud.api import completing

    return _whatever_was_typed(completing.models(incomplete))


def arch(incomplete: str) -> Words:
    """Complete an architecture."""
    from lumina_cloud.api import completing

    return _whatever_was_typed(completing.archs(incomplete, more=("all",)))


def _whatever_was_typed(words: Words) -> Words:
    return [(_Word(word), about) for word, about in words]


def _environment() -> Mapping[str, str]:
    """Return the environment as the command would see it once typed: with `--sandbox` on the line, the sandbox's."""
    return {**os.environ, VARIABLE: "1"} if SANDBOX in (typed() or ()) else os.environ
