"""Where a rented run's work is kept: pure arithmetic of sizes and times.

A full checkpoint is what lets another machine go on: weights, fp32 master copy and two moments, 14 bytes a parameter (98 GB for 7
billion). It comes home while it is small enough to arrive within the interval in which checkpoints are written; a larger one has to
stay near the machine, in object storage that the user names. Weights and results always come home.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lumina_cloud.core import units
from lumina_cloud.core.errors import RefusedError

BYTES_PER_PARAMETER = 14
WEIGHT_BYTES_PER_PARAMETER = 2
HOME_MBIT = 100.0
"""What a line at home takes; many take more, and are then served sooner."""
STORE_MBIT = 1000.0
"""What a data centre's machine gives to object storage."""


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go, how large one is, and how long it takes; `home_seconds` is for what comes home at the end."""

    where: Literal["home", "store"]
    checkpoint_bytes: int
    checkpoint_seconds: float
    interval_seconds: float
    home_bytes: int
    home_seconds: float


LEAST_MINUTES = 1.0
"""Between checkpoints of a machine that may be taken away: a smaller model saves in a second, and its machine has other things to do."""


def minutes_between(parameters: int, best: float, usual: float, store: str | None) -> float:
    """Return the minutes between checkpoints of a run that may lose its machine: the best for that, if one can be kept within them.

    `best` is the interval that loses least, `usual` the one that any other run has.
    """
    needed = _seconds_away(BYTES_PER_PARAMETER * parameters, _mbit(store)) / 60
    return round(max(LEAST_MINUTES, best, min(usual, 1.1 * needed)), 2)


def decide(parameters: int, *, checkpoint_minutes: float, store: str | None) -> Keeping:
    """Return where the work is kept. Raises RefusedError for a plan that cannot save within its checkpoint interval."""
    size, weights = BYTES_PER_PARAMETER * parameters, WEIGHT_BYTES_PER_PARAMETER * parameters
    rate = _mbit(store)
    seconds, interval = _seconds_away(size, rate), checkpoint_minutes * 60
    made = Keeping("home" if store is None else "store", size, seconds, interval, weights, _seconds_away(weights, HOME_MBIT))
    if seconds <= interval:
        return made
    to = "home" if store is None else "to the object storage"
    least = int(seconds // 60) + 1
    hint = f"save less often (--set checkpoint_minutes={least})"
    if store is None:
        hint = f"keep checkpoints near the machine (--store s3://bucket/path), or {hint}"
    raise RefusedError(
        f"a checkpoint of this run has {size / 1e9:.0f} GB, and takes {units.duration(seconds)} {to} at {rate:.0f} Mbit/s: "
        f"longer than the {units.duration(interval)} between two of them",
        hint,
    )


def _mbit(store: str | None) -> float:
    return HOME_MBIT if store is None else STORE_MBIT


def _seconds_away(n_bytes: int, mbit: float) -> float:
    """Return how long bytes take on a line of so many Mbit/s."""
    return n_bytes * 8 / (mbit * 1e6)
