"""How far estimates are from measurements that they were not fitted to.

Rows are left out a group at a time (a GPU, a size, a source, or every tenth row), the constants are fitted to the rest, and the errors
of the rows left out are collected. The errors of the fit itself are reported by nobody.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from lumina_cloud.catalog import gpus, toml_data
from lumina_cloud.planner import fitting, memory, reading
from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.constants import SPLIT, memory_kind
from lumina_cloud.planner.free_text import OTHER
from lumina_cloud.planner.setting import OURS
from trainer.config import ARCHS, LayoutConfig, preset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.catalog.measured import Measured
    from lumina_cloud.planner.constants import SpeedConstants
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape
    from trainer.config import Arch

FOLDS = 10
ROUNDS = 5
PRIOR_ROWS = 2.0
"""With how many rows' worth a framework's spread is drawn towards the common one."""
COMMON_SPREAD = 0.08
"""Of a framework with rows of its own, before they are looked at."""
COVERED = 0.83
"""Share of rows left out that intervals are widened to hold: in the middle of what an 80 % interval may hold."""
DOUBTFUL_WEIGHT = 0.3
NOT_FITTED = frozenset({"short-sequences"})
"""Flags of rows whose columns do not describe what ran: shown, not fitted to."""
OTHER_VARIANT = frozenset({"h100-96gb-500w"})
"""Flags of rows that ran on a GPU with more memory than the named one."""
NOT_DESCRIBED = frozenset({"other-batch", "other-loss"})
"""Flags of rows whose peak needs another batch or loss than their columns say: counted, and shown with and without them."""
SCORED_PRECISIONS = frozenset({"bf16", "fp16", ""})
MOST_GPUS = 64


@dataclass(frozen=True)
class Error:
    """One measured row against an estimate made without it."""

    row: Measured
    measured: float
    estimated: float
    low: float = 0.0
    high: float = math.inf
    scored: bool = True

    @property
    def relative(self) -> float:
        """Estimated over measured, less one."""
        return self.estimated / self.measured - 1

    @property
    def log(self) -> float:
        """ln(measured / estimated)."""
        return math.log(self.measured / self.estimated)


@dataclass(frozen=True)
class Summary:
    """Absolute relative errors of several rows."""

    rows: int
    median: float
    p85: float
    p90: float
    covered: float
    """Share of rows inside their interval."""


def summary(errors: Iterable[Error]) -> Summary | None:
    """Return the errors' summary, None for none."""
    found = list(errors)
    if not found:
        return None
    sizes = sorted(abs(e.relative) for e in found)
    return Summary(
        rows=len(found),
        median=median(sizes),
        p85=_quantile(sizes, 0.85),
        p90=_quantile(sizes, 0.90),
        covered=sum(e.low <= e.measured <= e.high for e in found) / len(found),
    )


def _quantile(ascending: Sequence[float], share: float) -> float:
    place = share * (len(ascending) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (place - low) * (ascending[high] - ascending[low])


def grouped(errors: Iterable[Error], key: Callable[[Error], str]) -> dict[str, list[Error]]:
    """Return errors by group, groups in alphabetical order."""
    groups: dict[str, list[Error]] = defaultdict(list)
    for e in errors:
        groups[key(e)].append(e)
    return dict(sorted(groups.items()))


# --- reading rows --------------------------------------------------------------------------------------------------------


def description(row: Measured, gpu: Gpu) -> reading.Description:
    """Return a measured row as the description of a run."""

    def whole(column: str) -> int | None:
        found = row.number(column)
        return None if found is None else round(found)

    def flag(column: str) -> bool | None:
        found = row.number(column)
        return None if found is None else bool(found)

    counts: tuple[str, ...] = (
        "n_gpus",
        "n_layers",
        "d_model",
        "n_heads",
        "n_kv_heads",
        "d_ff",
        "vocab",
        "n_experts",
        "top_k",
        "params_total",
    )
    counts += ("params_active", "micro_batch", "grad_accum", "global_batch_tokens", "seq_len")
    texts = ("parallelism", "activation_checkpointing", "offload", "attention", "compile", "framework")
    return reading.Description(
        gpu=gpu,
        **{name: whole(name) for name in counts},  # type: ignore[arg-type]
        **{name: row.text(name) for name in texts},  # type: ignore[arg-type]
        gated_mlp=flag("gated_mlp"),
        tie_embeddings=flag("tie_embeddings"),
        interconnect=row.text("interconnect_known"),
        precision=row.text("precision") or row.text("precision_optimizer"),
        sharding=row.text("zero_stage_or_fsdp"),
    )


def is_scored(row: Measured) -> bool:
    """Whether a row belongs to the set of the published bars: dense, 16 bits, up to 64 GPUs, no tensor or pipeline split."""
    precision = (row.text("precision") or row.text("precision_optimizer") or "").lower()
    sixteen = precision in SCORED_PRECISIONS or not ("fp8" in precision[:8] or precision.startswith("fp32"))
    split = any(f"{kind}{n}" in (row.text("parallelism") or "") for kind in ("TP", "PP") for n in range(2, 65))
    dense = row.text("arch") == "dense"
    return sixteen and dense and not split and (row.number("n_gpus") or 1) <= MOST_GPUS


@dataclass(frozen=True)
class SpeedRow:
    """A measured row that can be estimated."""

    row: Measured
    observation: fitting.Observation


def speed_rows(rows: Iterable[Measured], find_gpu: Callable[[str], Gpu]) -> tuple[list[SpeedRow], list[tuple[Measured, str]]]:
    """Return what can be estimated, and what cannot with the reason."""
    found, refused = [], []
    for row in rows:
        speed = row.number("tokens_per_sec_per_gpu")
        if speed is None:
            continue
        gpu = find_gpu(row.text("gpu") or "")
        try:
            read = reading.read(description(row, gpu))
        except reading.Unreadable as error:
            refused.append((row, str(error)))
            continue
        weight = DOUBTFUL_WEIGHT if "doubtful" in row.flags else 1.0
        found.append(SpeedRow(row, fitting.Observation(row.id, read.shape, read.setting, gpu, speed, weight)))
    return found, refused


# --- speed ---------------------------------------------------------------------------------------------------------------


def fitted(rows: Sequence[SpeedRow], start: SpeedConstants | None = None, rounds: int = 12) -> SpeedConstants:
    """Return constants fitted to rows, and to our own trainer's speeds."""
    published = [r.observation for r in rows if not r.row.flags & NOT_FITTED]
    return fitting.fit([*published, *itertools.chain(*own_observations().values())], start, rounds)


def own_observations() -> dict[Arch, list[fitting.Observation]]:
    """Return the speeds that this project's own trainer was measured at, of each architecture one a GPU."""
    runs = toml_data.read("own_runs")
    seq_len, precision = runs["seq_len"], runs["precision"]
    # A bare step: gradients and moments in the model's own type, nothing sharded.
    layout = LayoutConfig(micro_batch=runs["micro_batch"])
    bare = replace(settings.of_layout(layout, seq_len, precision), states=settings.PURE_16, sharder="none")
    found: dict[Arch, list[fitting.Observation]] = {}
    for arch in ARCHS:
        shape = shapes.of_model(preset(runs["preset"], arch).model, seq_len)
        found[arch] = [
            fitting.Observation(f"{arch} on {run['gpu']}", shape, bare, gpus.resolve(run["gpu"]), float(run["tokens_per_second"][arch]))
            for run in runs["run"]
        ]
    return found


def own_left_out(rows: Sequence[SpeedRow], whole: SpeedConstants) -> list[tuple[fitting.Observation, float]]:
    """Return our own trainer's speeds with what is estimated from the published rows and its other three architectures."""
    published = [r.observation for r in rows if not r.row.flags & NOT_FITTED]
    own = own_observations()
    out = []
    for arch, left in own.items():
        # On every GPU at once: how it does on one would tell of the other.
        others = itertools.chain(*(of_arch for other, of_arch in own.items() if other != arch))
        constants = fitting.fit([*published, *others], whole, ROUNDS)
        out += [(o, o.tokens_per_second_per_gpu / math.exp(fitting.log_error(o, constants))) for o in left]
    return out


def left_out(
    rows: Sequence[SpeedRow], key: Callable[[int, SpeedRow], str], whole: SpeedConstants, *, unseen_gpu: bool = False
) -> list[Error]:
    """Return each row's error under constants that were fitted without its group; `whole` only says where to start.

    `unseen_gpu` says that the group is all rows of a GPU.
    """
    keys = [key(i, row) for i, row in enumerate(rows)]
    errors = []
    for group in sorted(set(keys)):
        constants = fitted([row for row, k in zip(rows, keys, strict=True) if k != group], whole, ROUNDS)
        errors += [speed_error(row, constants, unseen_gpu=unseen_gpu) for row, k in zip(rows, keys, strict=True) if k == group]
    return errors


def speed_error(row: SpeedRow, constants: SpeedConstants, *, unseen_gpu: bool = False) -> Error:
    """Return a row's error under given constants."""
    o = row.observation
    estimated = o.tokens_per_second_per_gpu / math.exp(fitting.log_error(o, constants))
    low, high = constants.interval(o.setting, o.gpu, has_experts=o.shape.n_experts > 0, unseen=unseen_gpu)
    return Error(row.row, o.tokens_per_second_per_gpu, estimated, low * estimated, high * estimated, is_scored(row.row))


def by_fold(i: int, _: SpeedRow) -> str:
    """Every tenth row, neighbours in different folds."""
    return str(i * 7 % FOLDS)


def with_spread(
    constants: SpeedConstants, errors: Sequence[Error], frameworks: Mapping[str, str], unseen: Sequence[Error]
) -> SpeedConstants:
    """Return constants with spreads by framework from errors of rows left out, as wide as holds `COVERED` of the scored ones.

    `unseen` are errors of whole sources left out: how far off a framework without measurements may be.
    """
    by_framework = grouped(errors, lambda e: frameworks[e.row.id])
    spread = {name: _shrunk([e.log for e in found], COMMON_SPREAD) for name, found in by_framework.items()}
    other = math.sqrt(_robust_square([e.log for e in unseen if e.scored]))
    ratios = sorted(abs(e.log) / spread[frameworks[e.row.id]] for e in errors if e.scored)
    return replace(constants, spread=spread, spread_other=other, width=_quantile(ratios, COVERED))


def _shrunk(logs: Sequence[float], common: float) -> float:
    return math.sqrt((PRIOR_ROWS * common**2 + len(logs) * _robust_square(logs)) / (PRIOR_ROWS + len(logs)))


def _robust_square(logs: Sequence[float]) -> float:
    """Return a mean square in which no row counts more than three times the median size."""
    sizes = sorted(abs(x) for x in logs)
    most = max(3 * median(sizes), 1e-3)
    return sum(min(size, most) ** 2 for size in sizes) / len(sizes)


# --- memory --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryRow:
    """A measured or observed row that can be counted."""

    row: Measured
    counted: memory.Memory
    kind: str
    """The framework, and whether it splits the model."""
    usable_gib: float

    @property
    def ran(self) -> bool | None:
        """Whether it is known to have run, or not to have. What has a speed ran."""
        if self.row.number("tokens_per_sec_per_gpu") is not None:
            return True
        found = self.row.number("fits")
        return None if found is None else bool(found)

    @property
    def fits(self) -> bool:
        """What the planner says."""
        return self.counted.upper_gib <= self.usable_gib


def memory_rows(rows: Iterable[Measured], find_gpu: Callable[[str], Gpu]) -> tuple[list[MemoryRow], list[tuple[Measured, str]]]:
    """Return what can be counted, and what cannot with the reason."""
    found, refused = [], []
    for row in rows:
        gpu = find_gpu(row.text("gpu") or "")
        try:
            read = reading.read(description(row, gpu))
        except reading.Unreadable as error:
            refused.append((row, str(error)))
            continue
        found.append(_memory_row(row, read.shape, read.setting, gpu))
    return found, refused


def _memory_row(row: Measured, shape: Shape, setting: Setting, gpu: Gpu) -> MemoryRow:
    counted = memory.of_setting(shape, setting, gpu)
    return MemoryRow(row, counted, memory_kind(setting.framework, split=setting.is_split), gpu.usable_memory_gib or 0.0)


def rows_that_ran(rows: Iterable[SpeedRow]) -> list[MemoryRow]:
    """Return the runs whose speed was measured, as runs that are known to have fitted.

    Without those on another variant of the named GPU, and those that do not say what was recomputed: they may have needed less.
    """
    return [
        _memory_row(r.row, r.observation.shape, r.observation.setting, r.observation.gpu)
        for r in rows
        if r.row.text("activation_checkpointing") and not r.row.flags & OTHER_VARIANT and r.observation.gpu.usable_memory_gib
    ]


BOUND = 1.65
"""Standard deviations that 95 cases of 100 stay under."""
COMMON_MEMORY_SPREAD = 0.07
BOUND_AT_LEAST = 1.04
SPREAD_OTHER = 0.10
"""Of a framework without a measured peak."""
SPREAD_OTHER_SPLIT = 0.23
"""The same where that framework splits the model: so far (root mean square) are thirteen peaks of Megatron-DeepSpeed above what is
counted if nothing is known of what it does."""
SPREAD_SPLIT_AT_LEAST = 0.125
"""Of a framework whose ways are known, but that has no measured peak, where it splits the model."""
OUR_SPREAD = 0.05
"""Of our own trainer, whose tensors are counted from its code and checked against what torch allocates."""


def memory_spread(rows: Sequence[MemoryRow], ran: Sequence[MemoryRow] = ()) -> tuple[dict[str, float], dict[str, float], float]:
    """Return spreads and bounds by framework, and the width that holds `COVERED` of the scored rows.

    A bound follows from the spread, as far as runs without a published peak that are known to have run allow it: it refuses none of
    them. Those whose speed alone is known (`ran`) are asked only where a framework has no peak at all.
    """
    errors = [(row, e) for row in rows if (e := memory_error(row)) is not None and not row.row.flags & NOT_FITTED]
    logs: dict[str, list[float]] = defaultdict(list)
    for row, e in errors:
        logs[row.kind].append(e.log)
    spread = {name: _shrunk(found, COMMON_MEMORY_SPREAD) for name, found in sorted(logs.items())}
    bounds = {}
    # A framework that has not been seen splitting a model may be as far off as the worst of those that have.
    spread[SPLIT] = max((*(s for name, s in spread.items() if name.endswith(SPLIT)), SPREAD_SPLIT_AT_LEAST))
    spread[memory_kind(OTHER, split=True)] = SPREAD_OTHER_SPLIT
    everything = [*rows, *(row for row in ran if row.kind not in logs)]
    for name in sorted({*spread, *(row.kind for row in everything)}):
        # Of fewer than twenty peaks the largest excess is itself what 95 of 100 stay under.
        wanted = math.exp(max(BOUND * spread.get(name, SPREAD_OTHER), *logs.get(name, ()), 0.0))
        observed = [row for row in everything if row.kind == name and row.ran and row.row.text("peak_memory_gib") is None]
        # That a run fitted says less than a peak: no framework is known better by that than our own trainer.
        lowered = max(_allowed(observed), math.exp(BOUND * OUR_SPREAD))
        bounds[name] = max(BOUND_AT_LEAST, min(wanted, lowered))
        spread.setdefault(name, math.log(bounds[name]) / BOUND)
    bounds[SPLIT] = max(bound for name, bound in bounds.items() if name.endswith(SPLIT) and not name.startswith(OTHER))
    spread[OURS], bounds[OURS] = OUR_SPREAD, math.exp(BOUND * OUR_SPREAD)
    ratios = sorted(math.log1p(_off(row, e.measured)) / spread[row.kind] for row, e in errors if e.scored)
    return spread, bounds, _quantile(ratios, COVERED)


def _off(row: MemoryRow, measured_gib: float) -> float:
    """Return by which share what comes and goes must be off for an interval to hold the measured peak."""
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        within = row.counted.reported_within(middle)
        low, high = (low, middle) if within.low <= measured_gib <= within.high else (middle, high)
    return high


def unseen_bounds(rows: Sequence[MemoryRow], ran: Sequence[MemoryRow], key: Callable[[MemoryRow], str]) -> list[tuple[MemoryRow, float]]:
    """Return each row with the GiB that would decide whether it fits if nothing had been learned from its group of rows."""
    out = []
    for group in sorted({key(row) for row in rows}):
        _, bounds, _ = memory_spread([r for r in rows if key(r) != group], [r for r in ran if key(r) != group])
        for row in rows:
            if key(row) == group:
                split = row.kind.endswith(SPLIT)
                bound = bounds.get(row.kind, bounds[SPLIT] if split else math.exp(BOUND * SPREAD_OTHER))
                out.append((row, row.counted.bounded(max(1.0, bound), split=split)))
    return out


def by_source(row: MemoryRow) -> str:
    """All that one source published."""
    return row.row.source


def by_run(row: MemoryRow) -> str:
    """A tenth of all runs; memory and speed of the same run are in the same tenth."""
    run = [row.row.text(column) for column in ("gpu", "n_gpus", "model_name", "seq_len")]
    return str(zlib.crc32(repr([*run, row.row.number("micro_batch")]).encode()) % FOLDS)


def _allowed(ran: Sequence[MemoryRow]) -> float:
    """Return the largest factor on what comes and goes that refuses none of the runs that ran."""
    return min((row.counted.room(row.usable_gib, split=row.kind.endswith(SPLIT)) for row in ran), default=math.inf)


def memory_error(row: MemoryRow) -> Error | None:
    """Return a row's error, None where no figure was published."""
    peak = row.row.number("peak_memory_gib")
    if peak is None:
        return None
    r = row.counted.reported
    return Error(row.row, peak, r.mid, r.low, r.high, is_scored(row.row))
