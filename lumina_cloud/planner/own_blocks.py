"""What one block of this project's own trainer keeps for its backward pass: bytes per token, as `trainer` saves each tensor.

`tests/planner/test_against_torch.py` holds these counts against what autograd keeps on a CPU. The compiled model on an H100 keeps the
same: peaks of preset b1 under plain AdamW (`catalog/data/own_runs.toml`) lie within three per cent of this count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina_cloud.planner.shape import Shape

FLOAT_BYTES = 4
INDEX_BYTES = 8


def norms(shape: Shape, size: int) -> float:
    """Return both norms' results, the residual stream between them, and one number per row of each."""
    return 3 * size * shape.d_model + 2 * FLOAT_BYTES


def attention(shape: Shape, size: int) -> float:
    """Return rotated queries and keys, a copy of the values, the heads' output, and a log-sum-exp a head.

    Key-value heads are not repeated. With QK-norm the projection's whole output stays too, and one number a head.
    """
    kept = size * (2 * shape.d_q + 2 * shape.d_kv) + FLOAT_BYTES * shape.n_heads
    if shape.qk_norm:
        kept += size * (shape.d_q + 2 * shape.d_kv) + FLOAT_BYTES * (shape.n_heads + shape.n_kv_heads)
    return kept


def feed_forward(shape: Shape, size: int) -> float:
    """Return gate, up, and their product; of experts those of `top_k` with sorted input, output and weights; of a shared one too."""
    if not shape.n_experts:
        return 3 * size * shape.d_ff
    each = size * (3 * shape.d_ff + 2 * shape.d_model + 1) + FLOAT_BYTES
    return shape.top_k * each + 3 * size * shape.d_shared


def expert_routing(shape: Shape) -> float:
    """Return the experts' numbers, three orders of them, and the logits in fp32: themselves, for the losses, and their softmax."""
    return 4 * INDEX_BYTES * shape.top_k + 3 * FLOAT_BYTES * shape.n_experts if shape.n_experts else 0.0


def depth_routing(shape: Shape, size: int, entering: float) -> float:
    """Return what a depth-routed block keeps beside the block that `entering` of its tokens pass.

    Those tokens, their update before and after its gate, their places, their rotations, and the predictor's hidden layer for all.
    """
    entered = size * (3 * shape.d_model + 2 * shape.d_head + 1) + 3 * INDEX_BYTES + FLOAT_BYTES
    return entering * entered + 2 * size * shape.d_predictor + 3 * FLOAT_BYTES


def gradients(shape: Shape, size: int) -> float:
    """Return the gradients and temporaries of one block's backward pass: of gate and up together, and of their product."""
    return size * (3 * shape.d_ff * shape.top_k + 2 * shape.d_model)
