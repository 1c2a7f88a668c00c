"""The page about accuracy: tables of errors of rows left out, the worst rows, and plots of estimated against measured."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

from lumina_cloud.planner import fitting, validation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lumina_cloud.api.accuracy import Accuracy
    from lumina_cloud.planner.validation import Error, MemoryRow, Summary

WORST = 10

_FLAG_WORDS = {
    "derived": "computed from other published figures",
    "doubtful": "the published figure itself is doubtful",
    "nonstandard-model": "not a plain transformer",
    "short-sequences": "sequences shorter than stated",
    "dims-from-public-config": "dimensions from a public configuration",
    "other-batch": "the same columns beside another row's peak, or a peak below its block inputs and logits: another batch ran (what its "
    "source calls resident holds fp32 logits of twice, or half, the sequences that its columns say)",
    "other-loss": "a loss over several tokens ahead, which no column says",
    "a800": "an A800, with less NVLink",
    "h100-96gb-500w": "an H100 variant of 96 GB and 500 W",
}


def bars(found: Accuracy) -> list[str]:
    """Return the figures that accuracy is judged by, each beside its bar, from rows left out of the fit."""
    out = []
    scored = [e for e in found.speed["row"] if e.scored]
    total = validation.summary(scored)
    by_source = validation.grouped(scored, lambda e: e.row.source)
    if total:
        medians = median(s.median for group in by_source.values() if (s := validation.summary(group)))
        out.append(
            f"tokens/s, every tenth row left out: median {total.median:.1%} (bar 10%), 90th percentile {total.p90:.1%} (25%), "
            f"median over {len(by_source)} sources {medians:.1%} (12%), 80 % interval covers {total.covered:.0%} (75-90%), "
            f"{total.rows} rows"
        )
    for name in ("gpu", "size", "source"):
        s = validation.summary(e for e in found.speed[name] if e.scored)
        if s:
            out.append(
                f"tokens/s, one {name} left out at a time: median {s.median:.1%}, 90th percentile {s.p90:.1%}, covers {s.covered:.0%}"
            )
    own = [f"{o.name} {estimated / o.tokens_per_second_per_gpu - 1:+.0%}" for o, estimated in found.own]
    out.append(f"tokens/s of our own trainer on one GPU, one architecture left out at a time: {', '.join(own)}")
    m = validation.summary(_memory(found))
    if m:
        out.append(f"peak memory: median {m.median:.1%} (bar 6%), 85th percentile {m.p85:.1%} (20%), covers {m.covered:.0%}, {m.rows} rows")
    told = [e for e in _memory(found) if not e.row.flags & validation.NOT_DESCRIBED]
    m = validation.summary(told)
    if m:
        out.append(
            f"peak memory, without {len(_memory(found)) - len(told)} rows that ran another batch or loss than their columns say: "
            f"median {m.median:.1%}, 85th percentile {m.p85:.1%}, covers {m.covered:.0%}, {m.rows} rows"
        )
    ran = [row for row in found.runs if row.ran]
    not_ran = [row for row in found.runs if row.ran is False]
    wrong = [row for row in ran if not row.fits]
    observed = [row for row in ran if row.row.text("peak_memory_gib") is None]
    wrong_observed = sum(not row.fits for row in observed)
    beyond = sum((row.row.number("peak_memory_gib") or 0.0) > row.usable_gib for row in wrong)
    out.append(
        f"said not to fit, and ran: {wrong_observed} of {len(observed)} without a published peak, {len(wrong)} of all {len(ran)} "
        f"({beyond} of them with a peak above what the named GPU has: another variant of it)"
    )
    too_careful = sum(not row.fits for row in found.ran)
    out.append(f"said not to fit, and ran: {too_careful} of {len(found.ran)} whose speed was measured and that say what they recomputed")
    out.append(f"said to fit, and did not: {sum(row.fits for row in not_ran)} of {len(not_ran)}")
    reduced, missed = _reduced(found, [(row, row.counted.upper_gib) for row in found.runs])
    out.append(f"said not to fit on GPUs that are smaller than the published peak: {reduced - len(missed)} of {reduced}")
    for name in ("row", "source"):
        rows = found.unseen[name]
        _, missed = _reduced(found, rows)
        refused = [row for row, gib in rows if row.ran and gib > row.usable_gib]
        refused_observed = sum(row.row.text("peak_memory_gib") is None for row in refused)
        but = f" (not {', '.join(missed)})" if missed else ""
        out.append(
            f"the same with bounds that have not seen the {name}: {reduced - len(missed)} of {reduced}{but}; said not to fit, and ran: "
            f"{refused_observed} of {len(observed)} without a published peak, {len(refused)} of all {len(ran)}"
        )
    out.append(f"refused: {len(found.refused)} rows without a size")
    return out


def _memory(found: Accuracy) -> list[Error]:
    return [e for e in found.memory if e.scored and not e.row.flags & validation.NOT_FITTED]


def _reduced(found: Accuracy, bounded: Sequence[tuple[MemoryRow, float]]) -> tuple[int, list[str]]:
    """Count published peaks on the largest memory below them, and return which of them are said to fit."""
    cases, missed = 0, []
    for row, upper_gib in bounded:
        peak = row.row.number("peak_memory_gib")
        below = [gib for gib in found.usable_sizes if peak is not None and gib < peak]
        if below:
            cases += 1
            if upper_gib <= below[-1]:
                missed.append(row.row.id)
    return cases, missed


# --- the page ------------------------------------------------------------------------------------------------------------


def documents(found: Accuracy) -> Mapping[str, str]:
    """Return the page and its plots by file name."""
    scored = [e for e in found.speed["row"] if e.scored]
    return {
        "accuracy.md": _page(found),
        "accuracy-speed.svg": scatter([*scored, *(e for e in found.speed["row"] if not e.scored)], "tokens/s per GPU"),
        "accuracy-memory.svg": scatter(found.memory, "peak memory per GPU, GiB"),
    }


def _page(found: Accuracy) -> str:
    parts = [
        "# How true the estimates are",
        "Written by `lumina accuracy --physics --write` from the published measurements in `lumina_cloud/catalog/data/measured_*.csv`; "
        "nobody edits it.",
        "The errors are of rows that the constants were not fitted to: a group of rows is left out, the constants are fitted to the "
        "rest, and the rows left out are estimated. Relative errors are |estimated / measured - 1|. *Scored* rows are dense models "
        "in 16 bits on up to 64 GPUs without tensor or pipeline parallelism; the others (8 bits, experts, split models) are counted "
        "in the tables by architecture and precision only.",
        "## Against the bars",
        "\n".join(f"- {line}" for line in bars(found)),
        "A source that is left out is a framework that the planner has never seen, and frameworks differ by up to half in speed on "
        "the same machine; `lumina estimate` then says so by a wider interval. The planner's own trainer is one such framework on a "
        "GPU.",
        "![estimated against measured speed](accuracy-speed.svg)",
        "![estimated against measured memory](accuracy-memory.svg)",
        "## Speed, by what was left out",
    ]
    groups: tuple[tuple[str, str, Callable[[Error], str]], ...] = (
        ("gpu", "one GPU left out", lambda e: e.row.text("gpu") or ""),
        ("size", "one model left out", lambda e: e.row.text("model_name") or ""),
        ("source", "one source left out", lambda e: e.row.source),
    )
    for name, title, key in groups:
        parts += [f"### {title[0].upper()}{title[1:]}", _table([e for e in found.speed[name] if e.scored], key)]
    parts += ["### By architecture, every tenth row left out, all rows", _table(found.speed["row"], lambda e: e.row.text("arch") or "")]
    parts += [
        "### By precision, every tenth row left out, all rows",
        _table(found.speed["row"], lambda e: e.row.text("precision") or "not said"),
    ]
    parts += ["### The worst ten", _worst([e for e in found.speed["row"] if e.scored])]
    parts += ["## Memory", "Nothing but the spread is fitted, so rows are compared as they are."]
    parts += ["### By GPU", _table(found.memory, lambda e: e.row.text("gpu") or "")]
    parts += ["### By source", _table(found.memory, lambda e: e.row.source)]
    parts += ["### The worst ten", _worst(_memory(found))]
    parts += ["## Constants", _constants()]
    return "\n\n".join(parts) + "\n"


def _table(errors: Iterable[Error], key: Callable[[Error], str]) -> str:
    lines = ["| | rows | median | 85th percentile | 90th percentile | in the interval |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, group in validation.grouped(errors, key).items():
        s = validation.summary(group)
        if s:
            lines.append(_row(name, s))
    return "\n".join(lines)


def _row(name: str, s: Summary) -> str:
    return f"| {name} | {s.rows} | {s.median:.1%} | {s.p85:.1%} | {s.p90:.1%} | {s.covered:.0%} |"


def _worst(errors: Sequence[Error]) -> str:
    lines = ["| row | model and machine | measured | estimated | error | what is known |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for e in sorted(errors, key=lambda e: -abs(e.log))[:WORST]:
        what = f"{e.row.text('model_name')}, {e.row.text('n_gpus') or '?'} x {e.row.text('gpu')}, {e.row.text('framework') or e.row.source}"
        known = "; ".join(_FLAG_WORDS[f] for f in sorted(e.row.flags) if f in _FLAG_WORDS) or _twin(e, errors) or "nothing"
        lines.append(
            f"| [{e.row.id}]({e.row.source_url}) | {what} | {e.measured:,.4g} | {e.estimated:,.4g} | {e.relative:+.0%} | {known} |"
        )
    return "\n".join(lines)


def _twin(e: Error, errors: Sequence[Error]) -> str:
    """Say whether another row with the same columns was measured differently."""
    ignored = {"id", "tokens_per_sec_per_gpu", "peak_memory_gib", "tflops_per_gpu_as_published", "mfu_or_hfu_as_published"}

    def columns(x: Error) -> dict[str, str]:
        return {k: v for k, v in x.row.columns.items() if k not in ignored and "mem" not in v}

    twins = [x for x in errors if x is not e and columns(x) == columns(e)]
    return f"{twins[0].row.id} has the same columns and {twins[0].measured:,.4g}" if twins else ""


def _constants() -> str:
    from lumina_cloud.planner.constants import speed_constants

    c = speed_constants()
    lines = ["| constant | fitted | before any measurement |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {getattr(c, name):.3g} | {mid:.3g} (factor {math.exp(sd):.2f} either way) |"
        for name, (mid, sd) in fitting.PRIORS.items()
    ]
    lines += [f"| speed of {name} | {value:.3g} | 1 |" for name, value in sorted({**c.frameworks, **c.gpus}.items())]
    return "\n".join(lines)


# --- plots ---------------------------------------------------------------------------------------------------------------

_SIZE, _MARGIN = 560, 60
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")


def scatter(errors: Sequence[Error], label: str) -> str:
    """Return an SVG of estimated against measured on logarithmic axes, coloured by source, pale where not scored."""
    values = [v for e in errors for v in (e.measured, e.estimated)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    sources = sorted({e.row.source for e in errors})

    def at(value: float) -> float:
        return (math.log10(value) - low) / (high - low) * (_SIZE - 2 * _MARGIN)

    edge = _SIZE - _MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE + 220} {_SIZE}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_SIZE + 220}" height="{_SIZE}" fill="white"/>',
        f'<line x1="{_MARGIN}" y1="{edge}" x2="{edge}" y2="{_MARGIN}" stroke="#888"/>',
        f'<text x="{_SIZE / 2}" y="{_SIZE - 15}" text-anchor="middle">measured: {label}</text>',
        f'<text x="16" y="{_SIZE / 2}" text-anchor="middle" transform="rotate(-90 16 {_SIZE / 2})">estimated</text>',
    ]
    for power in range(low, high + 1):
        p = at(10.0**power)
        out.append(f'<line x1="{_MARGIN + p:.1f}" y1="{edge}" x2="{_MARGIN + p:.1f}" y2="{_MARGIN}" stroke="#e5e5e5"/>')
        out.append(f'<line x1="{_MARGIN}" y1="{edge - p:.1f}" x2="{edge}" y2="{edge - p:.1f}" stroke="#e5e5e5"/>')
        out.append(f'<text x="{_MARGIN + p:.1f}" y="{edge + 18}" text-anchor="middle">{10.0**power:,g}</text>')
        out.append(f'<text x="{_MARGIN - 6}" y="{edge - p + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>')
    for e in sorted(errors, key=lambda e: e.scored):
        colour = _COLOURS[sources.index(e.row.source) % len(_COLOURS)]
        x, y = _MARGIN + at(e.measured), edge - at(e.estimated)
        title = f"{e.row.id}: {e.measured:,.4g} measured, {e.estimated:,.4g} estimated"
        faded = 0.85 if e.scored else 0.25
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="{faded}"><title>{title}</title></circle>')
    for i, source in enumerate(sources):
        y = _MARGIN + 18 * i
        out.append(f'<circle cx="{_SIZE - 20}" cy="{y - 4}" r="4" fill="{_COLOURS[i % len(_COLOURS)]}"/>')
        out.append(f'<text x="{_SIZE - 10}" y="{y}">{source}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
