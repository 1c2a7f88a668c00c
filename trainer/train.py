"""The training run: data, engine, steps, evaluation, checkpoints, result."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from trainer import checkpoint, compiling, engine, evaluate, microbatch, pieces, preparation, result, resuming, trackers, weights
from trainer.batches import Loader, Windows
from trainer.config import check, load, with_layout
from trainer.errors import CannotWrite, Ended, LossNotFinite, OutOfMemory, Stopped
from trainer.job import Job
from trainer.model import balance_experts, routing_figures
from trainer.reports import Reports, peak_memory_gib, write_ended, write_json
from trainer.sample import sample
from trainer.schedule import learning_rate
from trainer.spikes import Losses
from trainer.store import Store
from trainer.watch import Watch

if TYPE_CHECKING:
    from trainer.config import RunConfig
    from trainer.model import Trace

SAMPLE_TOKENS = 160
ROUTING_EVERY = 10
"""On a GPU reading the routing figures makes the host wait, so only some steps have them."""
LEAST_MEASURED_STEPS = 4
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


def train(config: RunConfig, out: Path, options: Options) -> None:
    """Train to the end, or until asked to stop. Raises Ended, or ConfigError for what the machine lacks."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "ended.json").unlink(missing_ok=True)
    training = config.training
    watch = Watch(
        out,
        engine.rank_of_environment(),
        stop_seconds=training.stop_seconds,
        stuck_seconds=training.stuck_seconds,
        report=lambda message, code, reason: write_ended(out, code, reason, message),
    )
    watch.start()
    rank, world = engine.start_processes(config.device)
    watch.world = world
    reports = Reports(out, config, writes=rank == 0, trackers=trackers.build(config, out) if rank == 0 else ())
    try:
        _train(config, out, options, place=checkpoint.Place(rank, world), watch=watch, reports=reports)
    except Ended as error:
        write_ended(out, error.code, error.reason, str(error))
        raise
    except (OSError, RuntimeError, MemoryError) as error:
        failed = _named(error, out)
        if failed is None:
            raise
        write_ended(out, failed.code, failed.reason, str(failed))
        raise failed from error
    else:
        if rank == 0:
            write_ended(out, 0, "finished", "")
    finally:
        reports.close()
        watch.end()


def _named(error: Exception, out: Path) -> Ended | None:
    """Return what an error of the system means for the run, None for one that is a fault of the program."""
    if microbatch.is_no_memory(error):
        micro_batch = load(out / "run.json").layout.micro_batch if (out / "run.json").is_file() else 0
        if micro_batch > 1:
            microbatch.remember_too_much(out, micro_batch)
        return OutOfMemory(f"out of memory at micro batch {micro_batch}: --micro-batch auto tries which fits ({error})")
    if isinstance(error, OSError):
        return CannotWrite(f"cannot write below {out}: {error}")
    return None


def _train(config: RunConfig, out: Path, options: Options, *, place: checkpoint.Place, watch: Watch, reports: Reports) -> None:
    reports.phase("preparing")
    store = Store(options.store, keep=config.training.keep_last) if options.store and place.rank == 0 else None
    with watch.patient("fetching from the store"):
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
    with watch.patient("compiling"):
        config = compiling.checked(config, reports.say)
    config = _laid_out(config, options, place, reports, watch)
    if place.rank == 0:
        (out / "run.json").write_text(config.to_json(), encoding="utf-8")
    folder, index, tokenizer = preparation.ready(config, out, place, watch, reports)
    found = resuming.newest(out, place, reports) if options.resume else None
    if options.resume and found is None:
        reports.say("no checkpoint to go on from: starting anew")
    state = None if found is None else checkpoint.state(found)
    if state is not None:
        resuming.require_same(config, state)
    full = None if found is None or state is None else pieces.weights(found, state["parameters"])
    seq_len = config.training.seq_len
    job = Job(
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
    if found is not None and state is not None:
        resuming.restore(job, found, state)
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


def _laid_out(config: RunConfig, options: Options, place: checkpoint.Place, reports: Reports, watch: Watch) -> RunConfig:
    """Return the configuration on as many ranks as there are, with the micro batch that was asked for or fits."""

    def tick() -> None:
        reports.alive()
        watch.leave_before_training()

    layout = replace(config.layout, n_gpus=place.world)
    if options.micro_batch == "auto":
        limit = microbatch.too_much(reports.out)
        with watch.patient("trying micro batches"):
            layout = replace(layout, micro_batch=microbatch.largest(config, layout, place, reports.say, tick, limit=limit))
    elif options.micro_batch is not None:
        layout = replace(layout, micro_batch=int(options.micro_batch))
    if layout == config.layout:
        return config
    config = with_layout(config, layout)
    check(config)
    return config


# --- steps ----------------------------------------------------------------------------------------------------------------


def _steps(job: Job) -> None:
    training = job.config.training
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
    longest, enough = 0.0, False
    while job.step < training.steps and not enough:
        started, waited = time.monotonic(), job.loader.waited
        done = _one_step(job)
        seconds = time.monotonic() - started
        if done is None:
            stopping, due = True, False
        else:
            longest = max(longest, seconds)
            job.seconds += seconds
            if job.step == 1:
                job.first_step_seconds = seconds
            job.waited += job.loader.waited - waited
            # What is written must be complete in time, so it is begun earlier by what a step and the writing take.
            unsaved, writing = time.monotonic() - saved_at, job.writer.seconds
            late = unsaved + longest + writing > training.checkpoint_minutes * 60
            in_turn = not job.writer.busy and checkpoint.is_in_turn(job.step, training.steps, unsaved, writing)
            loss, stopping, due, enough = _agreed(job, *done, due=late or in_turn)
            due = due or job.step == training.steps
            _tell(job, loss, seconds)
        if not training.measure_seconds and ((stopping and saved_step < job.step) or due):
            resuming.save(job)
            saved_at, saved_step = time.monotonic(), job.step
        elif not job.writer.busy:
            job.writer.finish()
        if stopping and job.step < training.steps and not enough:
            _stop(job, kept=saved_step)


def _stop(job: Job, *, kept: int) -> None:
    with job.watch.patient("saving"):
        job.writer.finish()
        checkpoint.barrier()
    if job.writer.unstored is not None:
        raise job.writer.unstored
    what = "a checkpoint was written" if kept and not job.config.training.measure_seconds else "nothing is kept of it"
    raise Stopped(f"stopped after step {job.step} of {job.config.training.steps}: {what}")


def _one_step(job: Job) -> tuple[float, int] | None:
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
    job.watch.has_trained = True
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
    job: Job, loss: torch.Tensor, auxiliary: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]
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


def _any_rank(job: Job, mine: bool) -> bool:
    if job.place.world == 1:
        return mine
    flag = torch.tensor([float(mine)])
    dist.all_reduce(flag)
    return bool(flag[0] > 0)


class Agreed(NamedTuple):
    """What all ranks hold of a step."""

    loss: float
    """Mean over all of them."""
    stopping: bool
    """Any was asked to stop."""
    due: bool
    """Rank 0 wants a checkpoint."""
    enough: bool
    """Rank 0 has measured for as long as it was to."""


def _agreed(job: Job, total: float, used: int, *, due: bool) -> Agreed:
    """Return what all ranks hold of a step.

    Raises LossNotFinite for a loss or gradient that is not to be trained on.
    """
    first = job.place.rank == 0
    told = torch.tensor([total, used, job.watch.stop_asked, due and first, _has_measured(job) and first], dtype=torch.float64)
    if job.place.world > 1:
        dist.all_reduce(told)
    total, count, *flags = told.tolist()
    stopping, is_due, enough = (flag > 0 for flag in flags)
    if count == 0:
        job.skipped_steps += 1
        if job.skipped_steps >= MOST_SKIPPED_STEPS:
            raise LossNotFinite(f"nothing was left of {job.skipped_steps} steps in a row: try a lower learning rate (--set lr=...)")
        return Agreed(job.losses.recent()[-1] if job.losses.recent() else job.loss_first, stopping, is_due, enough)
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
    return Agreed(mean, stopping, is_due, enough)


def _has_measured(job: Job) -> bool:
    """Whether a run that only measures is done. The first step is not like the others: it may compile."""
    limit = job.config.training.measure_seconds
    return 0 < limit <= job.seconds - job.first_step_seconds and job.step >= LEAST_MEASURED_STEPS


def _gradient_norm(job: Job) -> float | None:
    norm = job.engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _remember_routing(job: Job, trace: Any) -> None:
    on_gpu = job.config.device == "cuda"
    if trace is not None and (not on_gpu or job.step % ROUTING_EVERY == 0 or job.step in (1, job.config.training.steps)):
        job.routing = routing_figures(trace)


def _tell(job: Job, loss: float, step_seconds: float) -> None:
    if job.started_after is None:
        job.started_after = result.process_seconds()
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


def _evaluated(job: Job) -> float:
    def tick(where: str) -> None:
        job.reports.alive()
        job.watch.beat(where)
        if _any_rank(job, job.watch.stop_asked):
            _stop(job, kept=job.step)

    return evaluate.validation_loss(job.engine, job.validation, job.place.rank, job.place.world, tick)


def _finish(job: Job, store: Store | None) -> None:
    """Evaluate, write weights, a sample and the result. The last step's checkpoint is complete before the run is."""
    job.reports.phase("evaluating")
    loss_last = _evaluated(job)
    model = job.engine.module
    model.eval()
    prompt = "def " if job.config.data.source == "stdlib" else "The "
    text = sample(model, job.tokenizer, prompt, new_tokens=SAMPLE_TOKENS, temperature=0.8, seed=job.config.training.seed)
    job.reports.phase("saving")
    with job.watch.patient("saving the results"):
        job.writer.finish()
        checkpoint.barrier()
        if job.place.rank == 0:
            if not job.config.training.measure_seconds:
                result.save_weights(job)
            write_json(job.out / "result.json", result.figures(job, loss_last, {"prompt": prompt, "text": text}))
            if store is not None:
                if job.writer.unstored is not None:
                    store.push(job.out / "checkpoints" / f"step-{job.step:06d}")
                store.push_results(job.out)
    job.reports.say(f"validation loss {loss_last:.3f} after {job.step} steps (before: {job.loss_first:.3f})")
    job.reports.phase("done", loss=loss_last)
