"""A plan: every workload on every machine, ranked, with a recommendation and why the others lost.

Published figures have no part in it. What does not fit is shown and never recommended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina_cloud.core import money, units
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import loss as loss_law
from lumina_cloud.planner.costs import costs
from lumina_cloud.planner.duration import Duration, duration
from lumina_cloud.planner.estimate import Estimate, Interval, Machine
from lumina_cloud.planner.front import front
from lumina_cloud.planner.layout_search import NoLayout, choose
from lumina_cloud.planner.learning import Kind, Lessons, family_of, learned
from lumina_cloud.planner.memory import with_room_for
from trainer.config import MODELS, preset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from lumina_cloud.planner.learning import Figure, Lesson
    from lumina_cloud.planner.throughput import Throughput
    from trainer.config import RunConfig

__all__ = ["Machine", "Plan", "Recommendation", "Row", "estimate", "largest_that_fits", "plan"]

ABOUT_AS_CHEAP = 1.15
"""Up to this factor of the lowest price, the sooner result is taken."""


@dataclass(frozen=True)
class Row:
    """One workload on one machine."""

    model: str
    arch: str
    machine: Machine
    estimate: Estimate
    front: bool = False
    """Whether no other row that fits is as cheap and as soon, and better in one of both."""


@dataclass(frozen=True)
class Recommendation:
    """The row to take, and why."""

    row: Row
    reason: str


@dataclass(frozen=True)
class Plan:
    """All rows, best first within each architecture; what is recommended; why the obvious others are not."""

    rows: tuple[Row, ...]
    recommendation: Recommendation | None
    refused: tuple[str, ...]


def estimate(config: RunConfig, machine: Machine, fixed: frozenset[str] = frozenset(), lessons: Lessons | None = None) -> Estimate:
    """Estimate `config` on `machine` in the fastest layout that fits. `fixed` names layout fields to leave as they are, `lessons` is what
    finished runs teach.

    Raises UsageError when the workload cannot be laid out on that machine at all.
    """
    try:
        return _estimate(config, machine, fixed, lessons)
    except NoLayout as error:
        raise UsageError(f"{_name(machine)}: {error}", _LAYOUT_HINT) from error


def plan(
    configs: Sequence[RunConfig], machines: Sequence[Machine], fixed: frozenset[str] = frozenset(), lessons: Lessons | None = None
) -> Plan:
    """Estimate every configuration on every machine and recommend one row, or none when nothing fits.

    `lessons` is what finished runs teach.

    Raises UsageError when no machine can carry any of the workloads, whatever its memory.
    """
    rows: list[Row] = []
    impossible: dict[str, dict[str, None]] = {}
    for config in configs:
        found = []
        for machine in machines:
            try:
                found.append(Row(config.preset, config.model.arch, machine, _estimate(config, machine, fixed, lessons)))
            except NoLayout as error:
                impossible.setdefault(str(error), {})[_name(machine)] = None
        rows.extend(sorted(found, key=_rank))
    excluded = [f"{', '.join(names)}: {why}" for why, names in impossible.items()]
    if not rows:
        raise UsageError("; ".join(excluded) or "no machine to plan on", _LAYOUT_HINT)
    rows = _with_front(rows)
    best = _best(rows)
    others = _others(rows, best) if best else _misfits(rows)
    return Plan(tuple(rows), Recommendation(best, _reason(best, rows)) if best else None, (*others, *excluded))


def largest_that_fits(arch: str, machine: Machine, lessons: Lessons | None = None) -> str | None:
    """Return the largest preset of `arch` that fits `machine`, None when none does; `lessons` say how heavy runs there are."""
    for model in reversed(MODELS):
        try:
            if _estimate(preset(model, arch), machine, frozenset(), lessons).fits:
                return model
        except NoLayout:
            continue
    return None


_LAYOUT_HINT = "take another number of GPUs, or a batch that divides over them (--global-batch, --set micro_batch=...)"


def kind_of(config: RunConfig, machine: Machine) -> Kind:
    """Return what is learned for a workload on a machine."""
    return Kind(machine.gpu.name, machine.provider, machine.count, family_of(config.preset, config.model.arch))


def _estimate(config: RunConfig, machine: Machine, fixed: frozenset[str], lessons: Lessons | None = None) -> Estimate:
    known, kind = Lessons() if lessons is None else lessons, kind_of(config, machine)

    def of(figure: Figure) -> Lesson:
        return known.of(figure, kind)

    chosen = choose(config, with_room_for(machine.gpu, machine.count, of("memory").factor), machine.count, fixed)
    speed = replace(
        chosen.throughput, tokens_per_second=learned(chosen.throughput.tokens_per_second, of("tokens_per_second"), "tokens_per_second")
    )
    plain = duration(chosen.config, machine, chosen.throughput)
    time = _with_overhead(
        duration(chosen.config, machine, speed), chosen.config, speed, of("overhead"), of("start"), local=machine.provider == "local"
    )
    usd, by_part = costs(chosen.config, machine, time.hours)
    loss = loss_law.loss(chosen.config)
    memory = chosen.memory.as_reported(learned(chosen.memory.reported, of("memory"), "memory"))
    return Estimate(
        memory_gib=memory.gib,
        reported_gib=memory.reported,
        usable_memory_gib=machine.gpu.usable_memory_gib or 0.0,
        memory_items=memory.items,
        tokens_per_second=speed.tokens_per_second,
        hours=time.hours,
        usd=usd,
        loss=learned(loss, of("loss"), "loss"),
        fits=chosen.fits,
        config=chosen.config,
        host_memory_gib=memory.host_gib,
        basis="measured" if of("tokens_per_second").runs else "modelled",
        memory_upper_gib=memory.upper_gib,
        parts=time.expected,
        costs=by_part,
        checkpoint_gib=time.checkpoint_gib,
        checkpoint_minutes_best=time.checkpoint_minutes_best,
        modelled=(
            ("tokens_per_second", chosen.throughput.tokens_per_second.mid),
            ("reported", chosen.memory.reported.mid),
            ("overhead", plain.hours.mid - plain.expected.training),
            ("loss", loss.mid),
        ),
        runs=of("tokens_per_second").runs,
    )


_PROBED_HERE = ("start_up", "data", "warm_up", "evaluation")
_PROBED_THERE = ("start_up",)
"""Parts that a probe does as its run will: on this computer all but saving, on a rented one not the run's own text either."""


def _with_overhead(time: Duration, config: RunConfig, speed: Throughput, lesson: Lesson, start: Lesson, *, local: bool) -> Duration:
    """Return a duration with all but its training stretched by what runs teach, and its start by a probe's word where there is one."""
    if not lesson.runs and not start.runs:
        return time
    parts = time.expected
    factors = {name: lesson.factor for name in vars(parts) if name != "training"}
    if start.runs:
        factors |= dict.fromkeys(_PROBED_HERE if local else _PROBED_THERE, start.factor)
    expected = replace(parts, **{name: factor * getattr(parts, name) for name, factor in factors.items()})
    beside = parts.total - parts.training
    factor = (expected.total - expected.training) / beside if beside else 1.0
    tokens, s = config.training.tokens, speed.tokens_per_second
    steps = (tokens / s.high / 3600, tokens / s.mid / 3600, tokens / s.low / 3600)
    whole = (time.hours.low, time.hours.mid, time.hours.high)
    stretched = sorted(own + factor * (total - own) for own, total in zip(steps, whole, strict=True))
    return replace(time, expected=expected, hours=Interval(*stretched))


# --- choosing ------------------------------------------------------------------------------------------------------------


def _rank(row: Row) -> tuple[bool, float | Decimal, float]:
    """Order rows: what fits by price, then what does not by how much memory it lacks."""
    e = row.estimate
    if e.fits:
        return (False, e.usd.mid, e.hours.mid)
    return (True, e.memory_upper_gib - e.usable_memory_gib, e.hours.mid)


def _with_front(rows: list[Row]) -> list[Row]:
    fitting = [n for n, row in enumerate(rows) if row.estimate.fits]
    kept = {fitting[place] for place in front(fitting, lambda n: (rows[n].estimate.usd.mid, rows[n].estimate.hours.mid))}
    return [replace(row, front=True) if n in kept else row for n, row in enumerate(rows)]


def _best(rows: Sequence[Row]) -> Row | None:
    """Return the soonest of the rows that fit and are about as cheap as the cheapest."""
    fitting = [row for row in rows if row.estimate.fits]
    if not fitting:
        return None
    cheapest = min(row.estimate.usd.mid for row in fitting)
    affordable = [row for row in fitting if float(row.estimate.usd.mid) <= ABOUT_AS_CHEAP * float(cheapest)]
    return min(affordable, key=lambda row: (row.estimate.hours.mid, row.machine.interruptible, row.estimate.usd.mid))


def _name(machine: Machine) -> str:
    return f"{machine.count} x {machine.gpu.name} ({machine.provider})"


def _reason(best: Row, rows: Sequence[Row]) -> str:
    return "; ".join(_reasons(best, [row for row in rows if row.estimate.fits], alone=len(rows) == 1))


def _reasons(best: Row, fitting: Sequence[Row], *, alone: bool) -> Iterator[str]:
    e = best.estimate
    cheapest = min(fitting, key=lambda row: row.estimate.usd.mid)
    if cheapest is best and not alone:
        yield f"the cheapest of {len(fitting)} that fit" if len(fitting) > 1 else "the only one that fits"
    elif cheapest is not best:
        saved = cheapest.estimate.hours.mid - e.hours.mid
        dearer = e.usd.mid - cheapest.estimate.usd.mid
        yield f"{units.duration(saved * 3600)} sooner than the cheapest that fits, for {money.show(dearer)} more"
    if len({row.arch for row in fitting}) > 1:
        yield "the losses predicted for the architectures overlap, so price and time decide between them"
    yield f"needs {e.memory_upper_gib:.1f} of {e.usable_memory_gib:.1f} GiB a GPU at most"
    if e.config.layout.offload != "none":
        yield f"offloads to the host, which needs {e.host_memory_gib:.0f} GiB of main memory: look at the offer before renting"
    if best.machine.gpu.bf16_emulated:
        note = best.machine.gpu.note
        yield f"{note}: --set precision=fp32" if e.config.training.precision == "bf16" else f"{note}: this run is in fp32"
    if best.machine.interruptible:
        yield "interruptible: the machine may be taken away, and a run goes on from its last checkpoint"
    if e.hours.mid > _LONG_HOURS:
        yield f"{units.duration(e.hours.mid * 3600)} is long: fewer tokens or a smaller model would be sooner (--tokens)"


_LONG_HOURS = 30 * 24


def _others(rows: Sequence[Row], best: Row) -> Iterator[str]:
    """Yield, per kind of GPU and provider, why its best row of the recommended architecture is not the one."""
    for row in _best_per_kind([row for row in rows if row.arch == best.arch], best):
        e = row.estimate
        if not e.fits:
            yield _too_small(row)
        else:
            yield (
                f"{_name(row.machine)}: {_against(e, best.estimate)}, {money.show(e.usd.mid)} and {units.duration(e.hours.mid * 3600)}, "
                f"against {money.show(best.estimate.usd.mid)} and {units.duration(best.estimate.hours.mid * 3600)}"
            )


def _against(e: Estimate, best: Estimate) -> str:
    """Return how one estimate stands to another, as far as the figures that are shown tell them apart."""
    alike = money.show(e.usd.mid) == money.show(best.usd.mid), units.duration(e.hours.mid * 3600) == units.duration(best.hours.mid * 3600)
    price = "as dear" if alike[0] else "dearer" if e.usd.mid > best.usd.mid else "cheaper"
    time = "as soon" if alike[1] else "later" if e.hours.mid > best.hours.mid else "sooner"
    return f"{price} {'but' if (price, time) in (('cheaper', 'later'), ('dearer', 'sooner')) else 'and'} {time}"


def _best_per_kind(rows: Sequence[Row], best: Row) -> list[Row]:
    kinds: dict[tuple[str, str], Row] = {}
    for row in rows:
        kinds.setdefault((row.machine.provider, row.machine.gpu.name), row)
    kinds.pop((best.machine.provider, best.machine.gpu.name), None)
    return list(kinds.values())


def _misfits(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what every kind of machine lacks, the nearest to fitting first."""
    kinds: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        kinds.setdefault((row.arch, row.machine.provider, row.machine.gpu.name), row)
    for row in kinds.values():
        yield _too_small(row)


def _too_small(row: Row) -> str:
    e = row.estimate
    # Offloading to more main memory than machines usually have is not looked at by itself.
    which = "its smallest layout" if row.machine.provider == "local" else "the smallest layout that a usual host holds"
    return (
        f"{_name(row.machine)}: {row.model} {row.arch} does not fit: {e.memory_upper_gib:.1f} GiB of {e.usable_memory_gib:.1f} "
        f"a GPU, in {which}"
    )
