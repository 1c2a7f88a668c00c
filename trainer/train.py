"""The training run: data, engine, steps, evaluation, checkpoints, result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from trainer import checkpoint, engine, evaluate, microbatch, pieces, shards, sources, trackers, weights
from trainer import tokenizer as tokenizers
from trainer.batches import Loader, Windows
from trainer.config import check, count_parameters, with_layout
from trainer.errors import CannotWrite, DataError, Ended, LossNotFinite, Stopped
from trainer.model import balance_experts, routing_figures
from trainer.reports import Reports, peak_memory_gib, write_json
from trainer.sample import sample
from trainer.schedule import learning_rate
from trainer.spikes import Losses
from trainer.store import Store
from trainer.watch import Watch

if TYPE_CHECKING:
    from trainer.config import RunConfig
    from trainer.model import Trace
    from trainer.tokenizer import Tokenizer

SAMPLE_TOKENS = 160
ROUTING_EVERY = 10
"""On a GPU reading the routing figures makes the host wait, so only some steps have them."""
MOST_SKIPPED_STEPS = 8
"""So many steps in a row with nothing to learn from are no bad batch but a broken model."""


@dataclass(frozen=True)
class Options:
    """What the command line says beside the configuration."""

    data: str | None = None
    resume: bool = False
    micro_batch: str | None = None
    """`auto` or a number, in place of the layout's."""
    store: str | None = None
    init_from: str | None = None
    """A folder whose weights are trained further."""


@dataclass
class _Job:
    """A run while it is going on."""

    config: RunConfig
    out: Path
    place: checkpoint.Place
    watch: Watch
    reports: Reports
    engine: Any
    index: shards.Index
    train: Windows
    validation: Windows
    tokenizer: Tokenizer
    writer: checkpoint.Writer
    losses: Losses
    loader: Loader | None = None
    step: int = 0
    """Steps done."""
    loss_first: float = math.nan
    seconds: float = 0.0
    """Time in steps, of earlier rentals too."""
    waited: float = 0.0
    """Of that, time in which the step waited for data."""
    peak_gib: float = 0.0
    skipped: int = 0
    """Micro batches that were left out."""
    skipped_steps: int = 0
    """Steps in a row of which nothing was left."""
    routing: dict[str, float] = field(default_factory=dict)
    good: tuple[torch.Tensor, torch.Tensor] | None = None
    """The last micro batch with a usable loss."""
    check_every: int = 1
    """After so many micro batches the ranks ask each other whether to stop."""
    started_after: float | None = None
    """Seconds from the start of the process to the end of the first step."""

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.step * self.config.training.global_batch_tokens


def train(config: RunConfig, out: Path, options: Options) -> None:
    """Train to the end, or until asked to stop. Raises Ended, or ConfigError for what the machine lacks."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "ended.json").unlink(missing_ok=True)
    training = config.training
    ended: list[Reports] = []
    watch = Watch(
        out,
        engine.rank_of_environment(),
        stop_seconds=training.stop_seconds,
        stuck_seconds=training.stuck_seconds,
        report=lambda message, code, reason: [r.ended(code, reason, message) for r in ended] and None,
    )
    watch.start()
    # Collectives give up after the watch would have: it names the rank that hangs, they do not.
    rank, world = engine.start_processes(config.device, timeout_seconds=2 * training.stuck_seconds)
    watch.world = world
    reports = Reports(out, config, writes=rank == 0, trackers=trackers.build(config, out) if rank == 0 else ())
    ended.append(reports)
    try:
        _train(config, out, options, place=checkpoint.Place(rank, world), watch=watch, reports=reports)
    except OSError as error:
        failed = CannotWrite(f"cannot write below {out}: {error}")
        reports_safely(reports, failed)
        raise failed from error
    except Ended as error:
        reports_safely(reports, error)
        raise
    else:
        reports.ended(0, "finished", "")
    finally:
        reports.close()
        watch.end()


def reports_safely(reports: Reports, error: Ended) -> None:
    """Write down how a run ended, on a full disk too as far as it goes."""
    try:
        reports.ended(error.code, error.reason, str(error))
    except OSError as unwritable:
        print(f"ended.json cannot be written: {unwritable}", flush=True)


def _train(config: RunConfig, out: Path, options: Options, *, place: checkpoint.Place, watch: Watch, reports: Reports) -> None:
    reports.phase("preparing")
    store = Store(options.store, keep=config.training.keep_last) if options.store and place.rank == 0 else None
    if options.resume and store is not None:
        store.pull(out)
    checkpoint.barrier()
    if options.data is not None:
        config = replace(config, data=replace(config.data, source=options.data))
    if options.init_from is not None:
        config = replace(config, init_from=options.init_from)
    if config.init_from is not None and place.rank == 0:
        # Its tokenizer goes with it: the weights know no other.
        weights.put_beside(Path(config.init_from), out)
    config = _laid_out(config, options, place, reports)
    folder, index, tokenizer = _data(config, out, place, watch, reports)
    found = _newest(out, place, reports) if options.resume else None
    if options.resume and found is None:
        reports.say("no checkpoint to go on from: starting anew")
    state = None if found is None else checkpoint.state(found)
    if state is not None:
        _require_same(config, state)
    full = None if found is None or state is None else pieces.weights(found, state["parameters"])
    seq_len = config.training.seq_len
    job = _Job(
        config=config,
        out=out,
        place=place,
        watch=watch,
        reports=reports,
        engine=engine.build(config, full),
        index=index,
        train=Windows(folder, index, "train", seq_len),
        validation=Windows(folder, index, "validation", seq_len),
        tokenizer=tokenizer,
        writer=checkpoint.Writer(
            out / "checkpoints", place, keep=config.training.keep_last, after=None if store is None else _uploads(store, out)
        ),
        losses=Losses(config.training.spike_nats),
    )
    del full
    if place.rank == 0:
        (out / "run.json").write_text(config.to_json(), encoding="utf-8")
    if found is not None and state is not None:
        _restore(job, found, state)
    reports.begin(job.step)
    if math.isnan(job.loss_first):
        reports.phase("evaluating")
        job.loss_first = _evaluated(job)
        reports.say(f"validation loss {job.loss_first:.3f} before the first step")
    _steps(job)
    _finish(job, store)


def _uploads(store: Store, out: Path) -> Any:
    def upload(folder: Path) -> None:
        store.push(folder)
        for name in ("metrics.jsonl", "tokenizer.json", "run.json"):
            if (out / name).is_file():
                store.push_file(out / name)

    return upload


def _laid_out(config: RunConfig, options: Options, place: checkpoint.Place, reports: Reports) -> RunConfig:
    """Return the configuration on as many ranks as there are, with the micro batch that was asked for or fits."""
    layout = replace(config.layout, n_gpus=place.world)
    if options.micro_batch == "auto":
        layout = replace(layout, micro_batch=microbatch.largest(config, layout, place, reports.say, tick=reports.alive))
    elif options.micro_batch is not None:
        layout = replace(layout, micro_batch=int(options.micro_batch))
    if layout == config.layout:
        return config
    config = with_layout(config, layout)
    check(config)
    return config


# --- data -----------------------------------------------------------------------------------------------------------------


def _data(config: RunConfig, out: Path, place: checkpoint.Place, watch: Watch, reports: Reports) -> tuple[Path, shards.Index, Tokenizer]:
    """Return folder and index of the shards, and the tokenizer: prepared before, found in `out`, or made now by rank 0."""
    started = time.monotonic()

    def tick(tokens: int) -> None:
        reports.alive(tokens_prepared=tokens)
        watch.beat(f"preparing token {tokens}")
        if watch.stop_asked:
            raise Stopped("stopped before the first step: nothing was trained yet")

    if place.rank == 0:
        _prepared(config, out, tick, reports)
    checkpoint.barrier()
    source = sources.fetched(config.data.source, out)
    folder = Path(source) if shards.is_prepared(Path(source)) else out / "shards"
    index = shards.read(folder)
    shards.require(index, config.training.seq_len)
    training = config.training
    windows = len(Windows(folder, index, "train", training.seq_len))
    epochs = training.tokens / (windows * training.seq_len)
    reports.say(
        f"data: {index.count('train'):,} tokens to train on, {index.count('validation'):,} held out, {epochs:.2f} epochs "
        f"({time.monotonic() - started:.1f} s)"
    )
    if epochs > max(1.0, 1.05 * training.epochs):
        reports.say(f"the text has fewer than the {training.unique_tokens:,} unique tokens asked for: it is seen {epochs:.1f} times")
    return folder, index, tokenizers.open_in(out, index.tokenizer)


def _prepared(config: RunConfig, out: Path, tick: Any, reports: Reports) -> None:
    source, training = sources.fetched(config.data.source, out), config.training
    if shards.is_prepared(Path(source)):
        index = shards.read(Path(source))
        if index.vocab > config.model.vocab:
            raise DataError(f"{source} was prepared for {index.vocab:,} tokens, and the model's vocabulary is {config.model.vocab:,}")
        for problem in shards.damage(Path(source), index, tick):
            raise DataError(f"{problem} in {source}: prepare the data again, or copy that shard once more")
        if index.tokenizer != "bytes" and not (out / "tokenizer.json").is_file():
            tokenizers.copy_folder(Path(source), out / "tokenizer.json")
        return
    recipe = shards.Recipe(
        source=source,
        tokenizer=config.data.tokenizer,
        vocab=config.model.vocab,
        wanted=min(training.unique_tokens, training.tokens),
        validation_tokens=training.validation_tokens,
        seq_len=training.seq_len,
        seed=training.seed,
    )
    if shards.existing(recipe, out / "shards", reports.say) is None:
        shards.prepare(recipe, out / "shards", out / "tokenizer.json", tick)


# --- checkpoints ----------------------------------------------------------------------------------------------------------


def _newest(out: Path, place: checkpoint.Place, reports: Reports) -> Path | None:
    """Return the newest whole checkpoint: rank 0 reads and hashes, the others are told."""
    found = checkpoint.newest(out / "checkpoints", reports.say) if place.rank == 0 else None
    if place.world == 1:
        return found
    told: list[str | None] = [None if found is None else found.name]
    dist.broadcast_object_list(told, device=torch.device("cpu"))
    return None if told[0] is None else out / "checkpoints" / told[0]


def _require_same(config: RunConfig, state: dict[str, Any]) -> None:
    """Raise DataError when a checkpoint is of another model, or its data position means something else here."""
    before = state["config"]
    for section, names in (("model", tuple(dataclasses.asdict(config.model))), ("training", ("seq_len", "global_batch_tokens", "seed"))):
        for name in names:
            was, now = before[section].get(name), getattr(getattr(config, section), name)
            if was is not None and was != now:
                raise DataError(f"the checkpoint was made with {name}={was}, and the configuration says {now}: go on with {name}={was}")


def _restore(job: _Job, found: Path, state: dict[str, Any]) -> None:
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


def _save(job: _Job) -> None:
    """Begin a checkpoint: copied now, written beside the training where main memory holds the copy."""
    job.reports.phase("saving")
    job.watch.beat(f"saving step {job.step}")
    if job.writer.busy:
        job.writer.finish()
    background = 1.5 * pieces.size(job.engine) < _free_memory()
    tensors = pieces.snapshot(job.engine, job.place.rank, job.place.world) | _random_states(job.place.rank)
    job.writer.begin(job.step, tensors, _state(job), background=background, beside=_beside(job))
    job.reports.phase("training")


def _state(job: _Job) -> dict[str, Any]:
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


def _beside(job: _Job) -> dict[str, bytes]:
    """Return what sampling and export need beside the weights."""
    there = {name: job.out / name for name in weights.TOKENIZER_FILES}
    return {weights.RUN: job.config.to_json().encode(), **{name: path.read_bytes() for name, path in there.items() if path.is_file()}}


def _fingerprint(index: shards.Index) -> str:
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


# --- steps ----------------------------------------------------------------------------------------------------------------


def _steps(job: _Job) -> None:
    training = job.config.training
    every = max(1, training.steps // 10)
    saved_at, saved_step = time.monotonic(), job.step
    job.loader = Loader(
        job.train,
        training.seed,
        job.config.layout,
        job.place.rank,
        steps=range(job.step, training.steps),
        pinned=job.config.device == "cuda",
    )
    job.reports.phase("training", step=job.step, tokens=job.tokens)
    longest = 0.0
    while job.step < training.steps:
        started, waited = time.monotonic(), job.loader.waited
        done = _one_step(job)
        seconds = time.monotonic() - started
        if done is None:
            stopping, due = True, False
        else:
            longest = max(longest, seconds)
            job.seconds += seconds
            job.waited += job.loader.waited - waited
            # What is written must be complete in time, so it is begun earlier by what a step and the writing take.
            late = time.monotonic() - saved_at + longest + job.writer.seconds > training.checkpoint_minutes * 60
            loss, stopping, due = _agreed(job, *done, due=late)
            due = due or job.step % every == 0 or job.step == training.steps
            _tell(job, loss, seconds)
        if (stopping and saved_step < job.step) or due:
            _save(job)
            saved_at, saved_step = time.monotonic(), job.step
        elif not job.writer.busy:
            job.writer.finish()
        if stopping and job.step < training.steps:
            _stop(job, kept=saved_step)


def _stop(job: _Job, *, kept: int) -> None:
    job.writer.finish()
    checkpoint.barrier()
    if job.writer.unstored is not None:
        raise job.writer.unstored
    what = "a checkpoint was written" if kept else "nothing was trained yet"
    raise Stopped(f"stopped after step {job.step} of {job.config.training.steps}: {what}")


def _one_step(job: _Job) -> tuple[float, int] | None:
    """Do one optimizer step and return the sum of this rank's losses and of how many micro batches; None when asked to stop amid it.

    What was accumulated of a step that is left is lost; weights and optimizer stand as after the step before.
    """
    config, ds, loader = job.config, job.engine, job.loader
    assert loader is not None
    for group in ds.optimizer.param_groups:
        group["lr"] = learning_rate(config.training, job.step)
    total, used, trace = torch.zeros((), device=ds.device), 0, None
    for micro in range(config.layout.grad_accum):
        if micro and micro % job.check_every == 0 and _any_rank(job, job.watch.stop_asked):
            return None
        job.watch.beat(f"step {job.step + 1} micro batch {micro}")
        inputs, targets = (part.to(ds.device, non_blocking=True) for part in loader.next())
        loss, auxiliary, routed = ds(inputs, targets)
        if config.training.on_bad_loss == "skip":
            loss, auxiliary, is_used = _usable(job, loss, auxiliary, (inputs, targets))
        else:
            is_used = True
        ds.backward(loss + auxiliary)
        ds.step()
        if is_used:
            total, used, trace = total + loss.detach(), used + 1, routed
    if trace is not None and config.model.balance_bias_rate:
        balance_experts(ds.module, _mean_loads(trace, job.place.world))
    job.step += 1
    _remember_routing(job, trace)
    return float(total), used


def _mean_loads(trace: Trace, world: int) -> Trace:
    """Return the experts' loads over all ranks, so that every rank votes alike."""
    if world > 1:
        for routing in trace.experts:
            dist.all_reduce(routing.load)
            routing.load.div_(world)
    return trace


def _usable(
    job: _Job, loss: torch.Tensor, auxiliary: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Return the losses to learn from and whether they count: of a micro batch that is left out, zero times those of a good one.

    So every parameter still gets a gradient, and every ZeRO stage sees the passes that it counts on.
    """
    fault = job.losses.fault(float(loss.detach() + auxiliary.detach() * 0))
    if not _any_rank(job, bool(fault)):
        job.good = batch
        return loss, auxiliary, True
    job.skipped += 1
    job.reports.say(f"step {job.step + 1}: the loss of a micro batch {fault or 'of another rank is unusable'}: it is left out")
    if job.good is None:
        raise LossNotFinite(f"the loss of the very first batch {fault}: try a lower learning rate (--set lr=...)")
    loss, auxiliary, _ = job.engine(*job.good)
    if not math.isfinite(float(loss.detach())):
        raise LossNotFinite(
            f"the loss of step {job.step + 1} {fault}, and that of a batch that was fine before too: the weights are damaged"
        )
    return loss * 0, auxiliary * 0, False


def _any_rank(job: _Job, mine: bool) -> bool:
    if job.place.world == 1:
        return mine
    flag = torch.tensor([float(mine)])
    dist.all_reduce(flag)
    return bool(flag[0] > 0)


def _agreed(job: _Job, total: float, used: int, *, due: bool) -> tuple[float, bool, bool]:
    """Return the step's mean loss over all ranks, whether any was asked to stop, and whether rank 0 wants a checkpoint.

    Raises LossNotFinite for a loss or gradient that is not to be trained on.
    """
    told = torch.tensor([total, used, job.watch.stop_asked, due and job.place.rank == 0], dtype=torch.float64)
    if job.place.world > 1:
        dist.all_reduce(told)
    total, count, stopping, is_due = told.tolist()
    if count == 0:
        job.skipped_steps += 1
        if job.skipped_steps >= MOST_SKIPPED_STEPS:
            raise LossNotFinite(f"nothing was left of {job.skipped_steps} steps in a row: try a lower learning rate (--set lr=...)")
        return job.losses.recent()[-1] if job.losses.recent() else job.loss_first, stopping > 0, is_due > 0
    job.skipped_steps = 0
    mean = total / count
    if job.config.training.on_bad_loss == "stop" and (fault := job.losses.fault(mean)):
        raise LossNotFinite(
            f"the loss of step {job.step} {fault}: go on from the last checkpoint with a lower learning rate (--set lr=...), "
            "or leave such batches out (--set on_bad_loss=skip)"
        )
    norm = _gradient_norm(job)
    if norm is not None and not math.isfinite(norm) and not job.engine.fp16_enabled():
        raise LossNotFinite(f"the gradient of step {job.step} is {norm}: go on from the last checkpoint with a lower learning rate")
    job.losses.add(mean)
    return mean, stopping > 0, is_due > 0


def _gradient_norm(job: _Job) -> float | None:
    norm = job.engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _remember_routing(job: _Job, trace: Any) -> None:
    on_gpu = job.config.device == "cuda"
    if trace is not None and (not on_gpu or job.step % ROUTING_EVERY == 0 or job.step in (1, job.config.training.steps)):
        job.routing = routing_figures(trace)


def _tell(job: _Job, loss: float, step_seconds: float) -> None:
    if job.started_after is None:
        job.started_after = process_seconds()
        job.reports.alive(seconds_to_first_step=job.started_after)
    if job.place.world > 1:
        # About once a second; every rank must come to the same number.
        longest = torch.tensor([step_seconds])
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        step_seconds = float(longest[0])
        job.check_every = max(1, int(job.config.layout.grad_accum / max(step_seconds, 1e-3)))
    job.peak_gib = max(job.peak_gib, peak_memory_gib(job.config.device))
    job.reports.step(
        {
            "step": job.step,
            "tokens": job.tokens,
            "loss": loss,
            "lr": learning_rate(job.config.training, job.step - 1),
            "grad_norm": _gradient_norm(job),
            "tokens_per_second": job.config.training.global_batch_tokens / step_seconds,
            "seconds": job.seconds,
            "peak_memory_gib": job.peak_gib,
            "data_wait_share": job.waited / job.seconds,
            "skipped_batches": job.skipped,
            **job.routing,
        }
    )


# --- the end --------------------------------------------------------------------------------------------------------------


def _evaluated(job: _Job) -> float:
    def tick(where: str) -> None:
        job.reports.alive()
        job.watch.beat(where)
        if _any_rank(job, job.watch.stop_asked):
            _stop(job, kept=job.step)

    return evaluate.validation_loss(job.engine, job.validation, job.place.rank, job.place.world, tick)


def _finish(job: _Job, store: Store | None) -> None:
    """Evaluate, write weights, a sample and the result. The last step's checkpoint is complete before the run is."""
    job.reports.phase("evaluating")
    loss_last = _evaluated(job)
    model = job.engine.module
    model.eval()
    prompt = "def " if job.config.data.source == "stdlib" else "The "
    text = sample(model, job.tokenizer, prompt, new_tokens=SAMPLE_TOKENS, temperature=0.8, seed=job.config.training.seed)
    job.reports.phase("saving")
    job.watch.beat("saving the results")
    job.writer.finish()
    checkpoint.barrier()
    if job.place.rank == 0:
        _save_weights(job)
        write_json(job.out / "result.json", _result(job, loss_last, {"prompt": prompt, "text": text}))
        if store is not None:
            if job.writer.unstored is not None:
                store.push(job.out / "checkpoints" / f"step-{job.step:06d}")
            store.push_results(job.out)
    job.reports.say(f"validation loss {loss_last:.3f} after {job.step} steps (before: {job.loss_first:.3f})")
    job.reports.phase("done", loss=loss_last)


def _save_weights(job: _Job) -> None:
    """Write `model.safetensors` in the run's precision, from the last step's checkpoint."""
    last = job.out / "checkpoints" / f"step-{job.step:06d}"
    full = pieces.weights(last, pieces.shapes(job.engine))
    dtype = engine.DTYPES[job.config.training.precision]
    weights.write(
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in full.items()}, job.out / weights.WEIGHTS
    )


def _result(job: _Job, loss_last: float, written: dict[str, str]) -> dict[str, Any]:
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
    import os

    return up - started / os.sysconf("SC_CLK_TCK")
