"""Seconds of a step on a processor, from what `trainer.calibrate` measured there with the trainer's own blocks.

Between and beyond the two measured widths, matrix products run at P x width / (width + h), attention takes a + b x length for each
token and head, a logit a + b x width, and what does not grow with tokens a + b x parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.planner.activations import OUR_CHUNK_ELEMENTS

if TYPE_CHECKING:
    from lumina_cloud.catalog.cpu_rates import CpuRates
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape

HEAD_WIDTH = 64
PER_MICRO_STEP = 0.3
"""Of what does not grow with tokens: gradients gathered in every micro step, against once a step."""
RECOMPUTED = 4 / 3


@dataclass(frozen=True)
class CpuStep:
    """Seconds of one optimizer step."""

    matmul: float
    attention: float
    other: float
    """Routing, head and loss."""
    optimizer: float


def cpu_step(shape: Shape, setting: Setting, rates: CpuRates) -> CpuStep:
    """Return the seconds of one optimizer step of our trainer."""
    tokens, m = setting.tokens, setting.grad_accum
    again = 1 + (RECOMPUTED - 1) / setting.recompute_every if setting.recompute == "full" else 1.0
    linear = 3 * (shape.flops.dense + shape.flops.experts + shape.flops.routing)
    matmul = again * tokens * linear / _rate(shape, rates)
    if shape.n_experts:
        matmul += again * shape.n_layers * _experts_fixed(rates)
    plain = shape.n_layers - shape.n_routed
    attention = plain * _attention(setting.seq_len, rates)
    attention += shape.n_routed * shape.entering * _attention(shape.entering * setting.seq_len, rates)
    attention *= again * tokens * shape.d_q / HEAD_WIDTH
    routing = tokens * shape.n_routed * _line(rates.widths, rates.routed, shape.d_model)
    fixed = _line(rates.step_parameters, rates.step_seconds, shape.parameters)
    other = routing + tokens * shape.vocab * _logit(shape, setting, rates)
    return CpuStep(
        matmul=m * matmul,
        attention=m * attention,
        other=m * other,
        optimizer=fixed * (1 + PER_MICRO_STEP * (m - 1)),
    )


def _line(at: tuple[float, float], values: tuple[float, float], x: float) -> float:
    """Return the line through two points, never below the lower of them scaled down to `x`."""
    slope = (values[1] - values[0]) / (at[1] - at[0])
    return max(values[0] + slope * (x - at[0]), min(values) * min(1.0, x / at[0]))


def _attention(length: float, rates: CpuRates) -> float:
    """Seconds per token and head of 64 of attention over `length` tokens."""
    return _line((rates.seq_len, 4.0 * rates.seq_len), rates.attention, length)


def _logit(shape: Shape, setting: Setting, rates: CpuRates) -> float:
    seconds = _line(rates.widths, rates.head, shape.d_model)
    return seconds * (RECOMPUTED if setting.tokens * shape.vocab > OUR_CHUNK_ELEMENTS else 1.0)


def _rate(shape: Shape, rates: CpuRates) -> float:
    """Return FLOP/s of the blocks' matrix products, all else in a block but attention included."""
    taken = rates.dense
    if shape.n_experts:
        fixed = _experts_fixed(rates)
        taken = (rates.moe[0] - fixed / rates.tokens[0], rates.moe[1] - fixed / rates.tokens[1])
    reached = tuple(_reference_flops(d) / _less(t, d, rates) for d, t in zip(rates.widths, taken, strict=True))
    return _saturating(rates.widths, (reached[0], reached[1]), shape.d_model)


def _experts_fixed(rates: CpuRates) -> float:
    """Seconds that a block of experts takes whatever the number of tokens: a kernel for each expert's number of rows."""
    few, seconds = rates.moe_few
    many = rates.tokens[0]
    per_token = max(0.0, (rates.moe[0] * many - seconds) / (many - few))
    # At most half of what either measured block took.
    return max(0.0, min(seconds - few * per_token, rates.moe[0] * many / 2, rates.moe[1] * rates.tokens[1] / 2))


def _less(seconds: float, width: float, rates: CpuRates) -> float:
    """Return a block's seconds per token without its attention, at least a fifth of them."""
    return max(seconds / 5, seconds - width / HEAD_WIDTH * rates.attention[0])


def _reference_flops(d: float) -> float:
    """FLOPs per token, forward and backward, of the matrix products of `trainer.calibrate`'s block of width `d`."""
    d_ff = 16 * (11 * d // 64)
    d_kv = 64 * max(1, d // 64 // 2)
    return 6 * (2 * d * d + 2 * d * d_kv + 3 * d * d_ff)


def _saturating(at: tuple[float, float], values: tuple[float, float], x: float) -> float:
    """Return P x / (x + h) through two points; where that law does not hold, the nearer of the two."""
    ratio = values[1] / values[0]
    grown = at[1] / at[0]
    if not 1.0 < ratio < grown:
        return values[0] if x < (at[0] * at[1]) ** 0.5 else values[1]
    h = at[1] * (ratio - 1) / (grown - ratio)
    best = values[0] * (at[0] + h) / at[0]
    return best * x / (x + h)
