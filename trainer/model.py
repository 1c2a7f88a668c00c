"""The decoder: dense, mixture of experts, mixture of depths, or both, from one configuration.

A block is attention and a feed-forward block, each behind a norm and added to the residual stream. Depth-routed blocks are the
same block, entered by some tokens only and weighted by their router. The vectors of a batch stand below each other: x is
[N, d_model], N = B sequences x T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.attention import Attention, KeyValues
from trainer.layers import RMSNorm, SwiGLU, rotary_table, wide
from trainer.loss import Vocabulary
from trainer.mod import Choice, DepthRouter, predictor_figures, predictor_loss, rows_of
from trainer.moe import MoE, Routing, auxiliary_losses, expert_utilisation, load_balance

if TYPE_CHECKING:
    from trainer.config import ModelConfig
    from trainer.layers import Rotary

INIT_STD = 0.02


@dataclass
class Trace:
    """What the blocks of one forward pass said about their routing."""

    experts: list[Routing] = field(default_factory=list)
    depth: list[Choice] = field(default_factory=list)


class Block(nn.Module):
    """x + attention(norm(x)), then + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = MoE(config) if config.has_experts else SwiGLU(config.d_model, config.d_ff)

    def forward(self, x: Tensor, rotary: Rotary, past: KeyValues | None = None) -> tuple[Tensor, Routing | None]:
        """Map x [N, d_model], its positions' rotations in `rotary`, to the same shape, and say how experts were chosen."""
        x = x + self.attention(self.attention_norm(x), rotary, past)
        update = self.feed_forward(self.feed_forward_norm(x))
        if isinstance(update, tuple):
            return x + update[0], update[1]
        return x + update, None


class RoutedBlock(nn.Module):
    """A block that some tokens of each sequence enter; the others pass by, and are not computed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.router = DepthRouter(config)
        self.block = Block(config)

    def forward(self, x: Tensor, rotary: Rotary, *, causal: bool = False) -> tuple[Tensor, Routing | None, Choice]:
        """Map x [N, d_model] to the same shape, and say how experts and who entered were chosen."""
        length = rotary[0].shape[0]
        entry, choice = self.router(x, length, self.config.capacity_tokens(length), causal=causal)
        rows = rows_of(entry.index, length)
        entering = x.index_select(0, rows)
        y, experts = self.block(entering, (rotary[0][entry.index], rotary[1][entry.index]))
        update = (y - entering) * entry.gate.view(-1, 1).to(y.dtype)
        return x.index_add(0, rows, update), experts, choice

    def following(self, x: Tensor, rotary: Rotary, past: KeyValues) -> Tensor:
        """Map the next tokens x [T, d_model] of one sequence: only those that the predictor lets in enter, and are kept in `past`."""
        enters, gate = self.router.lets_in(x)
        if not enters.any():
            return x
        y, _ = self.block(x[enters], (rotary[0][enters], rotary[1][enters]), past)
        return x.index_put((enters,), x[enters] + (y - x[enters]) * gate[enters].unsqueeze(-1))


class Model(nn.Module):
    """A language model. Weights are initialised by `initialise`, from a seed."""

    def __init__(self, config: ModelConfig, *, recompute_every: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute_every = recompute_every
        """Of every n-th block only the input is kept for the backward pass; 0 keeps all."""
        self.vocabulary = Vocabulary(config.vocab, config.d_model, tied=config.tie_embeddings)
        self.blocks = nn.ModuleList(RoutedBlock(config) if config.is_routed(i) else Block(config) for i in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(self, tokens: Tensor, targets: Tensor, *, causal: bool = False) -> tuple[Tensor, Tensor, Trace]:
        """Return the language-model loss, the auxiliary losses' weighted sum, and the routing, for tokens and targets [B, T].

        With `causal`, depth routing is decided by the predictors: no token is chosen by what comes after it.
        """
        hidden, trace = self._hidden(tokens, causal=causal)
        return self.vocabulary(hidden, targets.flatten()), self._auxiliary(trace, hidden), trace

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, T, vocab] at each of tokens [B, T], decided causally."""
        hidden, _ = self._hidden(tokens, causal=True)
        return self.vocabulary(hidden, logits=True).view(*tokens.shape, -1)  # type: ignore[no-any-return]

    def following(self, tokens: Tensor, start: int, past: list[KeyValues]) -> Tensor:
        """Return the logits [vocab] after one sequence's next tokens [T], which stand at `start` and are kept in `past`.

        More than one token at once only at the start: there is one `KeyValues` a block, all empty.
        """
        x = self.vocabulary(tokens)
        cos, sin = rotary_table(start + len(tokens), self.config.d_head, self.config.rope_theta, x)
        rotary = cos[start:], sin[start:]
        for block, kept in zip(self.blocks, past, strict=True):
            x = block.following(x, rotary, kept) if isinstance(block, RoutedBlock) else block(x, rotary, kept)[0]
        return self.vocabulary(self.norm(x[-1:]), logits=True)[0]  # type: ignore[no-any-return]

    def _hidden(self, tokens: Tensor, *, causal: bool) -> tuple[Tensor, Trace]:
        x, trace = self.vocabulary(tokens.flatten()), Trace()
        rotary = rotary_table(tokens.shape[1], self.config.d_head, self.config.rope_theta, x)
        for number, block in enumerate(self.blocks):
            options = {"causal": causal} if isinstance(block, RoutedBlock) else {}
            if self.recompute_every and number % self.recompute_every == 0 and torch.is_grad_enabled():
                x, experts, *depth = checkpoint(block, x, rotary, use_reentrant=False, **options)
            else:
                x, experts, *depth = block(x, rotary, **options)
            trace.depth += depth
            if experts is not None:
                trace.experts.append(experts)
        return self.norm(x), trace

    def _auxiliary(self, trace: Trace, like: Tensor) -> Tensor:
        config, total = self.config, like.new_zeros((), dtype=wide(like.dtype))
        if trace.experts:
            balance, z = auxiliary_losses(trace.experts)
            total = total + config.balance_weight * balance + config.router_z_weight * z
        if trace.depth:
            total = total + config.predictor_weight * predictor_loss(trace.depth)
        return total


def initialise(model: Model, seed: int) -> None:
    """Draw all weights: normal with deviation 0.02, projections into the residual stream by 1 / sqrt(2 n_layers) smaller (GPT-2)."""
    generator = torch.Generator(device=model.norm.weight.device).manual_seed(seed)
    residual = INIT_STD / math.sqrt(2 * model.config.n_layers)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            std = residual if name.endswith(("attention.out.weight", "down.weight", "feed_forward.down")) else INIT_STD
            nn.init.normal_(parameter, std=std, generator=generator)


def balance_experts(model: Model, trace: Trace) -> None:
    """Let every mixture of experts vote on its bias after an optimizer step; nothing where the option is off.

    `trace` holds the loads over all ranks. See `MoE.vote`.
    """
    mixtures = [module for module in model.modules() if isinstance(module, MoE) and module.bias_rate]
    for mixture, routing in zip(mixtures, trace.experts, strict=False):
        mixture.vote(routing.load)


def routing_figures(trace: Trace) -> dict[str, float]:
    """Return the routing of a forward pass as figures for the metrics; empty for a dense model. Reads from the device."""
    figures: dict[str, float] = {}
    if trace.experts:
        loads = [routing.load.detach() for routing in trace.experts]
        figures["expert_utilisation"] = sum(map(expert_utilisation, loads)) / len(loads)
        figures["load_balance"] = sum(map(load_balance, loads)) / len(loads)
    for choice in trace.depth:
        for name, value in predictor_figures(choice).items():
            figures[name] = figures.get(name, 0.0) + value / len(trace.depth)
    return figures
