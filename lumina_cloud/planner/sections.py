"""The published document's own sections, computed again from modelled figures: every size and architecture on every machine.

A row's honest twin is the row that a plan recommends for the same workload over the same machines. Nothing here reads a published
figure but to stand beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import backwards
from lumina_cloud.planner.memory import memory
from lumina_cloud.planner.plan import Machine, Row, estimate, plan
from trainer.config import ConfigError, LayoutConfig, preset, with_layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.catalog.benchmarks import Benchmark, MemoryExample
    from lumina_cloud.planner.backwards import Answer
    from lumina_cloud.planner.estimate import Interval

Rows = dict[tuple[str, str], Row]
"""The recommended row of each model and architecture; without a recommendation there is none."""

MEASURES = ("loss", "hours", "memory", "cost")


def recommended(document: Benchmark, machines: Sequence[Machine]) -> Rows:
    """Return, for every published row, what a plan recommends for its workload."""
    found: Rows = {}
    for row in document.rows:
        try:
            best = plan([preset(row.model, row.arch)], machines).recommendation
        except UsageError:
            continue
        if best is not None:
            found[row.model, row.arch] = best.row
    return found


# --- winners -------------------------------------------------------------------------------------------------------------


def winners(rows: Rows) -> dict[str, Row]:
    """Return the best row of each of the document's categories, by modelled figures.

    All but the fastest are among rows that a model of use comes from: debug is left out, whose loss is per token of another, far smaller
    vocabulary and does not compare. Quality over cost is the fall of the loss below the worst row's per dollar; all-around is the
    least sum of the places in loss, time and cost.
    """
    every = list(rows.values())
    useful = [row for row in every if row.model != "debug"] or every
    worst = max(row.estimate.loss.mid for row in useful)

    def place(row: Row) -> int:
        return sum(
            sorted(useful, key=key).index(row)
            for key in (lambda r: r.estimate.loss.mid, lambda r: r.estimate.hours.mid, lambda r: r.estimate.usd.mid)
        )

    return {
        "Best Quality": min(useful, key=lambda r: r.estimate.loss.mid),
        "Best Budget": min(useful, key=lambda r: r.estimate.usd.mid),
        "Fastest Training": min(every, key=lambda r: r.estimate.hours.mid),
        "Best Quality/Cost": max(useful, key=lambda r: (worst - r.estimate.loss.mid) / float(r.estimate.usd.mid)),
        "Best All-Around": min(useful, key=place),
    }


# --- money ---------------------------------------------------------------------------------------------------------------


def usd_per_billion_tokens(row: Row) -> Decimal:
    """Return dollars for 10^9 tokens of a row."""
    return row.estimate.usd.mid * 1_000_000_000 / row.estimate.config.training.tokens


def tier_answer(most: Decimal, machines: Sequence[Machine], archs: Sequence[str]) -> Answer | None:
    """Return the best model for the top of a budget tier, any size and number of tokens."""
    found = backwards.best(backwards.Goal(usd=most), archs, machines, most=1).answers
    return found[0] if found else None


# --- architectures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Against:
    """One architecture against dense, percent, over the sizes of which both fit the same machine; negative is less."""

    arch: str
    loss: tuple[float, float]
    hours: tuple[float, float]
    memory: tuple[float, float]
    usd: tuple[float, float]
    sizes: tuple[str, ...]


def insights(document: Benchmark, rows: Rows) -> tuple[Against, ...]:
    """Return each architecture against dense on the machine that the dense model would take."""
    found = []
    for insight in document.insights:
        pairs = [(model, *_pair(model, insight.arch, rows)) for model in ("debug200m", "b1", "b7") if (model, "dense") in rows]
        measured = [(model, ours, dense) for model, ours, dense in pairs if ours is not None and dense is not None]
        if insight.arch == "dense" or not measured:
            continue
        percents = {
            "loss": [_percent(o.estimate.loss.mid, d.estimate.loss.mid) for _, o, d in measured],
            "hours": [_percent(o.estimate.hours.mid, d.estimate.hours.mid) for _, o, d in measured],
            "memory": [_percent(_bare_gib(o), _bare_gib(d)) for _, o, d in measured],
            "usd": [_percent(float(o.estimate.usd.mid), float(d.estimate.usd.mid)) for _, o, d in measured],
        }
        ranges = {name: (min(values), max(values)) for name, values in percents.items()}
        found.append(Against(insight.arch, sizes=tuple(model for model, _, _ in measured), **ranges))
    return tuple(found)


def _pair(model: str, arch: str, rows: Rows) -> tuple[Row | None, Row | None]:
    dense = rows[model, "dense"]
    try:
        ours = estimate(preset(model, arch), dense.machine)
    except UsageError:
        return None, dense
    return (Row(model, arch, dense.machine, ours) if ours.fits else None), dense


def _bare_gib(row: Row) -> float:
    """Memory of a model in the plainest layout, so that architectures are compared and not layouts."""
    config = row.estimate.config
    plain = with_layout(replace(config, layout=LayoutConfig()), LayoutConfig())
    return memory(plain, plain.layout, row.machine.gpu).gib.mid


def _percent(ours: float, dense: float) -> float:
    return 100 * (ours / dense - 1)


# --- the train-small-first strategy --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One stage of the budget strategy, and what is decided after it."""

    row: Row
    published_usd: Decimal
    spent_usd: Decimal
    """With all stages before it, as expected."""
    decision: str


def strategy(document: Benchmark, rows: Rows) -> tuple[Stage, ...]:
    """Return the document's train-small-first strategy as stages: a smaller model, then a larger, then experts."""
    published = {(row.model, row.arch): row.usd for row in document.rows}
    order = [("debug200m", "mod"), ("b1", "mod"), ("b7", "mod"), ("b7", "hybrid")]
    there = [key for key in order if key in rows]
    stages: list[Stage] = []
    spent = Decimal(0)
    for n, key in enumerate(there):
        row = rows[key]
        spent += row.estimate.usd.mid
        following = rows[there[n + 1]] if n + 1 < len(there) else None
        stages.append(Stage(row, published[key], spent, _decision(row.estimate.loss, following)))
    return tuple(stages)


def _decision(loss: Interval, following: Row | None) -> str:
    ill = f"a loss above {loss.high:.2f} is worse than any expected: find out why (data, learning rate) before spending more"
    if following is None:
        return f"{ill}; otherwise keep what is best"
    e = following.estimate
    better = f"expect {e.loss.mid:.2f} ({e.loss.low:.2f}-{e.loss.high:.2f}) from {following.model} {following.arch}"
    return f"stop here if the loss is good enough; {ill}; go on if the next is worth ${e.usd.mid:,.2f}: {better}"


# --- memory --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tip:
    """One memory tip on the document's example, alone: GiB of a GPU before and after."""

    name: str
    before_gib: float
    after_gib: float
    fits: bool

    @property
    def saved_percent(self) -> float:
        """Percent of the memory that it saves."""
        return 100 * (1 - self.after_gib / self.before_gib)


def memory_tips(example: MemoryExample, machine: Machine) -> tuple[Tip, ...]:
    """Return what each tip alone does for the document's example, and both sides of the example itself."""
    usable = machine.gpu.usable_memory_gib or 0.0
    dense = preset(example.model, example.arch)

    def gib(arch: str = example.arch, micro_batch: int = 1, seq_len: int = dense.training.seq_len, checkpointing: str = "none") -> float:
        config = preset(example.model, arch)
        batch = config.training.global_batch_tokens // (seq_len * 4) * seq_len * 4
        training = replace(config.training, seq_len=seq_len, global_batch_tokens=batch)
        try:
            layout = LayoutConfig(micro_batch=micro_batch, checkpointing=checkpointing)  # type: ignore[arg-type]  # none or block
            laid = with_layout(replace(config, training=training, device="cuda"), layout)
        except ConfigError:
            return float("nan")
        return memory(laid, laid.layout, machine.gpu).upper_gib

    def tip(name: str, before: float, after: float) -> Tip:
        return Tip(name, before, after, after <= usable)

    return (
        tip("smaller batch (4 to 1, accumulation four times)", gib(micro_batch=4), gib()),
        tip("gradient checkpointing", gib(micro_batch=4), gib(micro_batch=4, checkpointing="block")),
        tip("MoD instead of MoE", gib("moe"), gib("mod")),
        tip("sequences of 1024 instead of 2048", gib(micro_batch=4), gib(micro_batch=4, seq_len=1024)),
        tip(
            f"the document's example: seq_len {example.after.seq_len} and checkpointing",
            gib(micro_batch=example.before.micro_batch),
            gib(micro_batch=example.after.micro_batch, seq_len=example.after.seq_len, checkpointing="block"),
        ),
    )
