"""What the forward pass keeps for the backward pass: bytes per token and block, tensor by tensor.

Which tensors are kept follows from autograd: the inputs of every matrix product and norm, the gate and both factors of a gated block,
queries, keys, values and output of the attention kernel with one log-sum-exp a head. Frameworks differ in what they add to
that (norms computed in fp32 from unfused operations, keys and values repeated for each query head) and in what they compute again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lumina_cloud.planner import own_blocks
from lumina_cloud.planner.setting import JAX, OURS

if TYPE_CHECKING:
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape

UNFUSED_NORMS = frozenset({"huggingface", "deepspeed", "torchtune", "litgpt"})
"""Their RMSNorm is written in single operations that go through fp32."""
REPEATED_HEADS = frozenset({"huggingface", "deepspeed", "torchtune", "litgpt"})
"""Their attention repeats keys and values up to the number of query heads."""
QK_NORM = frozenset({"nanochat", "modded-nanogpt", "modded-flex", "nanogpt-speedrun"})
"""Their models normalise queries and keys, whose projections stay beside what attention itself keeps."""
FUSED_GATE = frozenset({"nemo", "megatron-bridge", "megatron-lm", "liger", JAX})
"""They compute the gate's activation again from the gate."""
KEPT_IN_8_BITS = frozenset({"nemo", "megatron-bridge", "megatron-lm", "nanochat"})
"""Of linear layers in fp8 they keep the quantised inputs (NVIDIA's Transformer Engine; 9 GB less at depth 26 by nanochat's log); others
quantise again in the backward pass."""
WEIGHTED_INSIDE = frozenset({"nemo", "megatron-bridge", "megatron-lm"})
"""Their experts' outputs are weighted before the last product, so that outputs need not be kept."""
SEQUENCE_PARALLEL = frozenset({"torchtitan", "nemo", "megatron-bridge"})
"""With tensor parallelism they also spread the norms and the residual stream (Korthikanti et al. 2022, arXiv 2205.05198)."""
FUSED_LOSS = frozenset({"llm-foundry", "llm.c", "megatron-lm", "megatron-deepspeed", "nemo", "megatron-bridge"})
"""Their cross entropy works on 16-bit logits in place."""
HELD_LOGITS = frozenset({"huggingface", "deepspeed"})
"""Through transformers: the fp32 logits belong to the model's output and live until the step is over, beside log-probabilities and
two fp32 gradients. Peaks of 8 A100 under ZeRO-3 grow by 17 bytes a logit from one micro batch to another."""
LOSS_IN_PIECES = frozenset({"torchtitan"})
"""Over a vocabulary that tensor parallelism spreads their loss is no kernel of its own: its backward pass writes the exponentials,
their sum with the targets' part and its product with the incoming gradient, one fp32 copy more (`torch.distributed.tensor`'s
`loss_parallel`)."""
COMPILED_WHOLE = frozenset({JAX, "modded-nanogpt", "modded-flex", "nanogpt-speedrun", "nanochat", "nanogpt", "pytorch"})
"""With them `compile` covers the model and its loss; with others (torchtitan) the blocks alone."""
CHUNKS_WHEN_COMPILED = frozenset({"torchtune"})
"""Their compiled recipe usually computes the loss in chunks: logits in 16 bits and their gradient, and one chunk of eight in fp32. That
is an option of its own (42.9 GiB with it and 51.0 without in torchtune's table), so no bound relies on it."""
PROBABILITY_BYTES = 5
"""Per score of an attention that writes its scores: softmax in fp32, and a 16-bit copy, part of them freed."""
FUSED_PROBABILITY_BYTES = 2
INDEX_BYTES = 8
OUR_CHUNK_ELEMENTS = 1 << 25
"""Logits that our trainer's loss holds at once (`trainer.loss.CHUNK_ELEMENTS`; a test holds the two equal)."""


@dataclass(frozen=True)
class Block:
    """Bytes that one block keeps per token."""

    input: float
    """The residual stream that enters it: all that full recomputation keeps."""
    norms: float
    attention: float
    feed_forward: float
    routing: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.input + self.norms + self.attention + self.feed_forward + self.routing


@dataclass(frozen=True)
class Kept:
    """One block under a policy: what stays until the backward pass, and what is there while that block is worked on."""

    stays: Block
    whole: Block


@lru_cache(maxsize=1024)
def block(shape: Shape, setting: Setting, *, entering: float = 1.0) -> Kept:
    """Return what one block keeps per token of the sequence; `entering` below 1: it is depth-routed."""
    whole = _own(shape, setting, entering) if setting.framework == OURS else _whole(shape, setting, entering)
    if setting.recompute == "full":
        return Kept(Block(whole.input, 0.0, 0.0, 0.0, 0.0), whole)
    if setting.recompute == "selective":
        return Kept(_selected(shape, setting, whole), whole)
    return Kept(whole, whole)


def _own(shape: Shape, setting: Setting, entering: float) -> Block:
    """Return what a block of this project's trainer keeps; `entering` is 1 of a plain block, and of a routed one that all enter."""
    size = setting.bytes_per_element
    attention = own_blocks.attention(shape, size)
    if setting.attention == "eager":
        attention += shape.n_heads * setting.seq_len * entering * PROBABILITY_BYTES
    routed = entering < 1 or shape.n_routed == shape.n_layers
    return Block(
        input=shape.d_model * size,
        norms=entering * own_blocks.norms(shape, size),
        attention=entering * attention,
        feed_forward=entering * own_blocks.feed_forward(shape, size),
        routing=entering * own_blocks.expert_routing(shape) + (own_blocks.depth_routing(shape, size, entering) if routed else 0.0),
    )


def _whole(shape: Shape, setting: Setting, entering: float) -> Block:
    size, d, tensor = setting.bytes_per_element, shape.d_model, setting.tensor
    kept = input_bytes(setting)
    spread = tensor if setting.framework in SEQUENCE_PARALLEL else 1
    unfused = 2 * 4 * d if is_unfused(shape, setting) and size == 2 else 0
    norms = ((size + 2 * kept) * d + unfused) / spread
    heads = 2 * shape.d_q + 2 * shape.d_kv
    if shape.qk_norm or setting.framework in QK_NORM:
        heads += shape.d_q + shape.d_kv
    if setting.framework in REPEATED_HEADS and not setting.compiled:
        heads += 2 * (shape.d_q - shape.d_kv)
    attention = (heads * size + 4 * shape.n_heads + (kept * shape.d_q if kept < size else 0)) / tensor
    if setting.attention == "eager":
        per_score = FUSED_PROBABILITY_BYTES if setting.framework in FUSED_LOSS else PROBABILITY_BYTES
        attention += shape.n_heads * setting.seq_len * entering * per_score / tensor
    routed = entering < 1 or shape.n_routed == shape.n_layers
    # A depth-routed block gathers its tokens (with their indices) and adds its update into a new residual stream.
    gathering = entering * (d * size + INDEX_BYTES) + d * size + 4 if routed else 0.0
    return Block(
        input=d * size / spread,
        norms=entering * norms,
        attention=entering * attention,
        feed_forward=entering * _feed_forward(shape, setting),
        routing=gathering + entering * 3 * 4 * shape.n_experts,
    )


def input_bytes(setting: Setting) -> int:
    """Return the bytes of an element that a linear layer keeps of its input."""
    return 1 if setting.arithmetic == "fp8" and setting.framework in KEPT_IN_8_BITS else setting.bytes_per_element


def is_unfused(shape: Shape, setting: Setting) -> bool:
    """Whether a model's small operations are single kernels."""
    return shape.gated and not setting.compiled and setting.framework in UNFUSED_NORMS


def _feed_forward(shape: Shape, setting: Setting) -> float:
    """Gate, up, the gate's activation and the product; with experts also the sorted copies of input and output."""
    size, kept = setting.bytes_per_element, input_bytes(setting)
    before = (2 if setting.compiled or setting.framework in FUSED_GATE else 3) if shape.gated else 1
    wide = (before * size + kept) * shape.d_ff / setting.tensor
    if not shape.n_experts:
        return wide
    copies = kept if setting.framework in WEIGHTED_INSIDE else kept + size
    return shape.top_k * (wide + copies * shape.d_model + 2 * INDEX_BYTES)


def _selected(shape: Shape, setting: Setting, whole: Block) -> Block:
    """Return what stays when only some is recomputed: torchtitan keeps every second matrix product and the attention's
    output, Megatron and others everything but the scores."""
    size, tensor = setting.bytes_per_element, setting.tensor
    if setting.framework != "torchtitan":
        scores = shape.n_heads * setting.seq_len * FUSED_PROBABILITY_BYTES / tensor if setting.attention == "eager" else 0.0
        probabilities = min(scores, whole.attention)
        return Block(whole.input, whole.norms, whole.attention - probabilities, whole.feed_forward, whole.routing)
    attention = size * (2 * shape.d_q + shape.d_kv) / tensor + 4 * shape.n_heads / tensor
    feed_forward = shape.top_k * size * (shape.d_ff / tensor + shape.d_model / tensor)
    return Block(whole.input, 0.0, min(attention, whole.attention), min(feed_forward, whole.feed_forward), whole.routing)


def logit_bytes(shape: Shape, setting: Setting) -> float:
    """Return bytes per token at the loss: logits, their fp32 copy, the log-probabilities and the gradient, as far as they meet."""
    size = setting.bytes_per_element
    if setting.framework in FUSED_LOSS:
        per_logit = 2.0 * size
    elif setting.chunked_loss:
        # The chunk's logits, log-probabilities in fp32 that become the gradient, and that in the model's own type.
        per_logit = 8.0
    elif setting.compiled and setting.framework in COMPILED_WHOLE:
        per_logit = size + 4.0
    elif chunks_when_compiled(setting) and not setting.careful:
        per_logit = 2.0 * size + 12.0 / 8
    elif setting.framework in HELD_LOGITS:
        per_logit = 16.0
    elif setting.tensor > 1 and setting.framework in LOSS_IN_PIECES:
        per_logit = size + 16.0
    else:
        per_logit = size + 12.0
    return per_logit * shape.vocab / setting.tensor


def chunks_when_compiled(setting: Setting) -> bool:
    """Whether the loss is taken to be computed in chunks because a recipe usually does, though nothing says so."""
    return setting.compiled and setting.framework in CHUNKS_WHEN_COMPILED


def loss_tokens(shape: Shape, setting: Setting) -> float:
    """Return how many tokens' logits exist at once."""
    if setting.chunked_loss:
        return min(setting.tokens, max(1.0, OUR_CHUNK_ELEMENTS / shape.vocab))
    return setting.tokens
