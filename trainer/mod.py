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

from trainer.layers import wide

if TYPE_CHECKING:
    from trainer.config import ModelConfig


@dataclass(frozen=True)
class Choice:
    """Which tokens the router picks and which the predictor would, for the predictor's loss and the metrics."""

    picked: Tensor
    """1 where the router picks, [B, T], fp32."""
    predicted: Tensor
    """The predictor's logits, [B, T]; it lets a token in above 0."""
    entered: Tensor | None
    """Which tokens did enter, [B, T], where that was the predictor's decision."""


def predictor_loss(choices: list[Choice]) -> Tensor:
    """Return the sum over blocks of the predictor's mean binary cross entropy against its router's choice."""
    predicted, picked = torch.stack([c.predicted for c in choices]), torch.stack([c.picked for c in choices])
    return len(choices) * F.binary_cross_entropy_with_logits(predicted, picked)


@dataclass(frozen=True)
class Entry:
    """The tokens that enter a block: C of each sequence."""

    index: Tensor
    """Places of the entering tokens in their sequence, ascending, [B, C]; places beyond the real ones repeat the last token."""
    gate: Tensor
    """Weight of each entering token's update, [B, C]; 0 for padding."""


class DepthRouter(nn.Module):
    """Scores tokens, and predicts its own choice."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.score = nn.Linear(config.d_model, 1, bias=False)
        self.hidden = nn.Linear(config.d_model, config.d_predictor)
        self.decide = nn.Linear(config.d_predictor, 1)

    def forward(self, x: Tensor, length: int, capacity: int, *, causal: bool) -> tuple[Entry, Choice]:
        """Choose among the tokens of x [B x `length`, d_model]: the `capacity` best, or, causally, those that the predictor lets in."""
        scores = self.score(x).view(-1, length).to(wide(x.dtype))
        predicted = self.decide(F.silu(self.hidden(x.detach()))).view(-1, length).to(wide(x.dtype))
        index = scores.topk(capacity, dim=1, sorted=False).indices.sort(dim=1).values
        picked = torch.zeros_like(predicted).scatter_(1, index, 1.0)
        if not causal:
            return Entry(index, scores.gather(1, index).sigmoid()), Choice(picked, predicted, None)
        entered = predicted > 0
        index, valid = _packed(entered)
        return Entry(index, scores.gather(1, index).sigmoid() * valid), Choice(picked, predicted, entered)

    def lets_in(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Say for each token x [N, d_model] by itself whether it enters, and the weight of its update, both [N]."""
        return self.decide(F.silu(self.hidden(x))).squeeze(-1) > 0, self.score(x).squeeze(-1).sigmoid()


def _packed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of chosen tokens [B, T], in order and padded behind to the longest row, and which of them are real.

    Padding stands behind every real token, so causal attention keeps it out of their sight. Reads the longest row's length from the
    device: for evaluation only.
    """
    length = chosen.shape[1]
    longest = max(1, int(chosen.sum(1).max()))
    order = (~chosen).int().argsort(dim=1, stable=True)[:, :longest]
    valid = chosen.gather(1, order)
    return order.where(valid, torch.full_like(order, length - 1)), valid.to(torch.float32)


def rows_of(index: Tensor, length: int) -> Tensor:
    """Return the rows in x [B x length, D] of the places `index` [B, C], as [B x C]."""
    return (index + torch.arange(0, index.shape[0] * length, length, device=index.device).unsqueeze(1)).flatten()


def predictor_figures(choice: Choice) -> dict[str, float]:
    """Return the share of tokens that skip the block, and the predictor's precision and recall against the router's choice."""
    guessed, picked = choice.predicted > 0, choice.picked > 0
    entered = picked if choice.entered is None else choice.entered
    both = float((picked & guessed).sum())
    return {
        "skip_rate": 1 - float(entered.float().mean()),
        "predictor_precision": both / max(1.0, float(guessed.sum())),
        "predictor_recall": both / max(1.0, float(picked.sum())),
    }
