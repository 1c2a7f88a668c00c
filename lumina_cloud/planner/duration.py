"""Hours of a whole rental, by part: start-up, data, warm-up, steps, checkpoints, transfer, evaluation, interruptions.

The parts are those that the published document breaks its training times into, and what it leaves out. Figures about rented machines
are assumptions until runs have been measured; each is (as fast as, expected, as slow as).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.catalog.terms import terms
from lumina_cloud.planner.estimate import Interval, Machine
from trainer.config import CHECKPOINTS_IN_TURN, WRITING_APART, count_parameters

if TYPE_CHECKING:
    from lumina_cloud.planner.throughput import Throughput
    from trainer.config import RunConfig

TOKENS_PREPARED_PER_SECOND = (8e5, 2e6, 5e6)
"""Streamed, tokenized and written by a rented machine's cores."""
TOKENS_PREPARED_PER_CORE_SECOND = (8e4, 2.5e5, 6e5)
"""The same by one core of this computer (the Python library's own text: 2.7e5 measured on one thread)."""

BYTES_PER_TOKEN = 4
"""Of text, before it is tokenized."""
UPLOAD_BYTES_PER_SECOND = (5e5, 2.5e6, 2.5e7)
"""From a home or office to a rented machine: 4, 20 and 200 Mb/s."""
DOWNLOAD_BYTES_PER_SECOND = (2.5e6, 1.2e7, 1e8)

WARM_UP_SECONDS = {"cuda": (5.0, 30.0, 120.0), "cpu": (0.5, 2.0, 10.0)}
"""First steps: kernels are loaded and tuned, the allocator fills."""
FIRST_EPOCH_SLOWER = (0.0, 0.005, 0.03)
"""Of the first pass over the data: pages come from disk."""

CHECKPOINT_BYTES_PER_PARAMETER = 14
"""bf16 weights, fp32 master weights and two moments."""
WEIGHTS_BYTES_PER_PARAMETER = 2
CHECKPOINT_BYTES_PER_SECOND = (3e8, 8e8, 2e9)
"""To the machine's own disk, training stopped meanwhile. A store's upload goes on beside the training, and is not counted."""

EVALUATION_SPEEDUP = 3.0
"""Forward passes only, against training."""
SMALLEST_SHARE_HELD_OUT = 20
"""At most one token in so many is held out."""

MOST_LOST = 0.9
"""Share of the time that interruptions may take before an estimate stops growing: such a machine is not rented."""


@dataclass(frozen=True)
class Parts:
    """Hours of a rental by part."""

    start_up: float
    """Boot, image, packages."""
    data: float
    """Upload of own text, tokenizing, writing."""
    warm_up: float
    """First steps and first epoch, as far as slower than the rest."""
    training: float
    checkpoints: float
    transfer: float
    """Of the result to this computer."""
    evaluation: float
    interruptions: float
    """Work lost and done again, and starting again."""

    @property
    def total(self) -> float:
        """Hours from the first billed second to the last."""
        return (
            self.start_up
            + self.data
            + self.warm_up
            + self.training
            + self.checkpoints
            + self.transfer
            + self.evaluation
            + self.interruptions
        )


@dataclass(frozen=True)
class Duration:
    """Where the hours go as expected, and the range of the whole."""

    expected: Parts
    hours: Interval
    checkpoint_gib: float
    checkpoint_minutes_best: float | None
    """The interval between checkpoints that loses least; None on a machine that is not interrupted."""


def duration(config: RunConfig, machine: Machine, speed: Throughput) -> Duration:
    """Estimate the hours of training `config` on `machine` at `speed`."""
    s = speed.tokens_per_second
    low, mid, high = (_parts(config, machine, rate, case) for case, rate in ((0, s.high), (1, s.mid), (2, s.low)))
    return Duration(
        expected=mid,
        hours=Interval(low.total, mid.total, high.total),
        checkpoint_gib=checkpoint_bytes(config) / 2**30,
        checkpoint_minutes_best=best_interval_minutes(config, machine) if machine.interruptible else None,
    )


def checkpoint_bytes(config: RunConfig) -> float:
    """Return the size of one checkpoint; 0 for a run that only measures."""
    return CHECKPOINT_BYTES_PER_PARAMETER * _saved_parameters(config)


def weights_bytes(config: RunConfig) -> float:
    """Return the size of the weights that come home; 0 for a run that only measures."""
    return WEIGHTS_BYTES_PER_PARAMETER * _saved_parameters(config)


def _saved_parameters(config: RunConfig) -> float:
    return 0.0 if config.training.measure_seconds else float(count_parameters(config.model).total)


def best_interval_minutes(config: RunConfig, machine: Machine) -> float | None:
    """Return the minutes between checkpoints that lose least time: Young 1974 (CACM 17, 530), Daly 2006 (FGCS 22, 303, eq. 20).

    With d the seconds to write one and M the mean seconds between interruptions: sqrt(2 d M) - d, and M where d is above M / 2.
    """
    rate = terms(machine.provider).interruptions_per_hour[1]
    if rate <= 0:
        return None
    write, between = checkpoint_bytes(config) / CHECKPOINT_BYTES_PER_SECOND[1], 3600 / rate
    return (between if write >= between / 2 else math.sqrt(2 * write * between) - write) / 60


def uploaded_bytes(config: RunConfig, machine: Machine) -> float:
    """Return the bytes of own text that go to a rented machine; data that it fetches itself or has costs no upload."""
    own = machine.provider != "local" and config.data.source != "stdlib" and not config.data.source.startswith("hf:")
    return float(BYTES_PER_TOKEN * config.training.unique_tokens) if own else 0.0


def _parts(config: RunConfig, machine: Machine, tokens_per_second: float, case: int) -> Parts:
    """Hours of each part; `case` 0 is fast, 1 expected, 2 slow."""
    training, its = config.training, terms(machine.provider)
    local = machine.gpu.device == "cpu"
    start_up = its.start_minutes[case] / 60
    rates = tuple(machine.gpu.cores * r for r in TOKENS_PREPARED_PER_CORE_SECOND) if local else TOKENS_PREPARED_PER_SECOND
    data = (training.unique_tokens + _held_out(config)) / rates[2 - case] / 3600
    data += uploaded_bytes(config, machine) / UPLOAD_BYTES_PER_SECOND[2 - case] / 3600
    steps = training.tokens / tokens_per_second / 3600
    first_epoch = min(1.0, 1 / training.epochs) * steps
    warm_up = WARM_UP_SECONDS[machine.gpu.device][case] / 3600 + FIRST_EPOCH_SLOWER[case] * first_epoch
    written = checkpoint_bytes(config) / CHECKPOINT_BYTES_PER_SECOND[2 - case] / 3600
    between = min(training.checkpoint_minutes / 60, max(steps / CHECKPOINTS_IN_TURN, WRITING_APART * written))
    # The first tenth's and the last step's are always written.
    checkpoints = max(2.0, steps / between) * written
    transfer = 0.0 if machine.provider == "local" else weights_bytes(config) / DOWNLOAD_BYTES_PER_SECOND[2 - case] / 3600
    evaluation = 2 * _held_out(config) / (EVALUATION_SPEEDUP * tokens_per_second) / 3600
    working = steps + checkpoints + evaluation
    interruptions = 0.0
    if machine.interruptible:
        # Each interruption loses half of what lies between two checkpoints, and starts a machine again; lost time is interrupted too.
        lost = min(between, steps) / 2 + start_up
        share = min(MOST_LOST, its.interruptions_per_hour[case] * lost)
        interruptions = working * share / (1 - share)
    return Parts(start_up, data, warm_up, steps, checkpoints, transfer, evaluation, interruptions)


def _held_out(config: RunConfig) -> float:
    return min(config.training.validation_tokens, config.training.unique_tokens / SMALLEST_SHARE_HELD_OUT)
