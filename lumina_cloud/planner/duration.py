"""Hours of a whole rental, and what they cost: start-up, data, steps, checkpoints, evaluation, interruptions.

The parts are those that the published document breaks its training times into. Figures about rented machines are assumptions
until runs have been measured; each is a (low, mid, high).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core import money
from lumina_cloud.planner.estimate import Interval, Machine, MoneyInterval
from trainer.config import count_parameters

if TYPE_CHECKING:
    from lumina_cloud.planner.throughput import Throughput
    from trainer.config import RunConfig

RENTED_START_HOURS = (3 / 60, 8 / 60, 20 / 60)
"""Boot, image, packages. One measured Lambda A100 took 3.5 minutes from launch to SSH."""
LOCAL_START_HOURS = (8 / 3600, 20 / 3600, 60 / 3600)

TOKENS_PREPARED_PER_SECOND = (8e5, 2e6, 5e6)
"""Streamed, tokenized and written by a rented machine's cores."""
TOKENS_PREPARED_PER_CORE_SECOND = (8e4, 2.5e5, 6e5)
"""The same by one core of this computer (the Python library's own text: 2.7e5 measured on one thread)."""

CHECKPOINT_BYTES_PER_PARAMETER = 14
"""bf16 weights, fp32 master weights and two moments."""
CHECKPOINT_BYTES_PER_SECOND = (3e8, 8e8, 2e9)
"""To the machine's own disk, training stopped meanwhile."""
CHECKPOINTS_AT_LEAST = 10

EVALUATION_SPEEDUP = 3.0
"""Forward passes only, against training."""
SMALLEST_SHARE_HELD_OUT = 20
"""At most one token in so many is held out."""

INTERRUPTIONS_PER_HOUR = (0.0, 1 / 24, 1 / 4)
"""Of an interruptible machine. An assumption: hosts differ widely and publish nothing."""


@dataclass(frozen=True)
class Parts:
    """Hours of a rental by part."""

    start_up: float
    data: float
    training: float
    checkpoints: float
    evaluation: float
    interruptions: float

    @property
    def total(self) -> float:
        """Hours from the first billed second to the last."""
        return self.start_up + self.data + self.training + self.checkpoints + self.evaluation + self.interruptions


@dataclass(frozen=True)
class Duration:
    """Where the hours go as expected, and the range of the whole."""

    expected: Parts
    hours: Interval


def duration(config: RunConfig, machine: Machine, speed: Throughput) -> Duration:
    """Estimate the hours of training `config` on `machine` at `speed`."""
    s = speed.tokens_per_second
    low, mid, high = (_parts(config, machine, tokens_per_second, case) for case, tokens_per_second in ((0, s.high), (1, s.mid), (2, s.low)))
    return Duration(mid, Interval(low.total, mid.total, high.total))


def cost(machine: Machine, hours: Interval) -> MoneyInterval:
    """Return what a rental of `hours` costs, billed by the second as these providers do."""
    return MoneyInterval(*(money.for_hours(machine.usd_per_hour, h) for h in (hours.low, hours.mid, hours.high)))


def _parts(config: RunConfig, machine: Machine, tokens_per_second: float, case: int) -> Parts:
    """Hours of each part; `case` 0 is fast, 1 expected, 2 slow."""
    training = config.training
    local = machine.gpu.device == "cpu"
    start_up = (LOCAL_START_HOURS if local else RENTED_START_HOURS)[case]
    rates = tuple(machine.gpu.cores * r for r in TOKENS_PREPARED_PER_CORE_SECOND) if local else TOKENS_PREPARED_PER_SECOND
    data = (training.unique_tokens + _held_out(config)) / rates[2 - case] / 3600
    steps = training.tokens / tokens_per_second / 3600
    written = CHECKPOINT_BYTES_PER_PARAMETER * count_parameters(config.model).total / CHECKPOINT_BYTES_PER_SECOND[2 - case] / 3600
    n_checkpoints = max(CHECKPOINTS_AT_LEAST, steps * 60 / training.checkpoint_minutes)
    evaluation = 2 * _held_out(config) / (EVALUATION_SPEEDUP * tokens_per_second) / 3600
    working = steps + n_checkpoints * written + evaluation
    # Each interruption loses half of what lies between two checkpoints, and starts a machine again.
    lost = min(training.checkpoint_minutes / 60, steps / CHECKPOINTS_AT_LEAST) / 2 + start_up
    interruptions = working * INTERRUPTIONS_PER_HOUR[case] * lost if machine.interruptible else 0.0
    return Parts(start_up, data, steps, n_checkpoints * written, evaluation, interruptions)


def _held_out(config: RunConfig) -> float:
    return min(config.training.validation_tokens, config.training.unique_tokens / SMALLEST_SHARE_HELD_OUT)
