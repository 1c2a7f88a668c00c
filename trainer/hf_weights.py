"""Our tensors under the names, and in the pieces, of the `transformers` library, and back.

Ours are fused (queries, keys and values; gate and up) and stacked over experts; theirs are apart. One table says which is which, and is
read in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from trainer.hf_config import LUMINA, MIXTRAL, architecture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.config import ModelConfig


@dataclass(frozen=True)
class Part:
    """One tensor of ours and what it is over there."""

    ours: str
    theirs: tuple[str, ...]
    kind: Literal["rows", "experts"] = "rows"
    """`rows`: theirs below each other. `experts`: theirs are transposed, side by side per expert, experts stacked."""
    sizes: tuple[int, ...] = ()
    """Rows of each, or columns of each of an expert's, where there are several."""

    def apart(self, tensor: Tensor) -> list[Tensor]:
        """Return their tensors, in the order of `theirs`, from ours."""
        if self.kind == "rows":
            return list(tensor.split(self.sizes)) if self.sizes else [tensor]
        return [piece.t() for expert in tensor for piece in expert.split(self.sizes, dim=1)]

    def together(self, tensors: list[Tensor]) -> Tensor:
        """Return our tensor from theirs."""
        if self.kind == "rows":
            return torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        n = len(self.sizes)
        return torch.stack([torch.cat([t.t() for t in tensors[i : i + n]], dim=1) for i in range(0, len(tensors), n)])


def parts(model: ModelConfig) -> Iterator[Part]:
    """Yield every tensor of a model."""
    yield Part("vocabulary.embedding", ("model.embed_tokens.weight",))
    for layer in range(model.n_layers):
        ours = f"blocks.{layer}.block." if model.is_routed(layer) else f"blocks.{layer}."
        yield from _block(model, ours, f"model.layers.{layer}.")
        if model.is_routed(layer):
            for name in ("score.weight", "hidden.weight", "hidden.bias", "decide.weight", "decide.bias"):
                yield Part(f"blocks.{layer}.router.{name}", (f"model.layers.{layer}.depth_router.{name}",))
    yield Part("norm.weight", ("model.norm.weight",))
    if not model.tie_embeddings:
        yield Part("vocabulary.head", ("lm_head.weight",))


def _block(model: ModelConfig, ours: str, theirs: str) -> Iterator[Part]:
    attention = f"{theirs}self_attn."
    yield Part(f"{ours}attention_norm.weight", (f"{theirs}input_layernorm.weight",))
    yield Part(
        f"{ours}attention.qkv.weight",
        tuple(f"{attention}{name}_proj.weight" for name in "qkv"),
        sizes=(model.d_model, model.d_kv, model.d_kv),
    )
    yield Part(f"{ours}attention.out.weight", (f"{attention}o_proj.weight",))
    if model.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield Part(f"{ours}attention.{name}.weight", (f"{attention}{name}.weight",))
    yield Part(f"{ours}feed_forward_norm.weight", (f"{theirs}post_attention_layernorm.weight",))
    if model.has_experts:
        yield from _experts(model, f"{ours}feed_forward.", theirs)
    else:
        yield from _swiglu(f"{ours}feed_forward.", f"{theirs}mlp.", model.d_ff)


def _swiglu(ours: str, theirs: str, width: int) -> Iterator[Part]:
    yield Part(f"{ours}gate_up.weight", (f"{theirs}gate_proj.weight", f"{theirs}up_proj.weight"), sizes=(width, width))
    yield Part(f"{ours}down.weight", (f"{theirs}down_proj.weight",))


def _experts(model: ModelConfig, ours: str, theirs: str) -> Iterator[Part]:
    name = architecture(model)
    block = f"{theirs}block_sparse_moe." if name == MIXTRAL else f"{theirs}mlp."
    gate, up, down = ("w1", "w3", "w2") if name == MIXTRAL else ("gate_proj", "up_proj", "down_proj")
    each = [f"{block}experts.{expert}." for expert in range(model.n_experts)]
    yield Part(f"{ours}router.weight", (f"{block}gate.weight",))
    yield Part(
        f"{ours}gate_up",
        tuple(f"{e}{matrix}.weight" for e in each for matrix in (gate, up)),
        "experts",
        (model.d_expert, model.d_expert),
    )
    yield Part(f"{ours}down", tuple(f"{e}{down}.weight" for e in each), "experts", (model.d_model,))
    if name == LUMINA and model.d_shared:
        yield from _swiglu(f"{ours}shared.", f"{block}shared_expert.", model.d_shared)
    if name == LUMINA and model.balance_bias_rate:
        yield Part(f"{ours}balance_votes", (f"{block}balance_votes",))
