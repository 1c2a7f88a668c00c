"""What a shell may complete: runs and plans by name, GPUs, providers, models. Quick, and without an error whatever is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import LuminaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Words = list[tuple[str, str]]
"""Each word with what it is."""


def runs(beginning: str, env: Mapping[str, str]) -> Words:
    """Return `last` and the newest runs' names."""
    from lumina_cloud.api import settings
    from lumina_cloud.ledger import peek

    try:
        found = peek.runs(settings.load(env).home, beginning)
    except LuminaError:
        return []
    return [*_beginning(beginning, [("last", "the newest run")]), *((untrusted.line(name, 120), state) for name, state in found)]


def plans(beginning: str, env: Mapping[str, str]) -> Words:
    """Return the newest plans' ids."""
    from lumina_cloud.api import settings
    from lumina_cloud.ledger import peek

    try:
        return peek.plans(settings.load(env).home, beginning)
    except LuminaError:
        return []


def gpus(beginning: str) -> Words:
    """Return the GPUs of the catalogue whose names begin so, in any case; where none does, those that have it in them: 4090."""
    from lumina_cloud.catalog import gpus as catalogue

    words = [(gpu.name, f"{gpu.memory_gib:g} GiB") for gpu in catalogue.all_gpus()]
    return _beginning(beginning, words) or [(name, about) for name, about in words if beginning.lower() in name.lower()]


def providers(beginning: str) -> Words:
    """Return this computer and the clouds."""
    from providers import credentials

    return _beginning(beginning, [("local", "this computer"), *((name, cloud.title) for name, cloud in credentials.CLOUDS.items())])


def models(beginning: str) -> Words:
    """Return the presets."""
    from trainer import config

    return _beginning(beginning, [(name, "") for name in config.MODELS])


def archs(beginning: str, *, more: Iterable[str] = ()) -> Words:
    """Return the architectures, and `more` words that are taken in their place."""
    from trainer import config

    return _beginning(beginning, [(name, "") for name in (*config.ARCHS, *more)])


def _beginning(beginning: str, words: Words) -> Words:
    return [(word, about) for word, about in words if word.lower().startswith(beginning.lower())]
