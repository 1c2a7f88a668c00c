"""What does not fit, with the smallest changes that would make it, as scripts read it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from lumina_cloud.api.documents import of_plans, root
from lumina_cloud.core import money
from lumina_cloud.planner.remedies import Remedy, remedies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.planner.estimate import Interval, MoneyInterval
    from lumina_cloud.planner.learning import Lessons
    from lumina_cloud.planner.plan import Plan, Row
    from lumina_cloud.runs.workloads import WorkloadRequest, Workloads

MOST_MISFITS = 4
"""Machines of a plan for which changes are looked for."""


def misfits(request: WorkloadRequest, built: Workloads, plan: Plan, lessons: Lessons, *, named: bool) -> list[of_plans.Misfit]:
    """Return the machines nearest to fitting, of every architecture that fits nowhere; with a GPU `named`, of every one asked for."""
    by_arch = {config.model.arch: config for config in built.configs}
    rows = list(_nearest(plan, named=named))[:MOST_MISFITS]
    return [_misfit(request, row, remedies(by_arch[row.arch], row.machine, built.fixed, lessons=lessons)) for row in rows]  # type: ignore[index]  # rows are of these configs


def _nearest(plan: Plan, *, named: bool) -> Iterator[Row]:
    """Yield one row for each architecture and kind of GPU that fits nowhere (or not, with a GPU named); rows come nearest first."""
    fitting = {row.arch for row in plan.rows if row.estimate.fits}
    seen: set[tuple[str, str]] = set()
    for row in plan.rows:
        key = (row.arch, row.machine.gpu.name if named else "")
        if row.estimate.fits or key in seen or (row.arch in fitting and not named):
            continue
        seen.add(key)
        yield row


def _misfit(request: WorkloadRequest, row: Row, found: tuple[Remedy, ...]) -> of_plans.Misfit:
    e, m = row.estimate, row.machine
    return of_plans.Misfit(
        model=row.model,
        arch=row.arch,
        gpu=m.gpu.name,
        count=m.count,
        provider=m.provider,
        memory_upper_gib=round(e.memory_upper_gib, 3),
        usable_memory_gib=round(e.usable_memory_gib, 3),
        text=f"{row.model} {row.arch} on {m.count} x {m.gpu.name} does not fit: {e.memory_upper_gib:.1f} GiB of {e.usable_memory_gib:.1f}",
        remedies=[_remedy(request, row, remedy) for remedy in found],
    )


def _remedy(request: WorkloadRequest, row: Row, remedy: Remedy) -> of_plans.Remedy:
    layout = remedy.config.layout
    return of_plans.Remedy(
        changes=[of_plans.Change(name=c.name, before=c.before, after=c.after) for c in remedy.changes],
        layout=of_plans.Layout(
            micro_batch=layout.micro_batch,
            grad_accum=layout.grad_accum,
            zero_stage=layout.zero_stage,
            checkpointing=layout.checkpointing,
            offload=layout.offload,
            expert_parallel=layout.expert_parallel,
        ),
        count=remedy.machine.count,
        memory_upper_gib=round(remedy.memory_upper_gib, 3),
        host_memory_gib=round(remedy.host_gib, 3),
        hours=_range(remedy.hours),
        usd=_money(remedy.usd),
        loss=_range(remedy.loss),
        slowdown=round(remedy.slowdown, 4),
        type=_typed(request, row, remedy),
    )


def _typed(request: WorkloadRequest, row: Row, remedy: Remedy) -> str:
    """Return the command that plans the changed workload."""
    settings = dict(request.settings)
    settings |= {c.name: c.after for c in remedy.changes if c.name not in ("arch", "count")}
    words = ["lumina", "plan", request.model, "--arch", remedy.config.model.arch, "--gpu", row.machine.gpu.name]
    words += ["--count", str(remedy.machine.count)] if remedy.machine.count > 1 else []
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def _range(value: Interval) -> root.Range:
    return root.Range(low=value.low, mid=value.mid, high=value.high)


def _money(value: MoneyInterval) -> root.MoneyRange:
    return root.MoneyRange(low=money.text(value.low), mid=money.text(value.mid), high=money.text(value.high))


def judged_example() -> tuple[str, bool]:
    """Return what our own count says of the published way to fit B7 dense onto an A100 40GB, and whether it fits.

    The document: sequences of 1,536 tokens and recomputed blocks bring 52.8 GB down to 38.2.
    """
    from dataclasses import replace
    from decimal import Decimal

    from lumina_cloud.catalog import benchmarks, gpus
    from lumina_cloud.planner.estimate import Machine
    from lumina_cloud.planner.layout_search import choose
    from trainer.config import preset, with_layout

    example = benchmarks.load().memory_example
    machine = Machine("runpod", gpus.resolve(example.hardware), 1, Decimal(0), False)
    config = preset(example.model, example.arch)
    batch = config.training.global_batch_tokens // example.after.seq_len * example.after.seq_len
    config = replace(config, training=replace(config.training, seq_len=example.after.seq_len, global_batch_tokens=batch))
    layout = replace(config.layout, micro_batch=example.after.micro_batch, checkpointing="block")
    asked = with_layout(replace(config, layout=layout), layout)
    chosen = choose(asked, machine.gpu, 1, frozenset({"micro_batch", "checkpointing", "offload"}))
    counted, usable = chosen.memory, machine.gpu.usable_memory_gib or 0.0
    fits = counted.upper_gib <= usable
    return (
        f"published: {example.model} {example.arch} fits {example.hardware} with seq_len={example.after.seq_len} and checkpointing, "
        f"{example.after.vram_gb} GB; modelled: {counted.gib.mid:.1f} GiB of {usable:.1f}, {counted.states_gib:.1f} of them weights and "
        f"AdamW's states, which neither a shorter sequence nor recomputing makes smaller: it {'fits' if fits else 'does not fit'}",
        fits,
    )
