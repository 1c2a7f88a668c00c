"""Why a training run ends before its last step, and with which exit code.

    Ended
    ├── DataError       2  the data is missing, unreadable, damaged or too short
    ├── LossNotFinite   3  the loss is infinite, not a number, or a spike
    ├── CannotWrite     4  the disk is full or not writable
    ├── Stuck           5  a rank gave no sign of life
    ├── OutOfMemory     6  not even the smallest micro batch fits
    └── Stopped        75  asked to stop; a checkpoint was written where there was something to keep

A configuration that is refused leaves with 2 as well (`trainer.config.ConfigError`), success with 0.
"""

from __future__ import annotations

from typing import ClassVar


class Ended(Exception):
    """A run ended early. The message says why and what to do; `code` is the process's exit code."""

    code: ClassVar[int] = 1
    reason: ClassVar[str] = "crashed"


class DataError(Ended):
    """The text to train on is missing, empty, damaged or unreadable."""

    code, reason = 2, "refused"


class LossNotFinite(Ended):
    """The loss became infinite, not a number, or jumped: going on would only cost money."""

    code, reason = 3, "loss_not_finite"


class CannotWrite(Ended):
    """A checkpoint or a result cannot be written: going on would risk what was trained."""

    code, reason = 4, "disk_full"


class Stuck(Ended):
    """A rank, or all of them, gave no sign of life for too long."""

    code, reason = 5, "stuck"


class OutOfMemory(Ended):
    """The memory does not suffice for this micro batch."""

    code, reason = 6, "out_of_memory"


class Stopped(Ended):
    """Asked to stop; a checkpoint was written where there was something to keep."""

    code, reason = 75, "stopped"
