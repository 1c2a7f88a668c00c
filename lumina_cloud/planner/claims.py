"""Claims about training runs, from the published benchmark or from a user's own table, in one shape that `planner.audit` can check.

Every figure may be missing: what is not claimed is not checked. A claim's name is `model/arch`, or a section's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lumina_cloud.planner import printed
from trainer.config import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from lumina_cloud.catalog.benchmarks import Benchmark, Breakdown, Row

Measure = Literal["loss", "hours", "tokens_per_second", "usd"]
MEASURES: tuple[Measure, ...] = ("loss", "hours", "tokens_per_second", "usd")

EXPERTS, TOP_K = 8, 2
"""What the document's rows have where they do not say."""


@dataclass(frozen=True)
class Claim:
    """One row of a table of claims. Memory is in GB (10^9 bytes) of all GPUs together."""

    row: str
    model: str = ""
    arch: str = ""
    tokens: float | None = None
    tokens_per_second: float | None = None
    hours: float | None = None
    usd: Decimal | None = None
    usd_per_hour: Decimal | None = None
    """Of the whole machine."""
    usd_per_billion_tokens: Decimal | None = None
    provider: str = ""
    gpu: str | None = None
    gpus: int = 1
    vram_gb: float | None = None
    active_parameters: float | None = None
    total_parameters: float | None = None
    n_experts: int | None = None
    top_k: int | None = None
    depth_routed_total: str = ""
    """Depth routing that the total is said to come from, e.g. `32x MoD`."""
    loss: float | None = None
    ppl: float | None = None
    seq_len: int | None = 2048
    micro_batch: int | None = None
    grad_accum: int | None = None
    batch_tokens: int | None = None
    batch_text: str = ""
    batch_rounding: float | None = None
    """How far the batch may lie from what is written, in tokens; None where only its value is known."""
    capacity: float | None = None
    skip_rate_percent: float | None = None
    flops_reduction_percent: float | None = None
    against_dense: tuple[tuple[Measure, float], ...] = ()
    """Stated change of a figure against the same model's dense row, in percent."""
    winner: tuple[Measure, ...] = ()
    """Figures that the row is said to be the best in."""
    best_in: tuple[str, ...] = ()
    """Categories that it is said to win which do not say by which figure."""

    @property
    def has_experts(self) -> bool:
        """Whether the row's total parameters are those of experts."""
        return self.arch in ("moe", "hybrid") or (self.n_experts or 0) > 1

    @property
    def experts(self) -> tuple[int | None, int | None]:
        """Experts and how many a token passes through; a preset's that does not say has the document's 8, top-2."""
        if self.model in MODELS and self.has_experts:
            return self.n_experts or EXPERTS, self.top_k or TOP_K
        return self.n_experts, self.top_k


@dataclass(frozen=True)
class Parts:
    """A total with the parts that should add up to it, in hours."""

    row: str
    total_hours: float
    part_hours: tuple[float, ...]
    rounding_hours: float | None = None
    """How far total and sum may lie apart because each figure was rounded; None where only the values are known."""

    @property
    def rounding(self) -> float:
        """The same, from the digits of the values where nothing else is known."""
        known = self.rounding_hours
        return sum(map(printed.half_a_place_of, (self.total_hours, *self.part_hours))) if known is None else known


@dataclass(frozen=True)
class Claims:
    """A table of claims with its breakdowns."""

    rows: tuple[Claim, ...]
    breakdowns: tuple[Parts, ...] = field(default=())


def of_document(document: Benchmark) -> Claims:
    """Return what the document claims in its rows and breakdowns."""
    breakdowns = tuple(_of_breakdown(b) for b in document.breakdowns)
    return Claims(tuple(of_row(document, row) for row in document.rows), breakdowns)


def _of_breakdown(b: Breakdown) -> Parts:
    """Return a breakdown in hours; its minutes are rounded to a minute, not to a digit of the hours that they are."""
    minutes = (b.setup_minutes, b.checkpointing_minutes, b.evaluation_minutes)
    rounding = sum(map(printed.half_a_place_of, (b.total_hours, *b.epoch_hours))) + sum(map(printed.half_a_place_of, minutes)) / 60
    return Parts(f"breakdown/{b.model}/{b.arch}", b.total_hours, (*b.epoch_hours, *(m / 60 for m in minutes)), rounding)


def of_row(document: Benchmark, row: Row) -> Claim:
    """Return one row of the document as a claim, its size's heading with it."""
    size = document.size(row.model)
    has_experts = row.arch in ("moe", "hybrid")
    won = _won(document, row)
    per_billion = next((c.usd for c in document.usd_per_billion_tokens if (c.model, c.arch) == (row.model, row.arch)), None)
    return Claim(
        row=f"{row.model}/{row.arch}",
        model=row.model,
        arch=row.arch,
        tokens=size.tokens,
        tokens_per_second=row.tokens_per_second,
        hours=row.hours,
        usd=row.usd,
        usd_per_hour=document.usd_per_hour(row.machine),
        usd_per_billion_tokens=per_billion,
        provider=next((provider_of(p.terms) for p in document.prices if p.hardware == row.machine), ""),
        gpu=row.gpu or row.machine,
        gpus=row.gpus or 1,
        vram_gb=row.vram_gb,
        active_parameters=size.active_parameters,
        # Depth routing adds no parameters, so only experts make the total.
        total_parameters=size.total_parameters if has_experts else size.active_parameters,
        n_experts=row.n_experts,
        top_k=row.top_k,
        depth_routed_total=f"{size.active} active, {size.total} total: {size.routing}"
        if row.arch == "mod" and "MoD" in size.routing
        else "",
        loss=row.loss,
        ppl=row.ppl,
        seq_len=document.test.seq_len,
        micro_batch=row.micro_batch,
        grad_accum=row.grad_accum,
        batch_tokens=row.effective_batch_tokens or size.tokens_per_batch,
        batch_text=row.effective_tokens or "",
        capacity=_capacity(document, row),
        skip_rate_percent=row.skip_rate_percent,
        flops_reduction_percent=row.flops_reduction_percent,
        against_dense=tuple(_stated_changes(row)),
        winner=tuple(_CATEGORIES[category] for category in won if category in _CATEGORIES),
        best_in=tuple(category for category in won if category not in (*_CATEGORIES, BUDGET)),
    )


_PROVIDERS = {"RunPod": "runpod", "Vast.ai": "vastai", "Lambda": "lambda"}


def provider_of(terms: str) -> str:
    """Return the provider that a price is said to be of, empty when it names none."""
    return next((ours for name, ours in _PROVIDERS.items() if name in terms), "")


def _capacity(document: Benchmark, row: Row) -> float | None:
    """Return the row's capacity; a hybrid that does not say has, in its favour, that of its size's MoD row."""
    if row.capacity is not None or row.arch != "hybrid":
        return row.capacity
    return next((other.capacity for other in document.rows if other.model == row.model and other.capacity is not None), None)


_PERCENT = re.compile(r"([+-]?)~?(\d+(?:\.\d+)?)\s*%")
_FIGURES: dict[str, Measure] = {"loss": "loss", "time": "hours", "tokens_per_second": "tokens_per_second", "usd": "usd"}


def _stated_changes(row: Row) -> Iterator[tuple[Measure, float]]:
    """Yield the percentages that stand beside the row's figures, as signed changes against dense."""
    for figure, label in row.notes:
        found = _PERCENT.search(label)
        if found is None or figure not in _FIGURES:
            continue
        falls = found[1] == "-" or "better" in label or "savings" in label
        yield _FIGURES[figure], -float(found[2]) if falls else float(found[2])


_CATEGORIES: dict[str, Measure] = {"Best Quality": "loss", "Fastest Training": "hours"}
"""Categories that say what they are measured by, over all rows."""

BUDGET = "Best Budget"
"""Names two figures and a section, `Budget Training`: `planner.audit_document` holds it against that section's rows."""


def _won(document: Benchmark, row: Row) -> tuple[str, ...]:
    """Return the categories that a row is named the winner of."""
    return tuple(winner.category for winner in document.winners if (winner.model, winner.arch) == (row.model, row.arch))
