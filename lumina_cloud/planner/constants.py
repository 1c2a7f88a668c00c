"""The few constants that are fitted to published measurements, from `catalog/data/efficiency.toml`, with their provenance.

`lumina accuracy --physics --fit` writes that file; nothing here reads a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from lumina_cloud.catalog import toml_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.setting import Setting


@dataclass(frozen=True)
class MemoryConstants:
    """How far memory may be from what is counted."""

    reserve: float
    """What torch's allocator reserves above what comes and goes, as a share of it."""
    spread_other: float
    """Standard deviation of the logarithm of measured over counted, for a framework without measurements."""
    upper_other: float
    spread: Mapping[str, float] = field(default_factory=dict)
    """The same by framework, shrunk towards the others'."""
    upper: Mapping[str, float] = field(default_factory=dict)
    """Factor on what comes and goes that 95 runs of 100 stay under, by framework."""

    width: float = 1.28
    """Standard deviations to either side that hold four cases of five."""

    def interval(self, framework: str, *, split: bool) -> float:
        """Return the relative half-width of an interval that holds four cases of five."""
        return math.expm1(self.width * _of(self.spread, framework, self.spread_other, split=split))

    def bound(self, framework: str, *, split: bool) -> float:
        """Return the factor of the bound that decides what fits."""
        return _of(self.upper, framework, self.upper_other, split=split)


SPLIT = "(tensor or pipeline parallel)"
"""Stands for all frameworks where a model is split over GPUs."""


def memory_kind(framework: str, *, split: bool) -> str:
    """Return under which name the spread of a framework's memory is kept."""
    return f"{framework} {SPLIT}" if split else framework


def _of(values: Mapping[str, float], framework: str, other: float, *, split: bool) -> float:
    own = memory_kind(framework, split=split)
    return values.get(own, values.get(SPLIT, other) if split else other)


@cache
def memory_constants() -> MemoryConstants:
    """Return the constants of memory."""
    return MemoryConstants(**toml_data.read("efficiency")["memory"])


@dataclass(frozen=True)
class SpeedConstants:
    """Shares of peaks, and what is known of single frameworks and GPUs beyond them."""

    matmul: float
    """Of the best measured product: wide products of a training step."""
    half_width: float
    """Width at which a matrix product reaches half of that."""
    half_rows: float
    attention: float
    """Of the peak: fused attention's score products, up to the Ampere generation."""
    attention_recent: float
    narrow_heads: float
    """Exponent of (head width / 128)."""
    passes: float
    """How often each kept byte crosses memory, forward and backward."""
    compiled_passes: float
    """The same when compiled, as a share."""
    unfused_passes: float
    """The same where every small operation is a kernel of its own, as a factor."""
    fp8_gain: float
    """Speed of 8-bit products over 16-bit ones, less 1, for infinite width."""
    grouped: float
    """Of the matrix rate: experts' products."""
    grouped_own: float
    """The same of this project's trainer."""
    overlap: float
    """Of the computation: how much communication it can hide."""
    never_hidden: float
    launch_us: float
    frameworks: Mapping[str, float] = field(default_factory=dict)
    """Factor of the speed, shrunk towards 1."""
    gpus: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of the logarithm of measured over estimated speed, by framework, from cross-validation."""
    spread_other: float = 0.25
    width: float = 1.28
    """Standard deviations to either side that hold four cases of five."""

    def factor(self, setting: Setting, gpu: Gpu) -> float:
        """Return what is known of a framework and a GPU beyond the physics."""
        return self.frameworks.get(setting.framework, 1.0) * self.gpus.get(gpu.name, 1.0)

    def interval(self, setting: Setting, gpu: Gpu, *, has_experts: bool, unseen: bool = False) -> tuple[float, float]:
        """Return the interval around the middle, as factors of the speed; `unseen` where nothing was learned from that GPU."""
        if gpu.device == "cpu":
            # Measured on this very processor; or not yet, and processors differ by a factor of three.
            return (1 / 1.2, 1.2) if gpu.measured(setting.arithmetic) else (0.45, 2.0)
        known = setting.framework in self.frameworks
        sd = self.spread.get(setting.framework, self.spread_other) if known else self.spread_other
        if unseen or (gpu.name not in self.gpus and gpu.name != REFERENCE_GPU):
            sd = math.hypot(sd, UNSEEN_GPU_SPREAD)
        if setting.tensor * setting.pipeline * setting.expert > 1 or has_experts or setting.offload != "none":
            sd = max(sd, self.spread_other)
        return math.exp(-self.width * sd), math.exp(self.width * sd)


REFERENCE_GPU = "A100-80GB-SXM"
UNSEEN_GPU_SPREAD = 0.15
"""Added for a GPU without a single measured run: of rows whose GPU was left out, 77 % lie in the interval with 0.12, 88 % with 0.16."""


@cache
def speed_constants() -> SpeedConstants:
    """Return the fitted constants of speed."""
    return SpeedConstants(**toml_data.read("efficiency")["speed"])
