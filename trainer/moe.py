"""Mixture of experts: each token passes through the `top_k` of `n_experts` SwiGLU blocks that its router prefers.

Tokens are sorted by expert and multiplied group by group, so none is dropped and nothing is padded.
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
class Routing:
    """What the auxiliary losses and the metrics are made of."""

    balance_loss: Tensor
    z_loss: Tensor
    load: Tensor
    """Share of the assignments that each expert got, [n_experts], sums to 1."""


class MoE(nn.Module):
    """The experts' matrices are stacked: `gate_up` [E, d_model, 2 d_expert], `down` [E, d_expert, d_model]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_experts, self.top_k = config.n_experts, config.top_k
        self.router = nn.Linear(config.d_model, config.n_experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(config.n_experts, config.d_model, 2 * config.d_expert))
        self.down = nn.Parameter(torch.empty(config.n_experts, config.d_expert, config.d_model))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Map x [..., d_model] to [..., d_model], and say how it was routed."""
        flat = x.reshape(-1, x.shape[-1])
        logits = self.router(flat).float()
        probabilities = logits.softmax(-1)
        weights, experts = probabilities.topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = experts.flatten().argsort(stable=True)
        tokens = order // self.top_k
        counts = F.one_hot(experts, self.n_experts).sum((0, 1))
        y = self._experts(flat[tokens], counts)
        y = y * weights.flatten()[order].unsqueeze(-1).to(y.dtype)
        out = torch.zeros_like(flat).index_add(0, tokens, y.to(flat.dtype))
        return out.view_as(x), routing(logits, probabilities, counts)

    def _experts(self, x: Tensor, counts: Tensor) -> Tensor:
        """Apply each expert to its rows of x, which are sorted by expert; `counts` [n_experts] says how many each has."""
        gate, up = grouped_matmul(x, self.gate_up, counts).chunk(2, dim=-1)
        return grouped_matmul(F.silu(gate) * up, self.down, counts)


def grouped_matmul(x: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Multiply consecutive groups of rows of x [N, K], `counts` [E] rows each, by weights [E, K, M]."""
    if hasattr(F, "grouped_mm"):
        return F.grouped_mm(x, weights, offs=counts.cumsum(0).to(torch.int32))
    return grouped_matmul_by_loop(x, weights, counts)


def grouped_matmul_by_loop(x: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Do the same one expert after the other: for torch without `grouped_mm`, and to test it against."""
    groups = x.split(counts.tolist())
    return torch.cat([group @ weight for group, weight in zip(groups, weights, strict=True)])


def routing(logits: Tensor, probabilities: Tensor, counts: Tensor) -> Routing:
    """Return the auxiliary losses of N routed tokens, from logits and probabilities [N, E] and assignments [E].

    Load balancing: E * sum_i f_i P_i, with f_i the share of assignments and P_i the mean probability of expert i; 1 when even
    (Switch Transformer, arXiv 2101.03961, eq. 4-6). Router z-loss: mean of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5).
    """
    load = counts.to(logits.dtype) / counts.sum()
    balance = probabilities.shape[-1] * (load * probabilities.mean(0)).sum()
    return Routing(balance, logits.logsumexp(-1).square().mean(), load)


def load_balance(load: Tensor) -> float:
    """Return exp(entropy of the load) / E: the effective share of experts, 1 when all are used alike, 1/E when one is."""
    positive = load[load > 0]
    return float((-(positive * positive.log()).sum()).exp() / load.numel())


def expert_utilisation(load: Tensor) -> float:
    """Return mean over experts of min(1, E * load): the share of the even load that is met, 1 when no expert falls short."""
    return float((load * load.numel()).clamp(max=1).mean())
