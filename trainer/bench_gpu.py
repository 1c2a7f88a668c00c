"""The four architectures at the size of preset `b1` on one GPU: what share of its peak training reaches, and their speeds beside dense."""

from __future__ import annotations

import gc
import json
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from trainer.bench import Shape, model_config, step_of
from trainer.config import ARCHS, count_flops, preset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.config import Arch

HOPPER_PEAK = 989e12
"""FLOP/s of bf16 matrix products with fp32 sums on an H100 or H200 SXM, dense (NVIDIA's data sheets)."""
GPUS = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
"""As their driver calls them; the PCIe and NVL cards of that generation are slower."""
STEPS = 10


def at_hand() -> bool:
    """Whether there is a GPU that `HOPPER_PEAK` is the peak of."""
    return torch.cuda.is_available() and torch.cuda.get_device_name() in GPUS


def shape(micro_batch: int = 8) -> Shape:
    """Return the shape of preset `b1` at its own sequence length."""
    config = preset("b1", "dense")
    model = config.model
    sizes = (model.vocab, model.d_model, model.n_layers, model.n_heads, model.n_kv_heads, model.d_ff)
    return Shape(*sizes, seq_len=config.training.seq_len, micro_batch=micro_batch)


def known(file: Path) -> list[dict[str, Any]]:
    """Return the GPUs that a file tells of, none where there is no file. Raises ValueError where it is none of ours."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if not isinstance(found, list) or not all(isinstance(one, dict) and "gpu" in one for one in found):
        raise ValueError("no list of GPUs")
    return found


def write(file: Path, known: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Put what was measured of a GPU first into a list of GPUs in JSON, in the place of what was known of it."""
    others = [one for one in known if one["gpu"] != found["gpu"]]
    file.write_text(json.dumps([found, *others], indent=1) + "\n", encoding="utf-8")


def measure() -> dict[str, Any]:
    """Return the dense model's utilisation of the peak, and speed and memory of each architecture; compiled, bf16."""
    of = shape()
    steps = {arch: steps_of(arch, of) for arch in ARCHS}
    today = datetime.now(UTC).date().isoformat()
    return {"gpu": torch.cuda.get_device_name(), "measured": today, "torch": torch.__version__, **figures(steps, of)}


@dataclass(frozen=True)
class Steps:
    """What whole steps came to."""

    tokens_per_second: float
    peak_gib: float
    """The most that torch's allocator had given out."""


def figures(steps: dict[Arch, Steps], of: Shape) -> dict[str, Any]:
    """Return what follows from each architecture's steps."""
    dense = steps["dense"].tokens_per_second
    sizes = {"micro_batch": of.micro_batch, "seq_len": of.seq_len}
    beside = {f"{arch}_over_dense": round(of_arch.tokens_per_second / dense, 3) for arch, of_arch in steps.items() if arch != "dense"}
    speeds = {arch: round(of_arch.tokens_per_second) for arch, of_arch in steps.items()}
    peaks = {arch: round(of_arch.peak_gib, 2) for arch, of_arch in steps.items()}
    return {**sizes, "utilisation": round(utilisation(dense, of), 4), **beside, "tokens_per_second": speeds, "peak_gib": peaks}


def utilisation(tokens_per_second: float, of: Shape) -> float:
    """Return (6 N + 6 L d T) tokens/s over the peak, N the weights in the dense model's matrix products, for a causal model.

    The count is that of PaLM's appendix B (arXiv 2204.02311), with half the attention since half of it is masked.
    """
    flops = count_flops(model_config("dense", of), of.seq_len)
    # Three forward passes' worth of each; the scores are counted whole there.
    products, scores = flops.attention_matmul + flops.feed_forward + flops.head, flops.attention_scores / 2
    return 3 * (products + scores) * tokens_per_second / HOPPER_PEAK


def steps_of(arch: Arch, of: Shape) -> Steps:
    """Return what whole compiled bf16 steps came to, their speed the median of `STEPS` after warming up. Frees what they took."""
    torch.cuda.reset_peak_memory_stats()
    step = step_of(arch, of, "bfloat16", compiled=True)
    measured = [_milliseconds(step) for _ in range(STEPS + 3)][3:]
    peak = torch.cuda.max_memory_allocated()
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return Steps(of.micro_batch * of.seq_len / statistics.median(measured) * 1000, peak / 2**30)


def _milliseconds(step: Callable[[], torch.Tensor]) -> float:
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started.record()
    step()
    ended.record()
    ended.synchronize()
    return float(started.elapsed_time(ended))
