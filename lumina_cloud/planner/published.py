"""The published benchmark's rows, each with the checks that it fails, in plain words with the numbers.

The figures are the document's, unchanged; they decide nothing. The checks are arithmetic on the row itself, its heading and the
price table, and physics that no implementation gets around: a GPU's peak, the bytes that AdamW keeps per parameter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.catalog import benchmarks, gpus
from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from decimal import Decimal

    from lumina_cloud.catalog.benchmarks import Benchmark, Row

TOLERANCE = 0.10
"""By how much two statements of the same thing may differ: the document rounds its times to two digits."""

BYTES_AT_LEAST = 8
"""Per parameter, weights, gradients and two AdamW moments all in bf16. Mixed precision takes 16 (arXiv 1910.02054, section 3.1)."""

FLOPS_PER_PARAMETER = 6
"""Per token, forward and backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); attention's scores are left out, in
the row's favour."""


@dataclass(frozen=True)
class PublishedRow:
    """One row as the document has it, and what speaks against it."""

    model: str
    arch: str
    loss: float
    ppl: float
    hours: float
    vram_gb: float
    """All GPUs together, in the document's GB."""
    tokens_per_second: float
    usd: Decimal
    hardware: str
    fails: tuple[str, ...]


def published(models: Sequence[str], archs: Sequence[str]) -> tuple[PublishedRow, ...]:
    """Return the rows that the document has of these models and architectures, in its order."""
    document = benchmarks.load()
    return tuple(_row(document, row) for row in document.rows if row.model in models and row.arch in archs)


def _row(document: Benchmark, row: Row) -> PublishedRow:
    return PublishedRow(
        model=row.model,
        arch=row.arch,
        loss=row.loss,
        ppl=row.ppl,
        hours=row.hours,
        vram_gb=row.vram_gb,
        tokens_per_second=row.tokens_per_second,
        usd=row.usd,
        hardware=row.hardware or row.machine,
        fails=tuple(text for check in CHECKS for text in check(document, row)),
    )


# --- the checks ----------------------------------------------------------------------------------------------------------


def _time(document: Benchmark, row: Row) -> Iterator[str]:
    tokens = document.size(row.model).tokens
    hours = _hours_by_speed(document, row)
    if not _agree(hours, row.hours):
        yield (
            f"{units.count(tokens)} tokens at {row.tokens_per_second:,.0f} tokens/s take {_hours(hours)}, "
            f"published {_hours(row.hours)}: {_times(hours, row.hours)}"
        )


def _cost(document: Benchmark, row: Row) -> Iterator[str]:
    usd_per_hour = document.usd_per_hour(row.machine)
    if usd_per_hour is None:
        return
    stated = money.for_hours(usd_per_hour, row.hours)
    if not _agree(float(stated), float(row.usd)):
        yield f"{_hours(row.hours)} at {money.show(usd_per_hour)}/h cost {money.show(stated)}, published {money.show(row.usd)}"
    hours = _hours_by_speed(document, row)
    needed = money.for_hours(usd_per_hour, hours)
    if not _agree(float(needed), float(row.usd)):
        price = f"{money.show(needed)} at {money.show(usd_per_hour)}/h"
        yield f"the {_hours(hours)} that its speed needs cost {price}, published {money.show(row.usd)}"


def _peak(document: Benchmark, row: Row) -> Iterator[str]:
    if row.gpu is None or row.gpus is None:
        return
    peak = gpus.resolve(row.gpu).bf16_tflops
    active = document.size(row.model).active_parameters
    share = _computed_share(document, row)
    needed = FLOPS_PER_PARAMETER * active * share * row.tokens_per_second / 1e12
    if peak is not None and needed > peak * row.gpus:
        less = f", {1 - share:.0%} of the FLOPs taken off," if share < 1 else ""
        yield (
            f"{row.tokens_per_second:,.0f} tokens/s x {FLOPS_PER_PARAMETER} x {units.count(active)} active parameters{less} "
            f"are {needed:,.0f} TFLOP/s; {row.gpus} x {row.gpu} peak at {peak * row.gpus:,.0f} in bf16"
        )


def _computed_share(document: Benchmark, row: Row) -> float:
    """Share of a dense model's FLOPs that depth routing leaves, as the row states it or, in its favour, its size's MoD row."""
    saved = row.flops_reduction_percent or row.skip_rate_percent
    if saved is not None:
        return 1 - saved / 100
    if row.arch != "hybrid":
        return 1.0
    capacities = [other.capacity for other in (row, *document.rows) if other.model == row.model and other.capacity is not None]
    return capacities[0] if capacities else 1.0


def _memory(document: Benchmark, row: Row) -> Iterator[str]:
    size = document.size(row.model)
    # Depth routing adds no parameters, so only experts make the total.
    parameters = size.total_parameters if _has_experts(row) else size.active_parameters
    each = row.vram_gb * 1e9 / parameters
    if each < BYTES_AT_LEAST:
        least = f"{BYTES_AT_LEAST} even all in bf16 ({parameters * BYTES_AT_LEAST / 1e9:,.0f} GB)"
        yield (
            f"{row.vram_gb:g} GB for {units.count(parameters)} parameters are {each:.1f} bytes each; "
            f"AdamW keeps {least}, 16 in mixed precision, before any activation"
        )


def _experts(document: Benchmark, row: Row) -> Iterator[str]:
    size = document.size(row.model)
    named = f"{units.count(size.total_parameters)} total for {units.count(size.active_parameters)} active parameters"
    ratio = size.total_parameters / size.active_parameters
    # Where a row does not say, the document's other rows have 8 experts, top-2.
    n_experts, top_k = row.n_experts or 8, row.top_k or 2
    if _has_experts(row) and ratio > n_experts / top_k:
        most = f"{n_experts} experts, top-{top_k}, hold at most {n_experts / top_k:g} times the active ones"
        yield f"{named} are a ratio of {ratio:.0f}; {most}"
    if row.arch == "mod" and "MoD" in size.routing:
        yield f"{named}, {size.routing}: depth routing adds no parameters"


def _batch(document: Benchmark, row: Row) -> Iterator[str]:
    seq_len, size = document.test.seq_len, document.size(row.model)
    if size.tokens_per_batch is not None and size.tokens_per_batch % seq_len:
        sequences = size.tokens_per_batch / seq_len
        yield f"{size.tokens_per_batch:,} tokens a batch are {sequences:.1f} sequences of {seq_len:,}, no whole number"
    if row.micro_batch is None or row.grad_accum is None or row.effective_batch_tokens is None:
        return
    n_gpus = row.gpus or 1
    real = row.micro_batch * row.grad_accum * n_gpus * seq_len
    if not _agree(real, row.effective_batch_tokens):
        yield (
            f"micro batch {row.micro_batch} x accumulation {row.grad_accum} x {n_gpus} GPU(s) x {seq_len:,} are {real:,} tokens, "
            f"stated {row.effective_tokens}: {_times(row.effective_batch_tokens, real)}"
        )


def _perplexity(_: Benchmark, row: Row) -> Iterator[str]:
    # Both are rounded: the loss to 0.01, the perplexity to 0.1.
    low, high = math.exp(row.loss - 0.005), math.exp(row.loss + 0.005)
    if not low - 0.05 <= row.ppl <= high + 0.05:
        yield f"a loss of {row.loss} is a perplexity of {math.exp(row.loss):.1f}, published {row.ppl}"


def _skipping(_: Benchmark, row: Row) -> Iterator[str]:
    if row.capacity is not None and row.skip_rate_percent is not None and row.skip_rate_percent > 100 * (1 - row.capacity):
        yield f"{row.skip_rate_percent:g} % are skipped, but a capacity of {row.capacity:g} lets {100 * row.capacity:g} % in"


def _breakdown(document: Benchmark, row: Row) -> Iterator[str]:
    for parts in document.breakdowns:
        if (parts.model, parts.arch) == (row.model, row.arch) and abs(parts.summed_hours - parts.total_hours) > 0.05:
            yield f"the parts of its time add up to {parts.summed_hours:.1f} h, its total says {parts.total_hours:g} h"


def _winner(document: Benchmark, row: Row) -> Iterator[str]:
    faster = [other for other in document.rows if other.hours < row.hours]
    if faster and any(w.category == "Fastest Training" and (w.model, w.arch) == (row.model, row.arch) for w in document.winners):
        fastest = min(faster, key=lambda other: other.hours)
        yield (
            f"named the fastest training at {_hours(row.hours)}; {len(faster)} other rows take less, "
            f"{fastest.model} {fastest.arch} {_hours(fastest.hours)}"
        )


CHECKS: tuple[Callable[[Benchmark, Row], Iterator[str]], ...] = (
    _time,
    _cost,
    _peak,
    _memory,
    _experts,
    _batch,
    _perplexity,
    _skipping,
    _breakdown,
    _winner,
)


def _hours_by_speed(document: Benchmark, row: Row) -> float:
    return document.size(row.model).tokens / row.tokens_per_second / 3600


def _has_experts(row: Row) -> bool:
    return row.arch in ("moe", "hybrid")


def _agree(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(one, other)


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"


def _times(larger: float, smaller: float) -> str:
    factor = max(larger, smaller) / min(larger, smaller)
    return f"{factor:.3g} times {'more' if larger >= smaller else 'less'}"
