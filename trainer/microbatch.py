"""The largest micro batch that fits, found by trying.

Each try is a process of its own for every rank: two whole steps on random tokens, with a part of the memory left over. Running out of
memory there, on a GPU or on the host, or even being killed for it, costs this process nothing and leaves no fragments behind. A run
that runs out of memory all the same writes down what it had, and goes on with less.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import with_layout
from trainer.errors import Ended, OutOfMemory
from trainer.rendezvous import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.checkpoint import Place
    from trainer.config import LayoutConfig, RunConfig

TRY_SECONDS = 900.0
HOST_SHARE, GPU_SHARE = 0.8, 0.95
"""Of the free main memory (where there is no GPU) and of a GPU's, what a try may take: training has checkpoints and evaluation beside."""
TOO_MUCH = "micro-batch-too-much.json"
_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "MemoryError")


def largest(
    config: RunConfig, layout: LayoutConfig, place: Place, say: Callable[[str], None], tick: Callable[[], None], *, limit: float
) -> int:
    """Return the largest micro batch below `limit` that divides the global batch and fits, tried from the layout's own on.

    Raises OutOfMemory when not even the smallest fits, ConfigError when the ranks do not divide the global batch.
    """
    sizes = [size for size in divisors(config, layout) if size < limit] or [1]
    at = max((i for i, size in enumerate(sizes) if size <= layout.micro_batch), default=0)

    def fits(size: int) -> bool:
        tick()
        fitting = _fits(config, replace(layout, micro_batch=size), place)
        say(f"micro batch {size} {'fits' if fitting else 'does not fit'}")
        return fitting

    return search(sizes, at, fits)


def too_much(out: Path) -> float:
    """Return the micro batch that an earlier start of the run in `out` had no memory for, infinity when there was none."""
    try:
        return float(json.loads((out / TOO_MUCH).read_text(encoding="utf-8"))["micro_batch"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def remember_too_much(out: Path, micro_batch: int) -> None:
    """Write down that training ran out of memory with a micro batch."""
    (out / TOO_MUCH).write_text(json.dumps({"micro_batch": micro_batch}), encoding="utf-8")


def is_no_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the host."""
    import torch

    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


def divisors(config: RunConfig, layout: LayoutConfig) -> list[int]:
    """Return the micro batches into which a rank's share of the global batch divides, smallest first. Raises ConfigError."""
    with_layout(config, replace(layout, micro_batch=1))
    sequences = config.training.global_batch_tokens // config.training.seq_len // layout.n_gpus
    return [size for size in range(1, sequences + 1) if sequences % size == 0]


def search(sizes: list[int], at: int, fits: Callable[[int], bool]) -> int:
    """Return the largest of `sizes` that fits, tried from the one at `at` upwards or downwards. Raises OutOfMemory."""
    best: int | None = None
    if fits(sizes[at]):
        best = sizes[at]
        for size in sizes[at + 1 :]:
            if not fits(size):
                break
            best = size
        return best
    for size in reversed(sizes[:at]):
        if fits(size):
            return size
    raise OutOfMemory(
        f"not even a micro batch of {sizes[0]} fits: take a shorter seq_len, a higher zero_stage, checkpointing=block or offload"
    )


def _fits(config: RunConfig, layout: LayoutConfig, place: Place) -> bool:
    """Try a layout on all ranks at once."""
    import torch
    import torch.distributed as dist

    tokens = layout.micro_batch * layout.n_gpus * config.training.seq_len
    tried = replace(config, training=replace(config.training, global_batch_tokens=tokens, trackers=""), layout=layout)
    tried = with_layout(tried, layout)
    told = [free_port()]
    if place.world > 1:
        dist.broadcast_object_list(told, device=torch.device("cpu"))
    error: Ended | None = None
    try:
        fitting = _try(tried, told[0])
    except Ended as failed:
        fitting, error = False, failed
    if place.world > 1:
        flag = torch.tensor([float(fitting)])
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        fitting = bool(flag[0])
    if error is not None:
        raise error
    return fitting


def _try(config: RunConfig, port: int) -> bool:
    """Run one try of this rank and return whether it fitted. Raises Ended when it failed for another reason than memory."""
    # Under torchrun the rendezvous would be looked for at the launcher's; the tries make their own.
    environment = {**os.environ, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.json")
        path.write_text(config.to_json(), encoding="utf-8")
        argv = [sys.executable, "-m", "trainer", "probe", "--config", str(path)]
        try:
            done = subprocess.run(
                argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRY_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise Ended(f"trying micro batch {config.layout.micro_batch} took longer than {TRY_SECONDS:.0f} s") from None
    if done.returncode == 0:
        return True
    if done.returncode in (OutOfMemory.code, -9) or any(words in done.stderr for words in _NO_MEMORY):
        return False
    raise Ended(f"trying micro batch {config.layout.micro_batch} failed: {done.stderr.strip()[-400:]}")


# --- in the process that tries ----------------------------------------------------------------------------------------------


def probe(config: RunConfig) -> None:
    """Do two whole steps on random tokens and print what they took as JSON. Raises OutOfMemory."""
    if config.device == "cpu":
        _limit_host_memory(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    import torch

    from trainer import engine
    from trainer.reports import peak_memory_gib

    engine.start_processes(config.device)
    if config.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE)
    try:
        ds = engine.build(config)
        shape = (config.layout.micro_batch, config.training.seq_len)
        for _ in range(2):
            started = time.monotonic()
            tokens = torch.randint(0, config.model.vocab, shape, device=ds.device)
            loss, auxiliary, *_rest = ds(tokens, tokens)
            ds.backward(loss + auxiliary)
            ds.step()
            float(loss.detach())
            seconds = time.monotonic() - started
    except (RuntimeError, MemoryError) as error:
        if is_no_memory(error):
            raise OutOfMemory(str(error)) from error
        raise
    print(json.dumps({"peak_memory_gib": peak_memory_gib(config.device), "step_seconds": seconds}), flush=True)


def _limit_host_memory(processes: int) -> None:
    """Make an allocation beyond this process's share of the free memory fail, before the system kills whom it likes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(free * HOST_SHARE / processes)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, int(soft * HOST_SHARE))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
