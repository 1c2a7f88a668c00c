"""`python -m trainer bench`: full training steps, timed beside `transformers`' models of the same shape on the same machine.

A step is forward pass, loss with auxiliary losses, backward pass, `AdamW(lr=1e-4, fused=True)` and zero_grad, on fixed random tokens;
no clipping, schedule or engine. Parameters, gradients and optimizer states are of one type. Steps of the two sides alternate, and the
figure is the median of the pairs' ratios, so that a machine whose speed drifts is unfair to neither.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.config import ARCHS, ModelConfig
from trainer.host_memory import highest_resident_bytes, resident_bytes
from trainer.model import Model, initialise
from trainer.structure import flops_over_formula, graph_breaks, operators

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import Arch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAIRS = 7
EXPERTS = ("grouped_mm", "eager")
"""Implementations of experts in `transformers`. `batched_mm` is left out: it copies each token's experts, 23 GB at this size."""


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
    with torch.device(device()):
        model = Model(model_config(arch, shape))
    initialise(model, 0)
    model.to(DTYPES[dtype])
    inputs, targets = _tokens(shape)
    losses: Callable[..., Any] = torch.compile(model, fullgraph=True) if compiled else model

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        loss, auxiliary, _ = losses(inputs, targets)
        return loss, loss + auxiliary if model.config.arch != "dense" else loss

    return _full_step(model, forward)


def make_peer_step(arch: Arch, shape: Shape, dtype: str, *, experts: str = "grouped_mm") -> Callable[[], torch.Tensor]:
    """Return the same for `transformers`: Llama beside dense and mod, Mixtral beside moe and hybrid."""
    model = _peer(arch, shape, experts)
    model.to(device(), DTYPES[dtype]).train()
    inputs, _ = _tokens(shape)

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
        return loss, loss

    return _full_step(model, forward)


def _peer(arch: Arch, shape: Shape, experts: str) -> Any:
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
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=shape.d_ff, **common))
    routed = {"num_local_experts": 8, "num_experts_per_tok": 2, "output_router_logits": True, "experts_implementation": experts}
    config = transformers.MixtralConfig(intermediate_size=shape.d_ff // 2, **common, **routed)
    return transformers.MixtralForCausalLM(config)


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


def operators_per_layer(config: ModelConfig, shape: Shape) -> float:
    """Return how many operators one layer adds to a step's forward and backward pass."""

    def counted(n_layers: int) -> int:
        model = Model(replace(config, n_layers=n_layers))
        initialise(model, 0)
        inputs, targets = (part.cpu() for part in _tokens(shape))

        def step() -> None:
            loss, auxiliary, _ = model(inputs, targets)
            (loss + auxiliary).backward()

        return operators(step).total()

    return (counted(4) - counted(2)) / 2


def peer_operators_per_layer(arch: Arch, shape: Shape) -> float:
    """Return the same for `transformers`, with whichever implementation of experts dispatches fewest."""

    def counted(n_layers: int, experts: str) -> int:
        model = _peer(arch, replace(shape, n_layers=n_layers), experts)
        inputs = _tokens(shape)[0].cpu()

        def step() -> None:
            model(input_ids=inputs, labels=inputs, use_cache=False).loss.backward()

        return operators(step).total()

    return min((counted(4, experts) - counted(2, experts)) / 2 for experts in EXPERTS)


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


# --- all figures ---------------------------------------------------------------------------------------------------------


def measure() -> dict[str, Any]:
    """Return every figure of the bench; see the keys' meaning in `_MEANING`. Takes some ten minutes on two quiet cores."""
    small, large = Shape(), Shape(vocab=32_000)
    speeds = {
        "fp32": _beside_peer("dense", small, "float32"),
        "bf16": _beside_peer("dense", small, "bfloat16"),
        "fp32_32k": _beside_peer("dense", large, "float32"),
        "bf16_32k": _beside_peer("dense", large, "bfloat16"),
        "compiled": _beside_peer("dense", small, "float32", compiled=True) if has_compiler() else None,
    }
    counted = Shape(vocab=512, d_model=64, n_heads=4, n_kv_heads=2, d_ff=96, seq_len=32, micro_batch=2)
    return {
        "dense_over_transformers": speeds,
        "moe_over_transformers": min(_beside_peer("moe", small, "float32", experts=experts) for experts in EXPERTS),
        "mod_over_dense": _beside_own("mod", "dense", small),
        "hybrid_over_moe": _beside_own("hybrid", "moe", small),
        "memory_over_transformers": peak_memory("ours", large) / peak_memory("theirs", large),
        "ops_over_transformers": max(
            operators_per_layer(model_config(arch, counted), counted) / peer_operators_per_layer(arch, counted) for arch in ARCHS
        ),
        "flops_over_formula": {arch: flops_over_formula(model_config(arch, small), seq_len=small.seq_len) for arch in ARCHS},
        "graph_breaks": {arch: graph_breaks(model_config(arch, counted)) for arch in ARCHS},
        "data_wait_share": data_wait_share(small),
        "matmul_share": matmul_share(small),
    }


def step_of(arch: Arch, shape: Shape, dtype: str, *, compiled: bool = False) -> Callable[[], torch.Tensor]:
    """Return `make_step` of a shape."""
    return make_step(arch, dtype=dtype, compiled=compiled, **asdict(shape))


def _beside_peer(arch: Arch, shape: Shape, dtype: str, *, compiled: bool = False, experts: str = EXPERTS[0]) -> float:
    return ratio(step_of(arch, shape, dtype, compiled=compiled), make_peer_step(arch, shape, dtype, experts=experts))


def _beside_own(arch: Arch, other: Arch, shape: Shape) -> float:
    return ratio(step_of(arch, shape, "float32"), step_of(other, shape, "float32"))


def has_compiler() -> bool:
    """Whether `torch.compile` can make code here: on a CPU it needs a C++ compiler."""
    return torch.cuda.is_available() or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


def peak_memory(side: str, shape: Shape) -> float:
    """Return the bytes that three fp32 dense steps take at their highest, in a process of their own, over what its imports take.

    `side` is `ours` or `theirs`. On a GPU: what torch has allocated at most.
    """
    script = f"from trainer.bench import Shape, print_peak; print_peak({side!r}, {shape!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(side: str, shape: Shape) -> None:
    """Do what `peak_memory` describes, here, and print it."""
    if side == "theirs":
        from transformers import LlamaForCausalLM  # noqa: F401  # counted with the imports

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    before = resident_bytes()
    step = step_of("dense", shape, "float32") if side == "ours" else make_peer_step("dense", shape, "float32")
    for _ in range(3):
        step()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated())
    else:
        print(highest_resident_bytes() - before)


def data_wait_share(shape: Shape, *, steps: int = 8) -> float:
    """Return the share of a dense fp32 step's time that it waits for its batch, read ahead from prepared shards as in training."""
    from trainer.batches import Loader, Windows
    from trainer.config import LayoutConfig
    from trainer.shards import Recipe, Shard, index_of

    with tempfile.TemporaryDirectory() as folder:
        tokens = np.random.default_rng(0).integers(0, shape.vocab, 4_000_000, dtype=np.uint16)
        tokens.tofile(Path(folder) / "train-00000.bin")
        index = index_of(Recipe("bench", vocab=shape.vocab), (Shard("train-00000.bin", len(tokens), ""),), ())
        layout, step = LayoutConfig(micro_batch=shape.micro_batch), step_of("dense", shape, "float32")
        step()
        loader = Loader(Windows(Path(folder), index, "train", shape.seq_len), 0, layout, 0, steps=range(steps))
        # The first batch is read while the trainer builds its model.
        loader.next()
        loader.waited, worked = 0.0, 0.0
        for _ in range(steps - 1):
            loader.next()
            worked += seconds(step)
        loader.close()
    return loader.waited / (loader.waited + worked)


MATMULS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_dot_product", "aten::_grouped_mm")


def matmul_share(shape: Shape) -> float:
    """Return the share of a dense fp32 step's time that matrix products, attention among them, take."""
    step = step_of("dense", shape, "float32")
    step()
    with torch.profiler.profile() as profile:
        step()
    on_gpu = torch.cuda.is_available()
    spent = {e.key: float(e.self_device_time_total if on_gpu else e.self_cpu_time_total) for e in profile.key_averages()}
    return sum(t for key, t in spent.items() if key.startswith(MATMULS)) / sum(spent.values())


def as_json(figures: dict[str, Any]) -> str:
    """Return the figures as one line."""
    return json.dumps(figures)


_MEANING = {
    "dense_over_transformers": "dense, tokens/s over transformers' Llama",
    "moe_over_transformers": "MoE, tokens/s over transformers' Mixtral",
    "mod_over_dense": "MoD (paper), tokens/s over our dense",
    "hybrid_over_moe": "hybrid (paper), tokens/s over our MoE",
    "memory_over_transformers": "peak memory over transformers' Llama, vocabulary 32,000",
    "ops_over_transformers": "operators a layer over transformers' layer, the largest of the four",
    "flops_over_formula": "FLOPs executed over the formula",
    "graph_breaks": "graph breaks of torch.compile",
    "data_wait_share": "share of the step that waits for data",
    "matmul_share": "share of the step in matrix products",
}


def as_markdown(figures: dict[str, Any]) -> str:
    """Return the figures as a table, with the machine they were measured on."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    lines = [f"Measured on {where}, torch {torch.__version__}.", "", "| figure | value |", "| --- | --- |"]
    for key, value in figures.items():
        for name, one in value.items() if isinstance(value, dict) else (("", value),):
            shown = "-" if one is None else f"{one:.4g}"
            lines.append(f"| {_MEANING[key]}{', ' if name else ''}{name} | {shown} |")
    return "\n".join(lines)
