"""Whether a machine is what was paid for: a pure judgement of what it says of itself against what its offer said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lumina_cloud.remote.bootstrap import MachineFacts

MEMORY_SHARE = 0.88
"""A GPU reports a little less than its label says."""
LEAST_TORCH = (2, 6)


@dataclass(frozen=True)
class Wanted:
    """What the offer said, in the catalog's words."""

    gpu: str
    count: int
    vram_gib: float
    disk_mib: int
    rehearsal: bool = False
    """A sandbox's machine has the GPU in name only: its torch need not see it."""


def unfit(facts: MachineFacts, wanted: Wanted) -> str | None:
    """Return what is not as the offer said, in words; None for a machine that is what was paid for."""
    if len(facts.gpus) != wanted.count:
        return f"it has {len(facts.gpus)} GPUs, and {wanted.count} were offered"
    for gpu in facts.gpus:
        if not same_model(gpu.name, wanted.gpu):
            return f"its GPU is {gpu.name}, and {wanted.gpu} was offered"
        if gpu.memory_mib < MEMORY_SHARE * wanted.vram_gib * 1024:
            return f"its GPU has {gpu.memory_mib:,} MiB, and {wanted.vram_gib:.0f} GiB were offered"
    if facts.disk_mib < wanted.disk_mib:
        return f"{facts.disk_mib:,} MiB of its disk are free, and {wanted.disk_mib:,} are needed"
    if not wanted.rehearsal and facts.torch_cuda is not None and facts.cuda_devices < wanted.count:
        told = f"torch {facts.torch} for CUDA {facts.torch_cuda}, driver for CUDA {facts.cuda}"
        return f"its torch can use {facts.cuda_devices} of {wanted.count} GPUs ({told})"
    return None


def same_model(reported: str, catalog: str) -> bool:
    """Whether a driver's name (`NVIDIA GeForce RTX 4090`) is the catalog's (`RTX4090`, `A100-80GB-SXM`).

    The model's own letters and digits have to be the same: an `RTX 4090 Laptop`, `RTX 4090 D` or `RTX 6000 Ada` is another one
    than `RTX4090` or `A6000`. Memory is judged by its size, not by the name.
    """
    words = [w for w in re.split(r"[^a-z0-9]+", reported.lower()) if w and w not in _BRANDS and not _is_size(w)]
    forms = {_FORMS.get(w, w) for w in words if w in _FORMS}
    model = "".join(w for w in words if w not in _FORMS and not w.startswith("hbm"))
    parts = [p for p in re.split(r"[-_ ]+", catalog.lower()) if p and not _is_size(p)]
    wanted_forms = {_FORMS.get(p, p) for p in parts if p in _FORMS}
    name = "".join(p for p in parts if p not in _FORMS).replace("nvidia", "")
    if model.removeprefix("rtx").removesuffix("generation") != name.removeprefix("rtx"):
        return False
    # H100 SXM reports itself as `H100 80GB HBM3`, without a form; a form that is named has to be the right one.
    return not forms or not wanted_forms or bool(forms & wanted_forms)


_BRANDS = {"nvidia", "geforce", "tesla", "quadro", "amd", "instinct", "oam"}
_FORMS = {"pcie": "pcie", "sxm": "sxm", "sxm2": "sxm", "sxm3": "sxm", "sxm4": "sxm", "sxm5": "sxm", "sxm6": "sxm", "nvl": "nvl"}


def _is_size(word: str) -> bool:
    return re.fullmatch(r"\d+g(b|ib)?", word) is not None


@dataclass(frozen=True)
class Preparation:
    """What has to be done before the trainer can start."""

    install: bool
    torch_too: bool
    device: Literal["cuda", "cpu"]


def preparation(facts: MachineFacts, *, rehearsal: bool) -> Preparation:
    """Return what has to be installed, and on which device is trained there.

    The image's own torch is kept where it is new enough: another one is a download of 2 to 3 GB that is paid for.
    """
    torch_too = facts.torch is None or _version(facts.torch) < LEAST_TORCH or (not rehearsal and facts.torch_cuda is None)
    return Preparation(
        install=torch_too or bool(facts.missing),
        torch_too=torch_too,
        device="cpu" if rehearsal and facts.cuda_devices == 0 else "cuda",
    )


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
