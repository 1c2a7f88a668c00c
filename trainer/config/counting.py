"""Parameters and FLOPs, counted from the shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.config.shapes import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part. A SwiGLU block has three matrices, attention four, each block two norms."""

    embedding: int
    head: int
    """Zero when tied: the embedding serves."""
    attention: int
    feed_forward: int
    """Dense blocks, or all experts together."""
    feed_forward_active: int
    """The part of it that one token passes through."""
    routers: int
    """Expert routers and depth routers."""
    predictors: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters: what memory holds."""
        return self.embedding + self.head + self.attention + self.feed_forward + self.routers + self.predictors + self.norms

    @property
    def active(self) -> int:
        """Parameters that one token passes through; depth routing skips tokens, not parameters."""
        return self.total - self.feed_forward + self.feed_forward_active


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count the parameters of the module that the trainer builds, exactly."""
    d, layers, routed = model.d_model, model.n_layers, model.n_routed
    attention = layers * (2 * d * d + 2 * d * model.d_kv)
    if model.has_experts:
        expert = 3 * d * model.d_expert
        shared = 3 * d * model.d_shared
        feed_forward, active = layers * (model.n_experts * expert + shared), layers * (model.top_k * expert + shared)
    else:
        feed_forward = active = layers * 3 * d * model.d_ff
    return ParameterCount(
        embedding=model.vocab * d,
        head=0 if model.tie_embeddings else model.vocab * d,
        attention=attention,
        feed_forward=feed_forward,
        feed_forward_active=active,
        routers=(layers * d * model.n_experts if model.has_experts else 0) + routed * d,
        # Two linear layers with biases: d -> d_predictor -> 1.
        predictors=routed * (d * model.d_predictor + 2 * model.d_predictor + 1),
        norms=(2 * layers + 1) * d + (2 * layers * model.d_head if model.qk_norm else 0),
    )


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one forward pass per token of the sequence, a multiply-add being two."""

    attention_matmul: float
    """Query, key, value and output projections."""
    attention_scores: float
    """QK^T and its product with the values, over the whole sequence: the causal half is not taken off, as in torch's counter."""
    feed_forward: float
    routing: float
    """Expert routers, depth routers, predictors."""
    head: float

    @property
    def forward(self) -> float:
        """FLOPs of one token's forward pass."""
        return self.attention_matmul + self.attention_scores + self.feed_forward + self.routing + self.head

    @property
    def train(self) -> float:
        """FLOPs of one token's training step: the backward pass costs two forward passes (Kaplan et al. 2020, section 2.1)."""
        return 3 * self.forward


def count_flops(model: ModelConfig, seq_len: int) -> FlopCount:
    """Count FLOPs per token from the shape; a depth-routed block is paid only by the tokens that enter it."""
    d, parameters = model.d_model, count_parameters(model)
    entering = model.capacity_tokens(seq_len)
    share = entering / seq_len
    plain = model.n_layers - model.n_routed
    blocks = plain + model.n_routed * share
    scores_per_block = 4 * seq_len * d
    routed_scores = share * 4 * entering * d
    expert_routing = 2 * d * model.n_experts * blocks if model.has_experts else 0.0
    depth_routing = model.n_routed * 2 * (d + d * model.d_predictor + model.d_predictor)
    return FlopCount(
        attention_matmul=2 * parameters.attention / model.n_layers * blocks,
        attention_scores=plain * scores_per_block + model.n_routed * routed_scores,
        feed_forward=2 * parameters.feed_forward_active / model.n_layers * blocks,
        routing=expert_routing + depth_routing,
        head=2 * model.vocab * d,
    )
