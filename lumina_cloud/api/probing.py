"""What a probe measured: a few real steps of the real configuration, before anything is committed to.

The trainer itself runs, with the plan's layout and a few micro batches a step, on this computer (`probing_here`) or in a run of its own on
a rented machine (`probing_there`). Its own measurements of speed and peak memory then stand for the modelled ones, for that plan and for
every later plan and launch of the same workload on such a machine. Speed is that of the steps after the first ones, which load
kernels and compile: they are of the time beside the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner.learning import WITHIN, Lesson, Lessons, Shift
from trainer.config import LayoutConfig, with_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from lumina_cloud.api.planning import Planned
    from lumina_cloud.ledger import MetricRecord
    from lumina_cloud.planner.estimate import Machine
    from lumina_cloud.planner.learning import Figure, Kind
    from lumina_cloud.planner.plan import Plan, Row
    from trainer.config import RunConfig

WANTED_SECONDS, STEP_SECONDS = 40.0, 4.0
"""Of steps, and of one of them, by the modelled speed."""
MOST_SECONDS = 90.0
"""Of steps after the first one, which may compile, however slow the machine turns out to be."""
LEAST_STEPS, MOST_STEPS = 8, 200
LEAST_STEADY_STEPS = 3
"""Steps after the first ones that a speed needs."""
WARM_UP_SHARE, MOST_WARM_UP_STEPS = 0.25, 10
"""First steps that are left out of the speed."""
LEAST_ACCUMULATION = 4
"""Micro batches of a probed step, where its run has so many: fewer would have another share of what comes once a step, the optimizer and
what is written down. With more, a step takes `STEP_SECONDS`; memory is the same from two on."""
KEPT_SECONDS = 30 * 86_400.0
"""A measurement that is older is made again: drivers, libraries and what else runs on a machine change."""
LEARNED_AS = 50
"""Runs that a probe counts as: what it measured stands for what was modelled."""
SPREAD = {"tokens_per_second": 0.12, "memory": 0.06}
"""Logarithms: the standard deviation of a whole run about its probe. `python -m tests.planner.probed` measures both on this computer, and
by how much its own speed changed meanwhile: up to a fifth, where it shares its processor with others or slows under lasting load."""
SPREAD_THERE = {"tokens_per_second": 0.12, "memory": 0.08}
"""The same where the next machine is another one of its kind."""
BELIEVED = {"tokens_per_second": math.log(4), "memory": math.log(1.5)}
"""How far a rented machine's word may be from the model, as a logarithm: beyond, it did something else, or says what is not so."""
MOST_SOONER = math.log(10)
"""How much sooner than modelled this computer may be at work, as a logarithm."""
LAYOUT_FIELDS = frozenset(f.name for f in fields(LayoutConfig))


@dataclass(frozen=True)
class Probe:
    """What a probe measured, what was modelled of the same steps, and what it cost."""

    tokens_per_second: float
    peak_memory_gib: float
    modelled_tokens_per_second: float
    modelled_memory_gib: float
    seconds: float
    usd: str
    steps: int
    overhead_seconds: float = 0.0
    """Beside its steps: start, text, evaluation; 0 where it is not known."""
    modelled_overhead_seconds: float = 0.0
    """Of the same short run, which saves nothing: it says how soon a machine is at work, and no more."""


class Probed(Lessons):
    """What finished runs teach, with what a probe of this very workload measured in its place."""

    def __init__(self, lessons: Lessons, probes: Mapping[Kind, Probe]) -> None:
        super().__init__()
        self._lessons, self._probes = lessons, probes

    def of_runs(self) -> Lessons:
        """Return what finished runs teach."""
        return self._lessons

    def of(self, figure: Figure, kind: Kind) -> Lesson:
        """Return what is known of a figure: the probe's word where there is one."""
        probe = self._probes.get(kind)
        pair = None if probe is None else _pair(probe, figure)
        log = None if pair is None else _believed(math.log(pair[0] / pair[1]), figure, kind.provider)
        if pair is None or log is None:
            return self._lessons.of(figure, kind)
        measured, modelled = pair
        spread = (SPREAD if kind.provider == "local" else SPREAD_THERE).get(figure, 0.0)
        shift = Shift(log, LEARNED_AS, LEARNED_AS, spread)
        return Lesson((("probe", shift),), f"{measured:,.4g} measured / {modelled:,.4g} modelled of this workload")


def _pair(probe: Probe, figure: Figure) -> tuple[float, float] | None:
    """Return what was measured and what was modelled of a figure, None for one that a probe says nothing of."""
    match figure:
        case "tokens_per_second":
            return probe.tokens_per_second, probe.modelled_tokens_per_second
        case "memory":
            return probe.peak_memory_gib, probe.modelled_memory_gib
        case "start":
            pair = probe.overhead_seconds, probe.modelled_overhead_seconds
            return pair if min(pair) > 0 else None
        case _:
            return None


def _believed(log: float, figure: Figure, provider: str) -> float | None:
    """Return how far off the model a probe may say that a figure is, None where it says nothing.

    A rented machine's start too far off is that of one that waited for somebody. This computer's is never waited for, but a first start
    that took much longer read what the next one finds in memory.
    """
    if figure != "start" or abs(log) <= WITHIN["start"]:
        return log
    return max(-MOST_SOONER, min(WITHIN["start"], log)) if provider == "local" else None


def shortened(config: RunConfig, tokens_per_second: float) -> RunConfig:
    """Return the configuration with few, short steps that leave nothing: its model, sequence, micro batch and all else as they are."""
    layout, training = config.layout, config.training
    one_pass = layout.micro_batch * layout.n_gpus * training.seq_len
    accumulation = min(layout.grad_accum, max(LEAST_ACCUMULATION, round(STEP_SECONDS * tokens_per_second / one_pass)))
    batch = one_pass * accumulation
    steps = max(LEAST_STEPS, min(MOST_STEPS, round(WANTED_SECONDS * tokens_per_second / batch)))
    tokens = steps * batch
    short = replace(training, global_batch_tokens=batch, tokens=tokens, unique_tokens=min(training.unique_tokens, tokens))
    short = replace(
        short, validation_tokens=min(training.validation_tokens, 16 * training.seq_len), trackers="", measure_seconds=MOST_SECONDS
    )
    return with_layout(replace(config, training=short), layout)


def steady_speed(steps: Sequence[MetricRecord]) -> float | None:
    """Return the tokens per second of a probe's steps once it is warm, None where they do not say it.

    The first step is never part of it. Steps of which each took its time and its tokens are asked for: the metrics of two machines,
    one after the other, are no measurement.
    """
    warm_up = min(MOST_WARM_UP_STEPS, max(1, int(WARM_UP_SHARE * len(steps)))) - 1
    said = [(step.data.get("tokens", 0.0), step.data.get("seconds", 0.0)) for step in steps[warm_up:]]
    if len(said) < LEAST_STEADY_STEPS + 1:
        return None
    apart = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(said)]
    if any(tokens <= 0 or seconds <= 0 for tokens, seconds in apart):
        return None
    return untrusted.number(sum(tokens for tokens, _ in apart) / sum(seconds for _, seconds in apart), 1e-3, 1e9)


def measured(
    steps: Sequence[MetricRecord],
    result: Mapping[str, Any],
    modelled: Mapping[str, float],
    *,
    seconds: float,
    at_work: float | None,
    usd: str,
) -> Probe | None:
    """Return what a probe says, None where it does not say it.

    `seconds` is what it took of machines in all, `at_work` of the one that measured, until its work was done; None where that is not
    known. `modelled` is physics alone about the same short run: tokens per second, peak memory as it is reported in GiB, overhead in hours.
    """
    last = result.get("steps", len(steps))
    steps = [step for step in steps if step.step <= last]
    speed, peak = steady_speed(steps), untrusted.number(result.get("peak_memory_gib"), 1e-3, 1e5)
    said = {name: untrusted.number(modelled.get(name), 1e-9, 1e12) for name in ("tokens_per_second", "reported", "overhead")}
    if speed is None or peak is None or said["tokens_per_second"] is None or said["reported"] is None:
        return None
    beside = 0.0 if at_work is None else max(0.0, at_work - steps[-1].data["tokens"] / speed)
    return Probe(
        tokens_per_second=speed,
        peak_memory_gib=peak,
        modelled_tokens_per_second=said["tokens_per_second"],
        modelled_memory_gib=said["reported"],
        seconds=seconds,
        usd=usd,
        steps=len(steps),
        overhead_seconds=beside,
        modelled_overhead_seconds=3600 * (said["overhead"] or 0.0),
    )


def same_workload(one: RunConfig, other: RunConfig) -> bool:
    """Whether what is measured of one holds for the other: model, sequence, arithmetic and optimizer decide."""
    a, b = one.training, other.training
    return (one.preset, one.model, a.seq_len, a.precision, a.optimizer) == (
        other.preset,
        other.model,
        b.seq_len,
        b.precision,
        b.optimizer,
    )


def is_believed(found: Probe, provider: str) -> bool:
    """Whether what was measured may be taken: this computer's word always, a rented machine's within what a model can be off by."""
    off = {"tokens_per_second": found.tokens_per_second / found.modelled_tokens_per_second}
    off["memory"] = found.peak_memory_gib / found.modelled_memory_gib
    return provider == "local" or all(abs(math.log(ratio)) <= BELIEVED[figure] for figure, ratio in off.items())


def row_to_probe(plan: Plan) -> Row:
    """Return the row of a plan that is probed: the recommended one. Raises UsageError where nothing fits."""
    if plan.recommendation is None:
        raise UsageError("nothing fits, so there is nothing to probe", "a smaller model, or --set micro_batch=1")
    return plan.recommendation.row


def told(again: Planned, before: Row, found: Probe, where: str) -> Planned:
    """Return the plan that was made again after a probe, with what the probe cost and changed."""
    after = next((r for r in again.plan.rows if (_kind(r.machine), r.arch) == (_kind(before.machine), before.arch)), None)
    said = [*notes(found, where, before, after), *again.document.notes]
    document = again.document.model_copy(update={"notes": said})
    return replace(again, document=document, record=replace(again.record, result=document.model_dump(mode="json")))


def _kind(machine: Machine) -> tuple[object, ...]:
    return (machine.provider, machine.gpu.name, machine.count, machine.interruptible)


def notes(found: Probe, where: str, before: Row, after: Row | None) -> Iterator[str]:
    """Yield what a probe cost and what it changed, in words."""
    yield f"probed: {found.steps} real steps {where} in {found.seconds:.0f} s, which cost {money.show(money.usd(found.usd))}"
    if not is_believed(found, before.machine.provider):
        yield (
            f"what it measured does not count: {found.tokens_per_second:,.0f} tokens/s and {found.peak_memory_gib:.2f} GiB, where "
            f"{found.modelled_tokens_per_second:,.0f} and {found.modelled_memory_gib:.2f} are modelled; so far off, a machine did "
            "something else, or says what is not so (a rehearsal's machines are this computer)"
        )
        return
    if after is None:
        yield "the machine that was probed is not offered any more: what it measured is kept for when there is one again"
        return
    b, a = before.estimate, after.estimate
    yield (
        f"the probe changed: tokens/s {_speed(before)} to {_speed(after)}; "
        f"memory {b.memory_gib.mid:.2f} to {a.memory_gib.mid:.2f} GiB; "
        f"hours {b.hours.mid:.3g} to {a.hours.mid:.3g}; cost {money.show(b.usd.mid)} to {money.show(a.usd.mid)}"
    )
    if a.config.layout != b.config.layout:
        yield "with these figures another layout is the faster one that fits: it was not itself measured"


def _speed(row: Row) -> str:
    s = row.estimate.tokens_per_second
    return f"{s.mid:,.0f} ({s.low:,.0f}-{s.high:,.0f})"
