"""DeepSpeed around a model: process group, configuration, optimizer.

No C++ operator may be compiled on the way: a machine need not have a compiler. DeepSpeed builds its shared-memory communication
and its Adam at first use otherwise; both have plain counterparts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.importing import initial_state, load_into
from trainer.model import Model, initialise

if TYPE_CHECKING:
    from trainer.config import RunConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def start_processes(device: str) -> tuple[int, int]:
    """Join the process group and return rank and number of ranks; a process that nobody launched is a group of one."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        os.environ.update(alone)
    if "OMP_NUM_THREADS" not in os.environ and device == "cpu":
        torch.set_num_threads(_cores())
    deepspeed = _deepspeed()
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


def build(config: RunConfig) -> Any:
    """Return a DeepSpeed engine around a freshly initialised model."""
    model = Model(config.model, recompute_every=1 if config.layout.checkpointing == "block" else 0)
    if config.init_from is None:
        initialise(model, config.training.seed)
    else:
        load_into(model, initial_state(Path(config.init_from), config.model))
    groups = parameter_groups(model, config.training.weight_decay)
    options: dict[str, Any] = {"model": model, "config": deepspeed_config(config)}
    if config.layout.offload == "none":
        options["optimizer"] = torch.optim.AdamW(
            groups,
            lr=config.training.lr,
            betas=(config.training.beta1, config.training.beta2),
            eps=config.training.adam_eps,
            fused=config.device == "cuda",
        )
    else:
        options["model_parameters"] = groups
    engine, *_ = _deepspeed().initialize(**options)
    return engine


def parameter_groups(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """Return matrices with weight decay, vectors (norms, biases) without."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """Return DeepSpeed's own configuration for a run (https://www.deepspeed.ai/docs/config-json)."""
    layout, training = config.layout, config.training
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    if layout.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if layout.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if layout.offload == "optimizer+parameters":
        zero["offload_param"] = {"device": "cpu"}
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": layout.grad_accum,
        "gradient_clipping": training.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
    }
    if training.precision != "fp32":
        made[training.precision] = {"enabled": True}
    if layout.offload != "none":
        made["optimizer"] = {
            "type": "AdamW",
            "params": {
                "lr": training.lr,
                "betas": [training.beta1, training.beta2],
                "eps": training.adam_eps,
                "weight_decay": training.weight_decay,
            },
        }
    return made
