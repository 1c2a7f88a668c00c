"""What a shell that completes a word is told, and whether one is asking. Typer's own writing of it knows the shells."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lumina_cloud.cli.sandboxed import FLAG, VARIABLE

ASKING = "_LUMINA_COMPLETE"
"""Set by the shell's own function; `lumina --install-completion` writes that."""

Words = list[tuple[str, str]]


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

    return completing.gpus(incomplete)


def provider(incomplete: str) -> Words:
    """Complete a provider's name."""
    from lumina_cloud.api import completing

    return completing.providers(incomplete)


def model(incomplete: str) -> Words:
    """Complete a model's name."""
    from lumina_cloud.api import completing

    return completing.models(incomplete)


def arch(incomplete: str) -> Words:
    """Complete an architecture."""
    from lumina_cloud.api import completing

    return completing.archs(incomplete, more=("all",))


def _environment() -> Mapping[str, str]:
    """Return the environment as the command would see it once typed: with `--sandbox` on the line, the sandbox's."""
    return {**os.environ, VARIABLE: "1"} if FLAG in (typed() or ()) else os.environ
