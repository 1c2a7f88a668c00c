"""The learning rate as a pure function of the step: linear warm-up, then a cosine down to a fraction of the peak."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.config import TrainingConfig


def learning_rate(training: TrainingConfig, step: int) -> float:
    """Return the rate of a step (from 0 to steps - 1)."""
    warmup = max(1, round(training.warmup_fraction * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, training.steps - warmup)
    low = training.lr * training.min_lr_ratio
    return low + 0.5 * (training.lr - low) * (1 + math.cos(math.pi * min(1.0, progress)))
