"""What a finished run leaves: `model.safetensors` and `result.json`."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer import engine, evaluate, pieces, weights
from trainer.config import count_parameters
from trainer.reports import peak_memory_gib

if TYPE_CHECKING:
    from trainer.job import Job


def save_weights(job: Job) -> None:
    """Write `model.safetensors` in the run's precision, from the last step's checkpoint."""
    last = job.out / "checkpoints" / f"step-{job.step:06d}"
    full = pieces.weights(last, pieces.shapes(job.engine))
    dtype = engine.DTYPES[job.config.training.precision]
    weights.write(
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in full.items()}, job.out / weights.WEIGHTS
    )


def figures(job: Job, loss_last: float, written: dict[str, str]) -> dict[str, Any]:
    """Return the contents of `result.json`; `written` is a prompt and what the model wrote after it."""
    counted = count_parameters(job.config.model)
    return {
        "loss_first": job.loss_first,
        "loss_last": loss_last,
        "perplexity": evaluate.perplexity(loss_last),
        "bits_per_byte": evaluate.bits_per_byte(loss_last, job.index),
        "seconds": job.seconds,
        "tokens": job.tokens,
        "steps": job.step,
        "tokens_per_second": job.tokens / job.seconds,
        "seconds_to_first_step": job.started_after,
        "data_wait_share": job.waited / job.seconds,
        "skipped_batches": job.skipped,
        "peak_memory_gib": max(job.peak_gib, peak_memory_gib(job.config.device)),
        "epochs": job.tokens / (len(job.train) * job.config.training.seq_len),
        "routing": job.routing,
        **job.routing,
        "parameters": {"total": counted.total, "active": counted.active},
        "device": job.config.device if job.config.device == "cpu" else torch.cuda.get_device_name(),
        "versions": versions(),
        "sample": written,
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    import deepspeed

    return {"python": platform.python_version(), "torch": torch.__version__, "deepspeed": deepspeed.__version__, "numpy": np.__version__}


def process_seconds() -> float | None:
    """Return how long this process has lived, None where the system does not say."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return up - started / os.sysconf("SC_CLK_TCK")
