"""The training run: data, engine, steps, evaluation, checkpoints, result."""

from __future__ import annotations

import math
import platform
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from trainer import checkpoint, engine, shards, weights
from trainer.batches import Order, Windows, positions
from trainer.config import count_parameters, with_layout
from trainer.errors import LossNotFinite, Stopped
from trainer.model import balance_experts, routing_figures
from trainer.reports import Reports, peak_memory_gib, write_json
from trainer.sample import sample
from trainer.schedule import learning_rate

if TYPE_CHECKING:
    from types import FrameType

    from trainer.config import RunConfig
    from trainer.model import Trace
    from trainer.tokenizer import Tokenizer

EVALUATION_BATCH = 8
SAMPLE_TOKENS = 160


@dataclass
class _Job:
    """A run while it is going on."""

    config: RunConfig
    out: Path
    engine: Any
    rank: int
    world: int
    train: Windows
    validation: Windows
    tokenizer: Tokenizer
    reports: Reports
    stop_asked: list[int]
    step: int = 0
    """Steps done."""
    loss_first: float = math.nan
    seconds: float = 0.0
    """Time in steps, of earlier rentals too."""
    peak_gib: float = 0.0
    routing: dict[str, float] | None = None

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.step * self.config.training.global_batch_tokens


def train(config: RunConfig, out: Path, *, data: str | None, resume: bool, init_from: str | None = None) -> None:
    """Train to the end, or until asked to stop.

    Raises DataError, LossNotFinite, or Stopped after a checkpoint was written.
    """
    stop_asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: _on_signal(got, _frame, stop_asked))
    out.mkdir(parents=True, exist_ok=True)
    rank, world = engine.start_processes(config.device)
    if world != config.layout.n_gpus:
        config = with_layout(config, replace(config.layout, n_gpus=world))
    reports = Reports(out, config.training.steps, writes=rank == 0)
    reports.phase("preparing")
    if data is not None:
        config = replace(config, data=replace(config.data, source=data))
    if init_from is not None:
        config = replace(config, init_from=init_from)
    if config.init_from is not None and rank == 0:
        # Its tokenizer goes with it: the weights know no other.
        weights.put_beside(Path(config.init_from), out)
    job = _prepare(config, out, (rank, world), reports, stop_asked)
    _restore(job, resume=resume)
    if math.isnan(job.loss_first):
        reports.phase("evaluating")
        job.loss_first = evaluate(job)
        reports.say(f"validation loss {job.loss_first:.3f} before the first step")
    _steps(job)
    _finish(job)


def _on_signal(number: int, _frame: FrameType | None, asked: list[int]) -> None:
    """Remember to stop after the step; a second signal, or one before any step, stops at once."""
    asked.append(number)
    if len(asked) > 2:
        raise Stopped("stopped: asked three times")


def _prepare(config: RunConfig, out: Path, place: tuple[int, int], reports: Reports, stop_asked: list[int]) -> _Job:
    """Make the data ready, on rank 0 first, and build the engine. `place` is rank and number of ranks."""
    rank, world = place

    def tick(tokens: int) -> None:
        reports.alive(tokens_prepared=tokens)
        if stop_asked:
            raise Stopped("stopped before the first step: nothing was trained yet")

    started = time.monotonic()
    if rank == 0:
        shards.prepare(config, config.data.source, out, tick)
    if world > 1:
        dist.barrier()
    index, tokenizer = shards.prepare(config, config.data.source, out, tick)
    training = config.training
    train_windows = Windows(out / "shards", index, "train", training.seq_len)
    epochs = training.tokens / (len(train_windows) * training.seq_len)
    reports.say(
        f"data: {index.count('train'):,} tokens to train on, {index.count('validation'):,} held out, {epochs:.2f} epochs "
        f"({time.monotonic() - started:.1f} s)"
    )
    if epochs > 1.05 * training.epochs:
        reports.say(f"the text has fewer than the {training.unique_tokens:,} unique tokens asked for: it is seen {epochs:.1f} times")
    (out / "run.json").write_text(config.to_json(), encoding="utf-8")
    validation = Windows(out / "shards", index, "validation", training.seq_len)
    return _Job(config, out, engine.build(config), rank, world, train_windows, validation, tokenizer, reports, stop_asked)


def _restore(job: _Job, *, resume: bool) -> None:
    """Take up the newest checkpoint where there is one."""
    state = checkpoint.load_newest(job.engine, job.out / "checkpoints") if resume else None
    if resume and state is None:
        job.reports.say("no checkpoint to go on from: starting anew")
    if state is not None:
        job.step, job.loss_first = state["step"], state["loss_first"]
        job.seconds, job.peak_gib, job.routing = state["seconds"], state["peak_gib"], state["routing"]
        job.reports.say(f"going on after step {job.step} of {job.config.training.steps}")
    job.reports.begin(job.step)


def _steps(job: _Job) -> None:
    training = job.config.training
    order = Order(len(job.train), training.seed)
    every = max(1, training.steps // 10)
    saved_at = time.monotonic()
    job.reports.phase("training", step=job.step, tokens=job.tokens)
    while job.step < training.steps:
        started = time.monotonic()
        loss, routing = _one_step(job, order)
        job.seconds += time.monotonic() - started
        if routing:
            job.routing = routing
        _tell(job, loss, routing, time.monotonic() - started)
        due = job.step % every == 0 or time.monotonic() - saved_at > training.checkpoint_minutes * 60
        if job.stop_asked or (due and job.step < training.steps):
            _save(job)
            saved_at = time.monotonic()
        if job.stop_asked:
            raise Stopped(f"stopped after step {job.step} of {training.steps}: a checkpoint was written")


def _one_step(job: _Job, order: Order) -> tuple[float, dict[str, float]]:
    """Do one optimizer step and return the language-model loss over all ranks, and how tokens were routed."""
    config, ds = job.config, job.engine
    for group in ds.optimizer.param_groups:
        group["lr"] = learning_rate(config.training, job.step)
    layout, total, trace = config.layout, torch.zeros((), device=ds.device), None
    for places in positions(job.step, job.rank, world=job.world, micro_batch=layout.micro_batch, grad_accum=layout.grad_accum):
        inputs, targets = (part.to(ds.device) for part in job.train.batch([order[p] for p in places]))
        loss, auxiliary, trace = ds(inputs, targets)
        ds.backward(loss + auxiliary)
        ds.step()
        total += loss.detach() / layout.grad_accum
    if trace is not None and config.model.balance_bias_rate:
        balance_experts(ds.module, _mean_loads(trace, job.world))
    job.step += 1
    mean = _mean_over_ranks(total, job.world)
    if not math.isfinite(mean):
        raise LossNotFinite(f"the loss of step {job.step} is {mean}: try a lower learning rate (--set lr=...)")
    return mean, routing_figures(trace) if trace is not None else {}


def _tell(job: _Job, loss: float, routing: dict[str, float], step_seconds: float) -> None:
    norm = job.engine.get_global_grad_norm()
    job.peak_gib = max(job.peak_gib, peak_memory_gib(job.config.device))
    job.reports.step(
        {
            "step": job.step,
            "tokens": job.tokens,
            "loss": loss,
            "lr": learning_rate(job.config.training, job.step - 1),
            "grad_norm": None if norm is None else float(norm),
            "tokens_per_second": job.config.training.global_batch_tokens / step_seconds,
            "seconds": job.seconds,
            "peak_memory_gib": job.peak_gib,
            **routing,
        }
    )


def _save(job: _Job) -> None:
    job.reports.phase("saving")
    state = {
        "step": job.step,
        "loss_first": job.loss_first,
        "seconds": job.seconds,
        "peak_gib": job.peak_gib,
        "routing": job.routing,
    }
    checkpoint.save(
        job.engine,
        job.out / "checkpoints",
        job.step,
        state,
        keep=job.config.training.keep_checkpoints,
        rank=job.rank,
        beside=lambda folder: _save_for_others(job, folder),
    )
    job.reports.phase("training")


@torch.no_grad()
def evaluate(job: _Job) -> float:
    """Return the mean validation loss in nats per token, decided causally: no token is chosen by what comes after it."""
    model = job.engine.module
    model.eval()
    most = max(1, job.config.training.validation_tokens // job.config.training.seq_len)
    numbers = list(range(min(len(job.validation), most)))
    total, seen = 0.0, 0
    for start in range(0, len(numbers), EVALUATION_BATCH):
        part = numbers[start : start + EVALUATION_BATCH]
        inputs, targets = (rows.to(job.engine.device) for rows in job.validation.batch(part))
        loss, _, _ = model(inputs, targets, causal=True)
        total += float(loss) * len(part)
        seen += len(part)
        job.reports.alive()
    model.train()
    return total / seen


def _finish(job: _Job) -> None:
    """Evaluate, write weights, a sample and the result."""
    job.reports.phase("evaluating")
    loss_last = evaluate(job)
    model = job.engine.module
    model.eval()
    prompt = "def " if job.config.data.source == "stdlib" else "The "
    text = sample(model, job.tokenizer, prompt, new_tokens=SAMPLE_TOKENS, temperature=0.8, seed=job.config.training.seed)
    job.reports.phase("saving")
    _save_weights(job, job.out)
    job.reports.phase("saving")
    if job.rank == 0:
        write_json(job.out / "result.json", _result(job, loss_last, {"prompt": prompt, "text": text}))
    job.reports.say(f"validation loss {loss_last:.3f} after {job.step} steps (before: {job.loss_first:.3f})")
    job.reports.phase("done", loss=loss_last)


def _save_weights(job: _Job, folder: Path) -> None:
    """Write the weights as they are now; every rank calls this, since under ZeRO stage 3 each has a part."""
    sharded = job.config.layout.zero_stage == 3
    state = job.engine._zero3_consolidated_16bit_state_dict() if sharded else job.engine.module.state_dict()
    if job.rank == 0:
        weights.write(state, folder / weights.WEIGHTS)


def _save_for_others(job: _Job, folder: Path) -> None:
    """Put into a checkpoint what sampling and export need, so that neither has to unpickle anything."""
    _save_weights(job, folder)
    if job.rank == 0:
        (folder / weights.RUN).write_text(job.config.to_json(), encoding="utf-8")
        weights.put_beside(job.out, folder)


def _result(job: _Job, loss_last: float, written: dict[str, str]) -> dict[str, Any]:
    import deepspeed

    counted = count_parameters(job.config.model)
    routing = job.routing or {}
    return {
        "loss_first": job.loss_first,
        "loss_last": loss_last,
        "perplexity": math.exp(loss_last),
        "seconds": job.seconds,
        "tokens": job.tokens,
        "steps": job.step,
        "tokens_per_second": job.tokens / job.seconds,
        "peak_memory_gib": max(job.peak_gib, peak_memory_gib(job.config.device)),
        "epochs": job.tokens / (len(job.train) * job.config.training.seq_len),
        "routing": routing,
        **routing,
        "parameters": {"total": counted.total, "active": counted.active},
        "device": job.config.device if job.config.device == "cpu" else torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "deepspeed": deepspeed.__version__},
        "sample": written,
    }


def _mean_loads(trace: Trace, world: int) -> Trace:
    """Return the experts' loads over all ranks, so that every rank votes alike."""
    if world > 1:
        for routing in trace.experts:
            dist.all_reduce(routing.load)
            routing.load.div_(world)
    return trace


def _mean_over_ranks(value: torch.Tensor, world: int) -> float:
    if world > 1:
        dist.all_reduce(value)
        value = value / world
    return float(value)
