"""A run while it is going on: what its parts share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainer.batches import Loader, Windows
    from trainer.checkpoint import Place, Writer
    from trainer.config import RunConfig
    from trainer.reports import Reports
    from trainer.shards import Index
    from trainer.spikes import Losses
    from trainer.tokenizer import Tokenizer
    from trainer.watch import Watch


@dataclass
class Job:
    """A run while it is going on."""

    config: RunConfig
    out: Path
    place: Place
    watch: Watch
    reports: Reports
    engine: Any
    index: Index
    train: Windows
    validation: Windows
    tokenizer: Tokenizer
    writer: Writer
    losses: Losses
    loader: Loader | None = None
    step: int = 0
    """Steps done."""
    loss_first: float = math.nan
    seconds: float = 0.0
    """Time in steps, of earlier rentals too."""
    first_step_seconds: float = 0.0
    waited: float = 0.0
    """Of that, time in which the step waited for data."""
    peak_gib: float = 0.0
    skipped: int = 0
    """Micro batches that were left out."""
    skipped_steps: int = 0
    """Steps in a row of which nothing was left."""
    routing: dict[str, float] = field(default_factory=dict)
    good: tuple[torch.Tensor, torch.Tensor] | None = None
    """The last micro batch with a usable loss."""
    check_every: int = 1
    """After so many micro batches the ranks ask each other whether to stop."""
    started_after: float | None = None
    """Seconds from the start of the process to the end of the first step."""

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.step * self.config.training.global_batch_tokens
