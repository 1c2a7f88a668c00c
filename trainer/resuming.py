"""What a checkpoint holds beside weights and optimizer, so that a run goes on exactly: taken from a job, and given back to one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from trainer import checkpoint, pieces, weights
from trainer.errors import DataError
from trainer.result import versions
from trainer.schedule import learning_rate

if TYPE_CHECKING:
    from trainer.config import RunConfig
    from trainer.job import Job
    from trainer.reports import Reports
    from trainer.shards import Index


def newest(out: Path, place: checkpoint.Place, reports: Reports) -> Path | None:
    """Return the newest whole checkpoint: rank 0 reads and hashes, the others are told."""
    found = checkpoint.newest(out / "checkpoints", reports.say) if place.rank == 0 else None
    if place.world == 1:
        return found
    told: list[str | None] = [None if found is None else found.name]
    dist.broadcast_object_list(told, device=torch.device("cpu"))
    return None if told[0] is None else out / "checkpoints" / told[0]


def require_same(config: RunConfig, state: dict[str, Any]) -> None:
    """Raise DataError when a checkpoint is of another model, or its data position means something else here."""
    before = state["config"]
    for section, names in (("model", tuple(dataclasses.asdict(config.model))), ("training", ("seq_len", "global_batch_tokens", "seed"))):
        for name in names:
            was, now = before[section].get(name), getattr(getattr(config, section), name)
            if was is not None and was != now:
                raise DataError(f"the checkpoint was made with {name}={was}, and the configuration says {now}: go on with {name}={was}")


def restore(job: Job, found: Path, state: dict[str, Any]) -> None:
    """Take up a checkpoint: the engine was built with its weights already."""
    same = (state["world"], state["zero_stage"]) == (job.place.world, job.config.layout.zero_stage)
    pieces.restore(job.engine, found, state["optimizer_steps"], rank=job.place.rank, same_layout=same)
    job.step, job.loss_first, job.seconds, job.peak_gib = state["step"], state["loss_first"], state["seconds"], state["peak_gib"]
    job.routing, job.skipped, job.waited = state["routing"], state["skipped"], state["waited"]
    job.losses.resume(state["losses"])
    _restore_scale(job.engine, state["loss_scale"])
    _restore_random(found, job.place.rank)
    if state["data"]["fingerprint"] != _fingerprint(job.index):
        job.reports.say("the data is not what the checkpoint was trained on: going on at the same position of the new data")
    if state["versions"]["torch"] != torch.__version__:
        job.reports.say(f"the checkpoint was written with torch {state['versions']['torch']}, this is {torch.__version__}")
    where = "" if same else f", written by {state['world']} rank(s) at ZeRO stage {state['zero_stage']}"
    job.reports.say(f"going on after step {job.step} of {job.config.training.steps}{where}")


def save(job: Job) -> None:
    """Begin a checkpoint: copied now, written beside the training where main memory holds the copy."""
    job.reports.phase("saving")
    with job.watch.patient(f"saving step {job.step}"):
        job.writer.finish()
        background = 1.5 * pieces.size(job.engine) < _free_memory()
        tensors = pieces.snapshot(job.engine, job.place.rank, job.place.world) | _random_states(job.place.rank)
        job.writer.begin(job.step, tensors, _state(job), background=background, beside=_beside(job))
    job.reports.phase("training")


def _state(job: Job) -> dict[str, Any]:
    training, sequences = job.config.training, job.step * job.config.training.global_batch_tokens // job.config.training.seq_len
    return {
        "format": checkpoint.FORMAT,
        "step": job.step,
        "optimizer_steps": pieces.optimizer_steps(job.engine),
        "loss_first": job.loss_first,
        "seconds": job.seconds,
        "waited": job.waited,
        "peak_gib": job.peak_gib,
        "routing": job.routing,
        "skipped": job.skipped,
        "losses": job.losses.recent(),
        "loss_scale": _scale(job.engine),
        "data": {
            "fingerprint": _fingerprint(job.index),
            "sequences": sequences,
            "epoch": sequences // len(job.train),
            "position": sequences % len(job.train),
        },
        "schedule": {"steps": training.steps, "next_lr": learning_rate(training, job.step)},
        "world": job.place.world,
        "zero_stage": job.config.layout.zero_stage,
        "parameters": pieces.shapes(job.engine),
        "config": dataclasses.asdict(job.config),
        "versions": versions(),
    }


def _beside(job: Job) -> dict[str, bytes]:
    """Return what sampling and export need beside the weights."""
    there = {name: job.out / name for name in weights.TOKENIZER_FILES}
    return {weights.RUN: job.config.to_json().encode(), **{name: path.read_bytes() for name, path in there.items() if path.is_file()}}


def _fingerprint(index: Index) -> str:
    return hashlib.sha256("".join(shard.sha256 for shard in index.train).encode()).hexdigest()


def _free_memory() -> float:
    """Return the bytes of main memory that can be had, infinity where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), math.inf)


def _random_states(rank: int) -> dict[str, torch.Tensor]:
    kind, keys, *rest = np.random.get_state()
    plain = json.dumps({"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}).encode()
    states = {"plain": torch.frombuffer(bytearray(plain), dtype=torch.uint8), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {f"random/{rank}/{name}": value for name, value in states.items()}


def _restore_random(found: Path, rank: int) -> None:
    """Set the random states of this rank; a rank that did not exist keeps its own."""
    with pieces.Reader(found) as reader:
        states = {name: reader.tensor(f"random/{rank}/{name}") for name in ("plain", "torch", "cuda")}
    if states["plain"] is not None:
        plain = json.loads(bytes(states["plain"].tolist()))
        version, internal, gauss = plain["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = plain["numpy"]
        np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    if states["torch"] is not None:
        torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _scale(ds: Any) -> dict[str, float]:
    """Return the state of fp16's loss scaling; empty in other precisions."""
    scaler = getattr(ds.optimizer, "loss_scaler", None)
    if scaler is None or not ds.fp16_enabled():
        return {}
    return {name: value for name, value in vars(scaler).items() if isinstance(value, int | float)}


def _restore_scale(ds: Any, scale: dict[str, float]) -> None:
    if scale and ds.fp16_enabled():
        vars(ds.optimizer.loss_scaler).update(scale)
