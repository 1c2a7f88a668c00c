"""What makes a workload fit that does not: the smallest sets of changes, ranked by their price in time.

Started from is the plain layout, or what the user asked for: nothing recomputed, sharded further or moved to the host. A change is
one of: a smaller micro batch, block checkpointing, a ZeRO stage, an offload (with the stage that makes it possible), a shorter
sequence, more GPUs, another architecture. A set is smallest when no part of it is enough; of each set the fastest choice is
kept. What the trainer refuses is never returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations, product
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner.duration import duration
from lumina_cloud.planner.memory import Memory, memory, with_room_for
from lumina_cloud.planner.plan import estimate, kind_of
from lumina_cloud.planner.throughput import throughput
from trainer.config import ConfigError, LayoutConfig, RunConfig, check, with_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.planner.estimate import Estimate, Interval, Machine, MoneyInterval
    from lumina_cloud.planner.learning import Lessons

MOST_CHANGES = 4
SEQUENCES = (1536, 1024, 512)
COUNTS = (2, 4, 8)
WAYS = ((2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer"), (3, "optimizer+parameters"))
SIMPLER = {"moe": ("mod", "dense"), "hybrid": ("mod", "dense"), "dense": ("mod",), "mod": ()}
"""Architectures that may take less memory. A depth-routed model has a dense one's parameters and fewer activations."""

Step = tuple[RunConfig, int]
"""A configuration, and on how many GPUs."""
Edit = Callable[[Step], Step]


@dataclass(frozen=True)
class Change:
    """One setting, as it was and as it has to be."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Remedy:
    """One set of changes that makes a workload fit, and what it then takes."""

    changes: tuple[Change, ...]
    config: RunConfig
    machine: Machine
    """With the changed number of GPUs, at the same price a GPU."""
    memory_upper_gib: float
    host_gib: float
    hours: Interval
    usd: MoneyInterval
    loss: Interval
    slowdown: float
    """Hours over those of the unchanged workload, had the machine the memory for it."""


@dataclass(frozen=True)
class _Choice:
    """One value of one axis."""

    change: tuple[Change, ...]
    edit: Edit


def plain(config: RunConfig, machine: Machine, fixed: frozenset[str]) -> RunConfig:
    """Return the workload in the layout that is started from. Raises ConfigError when its batch does not divide over the GPUs."""
    asked = config.layout
    kept = {name: getattr(asked, name) for name in ("micro_batch", "zero_stage", "checkpointing", "offload") if name in fixed}
    layout = LayoutConfig(n_gpus=machine.count, expert_parallel=asked.expert_parallel, **kept)
    return with_layout(replace(config, device=machine.gpu.device), layout)


def need(config: RunConfig, machine: Machine) -> Memory:
    """Return what a configuration needs on each GPU of a machine."""
    return memory(config, config.layout, machine.gpu)


def remedies(
    config: RunConfig, machine: Machine, fixed: frozenset[str] = frozenset(), most: int = 6, lessons: Lessons | None = None
) -> tuple[Remedy, ...]:
    """Return the smallest sets of changes that make `config` fit a machine, the least slowing first; none where it fits, or never can.

    What each then takes is what a plan says that is asked for just it; `lessons` are what finished runs teach.
    """
    heavier = 1.0 if lessons is None else lessons.of("memory", kind_of(config, machine)).factor
    counted = replace(machine, gpu=with_room_for(machine.gpu, machine.count, heavier))
    usable = counted.gpu.usable_memory_gib
    if usable is None or machine.gpu.peak_tflops(config.training.precision) is None:
        return ()
    try:
        start = plain(config, machine, fixed)
    except ConfigError:
        return ()
    if _trains(start) and need(start, counted).upper_gib <= usable:
        return ()
    roomy = replace(machine, gpu=replace(machine.gpu, memory_bytes_usable=2**60))
    as_it_is = _planned(start, roomy, fixed | {"zero_stage", "checkpointing", "offload"}, lessons)
    axes = _axes(start, counted)
    found: dict[frozenset[str], Remedy] = {}
    for size in range(1, min(MOST_CHANGES, len(axes)) + 1):
        for names in combinations(axes, size):
            if {"sharding", "offload"} <= set(names) or any(smaller <= set(names) for smaller in found):
                continue
            best = _best(start, counted, [axes[name] for name in names])
            remedy = None if best is None or as_it_is is None else _remedy(best, machine, fixed, as_it_is.hours.mid, lessons)
            if remedy is not None:
                found[frozenset(names)] = remedy
    return tuple(sorted(found.values(), key=lambda r: (r.slowdown, r.usd.mid, len(r.changes)))[:most])


@dataclass(frozen=True)
class _Fitting:
    """A set of changes that makes the workload fit."""

    config: RunConfig
    count: int
    changes: tuple[Change, ...]


def _best(start: RunConfig, machine: Machine, axes: list[list[_Choice]]) -> _Fitting | None:
    """Return the fastest choice of one value an axis that fits, None where none does."""
    fitting, usable = [], machine.gpu.usable_memory_gib or 0.0
    for chosen in product(*axes):
        step: Step = (start, machine.count)
        try:
            for choice in chosen:
                step = choice.edit(step)
        except ConfigError:
            continue
        config, count = step
        if _trains(config) and memory(config, config.layout, machine.gpu).upper_gib <= usable:
            changes = tuple(c for choice in chosen for c in choice.change)
            fitting.append((_hours(config, _machine(machine, count)), _Fitting(config, count, changes)))
    return min(fitting, key=lambda f: f[0])[1] if fitting else None


def _remedy(best: _Fitting, machine: Machine, fixed: frozenset[str], before: float, lessons: Lessons | None) -> Remedy | None:
    """Return what a plan that is asked for just these changes says, None where they do not do for what runs teach."""
    on = _machine(machine, best.count)
    e = _planned(best.config, on, fixed | {change.name for change in best.changes}, lessons)
    if e is None or not e.fits:
        return None
    return Remedy(best.changes, e.config, on, e.memory_upper_gib, e.host_memory_gib, e.hours, e.usd, e.loss, e.hours.mid / before)


def _planned(config: RunConfig, machine: Machine, fixed: frozenset[str], lessons: Lessons | None) -> Estimate | None:
    try:
        return estimate(config, machine, fixed, lessons)
    except UsageError:
        return None


def _trains(config: RunConfig) -> bool:
    try:
        check(config)
    except ConfigError:
        return False
    return True


def _hours(config: RunConfig, machine: Machine) -> float:
    return duration(config, machine, throughput(config, config.layout, machine.gpu)).hours.mid


def _machine(machine: Machine, count: int) -> Machine:
    """Return the machine with another number of GPUs, at the same price each."""
    return replace(machine, count=count, usd_per_hour=machine.usd_per_hour * Decimal(count) / Decimal(machine.count))


# --- axes ----------------------------------------------------------------------------------------------------------------


def _axes(start: RunConfig, machine: Machine) -> dict[str, list[_Choice]]:
    """Return what can be changed, each axis with its values; axes are edited in this order, the layout's last."""
    axes = {
        "arch": list(_archs(start)),
        "seq_len": list(_sequences(start)),
        "count": list(_counts(start, machine)) if machine.gpu.device == "cuda" else [],
        "sharding": list(_ways(start, offloading=False)) if machine.gpu.device == "cuda" else [],
        "offload": list(_ways(start, offloading=True)) if machine.gpu.device == "cuda" else [],
        "checkpointing": list(_checkpointing(start)),
        "micro_batch": list(_micro_batches(start)),
    }
    return {name: choices for name, choices in axes.items() if choices}


def _laid_out(config: RunConfig, count: int, **changed: object) -> Step:
    layout = replace(config.layout, n_gpus=count, **changed)  # type: ignore[arg-type]  # names and values are the axes' own
    return with_layout(config, layout), count


def _archs(start: RunConfig) -> Iterator[_Choice]:
    for arch in SIMPLER[start.model.arch]:

        def edit(step: Step, arch: str = arch) -> Step:
            config = replace(step[0], model=replace(step[0].model, arch=arch))  # type: ignore[arg-type]  # one of ARCHS
            return config, step[1]

        yield _Choice((Change("arch", start.model.arch, arch),), edit)


def _sequences(start: RunConfig) -> Iterator[_Choice]:
    t = start.training
    for length in SEQUENCES:
        if length >= t.seq_len:
            continue
        # A batch is a whole number of sequences, spread over up to eight GPUs.
        unit = length * 8
        batch = t.global_batch_tokens if t.global_batch_tokens % unit == 0 else max(unit, t.global_batch_tokens // unit * unit)

        def edit(step: Step, length: int = length, batch: int = batch) -> Step:
            training = replace(step[0].training, seq_len=length, global_batch_tokens=batch)
            return _laid_out(replace(step[0], training=training), step[1])

        changes = [Change("seq_len", str(t.seq_len), str(length))]
        if batch != t.global_batch_tokens:
            changes.append(Change("global_batch_tokens", str(t.global_batch_tokens), str(batch)))
        yield _Choice(tuple(changes), edit)


def _counts(start: RunConfig, machine: Machine) -> Iterator[_Choice]:
    for count in COUNTS:
        if count > machine.count:

            def edit(step: Step, count: int = count) -> Step:
                return _laid_out(step[0], count)

            yield _Choice((Change("count", str(machine.count), str(count)),), edit)


def _ways(start: RunConfig, *, offloading: bool) -> Iterator[_Choice]:
    layout = start.layout
    for stage, offload in WAYS:
        if (offload != "none") != offloading or (stage, offload) == (layout.zero_stage, layout.offload):
            continue
        changes = [Change("zero_stage", str(layout.zero_stage), str(stage))] if stage != layout.zero_stage else []
        if offload != layout.offload:
            changes.append(Change("offload", layout.offload, offload))

        def edit(step: Step, stage: int = stage, offload: str = offload) -> Step:
            return _laid_out(step[0], step[1], zero_stage=stage, offload=offload)

        yield _Choice(tuple(changes), edit)


def _checkpointing(start: RunConfig) -> Iterator[_Choice]:
    if start.layout.checkpointing == "none":
        yield _Choice((Change("checkpointing", "none", "block"),), lambda step: _laid_out(step[0], step[1], checkpointing="block"))


def _micro_batches(start: RunConfig) -> Iterator[_Choice]:
    size = start.layout.micro_batch
    while size > 1:
        size //= 2

        def edit(step: Step, size: int = size) -> Step:
            return _laid_out(step[0], step[1], micro_batch=size)

        yield _Choice((Change("micro_batch", str(start.layout.micro_batch), str(size)),), edit)
