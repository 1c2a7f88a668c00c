"""The decoder: dense, mixture of experts, mixture of depths, or both, from one configuration.

A block is attention and a feed-forward block, each behind a norm and added to the residual stream. Depth-routed blocks are the
same block, entered by some tokens only and weighted by their router.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.attention import Attention
from trainer.layers import RMSNorm, SwiGLU
from trainer.loss import Vocabulary
from trainer.mod import DepthRouter, gather, scatter_add
from trainer.moe import MoE, Routing, expert_utilisation, load_balance

if TYPE_CHECKING:
    from trainer.config import ModelConfig
    from trainer.mod import Entry

INIT_STD = 0.02


@dataclass
class Trace:
    """What the blocks of one forward pass said about their routing."""

    experts: list[Routing]
    depth: list[Entry]


class Block(nn.Module):
    """x + attention(norm(x)), then + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = MoE(config) if config.has_experts else SwiGLU(config.d_model, config.d_ff)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Routing | None]:
        """Map x [B, T, d_model] at `positions` to the same shape, and say how experts were chosen."""
        x = x + self.attention(self.attention_norm(x), positions)
        update = self.feed_forward(self.feed_forward_norm(x))
        if isinstance(update, tuple):
            return x + update[0], update[1]
        return x + update, None


class RoutedBlock(nn.Module):
    """A block that some tokens of each sequence enter; the others pass by."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.router = DepthRouter(config)
        self.block = Block(config)

    def forward(self, x: Tensor, positions: Tensor, *, causal: bool) -> tuple[Tensor, Routing | None, Entry]:
        """Map x [B, T, d_model] to the same shape, and say who entered."""
        entry = self.router(x, self.config.capacity_tokens(x.shape[1]), causal=causal)
        entering = gather(x, entry.index)
        y, experts = self.block(entering, positions[entry.index])
        update = (y - entering) * entry.gate.unsqueeze(-1).to(y.dtype)
        return scatter_add(x, entry.index, update), experts, entry


class Model(nn.Module):
    """A language model. Weights are initialised by `initialise`, from a seed."""

    def __init__(self, config: ModelConfig, *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.recompute = recompute
        self.vocabulary = Vocabulary(config.vocab, config.d_model, tied=config.tie_embeddings)
        self.blocks = nn.ModuleList(RoutedBlock(config) if config.is_routed(i) else Block(config) for i in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(self, tokens: Tensor, targets: Tensor, *, causal: bool = False) -> tuple[Tensor, Tensor, Trace]:
        """Return the language-model loss, the auxiliary losses' weighted sum, and the routing, for tokens and targets [B, T]."""
        hidden, trace = self._hidden(tokens, causal=causal)
        return self.vocabulary(hidden, targets), self._auxiliary(trace, hidden), trace

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the next token's logits [B, vocab] after tokens [B, T], with no look at what is not there yet."""
        hidden, _ = self._hidden(tokens, causal=True)
        return self.vocabulary(hidden[:, -1:], logits=True)[:, 0]

    def _hidden(self, tokens: Tensor, *, causal: bool) -> tuple[Tensor, Trace]:
        x, trace = self.vocabulary(tokens), Trace([], [])
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        for block in self.blocks:
            options = {"causal": causal} if isinstance(block, RoutedBlock) else {}
            if self.recompute and torch.is_grad_enabled():
                x, experts, *depth = checkpoint(block, x, positions, use_reentrant=False, **options)
            else:
                x, experts, *depth = block(x, positions, **options)
            trace.depth += depth
            if experts is not None:
                trace.experts.append(experts)
        return self.norm(x), trace

    def _auxiliary(self, trace: Trace, like: Tensor) -> Tensor:
        config, total = self.config, like.new_zeros((), dtype=torch.float32)
        for experts in trace.experts:
            total = total + config.balance_weight * experts.balance_loss + config.router_z_weight * experts.z_loss
        for entry in trace.depth:
            total = total + config.predictor_weight * entry.predictor_loss
        return total


def initialise(model: Model, seed: int) -> None:
    """Draw all weights: normal with deviation 0.02, projections into the residual stream by 1 / sqrt(2 n_layers) smaller (GPT-2)."""
    generator = torch.Generator().manual_seed(seed)
    residual = INIT_STD / math.sqrt(2 * model.config.n_layers)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            std = residual if name.endswith(("attention.out.weight", "feed_forward.down.weight", "feed_forward.down")) else INIT_STD
            nn.init.normal_(parameter, std=std, generator=generator)


def routing_figures(trace: Trace) -> dict[str, float]:
    """Return the routing of a forward pass as figures for the metrics; empty for a dense model."""
    figures: dict[str, float] = {}
    if trace.experts:
        loads = [routing.load.detach() for routing in trace.experts]
        figures["expert_utilisation"] = sum(map(expert_utilisation, loads)) / len(loads)
        figures["load_balance"] = sum(map(load_balance, loads)) / len(loads)
    if trace.depth:
        n = len(trace.depth)
        figures["skip_rate"] = 1 - sum(float(e.share) for e in trace.depth) / n
        figures["predictor_precision"] = sum(float(e.precision) for e in trace.depth) / n
        figures["predictor_recall"] = sum(float(e.recall) for e in trace.depth) / n
    return figures
