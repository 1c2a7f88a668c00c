"""Norm, rotary positions, and the gated feed-forward block.

Vectors of a batch stand below each other: x is [N, d_model] with N = batch x sequence, so that every projection is one plain matrix
product. What the backward pass of norm and gate needs beside their inputs is computed again there: elementwise work is cheap, memory
that is kept from the forward pass is not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that sums over values of `dtype` are taken in: fp32 at least."""
    return dtype if dtype == torch.float64 else torch.float32


def times(owned: Tensor, other: Tensor) -> Tensor:
    """Return owned * other, in the memory of `owned`, which nobody else may hold.

    Not in place under the compiler, which needs no such hint: torch 2.11 compiled an autograd function that ended in place to a
    gradient of zero.
    """
    return owned * other if torch.compiler.is_compiling() else owned.mul_(other)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., width]."""
        if x.is_cuda:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # Off a GPU `F.rms_norm` falls apart into some 25 operators and keeps two more copies of x.
        return _Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-any-return]


class _Normalise(torch.autograd.Function):
    """RMSNorm that keeps its input and one number per row; sums in fp32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x.dtype))
        scale = torch.rsqrt(length.square().div_(x.shape[-1]).add_(eps))
        ctx.save_for_backward(x, weight, scale)
        return times((x * scale).to(x.dtype), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit, grad = x.to(scale.dtype) * scale, grad.to(scale.dtype)
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        # d/dx of x * scale(x): the part of the gradient along x is taken out.
        along = (product @ weight.to(product.dtype)).unsqueeze(-1)
        grad_x = (grad * weight).addcmul_(unit, along, value=-1 / x.shape[-1]).mul_(scale)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202); gate and up are one matrix, gate's rows first."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, d_model] to [N, d_model]."""
        return self.down(gated(self.gate_up(x)))  # type: ignore[no-any-return]


def gated(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up, [N, d_ff], of gate and up side by side, [N, 2 d_ff]."""
    return _Gated.apply(gate_up)  # type: ignore[no-any-return]


class _Gated(torch.autograd.Function):
    """Keeps its input only: the gate's activation is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return times(F.silu(gate), up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        if torch.compiler.is_compiling():
            return torch.cat((torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate) * grad), dim=-1)
        # Written where they belong: putting the halves side by side afterwards costs another pass over both. The compiler does not
        # take `out=` into a half, and does not need it.
        grad_input = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_input.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        torch.ops.aten.mul.out(F.silu(gate), grad, out=grad_up)
        return grad_input


Rotary = tuple[Tensor, Tensor]
"""Cosines and signed sines of some positions, [..., T, 1, d_head] each, the same for both halves of a head."""


def rotary_table(length: int, d_head: int, theta: float, like: Tensor) -> Rotary:
    """Return the rotations of positions 0 to length - 1, [length, 1, d_head] each, in type and on device of `like`.

    RoPE: Su et al. 2021 (arXiv 2104.09864), in the half-split form that Llama uses. Angles are computed in fp32.
    """
    cos, sin = torch.ops.lumina.rotations(like.detach(), length, d_head, theta)
    return cos, sin


# An operator that the compiler does not look into: it would compute every angle's power, cosine and sine again in each block's kernel
# rather than read the table (on an H100 that was a fortieth of a step of preset b1).
@torch.library.custom_op("lumina::rotations", mutates_args=())
def _rotations(like: Tensor, length: int, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    pairs = torch.arange(0, d_head, 2, dtype=torch.float32, device=like.device)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=like.device), 1.0 / theta ** (pairs / d_head)).unsqueeze(1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(like.dtype), torch.cat((-sin, sin), -1).to(like.dtype)


@_rotations.register_fake
def _(like: Tensor, length: int, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    shape = (length, 1, d_head)
    return like.new_empty(shape), like.new_empty(shape)


def rotated_heads(qkv: Tensor, cos: Tensor, sin: Tensor, n_heads: int, n_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split qkv [B, T, n_heads + 2 n_kv_heads, d_head] into queries, keys and values, the former two rotated.

    The tables broadcast to [B, T, 1, d_head]; the two halves of a head are its pairs.
    """
    return _RotatedHeads.apply(qkv, cos, sin, n_heads, n_kv_heads)  # type: ignore[no-any-return]


class _RotatedHeads(torch.autograd.Function):
    """The backward pass puts the three gradients side by side and turns the angle round."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, n_heads: int, n_kv_heads: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        turning, v = qkv.split((n_heads + n_kv_heads, n_kv_heads), dim=2)
        q, k = torch.addcmul(turning * cos, _halves_swapped(turning), sin).split((n_heads, n_kv_heads), dim=2)
        # A copy: a view of the values would keep the projection's whole output in memory.
        return q, k, v.clone()

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        grad = torch.cat((grad_q, grad_k, grad_v), dim=2)
        turning = grad[:, :, : grad_q.shape[2] + grad_k.shape[2]]
        swapped = _halves_swapped(turning)
        turning.mul_(cos).addcmul_(swapped, sin, value=-1)
        return grad, None, None, None, None


def _halves_swapped(x: Tensor) -> Tensor:
    return x.roll(x.shape[-1] // 2, -1)
