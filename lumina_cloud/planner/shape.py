"""A decoder-only transformer as arithmetic sees it: widths, parameters by part, FLOPs per token.

Two things become a `Shape`: a model of this project (`of_model`, counted by `trainer.config`), and any other model that a person
describes by its dimensions (`dense_or_experts`). Everything else in the planner counts from a `Shape` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from trainer.config import count_flops, count_parameters

if TYPE_CHECKING:
    from trainer.config import ModelConfig

CAUSAL_SHARE = 0.5
"""Of the score products of a full square: attention kernels skip the tiles above the diagonal."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward pass per token, a multiply-add being two."""

    dense: float
    """Attention's projections, and feed-forward blocks that are no experts."""
    experts: float
    """Matrix products over groups of tokens, one group an expert."""
    routing: float
    scores: float
    """QK^T and its product with the values over the whole square of the sequence."""
    head: float

    @property
    def forward_causal(self) -> float:
        """All of it, with the causal half of the scores."""
        return self.dense + self.experts + self.routing + CAUSAL_SHARE * self.scores + self.head


@dataclass(frozen=True)
class Shape:
    """Widths in elements, `vocab` in tokens, parameters in numbers."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    """Of the dense block, or of one expert."""
    gated: bool
    """Whether the feed-forward block has a gate (SwiGLU): three matrices, not two."""
    vocab: int
    n_experts: int
    """0 for a dense model."""
    top_k: int
    n_routed: int
    """Blocks that only some tokens enter (mixture of depths)."""
    entering: float
    """The share of tokens that enters one of those."""
    parameters: int
    expert_parameters: int
    """The part that expert parallelism spreads."""
    embedding_parameters: int
    """Embedding and head."""
    active_parameters: int
    flops: Flops
    d_shared: int = 0
    """Of an expert that every token passes."""
    d_predictor: int = 0
    """Of the hidden layer that predicts which tokens enter a depth-routed block."""
    qk_norm: bool = False

    @property
    def d_q(self) -> int:
        """Width of all query heads."""
        return self.n_heads * self.d_head

    @property
    def d_kv(self) -> int:
        """Width of all key (or value) heads."""
        return self.n_kv_heads * self.d_head

    @property
    def blocks(self) -> float:
        """Layers as a token meets them: a depth-routed one counts by the share of tokens that enters."""
        return self.n_layers - self.n_routed + self.n_routed * self.entering

    @property
    def block_parameters(self) -> float:
        """Parameters of one block."""
        return max(0.0, (self.parameters - self.embedding_parameters) / self.n_layers)


@lru_cache(maxsize=512)
def of_model(model: ModelConfig, seq_len: int) -> Shape:
    """Return a model of this project at a sequence length; parameters and FLOPs are `trainer.config`'s own counts."""
    p, f = count_parameters(model), count_flops(model, seq_len)
    return Shape(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        d_head=model.d_head,
        d_ff=model.d_expert if model.has_experts else model.d_ff,
        gated=True,
        vocab=model.vocab,
        n_experts=model.n_experts if model.has_experts else 0,
        top_k=model.top_k if model.has_experts else 1,
        n_routed=model.n_routed,
        entering=model.capacity_tokens(seq_len) / seq_len if model.n_routed else 1.0,
        parameters=p.total,
        expert_parameters=p.feed_forward if model.has_experts else 0,
        embedding_parameters=p.embedding + p.head,
        active_parameters=p.active,
        flops=Flops(
            dense=f.attention_matmul + (0.0 if model.has_experts else f.feed_forward),
            experts=f.feed_forward if model.has_experts else 0.0,
            routing=f.routing,
            scores=f.attention_scores,
            head=f.head,
        ),
        d_shared=model.d_shared if model.has_experts else 0,
        d_predictor=model.d_predictor if model.n_routed else 0,
        qk_norm=model.qk_norm,
    )


def dense_or_experts(
    *,
    n_layers: int,
    d_model: int,
    n_heads: int,
    n_kv_heads: int,
    d_ff: int,
    gated: bool,
    vocab: int,
    tied: bool,
    seq_len: int,
    n_experts: int = 0,
    top_k: int = 1,
    d_head: int | None = None,
    parameters: int | None = None,
    active_parameters: int | None = None,
) -> Shape:
    """Return a model described by its dimensions. `parameters` replaces the count where the true number is known."""
    d_head = d_head or max(1, d_model // n_heads)
    matrices = 3 if gated else 2
    attention = n_layers * (2 * d_model * n_heads * d_head + 2 * d_model * n_kv_heads * d_head)
    one = n_layers * matrices * d_model * d_ff
    feed_forward, active = one * max(1, n_experts), one * (top_k if n_experts else 1)
    embedding = vocab * d_model * (1 if tied else 2)
    routers = n_layers * d_model * n_experts
    norms = (2 * n_layers + 1) * d_model
    counted = attention + feed_forward + embedding + routers + norms
    total = parameters or counted
    return Shape(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_ff=d_ff,
        gated=gated,
        vocab=vocab,
        n_experts=n_experts,
        top_k=top_k if n_experts else 1,
        n_routed=0,
        entering=1.0,
        parameters=total,
        expert_parameters=min(total, feed_forward) if n_experts else 0,
        embedding_parameters=min(total, embedding),
        active_parameters=active_parameters or total - (feed_forward - active if n_experts else 0),
        flops=Flops(
            dense=2.0 * attention + (0.0 if n_experts else 2.0 * active),
            experts=2.0 * active if n_experts else 0.0,
            routing=2.0 * routers,
            scores=4.0 * seq_len * n_layers * n_heads * d_head,
            head=2.0 * vocab * d_model,
        ),
    )
