"""Norm, gate and rotation: values against plain formulas, gradients against finite differences."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trainer.layers import RMSNorm, gated, rotary_table, rotated_heads


def _double(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


def test_norm_is_torchs_and_its_gradient_is_right():
    norm = RMSNorm(8, 1e-5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, 8))
    for shape in ((5, 8), (2, 3, 4, 8)):
        x = _double(*shape)
        torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-5))
        assert torch.autograd.gradcheck(norm, (x,))
        theirs = torch.autograd.grad(F.rms_norm(x, (8,), norm.weight, 1e-5).sin().sum(), (x, norm.weight))
        ours = torch.autograd.grad(norm(x).sin().sum(), (x, norm.weight))
        torch.testing.assert_close(ours, theirs)


def test_gate_is_silu_and_its_gradient_is_right():
    x = _double(5, 8)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(gated(x), F.silu(gate) * up)
    assert torch.autograd.gradcheck(gated, (x,))


def test_rotation_turns_pairs_and_its_gradient_is_right():
    qkv = _double(2, 5, 4, 6)
    cos, sin = rotary_table(5, 6, 100.0, qkv)
    q, k, v = rotated_heads(qkv, cos, sin, 2, 1)
    assert torch.autograd.gradcheck(lambda x: rotated_heads(x, cos, sin, 2, 1), (qkv,))
    angles = torch.outer(torch.arange(5.0), 100.0 ** -(torch.arange(0, 6, 2) / 6)).double()
    as_complex = torch.complex(qkv[..., :3], qkv[..., 3:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    expected = torch.cat((as_complex.real, as_complex.imag), -1)
    torch.testing.assert_close(torch.cat((q, k), 2), expected[:, :, :3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(v, qkv[:, :, 3:])


def test_attention_depends_on_distance_only():
    """Rotated queries and keys give the same product at positions 3, 1 and 13, 11."""
    qkv = _double(1, 1, 2, 8).expand(1, 20, 2, 8)
    q, k, _ = rotated_heads(torch.cat((qkv, qkv[:, :, :1]), 2), *rotary_table(20, 8, 10_000.0, qkv), 1, 1)
    torch.testing.assert_close((q[0, 3] * k[0, 1]).sum(), (q[0, 13] * k[0, 11]).sum(), rtol=1e-5, atol=1e-6)
