"""Mixture of depths: a block that only some tokens of a sequence enter (Raposo et al. 2024, arXiv 2404.02258).

In training the router picks the `capacity` best tokens of each sequence, which looks at later tokens. A small predictor, trained
beside it on detached inputs, learns to tell from a token alone whether it will be picked; evaluation and sampling use the predictor,
so that no later token has a say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainer.config import ModelConfig


@dataclass(frozen=True)
class Entry:
    """Which tokens enter a block."""

    index: Tensor
    """Places of the entering tokens in their sequence, ascending, [B, C]; places beyond the real ones repeat the last token."""
    gate: Tensor
    """Weight of each entering token's update, [B, C]; 0 for padding."""
    predictor_loss: Tensor
    precision: Tensor
    """Share of the tokens that the predictor lets in which the router picks."""
    recall: Tensor
    """Share of the tokens that the router picks which the predictor lets in."""
    share: Tensor
    """Share of all tokens that enter."""


class DepthRouter(nn.Module):
    """Scores tokens, and predicts its own choice."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.score = nn.Linear(config.d_model, 1, bias=False)
        self.hidden = nn.Linear(config.d_model, config.d_predictor)
        self.decide = nn.Linear(config.d_predictor, 1)

    def forward(self, x: Tensor, capacity: int, *, causal: bool) -> Entry:
        """Choose among the tokens of x [B, T, d_model]: the `capacity` best, or, causally, those that the predictor lets in."""
        scores = self.score(x).squeeze(-1).float()
        predicted = self.decide(F.silu(self.hidden(x.detach()))).squeeze(-1).float()
        picked = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(capacity, dim=1).indices, value=True)
        guessed = predicted > 0
        loss = F.binary_cross_entropy_with_logits(predicted, picked.float())
        both = (picked & guessed).sum().float()
        index, valid = _packed(guessed) if causal else (picked.float().topk(capacity, dim=1).indices.sort(1).values, None)
        gate = scores.gather(1, index).sigmoid()
        return Entry(
            index=index,
            gate=gate if valid is None else gate * valid,
            predictor_loss=loss,
            precision=both / guessed.sum().clamp(min=1),
            recall=both / picked.sum().clamp(min=1),
            share=(guessed if causal else picked).float().mean(),
        )


def _packed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of chosen tokens [B, T], in order and padded behind to the longest row, and which of them are real.

    Padding stands behind every real token, so causal attention keeps it out of their sight.
    """
    length = chosen.shape[1]
    longest = max(1, int(chosen.sum(1).max()))
    order = (~chosen).int().argsort(dim=1, stable=True)[:, :longest]
    valid = chosen.gather(1, order)
    return order.where(valid, torch.full_like(order, length - 1)), valid.float()


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Return the tokens of x [B, T, D] at `index` [B, C]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def scatter_add(x: Tensor, index: Tensor, update: Tensor) -> Tensor:
    """Return x [B, T, D] with `update` [B, C, D] added at `index` [B, C]."""
    return x.scatter_add(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]), update.to(x.dtype))
