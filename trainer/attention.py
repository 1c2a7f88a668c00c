"""Causal self-attention with grouped key-value heads (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.layers import RMSNorm, rotated_heads

if TYPE_CHECKING:
    from trainer.config import ModelConfig
    from trainer.layers import Rotary


class KeyValues:
    """Keys and values of the tokens that a block has seen, each [1, T, n_kv_heads, d_head], for sampling one token at a time."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append and return all there are."""
        if self.kept is not None:
            keys, values = torch.cat((self.kept[0], keys), dim=1), torch.cat((self.kept[1], values), dim=1)
        self.kept = (keys, values)
        return self.kept


class Attention(nn.Module):
    """Queries of `n_heads`, keys and values of `n_kv_heads`; each key-value head serves a group of query heads.

    The three projections are one matrix: queries' rows, then keys', then values'.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.qkv = nn.Linear(config.d_model, config.d_model + 2 * config.d_kv, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        # QK-norm: each head's queries and keys, before the rotation (Dehghani et al. 2023, arXiv 2302.05442; Qwen3).
        self.q_norm = RMSNorm(config.d_head, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.d_head, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, rotary: Rotary, past: KeyValues | None = None) -> Tensor:
        """Attend over x [B x T, d_model]; `rotary` is of the tokens' own positions, [T, 1, d_head] or [B, T, 1, d_head] each.

        A token attends to itself and to those before it in x, and to all in `past`, which takes up the new ones.
        """
        cos, sin = rotary
        qkv = self.qkv(x).view(-1, cos.shape[-3], self.n_heads + 2 * self.n_kv_heads, self.d_head)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, v = qkv.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=2)
            qkv = torch.cat((self.q_norm(q), self.k_norm(k), v), dim=2)
        q, k, v = rotated_heads(qkv, cos, sin, self.n_heads, self.n_kv_heads)
        is_causal = past is None or past.kept is None
        if past is not None:
            k, v = past.extended(k, v)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            is_causal=is_causal,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        return self.out(y.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]
