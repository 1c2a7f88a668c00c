"""Causal self-attention with grouped key-value heads (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.layers import rotary_tables, rotate

if TYPE_CHECKING:
    from trainer.config import ModelConfig


class Attention(nn.Module):
    """Queries of `n_heads`, keys and values of `n_kv_heads`; each key-value head serves a group of query heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.theta = config.rope_theta
        self.q = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k = nn.Linear(config.d_model, config.d_kv, bias=False)
        self.v = nn.Linear(config.d_model, config.d_kv, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Attend over x [B, T, d_model]; `positions` [T] or [B, T] are the tokens' places in the full sequence, ascending.

        A token attends to itself and to those before it in x.
        """
        batch, length, _ = x.shape
        cos, sin = rotary_tables(positions if positions.dim() == 2 else positions[None], self.d_head, self.theta)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        q = rotate(self.q(x).view(batch, length, self.n_heads, self.d_head).transpose(1, 2), cos, sin)
        k = rotate(self.k(x).view(batch, length, self.n_kv_heads, self.d_head).transpose(1, 2), cos, sin)
        v = self.v(x).view(batch, length, self.n_kv_heads, self.d_head).transpose(1, 2)
        group = self.n_heads // self.n_kv_heads
        # Written out rather than by `enable_gqa`: the CPU's fused kernel does not take that option.
        y = F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))
