"""DeepSpeed around a model: process group, configuration, optimizer, compilation.

No C++ operator may have to be compiled on the way: a machine need not have a compiler. DeepSpeed builds its shared-memory communication
and its Adam at first use otherwise; both have plain counterparts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from trainer import rendezvous
from trainer.compiling import compile_model, compiles
from trainer.config import ConfigError, count_parameters
from trainer.importing import initial_state, load_into
from trainer.model import Model, initialise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.config import RunConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


BUCKET = 100 * 1024 * 1024
"""Numbers that ranks exchange at once, at most."""
COLLECTIVE_SECONDS = 86_400.0
"""Ranks wait this long for each other: one may prepare data for hours. A rank that hangs is found by `trainer.watch`, by name."""


OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that say which process of which group this one is."""


def start_processes(device: str) -> tuple[int, int]:
    """Join the process group and return rank and number of ranks; a process that nobody launched is a group of one.

    Under `torchrun` the rendezvous is in the environment.
    """
    os.environ.setdefault("DS_ACCELERATOR", device)
    if "RANK" not in os.environ:
        os.environ.update(zip(OF_A_GROUP, ("0", "0", "1", "127.0.0.1", str(rendezvous.free_port())), strict=True))
    if "OMP_NUM_THREADS" not in os.environ and device == "cpu":
        torch.set_num_threads(max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        # gloo stands beside nccl: what ranks tell each other between micro batches does not wait for the GPU.
        store, rank, world = rendezvous.join(COLLECTIVE_SECONDS)
        backends, timeout = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timedelta(seconds=COLLECTIVE_SECONDS)
        dist.init_process_group(backends, store=store, rank=rank, world_size=world, timeout=timeout)
    _deepspeed().init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def rank_of_environment() -> int:
    """Return this process's rank before it has joined the others."""
    return int(os.environ.get("RANK", "0"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _deepspeed() -> Any:
    """Import DeepSpeed quietly, and without its compiled communication."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # A private table, so nothing depends on its shape: without it DeepSpeed asks for a compiler.
    with contextlib.suppress(AttributeError, TypeError):
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def build(config: RunConfig, weights: Mapping[str, torch.Tensor] | None = None) -> Any:
    """Return a DeepSpeed engine around a model: with given fp32 weights (and buffers), those to start from, or freshly initialised."""
    layout = config.layout
    model = Model(config.model, recompute_every=layout.checkpoint_every if layout.checkpointing == "block" else 0)
    if weights is not None:
        model.load_state_dict(dict(weights), strict=True)
    elif config.init_from is not None:
        load_into(model, initial_state(Path(config.init_from), config.model))
    else:
        initialise(model, config.training.seed)
    if compiles(config):
        compile_model(model)
    groups = parameter_groups(model, config.training.weight_decay)
    engine, *_ = _deepspeed().initialize(model=model, config=deepspeed_config(config), optimizer=optimizer(groups, config))
    return engine


def parameter_groups(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """Return matrices with weight decay, vectors (norms, biases) without."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def optimizer(groups: list[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """Return AdamW, as fast as the machine has it. Raises ConfigError when 8-bit AdamW is asked for and not installed."""
    training = config.training
    constants: dict[str, Any] = {"lr": training.lr, "betas": (training.beta1, training.beta2), "eps": training.adam_eps}
    if training.optimizer == "adamw8bit":
        return _adamw_8bit(groups, constants)
    if config.layout.offload != "none" and config.device == "cuda":
        with contextlib.suppress(Exception):  # No compiler, or a CPU without AVX: torch's own does the same, slower.
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            return DeepSpeedCPUAdam(groups, adamw_mode=True, **constants)  # type: ignore[no-any-return]
    try:
        return torch.optim.AdamW(groups, fused=True, **constants)
    except RuntimeError:
        return torch.optim.AdamW(groups, **constants)


def _adamw_8bit(groups: list[dict[str, Any]], constants: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ConfigError(
            "optimizer",
            "adamw8bit",
            "8-bit AdamW needs bitsandbytes, which is not installed",
            "pip install bitsandbytes, or optimizer=adamw",
        ) from None
    made: torch.optim.Optimizer = AdamW8bit(groups, **constants)
    return made


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """Return DeepSpeed's own configuration for a run (https://www.deepspeed.ai/docs/config-json)."""
    layout, training = config.layout, config.training
    # DeepSpeed takes the whole bucket at once, 500 million numbers by default: a gigabyte or two that a small model has no use for.
    # It must be even; 1024 keeps pieces aligned.
    bucket = min(BUCKET, -(-count_parameters(config.model).total // 1024) * 1024)
    zero: dict[str, Any] = {"stage": layout.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if layout.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.device == "cuda"}
    if layout.offload == "optimizer+parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": config.device == "cuda"}
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": layout.grad_accum,
        "gradient_clipping": training.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # Otherwise offloading demands DeepSpeed's own compiled Adam.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
    }
    if training.precision != "fp32":
        made[training.precision] = {"enabled": True}
    return made
