"""Mixture of experts: each token passes through the `top_k` of `n_experts` SwiGLU blocks that its router prefers.

Tokens are sorted by expert and multiplied group by group, so none is dropped and nothing is padded. How many tokens an expert gets
never leaves the device: no shape depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from trainer.layers import SwiGLU, gated, wide

if TYPE_CHECKING:
    from trainer.config import ModelConfig


@dataclass(frozen=True)
class Routing:
    """What the auxiliary losses and the metrics are made of."""

    logits: Tensor
    """The router's, [N, n_experts], fp32."""
    load: Tensor
    """Share of the assignments that each expert got, [n_experts], sums to 1."""


class MoE(nn.Module):
    """The experts' matrices are stacked: `gate_up` [E, d_model, 2 d_expert], `down` [E, d_expert, d_model]."""

    balance_votes: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_experts, self.top_k = config.n_experts, config.top_k
        self.router = nn.Linear(config.d_model, config.n_experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(config.n_experts, config.d_model, 2 * config.d_expert))
        self.down = nn.Parameter(torch.empty(config.n_experts, config.d_expert, config.d_model))
        # An expert that every token passes through, beside the chosen ones (DeepSeekMoE, arXiv 2401.06066).
        self.shared = SwiGLU(config.d_model, config.d_shared) if config.d_shared else None
        self.bias_rate = config.balance_bias_rate
        if self.bias_rate:
            # Whole steps of `bias_rate`, so that no cast to a narrow type can lose one.
            self.register_buffer("balance_votes", torch.zeros(config.n_experts, dtype=torch.int32))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Map x [N, d_model] to [N, d_model], and say how it was routed."""
        logits = self.router(x).to(wide(x.dtype))
        chosen, experts = self._choose(logits)
        # The softmax over the chosen logits is the softmax over all of them, renormalised.
        weights = chosen.softmax(-1).to(x.dtype)
        by_expert, order = experts.flatten().sort(stable=True)
        back, token = order.argsort(), order // self.top_k
        bounds = torch.searchsorted(by_expert, torch.arange(self.n_experts + 1, device=x.device), out_int32=True)
        ends = bounds[1:]
        gate_up = grouped_matmul(_Spread.apply(x, token, back), self.gate_up, ends)
        y = grouped_matmul(gated(gate_up), self.down, ends)
        out = _Combine.apply(y, weights, order, token, back)
        if self.shared is not None:
            out = out + self.shared(x)
        return out, Routing(logits, (ends - bounds[:-1]) / len(order))

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and numbers of each token's experts, [N, top_k]."""
        if not self.bias_rate:
            return logits.topk(self.top_k, dim=-1, sorted=False)
        # The bias has a say in the choice, none in the weights.
        preferred = logits.detach().softmax(-1) + self.bias_rate * self.balance_votes
        experts = preferred.topk(self.top_k, dim=-1, sorted=False).indices
        return logits.gather(-1, experts), experts

    @torch.no_grad()
    def vote(self, load: Tensor) -> None:
        """Raise the bias of experts with less than the even load [E], lower the others': balancing without a loss.

        Wang et al. 2024 (arXiv 2408.15664, algorithm 1); called once an optimizer step with the load over all ranks.
        """
        self.balance_votes += torch.sign(1 / self.n_experts - load).to(torch.int32)


class _Spread(torch.autograd.Function):
    """Rows of x [N, D] in the order of their experts, [N k, D]; gradients come back by a gather, not by adding in any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.rows = x.shape[0]
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back).view(ctx.rows, -1, grad.shape[-1]).sum(1), None, None


class _Combine(torch.autograd.Function):
    """The weighted sum [N, D] of each token's k rows of y [N k, D], which are sorted by expert."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, order: Tensor, token: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, order, token, back)
        rows = y.index_select(0, back).view(*weights.shape, y.shape[-1])
        return rows.mul_(weights.unsqueeze(-1)).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        y, weights, order, token, back = ctx.saved_tensors
        spread = grad.index_select(0, token)
        grad_weights = (spread * y).sum(-1).index_select(0, back).view_as(weights)
        return spread.mul_(weights.flatten().index_select(0, order).unsqueeze(-1)), grad_weights, None, None, None


def grouped_matmul(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Multiply consecutive groups of rows of x [N, K] by weights [E, K, M]; group e ends before row `ends[e]` (int32)."""
    return _GroupedMatmul.apply(x, weights, ends)  # type: ignore[no-any-return]


class _GroupedMatmul(torch.autograd.Function):
    """Both gradients are grouped products too: of rows by transposed weights, and of transposed rows by rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights, ends)
        return _product(x, weights, ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights, ends = ctx.saved_tensors
        grad = grad.contiguous()
        return _product(grad, weights.transpose(-2, -1), ends), _product(x.t(), grad, ends), None


def _product(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    if a.dtype == torch.bfloat16 and hasattr(F, "grouped_mm"):
        return F.grouped_mm(a, b, offs=ends)
    return torch.ops.lumina.grouped_mm(a, b, ends)  # type: ignore[no-any-return]


# torch computes `grouped_mm` in other types than bf16 too, but can't say their shapes, which tracing and meta tensors need.
@torch.library.custom_op("lumina::grouped_mm", mutates_args=())
def _grouped_mm(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    if hasattr(F, "grouped_mm") and a.dtype in (torch.float32, torch.float16):
        return F.grouped_mm(a, b, offs=ends)
    return grouped_product_by_loop(a, b, ends)


@_grouped_mm.register_fake
def _(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[-1]) if b.dim() == 3 else (ends.shape[0], a.shape[0], b.shape[-1]))


def grouped_product_by_loop(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    """Do the same one group after the other: for torch without `grouped_mm`, and to test it against.

    a [N, K] by b [E, K, M] gives [N, M]; a [K, N] by b [N, M], both grouped over N, gives [E, K, M].
    """
    cuts = ends[:-1].tolist()
    if b.dim() == 3:
        return torch.cat([rows @ matrix for rows, matrix in zip(a.tensor_split(cuts), b, strict=True)])
    return torch.stack([left @ right for left, right in zip(a.tensor_split(cuts, dim=1), b.tensor_split(cuts), strict=True)])


@register_flop_formula(torch.ops.lumina.grouped_mm)  # type: ignore[untyped-decorator]
def grouped_mm_flops(a: tuple[int, ...], b: tuple[int, ...], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Return the FLOPs of a grouped product from its operands' shapes: each row of one meets one group of the other."""
    return 2 * a[-2] * a[-1] * b[-1]


def auxiliary_losses(routings: list[Routing]) -> tuple[Tensor, Tensor]:
    """Return the load-balancing loss and the router z-loss, each summed over the mixtures of a forward pass.

    Load balancing: E * sum_i f_i P_i, with f_i the share of assignments and P_i the mean probability of expert i; 1 when even
    (Switch Transformer, arXiv 2101.03961, eq. 4-6). Router z-loss: mean of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5).
    """
    balance, z = [], []
    # Depth-routed blocks see fewer tokens than others; those that see equally many are taken together.
    for rows in sorted({routing.logits.shape[0] for routing in routings}):
        alike = [routing for routing in routings if routing.logits.shape[0] == rows]
        logits, load = torch.stack([r.logits for r in alike]), torch.stack([r.load for r in alike])
        balance.append(logits.shape[-1] * (load * logits.softmax(-1).mean(1)).sum())
        z.append(len(alike) * logits.logsumexp(-1).square().mean())
    return torch.stack(balance).sum(), torch.stack(z).sum()


def load_balance(load: Tensor) -> float:
    """Return exp(entropy of the load) / E: the effective share of experts, 1 when all are used alike, 1/E when one is."""
    positive = load[load > 0]
    return float((-(positive * positive.log()).sum()).exp() / load.numel())


def expert_utilisation(load: Tensor) -> float:
    """Return mean over experts of min(1, E * load): the share of the even load that is met, 1 when no expert falls short."""
    return float((load * load.numel()).clamp(max=1).mean())
