"""Embedding and language-model loss in one module, so that a tied weight is gathered wherever it is needed.

The loss goes through the head in chunks of tokens, and each chunk's gradient is taken while its logits are there: logits never
exist whole, and none is computed twice (the idea of Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.layers import wide

CHUNK_ELEMENTS = 1 << 25
"""Logits that are held at once: tokens times vocabulary."""


class Vocabulary(nn.Module):
    """Token ids to vectors, and vectors to losses or logits."""

    def __init__(self, vocab: int, d_model: int, *, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab, d_model))
        self.head = None if tied else nn.Parameter(torch.empty(vocab, d_model))

    def forward(self, x: Tensor, targets: Tensor | None = None, *, logits: bool = False) -> Tensor:
        """Return vectors [N, D] of ids [N]; or for vectors [N, D] the mean cross entropy against targets [N], or logits [N, vocab]."""
        if x.dtype == torch.int64:
            return F.embedding(x, self.embedding)
        weight = self.embedding if self.head is None else self.head
        if logits:
            return F.linear(x, weight)
        if targets is None:
            raise ValueError("vectors need targets, or logits=True")
        return cross_entropy(x, weight, targets)


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Return the mean cross entropy in nats, fp32, of x [N, D] @ weight.T [D, V] against targets [N]."""
    rows = max(1, chunk_elements // weight.shape[0])
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _HeadAndLoss.apply(x, weight, targets, rows)  # type: ignore[no-any-return]
    losses = []
    for part, wanted in _chunks(x, targets, rows):
        losses.append(torch.log_softmax(part @ weight.t(), dim=-1, dtype=wide(x.dtype)).gather(1, wanted))
    return -torch.cat(losses).mean()


def _chunks(x: Tensor, targets: Tensor, rows: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(rows), targets.unsqueeze(1).split(rows), strict=True))


class _HeadAndLoss(torch.autograd.Function):
    """The forward pass computes the gradients too, for a loss whose own gradient is 1; the backward pass scales them.

    All chunks use the same memory: asking the system for it anew took a sixth of the head's time on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        total, grad_x, grad_weight = torch.zeros((), dtype=wide(x.dtype), device=x.device), torch.empty_like(x), None
        logits = x.new_empty(min(rows, x.shape[0]), weight.shape[0])
        scores = logits.new_empty(logits.shape, dtype=wide(x.dtype))
        for (part, wanted), (grad_part, _) in zip(_chunks(x, targets, rows), _chunks(grad_x, targets, rows), strict=True):
            n = part.shape[0]
            torch.mm(part, weight.t(), out=logits[:n])
            chosen = torch.log_softmax(logits[:n], -1, dtype=scores.dtype, out=scores[:n])
            total = total - chosen.gather(1, wanted).sum()
            # Softmax less one at the target, in place of the log probabilities.
            grad_logits = chosen.exp_().scatter_add_(1, wanted, chosen.new_full((1, 1), -1.0).expand_as(wanted)).to(x.dtype)
            torch.mm(grad_logits, weight, out=grad_part)
            if grad_weight is None:
                grad_weight = grad_logits.t() @ part
            else:
                # Not `addmm_`, which torch's FLOP counter does not know.
                torch.addmm(grad_weight, grad_logits.t(), part, out=grad_weight)
        ctx.save_for_backward(grad_x, grad_weight)
        return total / x.shape[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        scale = (grad / grad_x.shape[0]).to(grad_x.dtype)
        return grad_x * scale, grad_weight * scale, None, None
