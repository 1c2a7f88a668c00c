"""What is wrong with a table of claims: arithmetic on each row, and physics that no implementation gets around.

Rules: `time` (tokens over tokens/s against the time), `cost` (time x price), `peak` (implied FLOP/s against the GPU), `memory`
(against what AdamW keeps per parameter, and what the GPUs hold), `experts` (total against active), `batch` (micro x accumulation x
GPUs x sequence against the stated batch), `ppl` (against the loss), `sum` (breakdowns), `percent` (stated percentages against the
rows they compare), `cost_per_token`, `winner`, `availability`. Every doubt is decided in the claim's favour: two statements of one
thing may differ by TOLERANCE; a batch and a sum are held against what is written, and the finding says what rounding could explain
(`planner.printed`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lumina_cloud.catalog import gpus
from lumina_cloud.core import money, units
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import printed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lumina_cloud.planner.claims import Claim, Claims, Measure, Parts

Rule = Literal["time", "cost", "peak", "memory", "experts", "batch", "ppl", "sum", "percent", "cost_per_token", "winner", "availability"]

TOLERANCE = 0.10
"""By how much two statements of the same thing may differ: the published document rounds its times to two digits."""

BYTES_AT_LEAST = 8
"""Per parameter, weights, gradients and two AdamW moments all in bf16. Mixed precision takes 16 (arXiv 1910.02054, section 3.1)."""

FLOPS_PER_PARAMETER = 6
"""Per token, forward and backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); attention's scores are left out, in
the claim's favour."""

DENSE_AT_MOST = 2.0
"""Total over active parameters of a dense row: some count the active ones without embeddings, which seldom are more than half."""

NOT_RENTED: dict[tuple[str, str], str] = {
    ("runpod", "A100-40GB-PCIe"): "RunPod rents no A100 40GB (its GPU types have the 80 GB cards only)",
    ("runpod", "A100-40GB-SXM"): "RunPod rents no A100 40GB (its GPU types have the 80 GB cards only)",
}
"""What a provider does not have, from its own list of GPU types (RunPod's GPUTypeId)."""


@dataclass(frozen=True)
class Finding:
    """One claim that cannot be. `ratio` is by how many times it is off, at least 1; None where no number says it."""

    row: str
    rule: Rule
    claimed: float | None
    possible: float | None
    ratio: float | None
    text: str


def audit(claims: Claims) -> tuple[Finding, ...]:
    """Return the findings on every row and breakdown, in the table's order."""
    found = [finding for claim in claims.rows for finding in audit_row(claim, claims.rows)]
    found += [finding for parts in claims.breakdowns for finding in _sum(parts)]
    return tuple(found)


def audit_row(claim: Claim, among: Sequence[Claim]) -> tuple[Finding, ...]:
    """Return the findings on one row. `among` is the whole table, for what compares rows."""
    found = [finding for check in CHECKS for finding in check(claim)]
    return (*found, *_percent(claim, among), *_winner(claim, among))


# --- one row by itself ---------------------------------------------------------------------------------------------------


def _time(c: Claim) -> Iterator[Finding]:
    hours = _hours_by_speed(c)
    if hours is not None and c.hours is not None and c.tokens and c.tokens_per_second and not agree(hours, c.hours):
        yield finding(
            c.row,
            "time",
            c.hours,
            hours,
            f"{units.count(c.tokens)} tokens at {c.tokens_per_second:,.0f} tokens/s take {in_hours(hours)}, "
            f"stated {in_hours(c.hours)}: {times(hours, c.hours)}",
        )


def _cost(c: Claim) -> Iterator[Finding]:
    if c.usd_per_hour is None or c.usd is None:
        return
    price = f"{money.show(c.usd_per_hour)}/h"
    if c.hours is not None:
        stated = money.for_hours(c.usd_per_hour, c.hours)
        if not agree(float(stated), float(c.usd)):
            text = f"{in_hours(c.hours)} at {price} cost {money.show(stated)}, stated {money.show(c.usd)}"
            yield finding(c.row, "cost", float(c.usd), float(stated), text)
    hours = _hours_by_speed(c)
    if hours is not None and (c.hours is None or not agree(hours, c.hours)):
        needed = money.for_hours(c.usd_per_hour, hours)
        if not agree(float(needed), float(c.usd)):
            text = f"the {in_hours(hours)} that its speed needs cost {money.show(needed)} at {price}, stated {money.show(c.usd)}"
            yield finding(c.row, "cost", float(c.usd), float(needed), text)


def _cost_per_token(c: Claim) -> Iterator[Finding]:
    if c.usd_per_billion_tokens is None or c.usd is None or not c.tokens:
        return
    real = float(c.usd) / (c.tokens / 1e9)
    claimed = float(c.usd_per_billion_tokens)
    # The table rounds to a cent, and so may the cost.
    if not agree(claimed, real) and abs(claimed - real) > 0.0051:
        text = f"{money.show(c.usd)} for {units.count(c.tokens)} tokens are ${real:.2f} per billion, stated ${claimed:.2f}"
        yield finding(c.row, "cost_per_token", claimed, real, text)


def _peak(c: Claim) -> Iterator[Finding]:
    gpu = known_gpu(c.gpu)
    if gpu is None or gpu.bf16_tflops is None or c.active_parameters is None or c.tokens_per_second is None:
        return
    share = _computed_share(c)
    needed = FLOPS_PER_PARAMETER * c.active_parameters * share * c.tokens_per_second / 1e12
    peak = gpu.bf16_tflops * c.gpus
    if needed > peak:
        less = f", {1 - share:.0%} of the FLOPs taken off," if share < 1 else ""
        text = (
            f"{c.tokens_per_second:,.0f} tokens/s x {FLOPS_PER_PARAMETER} x {units.count(c.active_parameters)} active parameters{less} "
            f"are {needed:,.0f} TFLOP/s; {c.gpus} x {gpu.name} peak at {peak:,.0f} in bf16"
        )
        yield finding(c.row, "peak", needed, peak, text)


def _computed_share(c: Claim) -> float:
    """Share of a dense model's FLOPs that depth routing leaves, as the row states it or, in its favour, its capacity."""
    saved = c.flops_reduction_percent or c.skip_rate_percent
    if saved is not None:
        return 1 - saved / 100
    return c.capacity if c.capacity is not None and c.arch in ("mod", "hybrid") else 1.0


def _memory(c: Claim) -> Iterator[Finding]:
    if c.vram_gb is None:
        return
    gpu = known_gpu(c.gpu)
    # Where a table means GB of each GPU, the sum holds them all the more.
    if gpu is not None and c.vram_gb > (held := gpu.memory_gib * c.gpus) and not agree(c.vram_gb, held):
        text = f"{c.vram_gb:g} GB are more than {c.gpus} x {gpu.name} hold, {held:g} GB"
        yield finding(c.row, "memory", c.vram_gb, held, text)
    parameters = c.total_parameters or c.active_parameters
    if not parameters:
        return
    each, least = c.vram_gb * 1e9 / parameters, parameters * BYTES_AT_LEAST / 1e9
    if each < BYTES_AT_LEAST:
        text = (
            f"{c.vram_gb:g} GB for {units.count(parameters)} parameters are {each:.1f} bytes each; "
            f"AdamW keeps {BYTES_AT_LEAST} even all in bf16 ({least:,.0f} GB), 16 in mixed precision, before any activation"
        )
        yield finding(c.row, "memory", c.vram_gb, least, text)


def _experts(c: Claim) -> Iterator[Finding]:
    if c.depth_routed_total:
        yield Finding(c.row, "experts", None, None, None, f"{c.depth_routed_total}: depth routing adds no parameters")
    n_experts, top_k = c.experts
    if n_experts and top_k and top_k > n_experts:
        text = f"a token cannot pass through {top_k} of {n_experts} experts (top-{top_k})"
        yield finding(c.row, "experts", top_k, n_experts, text)
        return
    if not c.total_parameters or not c.active_parameters:
        return
    ratio = c.total_parameters / c.active_parameters
    if ratio < 1 and not agree(ratio, 1):
        text = (
            f"{units.count(c.active_parameters)} active of {units.count(c.total_parameters)} total parameters: "
            "the active ones are among the total"
        )
        yield finding(c.row, "experts", c.active_parameters, c.total_parameters, text)
    elif c.arch == "dense" and not c.has_experts and ratio > DENSE_AT_MOST:
        text = (
            f"{units.count(c.total_parameters)} total for {units.count(c.active_parameters)} active parameters are a ratio of {ratio:.3g}; "
            "a dense model computes with all of them"
        )
        yield finding(c.row, "experts", c.total_parameters, c.active_parameters, text)
    if not c.has_experts or not n_experts or not top_k:
        return
    most = n_experts / top_k
    if ratio > most and not agree(ratio, most):
        text = (
            f"{units.count(c.total_parameters)} total for {units.count(c.active_parameters)} active parameters are a ratio of {ratio:.3g}; "
            f"{n_experts} experts, top-{top_k}, hold at most {most:g} times the active ones"
        )
        yield finding(c.row, "experts", ratio, most, text)


def _batch(c: Claim) -> Iterator[Finding]:
    if c.batch_tokens is None or c.seq_len is None:
        return
    if c.micro_batch is None or c.grad_accum is None:
        if c.batch_tokens % c.seq_len:
            yield finding(c.row, "batch", c.batch_tokens, *_whole_sequences(c, c.batch_tokens, c.seq_len))
        return
    real = c.micro_batch * c.grad_accum * c.gpus * c.seq_len
    if not agree(real, c.batch_tokens):
        text = (
            f"micro batch {c.micro_batch} x accumulation {c.grad_accum} x {c.gpus} GPU(s) x {c.seq_len:,} are {real:,} tokens, "
            f"stated {c.batch_text or f'{c.batch_tokens:,}'}: {times(c.batch_tokens, real)}"
        )
        yield finding(c.row, "batch", c.batch_tokens, real, text)


def _whole_sequences(c: Claim, tokens: int, seq_len: int) -> tuple[int, str]:
    """Return the nearest batch of whole sequences, and what is wrong with the one that is written, rounding considered."""
    whole = max(1, round(tokens / seq_len)) * seq_len
    rounding = printed.half_a_place_of_count(tokens) if c.batch_rounding is None else c.batch_rounding
    meant = f": {whole:,} rounds to it" if abs(whole - tokens) <= rounding else ", however it was rounded"
    written = c.batch_text or f"{tokens:,}"
    return whole, f"{written} tokens a batch are {tokens / seq_len:.5g} sequences of {seq_len:,}, no whole number{meant}"


def _perplexity(c: Claim) -> Iterator[Finding]:
    if c.loss is None or c.ppl is None:
        return
    # Both are rounded: the loss to 0.01 or coarser, the perplexity to 0.1 or coarser.
    of_loss, of_ppl = max(0.005, printed.half_a_place_of(c.loss)), max(0.05, printed.half_a_place_of(c.ppl))
    if not math.exp(c.loss - of_loss) - of_ppl <= c.ppl <= math.exp(c.loss + of_loss) + of_ppl:
        right = math.exp(c.loss)
        yield finding(c.row, "ppl", c.ppl, right, f"a loss of {c.loss:g} is a perplexity of {right:.1f}, stated {c.ppl:g}")


def _skipping(c: Claim) -> Iterator[Finding]:
    """Capacity is the largest share of tokens that a routed block lets in: more may skip it than are left over, fewer may not."""
    if c.capacity is None or c.skip_rate_percent is None:
        return
    let_in = 1 - c.skip_rate_percent / 100
    if let_in > c.capacity and not agree(let_in, c.capacity):
        text = (
            f"{c.skip_rate_percent:g} % are skipped, so {100 * let_in:g} % are let in; "
            f"a capacity of {c.capacity:g} lets in {100 * c.capacity:g} % at most"
        )
        yield finding(c.row, "percent", c.skip_rate_percent, 100 * (1 - c.capacity), text)


def _availability(c: Claim) -> Iterator[Finding]:
    gpu = known_gpu(c.gpu)
    why = NOT_RENTED.get((c.provider.lower(), gpu.name)) if gpu is not None else None
    if why:
        yield Finding(c.row, "availability", None, None, None, why)


CHECKS: tuple[Callable[[Claim], Iterator[Finding]], ...] = (
    *(_time, _cost, _peak, _memory, _experts, _batch, _perplexity, _skipping, _cost_per_token, _availability),
)

# --- rows against each other ---------------------------------------------------------------------------------------------

_NAMES: dict[Measure, str] = {"loss": "loss", "hours": "training time", "tokens_per_second": "tokens/s", "usd": "cost"}


def _percent(c: Claim, among: Sequence[Claim]) -> Iterator[Finding]:
    dense = next((other for other in among if other.model == c.model and other.arch == "dense"), None)
    if dense is None:
        return
    for measure, stated in c.against_dense:
        mine, theirs = value(c, measure), value(dense, measure)
        if mine is None or not theirs:
            continue
        real = 100 * (mine / theirs - 1)
        # A percentage is rounded as stated, and so are both figures that it compares.
        if abs(real - stated) > 0.5 + 100 * 2 * _rounding(mine, theirs):
            text = f"{_NAMES[measure]} {mine:g} against dense {theirs:g} is {real:+.1f} %, stated {stated:+g} %"
            yield finding(c.row, "percent", stated, real, text)


def _rounding(*figures: float) -> float:
    """Return the relative error that rounding to three digits may leave in a quotient, a half in the last place."""
    return max(0.005 / abs(f) if abs(f) < 10 else 0.05 / abs(f) if abs(f) < 100 else 0.0005 for f in figures)


def _winner(c: Claim, among: Sequence[Claim]) -> Iterator[Finding]:
    for measure in c.winner:
        mine = value(c, measure)
        sign = -1 if measure == "tokens_per_second" else 1
        others = [(v, other.row) for other in among if (v := value(other, measure)) is not None]
        if mine is None or not others:
            continue
        best, name = min(others, key=lambda pair: sign * pair[0])
        better = sum(sign * v < sign * mine for v, _ in others)
        if better:
            show = in_hours if measure == "hours" else (lambda figure: f"{figure:g}")
            are = "1 other row is" if better == 1 else f"{better} other rows are"
            text = f"named the best in {_NAMES[measure]} with {show(mine)}; {are} better, {name} has {show(best)}"
            yield finding(c.row, "winner", mine, best, text)


def _sum(parts: Parts) -> Iterator[Finding]:
    total = sum(parts.part_hours)
    apart = abs(total - parts.total_hours)
    # To the last digit that is stated: hours to a tenth.
    if apart > 0.05 + 1e-9:
        terms = " + ".join(f"{part:.2f}".rstrip("0").rstrip(".") for part in parts.part_hours)
        explained = "all" if parts.rounding >= apart else f"{parts.rounding:.2g}"
        text = (
            f"the parts add up to {terms} = {total:.1f} h, the total says {parts.total_hours:g} h; "
            f"rounding of every one of them could explain {explained} of the {apart:.2g} h"
        )
        yield finding(parts.row, "sum", parts.total_hours, total, text)


# --- small things --------------------------------------------------------------------------------------------------------


def finding(row: str, rule: Rule, claimed: float, possible: float, text: str) -> Finding:
    """Return a finding with its ratio, the larger over the smaller; None where one of them is zero or the signs differ."""
    off = claimed / possible if possible else 0.0
    return Finding(row, rule, claimed, possible, max(off, 1 / off) if off > 0 else None, text)


def value(c: Claim, measure: Measure) -> float | None:
    """Return one of a row's figures as a number."""
    if measure == "usd":
        return None if c.usd is None else float(c.usd)
    figures: dict[Measure, float | None] = {"loss": c.loss, "hours": c.hours, "tokens_per_second": c.tokens_per_second}
    return figures[measure]


def agree(one: float, other: float) -> bool:
    """Whether two statements of the same thing differ by no more than rounding and optimism explain."""
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def in_hours(hours: float) -> str:
    """Return a time as the document writes it: `14 min`, `5.8 h`, `522 h`."""
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"


def times(larger: float, smaller: float) -> str:
    """Return by how many times two figures differ, in words."""
    factor = max(larger, smaller) / min(larger, smaller)
    return f"{factor:.3g} times {'more' if larger >= smaller else 'less'}"


def _hours_by_speed(c: Claim) -> float | None:
    return c.tokens / c.tokens_per_second / 3600 if c.tokens and c.tokens_per_second else None


def known_gpu(name: str | None) -> gpus.Gpu | None:
    """Return the GPU that a claim names; None for one that the catalog does not have, and for a processor, which may be any."""
    if name is None:
        return None
    try:
        gpu = gpus.resolve(name)
    except UsageError:
        return None
    return None if gpu.name == gpus.CPU else gpu
