"""docs/performance.md: the bench's figures beside what they are to be, and how long a run takes to its first step.

`python -m trainer bench --page docs/performance.md` writes it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer import step_profile
from trainer.config import preset, with_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Bar:
    """A figure, what it is to be, and where it is found."""

    words: str
    wanted: float
    most: bool
    """Whether `wanted` is an upper limit."""
    of: Callable[[dict[str, Any]], float | None]

    def met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value <= self.wanted if self.most else value >= self.wanted


def _dense(key: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda figures: figures["dense_over_transformers"][key]


BARS = (
    Bar("dense, tokens/s over Llama of `transformers`, fp32, vocabulary 1,024", 1.03, False, _dense("fp32")),
    Bar("the same, bf16", 1.03, False, _dense("bf16")),
    Bar("the same, fp32, vocabulary 32,000", 1.15, False, _dense("fp32_32k")),
    Bar("the same, bf16, vocabulary 32,000", 1.15, False, _dense("bf16_32k")),
    Bar("ours compiled over its eager, fp32", 1.12, False, _dense("compiled")),
    Bar("MoE, tokens/s over Mixtral of `transformers`", 1.03, False, lambda f: f["moe_over_transformers"]),
    Bar("MoD (paper) over our dense", 1.5, False, lambda f: f["mod_over_dense"]),
    Bar("hybrid (paper) over our MoE", 1.4, False, lambda f: f["hybrid_over_moe"]),
    Bar("peak memory over Llama of `transformers`, vocabulary 32,000", 0.7, True, lambda f: f["memory_over_transformers"]),
    Bar("operators a layer and step over `transformers`' layer, the largest of the four", 0.7, True, lambda f: f["ops_over_transformers"]),
    Bar("FLOPs executed over the formula, the largest of the four", 1.02, True, lambda f: max(f["flops_over_formula"].values())),
    Bar("the same, the smallest of the four", 0.98, False, lambda f: min(f["flops_over_formula"].values())),
    Bar("graph breaks of `torch.compile`, all four", 0, True, lambda f: sum(f["graph_breaks"].values())),
    Bar("share of the step that waits for data", 0.01, True, lambda f: f["data_wait_share"]),
    Bar("start to first step, shards prepared, seconds", 12, True, lambda f: f["seconds_to_first_step"]),
)


GPU_BARS = (
    Bar("dense, share of the peak of 989 TFLOP/s", 0.5, False, lambda f: f["utilisation"]),
    Bar("MoE, tokens/s over dense", 0.85, False, lambda f: f["moe_over_dense"]),
    Bar("MoD (paper), tokens/s over dense", 1.45, False, lambda f: f["mod_over_dense"]),
    Bar("hybrid (paper), tokens/s over dense", 1.2, False, lambda f: f["hybrid_over_dense"]),
)
GPU_FILE = "performance-gpu.json"
_GPU_COMMAND = "`python -m trainer bench --gpu docs/performance-gpu.json`"


def gpu_figures(folder: Path) -> list[dict[str, Any]]:
    """Return what `python -m trainer bench --gpu` wrote into a folder's performance-gpu.json, a GPU each; empty when there is none."""
    path = folder / GPU_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def page(figures: dict[str, Any], on_gpus: Sequence[dict[str, Any]] = ()) -> str:
    """Return the page; `figures` are the bench's and `seconds_to_first_step`, `on_gpus` those of preset b1 on a GPU each."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads of {_processor()}"
    lines = [
        "# Performance",
        "",
        "<!-- Written by `python -m trainer bench --page docs/performance.md`. Do not edit. -->",
        "",
        f"Measured on {where}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the end. Times are medians of at least seven",
        "alternating pairs of whole training steps (forward, loss, backward, fused AdamW, zero_grad) at 6 layers, width 512, 8 heads, 4",
        "key-value heads, d_ff 1408, sequences of 512, micro batch 8. `docs/training.md` says what the engine does around them.",
        "",
        *_table(BARS, figures),
        "",
        f"Matrix products, attention among them, take {figures['matmul_share']:.0%} of a dense fp32 step: what is left is all that other",
        "code could gain.",
        "",
        *([*step_profile.section(figures["profiles"]), ""] if "profiles" in figures else []),
        *(_on_gpus(on_gpus) if on_gpus else [f"No GPU was at hand: {_GPU_COMMAND} measures one."]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _table(bars: tuple[Bar, ...], figures: dict[str, Any]) -> list[str]:
    lines = ["| figure | is | to be | |", "| --- | ---: | ---: | --- |"]
    for bar in bars:
        value = bar.of(figures)
        sign = "≤" if bar.most else "≥"
        verdict = "not measured: no compiler" if value is None else "" if bar.met(value) else "**not reached**"
        lines.append(f"| {bar.words} | {'-' if value is None else f'{value:.3g}'} | {sign} {bar.wanted:g} | {verdict} |")
    return lines


def _on_gpus(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## On a GPU",
        "",
        "Preset b1 in bf16 (parameters, gradients and optimizer states), compiled, the whole step as above; medians of ten. The share",
        f"counts 6 N + 6 L d T FLOPs a token, N the weights in matrix products. {_GPU_COMMAND}.",
    ]
    for figures in found:
        speeds = ", ".join(f"{arch} {speed:,}" for arch, speed in figures["tokens_per_second"].items())
        peaks = ", ".join(f"{arch} {gib:.1f}" for arch, gib in figures["peak_gib"].items())
        where = f"### One {figures['gpu']}, {figures['measured']}"
        sizes = f"torch {figures['torch']}, micro batch {figures['micro_batch']}, sequences of {figures['seq_len']:,}"
        lines += ["", where, "", *_table(GPU_BARS, figures), "", f"With {sizes}.", f"Tokens/s: {speeds}; peak GiB: {peaks}."]
    return lines


def _processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds_to_first_step() -> float:
    """Return the time from the start of `python -m trainer train` to its first step, as the run itself tells it; shards are prepared."""
    config = preset("debug", "dense")
    config = replace(config, training=replace(config.training, tokens=3 * 8192, unique_tokens=1_000_000, global_batch_tokens=8192))
    config = with_layout(replace(config, device="cuda" if torch.cuda.is_available() else "cpu"), config.layout)
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder, "run.json"), Path(folder, "shards")
        path.write_text(config.to_json(), encoding="utf-8")
        prepare = ["data", "prepare", "stdlib", "--to", str(data), "--vocab", str(config.model.vocab), "--tokens", "1M"]
        train = ["train", "--config", str(path), "--out", str(Path(folder, "out")), "--data", str(data)]
        for arguments in (prepare, train):
            subprocess.run([sys.executable, "-m", "trainer", *arguments], check=True, capture_output=True)
        told = json.loads(Path(folder, "out", "result.json").read_text(encoding="utf-8"))["seconds_to_first_step"]
    return float(told)
