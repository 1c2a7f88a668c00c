"""The four architectures at the size of preset `b1` on one GPU: what share of its peak training reaches, and their speeds beside dense."""

from __future__ import annotations

import gc
import statistics
from typing import TYPE_CHECKING, Any

import torch

from trainer.bench import Shape, model_config, step_of
from trainer.config import ARCHS, count_flops, preset

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import Arch

HOPPER_PEAK = 989e12
"""FLOP/s of bf16 matrix products with fp32 sums on an H100 or H200 SXM, dense (NVIDIA's data sheets)."""
NEEDED_GIB = 70.0
STEPS = 10


def at_hand() -> bool:
    """Whether there is a GPU of Hopper's generation with enough memory."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0) and _memory_gib() >= NEEDED_GIB


def _memory_gib() -> float:
    return float(torch.cuda.get_device_properties(0).total_memory / 2**30)


def shape(micro_batch: int = 8) -> Shape:
    """Return the shape of preset `b1` at its own sequence length."""
    config = preset("b1", "dense")
    model = config.model
    sizes = (model.vocab, model.d_model, model.n_layers, model.n_heads, model.n_kv_heads, model.d_ff)
    return Shape(*sizes, seq_len=config.training.seq_len, micro_batch=micro_batch)


def measure() -> dict[str, Any]:
    """Return the dense model's utilisation of the peak, and tokens/s of each architecture over dense; compiled, bf16."""
    of = shape()
    speeds = {arch: tokens_per_second(arch, of) for arch in ARCHS}
    return figures(speeds, gpu=torch.cuda.get_device_name(), torch_version=torch.__version__, of=of)


def figures(speeds: dict[Arch, float], *, gpu: str, torch_version: str, of: Shape) -> dict[str, Any]:
    """Return what follows from tokens/s by architecture."""
    beside = {f"{arch}_over_dense": round(speed / speeds["dense"], 3) for arch, speed in speeds.items() if arch != "dense"}
    where = {"gpu": gpu, "torch": torch_version, "micro_batch": of.micro_batch, "seq_len": of.seq_len}
    rounded = {arch: round(speed) for arch, speed in speeds.items()}
    return {**where, "utilisation": round(utilisation(speeds["dense"], of), 4), **beside, "tokens_per_second": rounded}


def utilisation(tokens_per_second: float, of: Shape) -> float:
    """Return (6 N + 6 L d T) tokens/s over the peak, N the weights in the dense model's matrix products, for a causal model.

    The count is that of PaLM's appendix B (arXiv 2204.02311), with half the attention since half of it is masked.
    """
    flops = count_flops(model_config("dense", of), of.seq_len)
    # Three forward passes' worth of each; the scores are counted whole there.
    products, scores = flops.attention_matmul + flops.feed_forward + flops.head, flops.attention_scores / 2
    return 3 * (products + scores) * tokens_per_second / HOPPER_PEAK


def tokens_per_second(arch: Arch, of: Shape) -> float:
    """Return the speed of whole compiled bf16 steps, the median of `STEPS` after warming up. Frees what they took."""
    step = step_of(arch, of, "bfloat16", compiled=True)
    measured = [_milliseconds(step) for _ in range(STEPS + 3)][3:]
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return of.micro_batch * of.seq_len / statistics.median(measured) * 1000


def _milliseconds(step: Callable[[], torch.Tensor]) -> float:
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started.record()
    step()
    ended.record()
    ended.synchronize()
    return float(started.elapsed_time(ended))
