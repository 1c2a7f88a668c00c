"""Embedding and language-model loss in one module, so that a tied weight is gathered wherever it is needed.

The loss goes through the head in chunks of tokens that are computed again in the backward pass: logits never exist whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 25
"""Logits that are held at once: tokens times vocabulary."""


class Vocabulary(nn.Module):
    """Token ids to vectors, and vectors to losses or logits."""

    def __init__(self, vocab: int, d_model: int, *, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab, d_model))
        self.head = None if tied else nn.Parameter(torch.empty(vocab, d_model))

    def forward(self, x: Tensor, targets: Tensor | None = None, *, logits: bool = False) -> Tensor:
        """Return embeddings of ids [B, T]; or for vectors [B, T, D] the mean cross entropy against targets [B, T], or logits."""
        if x.dtype == torch.int64:
            return F.embedding(x, self.embedding)
        weight = self.embedding if self.head is None else self.head
        if logits:
            return F.linear(x, weight)
        if targets is None:
            raise ValueError("vectors need targets, or logits=True")
        return chunked_cross_entropy(x.flatten(0, 1), weight, targets.flatten())


def chunked_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy in nats of x [N, D] @ weight.T [D, V] against targets [N], in fp32."""
    rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
    if x.shape[0] <= rows:
        return _sum_of_losses(x, weight, targets) / targets.numel()
    total = x.new_zeros((), dtype=torch.float32)
    for part, target in zip(x.split(rows), targets.split(rows), strict=True):
        total = total + checkpoint(_sum_of_losses, part, weight, target, use_reentrant=False)
    return total / targets.numel()


def _sum_of_losses(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), targets, reduction="sum")
