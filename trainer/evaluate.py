"""Validation loss, perplexity and bits per byte on the held-out split, decided causally: no token is chosen by what comes after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.batches import Windows
    from trainer.shards import Index

BATCH = 8


@torch.no_grad()
def validation_loss(engine: Any, windows: Windows, rank: int, world: int, tick: Callable[[str], None]) -> float:
    """Return the mean loss in nats per token over all sequences of `windows`, which the ranks share."""
    model, device = engine.module, engine.device
    model.eval()
    # Under ZeRO-3 every forward pass gathers weights from all ranks, so each does the same number of them.
    batches = math.ceil(len(windows) / (BATCH * world))
    total = torch.zeros(2, dtype=torch.float64)
    for number in range(batches):
        first = (number * world + rank) * BATCH
        part = list(range(first, min(first + BATCH, len(windows))))
        inputs, targets = (rows.to(device) for rows in windows.batch(part or [0]))
        loss, *_ = (
            model(inputs, targets, causal=True) if engine.zero_optimization_stage() == 3 else model.forward(inputs, targets, causal=True)
        )
        total += torch.tensor([float(loss) * len(part), len(part)], dtype=torch.float64)
        tick(f"evaluation batch {number}")
    model.train()
    if world > 1:
        dist.all_reduce(total)
    return float(total[0] / total[1])


def perplexity(loss: float) -> float:
    """Return e to the loss; what no float can hold is the largest one."""
    return math.exp(min(loss, 700.0))


def bits_per_byte(loss: float, index: Index) -> float:
    """Return a loss in nats per token as bits per byte of text: comparable across tokenizers, as nats per token are not.

    Tokens and bytes are the whole validation split's.
    """
    return loss / math.log(2) * index.count("validation") / index.validation_bytes
