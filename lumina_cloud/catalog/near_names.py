"""Names of accelerators as other people's tables write them, matched to the catalog where that is safe.

`gpus.resolve` is strict, because a person who mistypes wants to be told. A line of a foreign table (`A100 SXM4 80GB`, `A10G`,
`V100`) is matched here: a part of its own, the same device under more words, or one of a family, then the one with least memory.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

from lumina_cloud.catalog import toml_data
from lumina_cloud.catalog.gpus import CPU, Gpu, all_gpus, resolve
from lumina_cloud.core.errors import UsageError

_NOISE = re.compile(r"nvidia|amd|geforce|tesla|instinct|graphics|gpu|tensor core|\([^)]*\)", re.IGNORECASE)
_HOW_MANY = re.compile(r"^\s*\d+\s*[x*]\s*", re.IGNORECASE)
_MEMORY_KIND = re.compile(r"hbm[0-9a-z]*|gddr[0-9a-z]*", re.IGNORECASE)
_BUS = re.compile(r"(sxm|hgx|dgx|pcie?)[0-9x]*", re.IGNORECASE)


@cache
def variants() -> tuple[Gpu, ...]:
    """Return the parts that differ from a device of the catalog in a few figures."""
    found = []
    for row in toml_data.read("gpus")["variant"]:
        changes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key != "of"}
        found.append(replace(resolve(row["of"]), **{"aliases": (), "default_for": (), "checked": (), **changes}))
    return tuple(found)


@cache
def nearest(name: str) -> tuple[Gpu, str | None]:
    """Return the device that `name` means, and what had to be assumed for it. Raises UsageError where no match is safe."""
    name = _HOW_MANY.sub("", name)
    wanted = _plain(name)
    for gpu in variants():
        if wanted in {_plain(known) for known in (gpu.name, gpu.full_name, *gpu.aliases)}:
            return gpu, None
    try:
        return resolve(name), None
    except UsageError as error:
        found = _same_with_more_words(name) or _of_family(name)
        if found is None:
            raise error from None
        return found, f"gpu={found.name}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _NOISE.sub(" ", name).lower())


def _words(name: str) -> tuple[str, frozenset[str], frozenset[str]]:
    """Split a name into its chip, its bus and its memory: `A100-SXM4-80GB` gives a100, {sxm}, {80gb}."""
    text = _MEMORY_KIND.sub(" ", _NOISE.sub(" ", name).lower())
    bus = frozenset("pcie" if word.startswith("pci") else "sxm" for word in _BUS.findall(text))
    text = _BUS.sub(" ", text)
    memory = frozenset(f"{int(m)}gb" for m in re.findall(r"(\d+)\s*g(?:i?b)?\b", text))
    text = re.sub(r"\d+\s*g(?:i?b)?\b", " ", text)
    return re.sub(r"[^a-z0-9]", "", text), bus, memory


def _chip(gpu: Gpu) -> str:
    return _words(gpu.name)[0]


def _candidates(name: str) -> list[Gpu]:
    chip, bus, memory = _words(name)
    if not chip or chip == CPU:
        return []
    found = [gpu for gpu in (*all_gpus(), *variants()) if chip in {_chip(gpu), _chip(gpu).removeprefix("rtx")}]
    if memory:
        found = [gpu for gpu in found if f"{round(gpu.memory_gib)}gb" in memory]
    by_bus = [gpu for gpu in found if _words(gpu.name)[1] & bus] if bus else found
    return by_bus or found


def _same_with_more_words(name: str) -> Gpu | None:
    found = _candidates(name)
    return found[0] if len(found) == 1 else None


def _of_family(name: str) -> Gpu | None:
    """Return the member with least memory; of those the one that servers with several GPUs have."""
    found = _candidates(name)
    return min(found, key=lambda gpu: (gpu.memory_gib, -gpu.bandwidth_gb_s)) if found else None
