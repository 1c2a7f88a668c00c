"""What one token costs in bytes and FLOPs, counted tensor by tensor from the model's shape. Nothing here knows a GPU.

Activations are what the backward pass needs and the forward pass therefore keeps, for attention that never writes its score
matrix (`scaled_dot_product_attention`). Counted after Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), for the
Llama-style block: two norms, grouped-query attention, SwiGLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from trainer.config import FlopCount, ParameterCount, count_flops, count_parameters

if TYPE_CHECKING:
    from trainer.config import ModelConfig, Precision

BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}

LOGIT_BYTES_FP32 = 8
"""Per logit beside its own precision: the fp32 copy that the softmax works on, and its gradient."""

_INDEX_BYTES = 8


@dataclass(frozen=True)
class Block:
    """Bytes that one block keeps per token of the sequence."""

    input: int
    """The residual stream that enters it: all that block checkpointing keeps."""
    norms: float
    attention: float
    feed_forward: float
    routing: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.input + self.norms + self.attention + self.feed_forward + self.routing


@dataclass(frozen=True)
class Quantities:
    """What a model of one shape is made of, at one sequence length and precision."""

    parameters: ParameterCount
    flops: FlopCount
    n_layers: int
    blocks: tuple[tuple[int, Block], ...]
    """(how many, which): unrouted and depth-routed blocks."""
    bytes_per_element: int
    head_bytes: float
    """Per token: the final norm's input and output."""
    logit_bytes: float
    """Per token whose logits are held."""
    largest_layer_parameters: int
    """Of a block, or of the embedding: what ZeRO stage 3 has to gather at once."""
    embedding_parameters: int

    @property
    def kept_bytes(self) -> float:
        """Activations per token when every block keeps its own."""
        return sum(n * block.total for n, block in self.blocks)

    @property
    def input_bytes(self) -> float:
        """Per token: every block's input."""
        return sum(n * block.input for n, block in self.blocks)

    @property
    def largest_block(self) -> Block:
        """The block that keeps most."""
        return max((block for _, block in self.blocks), key=lambda block: block.total)


@lru_cache(maxsize=512)
def quantities(model: ModelConfig, seq_len: int, precision: Precision) -> Quantities:
    """Count what `model` needs per token of a sequence of `seq_len`."""
    parameters = count_parameters(model)
    size = BYTES[precision]
    plain = _block(model, size, share=1.0)
    blocks = [(model.n_layers - model.n_routed, plain)]
    if model.n_routed:
        blocks.append((model.n_routed, _block(model, size, share=model.capacity_tokens(seq_len) / seq_len)))
    per_layer = (parameters.attention + parameters.feed_forward + parameters.routers + parameters.norms) // model.n_layers
    return Quantities(
        parameters=parameters,
        flops=count_flops(model, seq_len),
        n_layers=model.n_layers,
        blocks=tuple((n, block) for n, block in blocks if n),
        bytes_per_element=size,
        head_bytes=2 * model.d_model * size,
        logit_bytes=model.vocab * (size + LOGIT_BYTES_FP32),
        largest_layer_parameters=max(per_layer, parameters.embedding),
        embedding_parameters=parameters.embedding + parameters.head,
    )


def _block(model: ModelConfig, size: int, share: float) -> Block:
    """Count one block that the share `share` of a sequence's tokens enters; below 1 it is depth-routed."""
    d = model.d_model
    routed = share < 1
    # A depth-routed block gathers its tokens (with their indices) and adds its update into a new residual stream.
    gathering = share * (d * size + _INDEX_BYTES) + d * size + 4 if routed else 0.0
    return Block(
        input=d * size,
        # Two outputs, and the second norm's input.
        norms=share * 3 * d * size,
        # Queries, keys and values, the heads' output, and a log-sum-exp per head in fp32.
        attention=share * ((2 * d + 2 * model.d_kv) * size + 4 * model.n_heads),
        feed_forward=share * _feed_forward(model, size),
        routing=gathering + (share * 3 * 4 * model.n_experts if model.has_experts else 0.0),
    )


def _feed_forward(model: ModelConfig, size: int) -> float:
    """Gate, up, the gate's activation and the product; with experts also the sorted copies of input and output."""
    if not model.has_experts:
        return 4 * model.d_ff * size
    return model.top_k * (4 * model.d_expert * size + 2 * model.d_model * size + 2 * _INDEX_BYTES)
