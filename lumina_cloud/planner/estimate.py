"""What the planner says of a workload on a machine: figures with a low, a middle and a high, and what they rest on.

Memory is GiB per GPU; tokens per second, hours and dollars are of the whole machine. An interval is meant to hold the truth
four times out of five.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from decimal import Decimal

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.costs import Costs
    from lumina_cloud.planner.duration import Parts
    from trainer.config import RunConfig


@dataclass(frozen=True)
class Interval:
    """A figure and how far it may be off. Raises ValueError unless 0 <= low <= mid <= high, all finite."""

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.mid <= self.high and math.isfinite(self.high)):
            raise ValueError(f"not an interval: {self.low}, {self.mid}, {self.high}")


@dataclass(frozen=True)
class MoneyInterval:
    """Dollars and how far they may be off. Raises ValueError unless 0 <= low <= mid <= high."""

    low: Decimal
    mid: Decimal
    high: Decimal

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.mid <= self.high:
            raise ValueError(f"not an interval: {self.low}, {self.mid}, {self.high}")


@dataclass(frozen=True)
class MemoryItem:
    """One thing that takes memory on each GPU."""

    name: str
    gib: float


@dataclass(frozen=True)
class Machine:
    """What can be rented: `count` GPUs of one kind in one box, at a price for the whole of it."""

    provider: str
    gpu: Gpu
    count: int
    usd_per_hour: Decimal
    interruptible: bool


@dataclass(frozen=True)
class Estimate:
    """What a workload takes on a machine in a layout."""

    memory_gib: Interval
    """Of the whole process on each GPU."""
    reported_gib: Interval
    """What the trainer will report as its peak: on a GPU what torch's allocator has given out, without the context."""
    usable_memory_gib: float
    memory_items: tuple[MemoryItem, ...]
    """They add up to `memory_gib.mid`."""
    tokens_per_second: Interval
    hours: Interval
    """The whole rental: start-up, data, training, checkpoints, evaluation."""
    usd: MoneyInterval
    loss: Interval
    """Validation loss at the end, nats per token."""
    fits: bool
    """Whether even `memory_upper_gib` is usable."""
    config: RunConfig
    """The workload with layout and device filled in: what the trainer is given."""
    host_memory_gib: float = 0.0
    """What offloading needs of the machine's main memory, all GPUs together."""
    basis: Literal["modelled", "measured"] = "modelled"
    memory_upper_gib: float = 0.0
    """Per GPU, not exceeded in 95 cases of 100: what `fits` goes by."""
    parts: Parts | None = None
    """The expected hours by part."""
    costs: Costs | None = None
    """The expected dollars by part."""
    checkpoint_gib: float = 0.0
    checkpoint_minutes_best: float | None = None
    """Between checkpoints on an interruptible machine, after Young and Daly."""
    modelled: tuple[tuple[str, float], ...] = ()
    """Middle values before the ledger's runs had a say: tokens_per_second, reported (peak memory in GiB), overhead
    (hours beside training), loss."""
    runs: int = 0
    """Finished runs that the speed rests on; 0 where it is modelled alone."""

    @property
    def heavier(self) -> float:
        """How many times the memory that is counted runs report."""
        return self.reported_gib.mid / dict(self.modelled).get("reported", self.reported_gib.mid)
