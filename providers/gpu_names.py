"""GPU names of each market, and their names in the catalog: one table, read both ways.

A market's text that is not in the table is kept and shown as it is, and never guessed: a machine of an unknown kind can be
looked at, and is not planned on. Sources: RunPod's GpuTypeId list, Vast.ai's `gpu_name` as its API answers, Lambda's instance
types and their `gpu_description`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuNames:
    """One kind of GPU and what each market calls it; empty where a market does not rent it."""

    name: str
    """In the catalog."""
    vram_gib: float
    """What its label says: tells apart what a market calls by one name."""
    runpod: str = ""
    """`gpuTypeId`."""
    vastai: tuple[str, ...] = ()
    """`gpu_name`, with spaces."""
    lambda_model: str = ""
    """What `gpu_description` says before the bracket."""
    lambda_form: str = ""
    """The form in the bracket: `PCIe`, `SXM4`, `SXM5`; empty where it does not matter."""


TABLE: tuple[GpuNames, ...] = (
    GpuNames("RTX3090", 24, "NVIDIA GeForce RTX 3090", ("RTX 3090",)),
    GpuNames("RTX4090", 24, "NVIDIA GeForce RTX 4090", ("RTX 4090",)),
    GpuNames("RTX5090", 32, "NVIDIA GeForce RTX 5090", ("RTX 5090",)),
    GpuNames("A4000", 16, "NVIDIA RTX A4000", ("RTX A4000",)),
    GpuNames("A5000", 24, "NVIDIA RTX A5000", ("RTX A5000",)),
    GpuNames("A6000", 48, "NVIDIA RTX A6000", ("RTX A6000",), "RTX A6000|A6000"),
    GpuNames("RTX6000Ada", 48, "NVIDIA RTX 6000 Ada Generation", ("RTX 6000Ada", "RTX 6000 Ada")),
    GpuNames("A10", 24, "", ("A10",), "A10"),
    GpuNames("A40", 48, "NVIDIA A40", ("A40",)),
    GpuNames("L4", 24, "NVIDIA L4", ("L4",)),
    GpuNames("L40", 48, "NVIDIA L40", ("L40",)),
    GpuNames("L40S", 48, "NVIDIA L40S", ("L40S",)),
    GpuNames("V100-16GB", 16, "Tesla V100-SXM2-16GB", ("Tesla V100",), "Tesla V100|V100"),
    GpuNames("V100-32GB", 32, "Tesla V100-SXM2-32GB", ("Tesla V100",)),
    GpuNames("T4", 16, "", ("Tesla T4",)),
    GpuNames("A100-40GB-PCIe", 40, "", ("A100 PCIE",), "A100", "PCIe"),
    GpuNames("A100-40GB-SXM", 40, "", ("A100 SXM4",), "A100", "SXM4"),
    GpuNames("A100-80GB-PCIe", 80, "NVIDIA A100 80GB PCIe", ("A100 PCIE",), "A100", "PCIe"),
    GpuNames("A100-80GB-SXM", 80, "NVIDIA A100-SXM4-80GB", ("A100 SXM4",), "A100", "SXM4"),
    GpuNames("H100-80GB-PCIe", 80, "NVIDIA H100 PCIe", ("H100 PCIE",), "H100", "PCIe"),
    GpuNames("H100-80GB-SXM", 80, "NVIDIA H100 80GB HBM3", ("H100 SXM",), "H100", "SXM5"),
    GpuNames("H100-NVL", 94, "NVIDIA H100 NVL", ("H100 NVL",)),
    GpuNames("H200", 141, "NVIDIA H200", ("H200",)),
    GpuNames("GH200", 96, "", ("GH200 SXM",), "GH200"),
    GpuNames("B200", 180, "NVIDIA B200", ("B200",), "B200"),
    GpuNames("MI300X", 192, "AMD Instinct MI300X OAM", ("MI300X",)),
)

_BY_NAME = {row.name: row for row in TABLE}

_LABEL_TOLERANCE = 0.12
"""A device reports less than its label (24,564 of 24,576 MiB), some more (97,871 of 96 GiB): a kind is taken within this share."""

_DESCRIPTION = re.compile(r"^(?P<model>[^(]+?)\s*\((?P<gb>\d+)\s*GB(?:\s+(?P<form>\w+))?\)")


# --- from a market to the catalog ----------------------------------------------------------------------------------------


def from_runpod(gpu_type: str) -> str | None:
    """Return the catalog's name of a `gpuTypeId`, None for one that is not known."""
    # Some ids of RunPod's list hold two spaces.
    wanted = " ".join(gpu_type.split())
    return next((row.name for row in TABLE if row.runpod == wanted), None)


def from_vastai(gpu_name: str, gpu_ram_mb: float) -> str | None:
    """Return the catalog's name of a `gpu_name` with that much memory on one GPU (MiB, as `gpu_ram` says), None when not known.

    Vast.ai calls A100s of 40 and 80 GB by one name, so the memory decides; one that fits neither is not known.
    """
    wanted = " ".join(gpu_name.replace("_", " ").split())
    gib = gpu_ram_mb / 1024
    return next((row.name for row in TABLE if wanted in row.vastai and _about(gib, row.vram_gib)), None)


def from_lambda(gpu_description: str) -> tuple[str | None, float | None]:
    """Return the catalog's name and the memory of one GPU in GiB from a `gpu_description`; None for what it does not tell."""
    found = _DESCRIPTION.match(gpu_description.strip())
    if found is None:
        return None, None
    model, gib, form = found["model"].strip(), float(found["gb"]), found["form"] or ""
    for row in TABLE:
        named = model in row.lambda_model.split("|") and _about(gib, row.vram_gib)
        if named and (not row.lambda_form or row.lambda_form.lower() == form.lower()):
            return row.name, gib
    return None, gib


def _about(gib: float, label: float) -> bool:
    return abs(gib - label) <= _LABEL_TOLERANCE * label


# --- from the catalog to a market ----------------------------------------------------------------------------------------


def to_runpod(name: str) -> str | None:
    """Return RunPod's `gpuTypeId` for a name of the catalog, None where it does not rent that GPU."""
    row = _BY_NAME.get(name)
    return row.runpod or None if row is not None else None


def to_vastai(name: str) -> tuple[str, ...]:
    """Return Vast.ai's `gpu_name`s for a name of the catalog; empty where it does not know that GPU."""
    row = _BY_NAME.get(name)
    return row.vastai if row is not None else ()
