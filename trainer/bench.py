"""`python -m trainer bench`: full training steps, timed beside `transformers`' models of the same shape on the same machine.

A step is forward pass, loss with auxiliary losses, backward pass, `AdamW(lr=1e-4, fused=True)` and zero_grad, on fixed random tokens;
no clipping, schedule or engine. Parameters, gradients and optimizer states are of one type. Steps of the two sides alternate, and the
figure is the median of the pairs' ratios, so that a machine whose speed drifts is unfair to neither.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trainer.config import ModelConfig
from trainer.model import Model, initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import Arch

Step = "Callable[[], torch.Tensor]"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAIRS = 7


@dataclass(frozen=True)
class Shape:
    """What is timed. `d_ff` is the dense twin's: experts are half as wide, 8 of them, 2 a token."""

    vocab: int = 1024
    d_model: int = 512
    n_layers: int = 6
    n_heads: int = 8
    n_kv_heads: int = 4
    d_ff: int = 1408
    seq_len: int = 512
    micro_batch: int = 8


def model_config(arch: Arch, shape: Shape) -> ModelConfig:
    """Return the configuration of an architecture in a shape; depth routing by the recipe `paper`."""
    return ModelConfig(
        arch=arch,
        vocab=shape.vocab,
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        d_ff=shape.d_ff,
        tie_embeddings=False,
        d_expert=shape.d_ff // 2,
        d_predictor=max(16, shape.d_model // 16),
    )


def device() -> str:
    """Return where steps run: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_step(
    arch: Arch,
    *,
    vocab: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    d_ff: int,
    seq_len: int,
    micro_batch: int,
    dtype: str,
    compiled: bool = False,
) -> Callable[[], torch.Tensor]:
    """Return a callable that does one full training step on fixed random tokens and returns the language-model loss.

    `dtype` is `float32` or `bfloat16`. Raises KeyError for another.
    """
    shape = Shape(vocab, d_model, n_layers, n_heads, n_kv_heads, d_ff, seq_len, micro_batch)
    model = Model(model_config(arch, shape))
    initialise(model, 0)
    model.to(device(), DTYPES[dtype])
    inputs, targets = _tokens(shape)
    losses: Callable[..., Any] = torch.compile(model, fullgraph=True) if compiled else model

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        loss, auxiliary, _ = losses(inputs, targets)
        return loss, loss + auxiliary if model.config.arch != "dense" else loss

    return _full_step(model, forward)


def make_peer_step(arch: Arch, shape: Shape, dtype: str, *, experts: str = "grouped_mm") -> Callable[[], torch.Tensor]:
    """Return the same for `transformers`: Llama beside dense and mod, Mixtral beside moe and hybrid."""
    import transformers

    common: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "max_position_embeddings": shape.seq_len,
        "attn_implementation": "sdpa",
        "use_cache": False,
    }
    torch.manual_seed(0)
    if arch in ("dense", "mod"):
        model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=shape.d_ff, **common))
    else:
        routed = {"num_local_experts": 8, "num_experts_per_tok": 2, "output_router_logits": True, "experts_implementation": experts}
        config = transformers.MixtralConfig(intermediate_size=shape.d_ff // 2, **common, **routed)
        model = transformers.MixtralForCausalLM(config)
    model.to(device(), DTYPES[dtype]).train()
    inputs, _ = _tokens(shape)

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
        return loss, loss

    return _full_step(model, forward)


def _tokens(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, shape.vocab, (shape.micro_batch, shape.seq_len + 1), generator=generator).to(device())
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _full_step(model: torch.nn.Module, forward: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], torch.Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> torch.Tensor:
        loss, total = forward()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def seconds(step: Callable[[], torch.Tensor]) -> float:
    """Return how long one call takes, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    float(step())
    return time.perf_counter() - started


def ratio(ours: Callable[[], torch.Tensor], theirs: Callable[[], torch.Tensor], *, pairs: int = PAIRS, warm_up: int = 2) -> float:
    """Return how many times as fast `ours` is: the median over alternating pairs of their seconds over ours."""
    for _ in range(warm_up):
        ours(), theirs()
    gc.collect()
    measured = []
    for number in range(pairs):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        a, b = seconds(first), seconds(second)
        measured.append(a / b if first is theirs else b / a)
    return statistics.median(measured)
