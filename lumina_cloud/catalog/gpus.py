"""Accelerators: what they hold, move and compute, from `data/gpus.toml`, and the names they go by.

All figures are per device. TFLOP/s are dense peaks (10^12 per second), bandwidths 10^9 bytes per second, memory GiB. A figure
of None does not exist for that device or is not known. `Gpu.source` says where a figure comes from.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from lumina_cloud.catalog import toml_data
from lumina_cloud.core import units
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.catalog.cpu_rates import CpuRates

CPU = "cpu"
UNVERIFIED = "unverified"

_MAKERS = re.compile(r"^(nvidia|amd|geforce|tesla|instinct)")


@dataclass(frozen=True)
class Gpu:
    """One kind of accelerator, or this computer's processor in the same shape."""

    name: str
    full_name: str
    memory_gib: float
    """What the label says."""
    memory_bytes_usable: int | None
    """What torch reports as the device's total memory."""
    bandwidth_gb_s: float
    bf16_tflops: float | None
    fp16_tflops: float | None
    tf32_tflops: float | None
    fp32_tflops: float
    fp8_tflops: float | None
    matmul_best_tflops: float | None
    """The best bf16 matrix product that somebody measured."""
    nvlink_gb_s: float
    """One direction, all links together; 0 without NVLink."""
    nvlink_needs_bridge: bool
    """Rented machines seldom have the bridge."""
    pcie: str
    tdp_w: float | None
    release_year: int | None
    compute_capability: str
    aliases: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()
    """Names that leave the device open and stand for this one."""
    checked: tuple[tuple[str, str], ...] = ()
    """Figures whose source was read, with the name of the source."""
    note: str = ""
    cores: int = 0
    """Processor cores, for `cpu`."""
    rates: tuple[CpuRates, ...] = ()
    """What was measured on this processor, one a precision; empty before its first use."""
    bf16_emulated: bool = False
    """Its 16-bit products are loops where others have instructions."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The kind of device as the trainer's configuration calls it (ROCm builds of torch say `cuda` too)."""
        return "cpu" if self.name == CPU else "cuda"

    @property
    def usable_memory_gib(self) -> float | None:
        """Memory that a process can have, context included; None where nobody has read it off a device."""
        return None if self.memory_bytes_usable is None else units.gib(self.memory_bytes_usable)

    def measured(self, precision: str) -> CpuRates | None:
        """Return what was measured on this processor in that precision."""
        return next((r for r in self.rates if r.precision == precision), None)

    def peak_tflops(self, precision: str) -> float | None:
        """Dense peak for `bf16`, `fp16` or `fp32` arithmetic; None where the device has no such units."""
        return {"bf16": self.bf16_tflops, "fp16": self.fp16_tflops, "fp32": self.fp32_tflops}[precision]

    def is_verified(self, figure: str) -> bool:
        """Whether the source of a figure, e.g. `bf16_tflops`, has been read."""
        return figure in dict(self.checked)

    def source(self, figure: str) -> str:
        """Return where a figure comes from, in words."""
        sources: Mapping[str, str] = toml_data.read("gpus")["sources"]
        key = dict(self.checked).get(figure, UNVERIFIED)
        return sources.get(key, key)


@cache
def all_gpus() -> tuple[Gpu, ...]:
    """Return every accelerator of the catalog, in the data file's order."""
    return tuple(_gpu(row) for row in toml_data.read("gpus")["gpu"])


def _gpu(row: Mapping[str, Any]) -> Gpu:
    # A figure that is not in the file does not exist for that device.
    absent = dict.fromkeys(("bf16_tflops", "fp16_tflops", "tf32_tflops", "fp8_tflops", "matmul_best_tflops", "memory_bytes_usable"))
    lists: dict[str, Any] = {name: tuple(row.get(name, ())) for name in ("aliases", "default_for")}
    lists["checked"] = tuple(row.get("checked", {}).items())
    values: dict[str, Any] = {"nvlink_needs_bridge": False, **absent, **row, **lists}
    return Gpu(**values)


NO_BF16 = "this processor has no 16-bit arithmetic, and computes bf16 some forty times slower than fp32"


def cpu(cores: int, memory_gib: float, rates: tuple[CpuRates, ...] = (), *, has_bf16: bool = True) -> Gpu:
    """Return a computer's processor as a `Gpu`. `memory_gib` is what a process may use of it.

    `has_bf16` says whether it has instructions for 16-bit products, or some that stand in for them without much loss.

    Its TFLOP/s are what training sustains on one core times the cores (see the data file), so nothing is expected above them.
    """
    constants = toml_data.read("gpus")["cpu"]
    return Gpu(
        name=CPU,
        full_name=f"{cores} cores of this computer",
        memory_gib=memory_gib,
        memory_bytes_usable=int(memory_gib * units.GIB),
        bandwidth_gb_s=constants["bandwidth_gb_s_per_core"] * cores,
        bf16_tflops=constants["bf16_tflops_per_core" if has_bf16 else "bf16_emulated_tflops_per_core"] * cores,
        fp16_tflops=None,
        tf32_tflops=None,
        fp32_tflops=constants["fp32_tflops_per_core"] * cores,
        fp8_tflops=None,
        matmul_best_tflops=None,
        nvlink_gb_s=0,
        nvlink_needs_bridge=False,
        pcie="",
        tdp_w=None,
        release_year=None,
        compute_capability="",
        checked=tuple((figure, constants["checked"]) for figure in ("bf16_tflops", "fp32_tflops", "bandwidth_gb_s")),
        note="" if has_bf16 else NO_BF16,
        bf16_emulated=not has_bf16,
        cores=cores,
        rates=rates,
    )


# --- names ---------------------------------------------------------------------------------------------------------------


def _normal(name: str) -> str:
    """Reduce a name to lower-case letters and digits, the maker left out."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    while shorter := _MAKERS.sub("", plain):
        if shorter == plain:
            break
        plain = shorter
    return plain


@cache
def _index() -> dict[str, Gpu]:
    return {_normal(alias): gpu for gpu in all_gpus() for alias in (gpu.name, gpu.full_name, *gpu.aliases, *gpu.default_for)}


def resolve(name: str) -> Gpu:
    """Return the accelerator that `name` means: `4090`, `RTX 4090`, `NVIDIA GeForce RTX 4090`, `a100-80gb`.

    `a100` means A100-80GB-PCIe and `h100` H100-80GB-SXM (`default_for` in the data file). `cpu` gives one core with one GiB:
    good for its name; ask `cpu` for this computer's. Raises UsageError with the near miss for a name that is not known, and
    with the choice for one that could be several.
    """
    wanted = _normal(name)
    if wanted == CPU:
        return cpu(cores=1, memory_gib=1.0)
    found = _index().get(wanted)
    if found is not None:
        return found
    family = [gpu.name for gpu in all_gpus() if wanted and _normal(gpu.name).startswith(wanted)]
    if len(family) > 1:
        raise UsageError(f"GPU {name!r} could be {' or '.join(family)}", f"say which, e.g. --gpu {family[0]}")
    raise UsageError(f"unknown GPU {name!r}", _hint(wanted))


def _hint(wanted: str) -> str:
    known = ", ".join((*(gpu.name for gpu in all_gpus()), CPU))
    near = difflib.get_close_matches(wanted, [*_index(), CPU], n=1, cutoff=0.5)
    if not near:
        return f"known: {known}"
    meant = CPU if near[0] == CPU else _index()[near[0]].name
    return f"did you mean {meant!r}? known: {known}"
