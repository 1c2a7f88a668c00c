"""The published document's other sections against its own rows: prices, winners, tiers, insights, scenario, memory example.

Rows and breakdowns are `planner.audit`'s; here is what only the document has. Each check compares two of its own statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.planner import claims
from lumina_cloud.planner.audit import BYTES_AT_LEAST, NOT_RENTED, Finding, audit, finding, in_hours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lumina_cloud.catalog.benchmarks import Benchmark, Row

_CARDS = {"A100 40GB": "A100-40GB-PCIe", "A100 80GB": "A100-80GB-PCIe"}


def audit_document(document: Benchmark) -> tuple[Finding, ...]:
    """Return every finding on the published document: rows, breakdowns, then the other sections."""
    found = list(audit(claims.of_document(document)))
    for check in SECTIONS:
        found += check(document)
    return tuple(found)


def _row(document: Benchmark, model: str, arch: str) -> Row | None:
    return next((row for row in document.rows if (row.model, row.arch) == (model, arch)), None)


def _prices(document: Benchmark) -> Iterator[Finding]:
    for price in document.prices:
        why = NOT_RENTED.get((claims.provider_of(price.terms), _CARDS.get(price.hardware, "")))
        if "spot" in price.terms:
            why = f"${price.usd_per_hour}/h is a spot price: the machine can be taken away, and no time or cost here counts that"
        if why:
            yield Finding(f"prices/{price.hardware}", "availability", float(price.usd_per_hour), None, None, why)


def _winners(document: Benchmark) -> Iterator[Finding]:
    """The figures that a winner is named with are its row's."""
    for winner in document.winners:
        row = _row(document, winner.model, winner.arch)
        if row is None:
            continue
        pairs = (
            ("loss", winner.loss, row.loss, 0.0051),
            ("cost", None if winner.usd is None else float(winner.usd), float(row.usd), 0.0051),
            ("hours", winner.hours, row.hours, 0.051),
            ("days", winner.days, row.hours / 24, 0.051),
        )
        for name, stated, real, rounding in pairs:
            if stated is not None and abs(stated - real) > rounding:
                text = f"{winner.category} is named with {name} {stated:g}; its row has {real:.3g}"
                yield finding(f"winners/{winner.category}", "winner", stated, real, text)


def _budget(document: Benchmark) -> Iterator[Finding]:
    """The budget's winner costs least of the sizes whose section is for budgets: the rows for tests cost less, and are not meant."""
    meant = [row for row in document.rows if "Budget" in document.size(row.model).section]
    for winner in document.winners:
        row = _row(document, winner.model, winner.arch)
        if winner.category != claims.BUDGET or row is None or not meant:
            continue
        least = min(meant, key=lambda other: other.usd)
        if row not in meant or least.usd < row.usd:
            text = f"{winner.category} costs ${row.usd}; of the section for budgets {least.model} {least.arch} costs ${least.usd}"
            yield finding(f"winners/{winner.category}", "winner", float(row.usd), float(least.usd), text)


def _tiers(document: Benchmark) -> Iterator[Finding]:
    """A tier's ranges hold the rows that it recommends."""
    per_hour = {"minutes": 1 / 60, "hours": 1.0, "days": 24.0}
    for tier in document.tiers:
        rows = [row for arch in tier.archs if (row := _row(document, tier.model, arch)) is not None]
        hours = [t * per_hour[tier.time_unit] for t in tier.time]
        # Times are stated to a whole hour or a tenth of a day.
        slack = 0.51 if tier.time_unit == "hours" and all(float(t).is_integer() for t in tier.time) else 0.051 * per_hour[tier.time_unit]
        for row in rows:
            name = f"tiers/{tier.name}"
            if not hours[0] - slack <= row.hours <= hours[-1] + slack:
                range_ = f"{tier.time[0]:g} to {tier.time[-1]:g} {tier.time_unit}"
                text = f"{row.model} {row.arch} takes {in_hours(row.hours)}, the tier says {range_}"
                yield finding(name, "sum", hours[-1], row.hours, text)
            if not tier.cost_usd[0] <= row.usd <= tier.cost_usd[-1]:
                text = f"{row.model} {row.arch} costs ${row.usd}, the tier says ${tier.cost_usd[0]} to ${tier.cost_usd[-1]}"
                yield finding(name, "cost", float(tier.cost_usd[-1]), float(row.usd), text)


def _changes(document: Benchmark, arch: str, figure: Callable[[Row], float]) -> list[tuple[str, float]]:
    """Return the change of a figure against dense in percent, for each size that has both rows."""
    found = []
    for size in document.sizes:
        mine, dense = _row(document, size.model, arch), _row(document, size.model, "dense")
        if mine is not None and dense is not None:
            found.append((size.model, 100 * (figure(mine) / figure(dense) - 1)))
    return found


def _insights(document: Benchmark) -> Iterator[Finding]:
    """Ranges of percent against what the rows say."""
    for insight in document.insights:
        losses = _changes(document, insight.arch, lambda row: row.loss)
        hours = _changes(document, insight.arch, lambda row: row.hours)
        for words, stated, changes in (
            ("better loss", insight.loss_better_percent, [(m, -c) for m, c in losses]),
            ("worse loss", insight.loss_worse_percent, losses),
            ("slower", insight.slower_percent, hours),
            ("faster", insight.faster_percent, [(m, -c) for m, c in hours]),
        ):
            yield from _range(f"insights/{insight.arch}", words, stated, changes)


def _conclusion(document: Benchmark) -> Iterator[Finding]:
    end = document.conclusion
    yield from _range("conclusion", "worse loss of MoD", end.mod_quality_loss_percent, _changes(document, "mod", lambda row: row.loss))
    faster = [(m, -c) for m, c in _changes(document, "mod", lambda row: row.hours)]
    yield from _range("conclusion", "faster MoD", end.mod_faster_percent, faster)


def _range(name: str, words: str, stated: Sequence[float], changes: Sequence[tuple[str, float]]) -> Iterator[Finding]:
    for model, change in changes:
        if stated and not stated[0] - 0.5 <= change <= stated[-1] + 0.5:
            nearest = min(stated, key=lambda end: abs(end - change))
            text = f"{stated[0]:g}-{stated[-1]:g} % {words} is stated; {model}'s own rows make it {change:.1f} %"
            yield finding(name, "percent", nearest, change, text)


def _scenario(document: Benchmark) -> Iterator[Finding]:
    for option in document.scenario.options:
        row = _row(document, option.model, option.arch)
        if row is None:
            continue
        for rule, stated, real in (("time", option.hours, row.hours), ("cost", float(option.usd), float(row.usd))):
            if abs(stated - real) > 0.051:
                text = f"option {option.name} says {stated:g}, the row of {row.model} {row.arch} {real:g}"
                yield finding(f"scenario/{option.name}", "time" if rule == "time" else "cost", stated, real, text)


def _memory_example(document: Benchmark) -> Iterator[Finding]:
    """The example against physics, and against the document's own tip on checkpointing."""
    example = document.memory_example
    name, parameters = f"memory_example/{example.model}/{example.arch}", document.size(example.model).active_parameters
    least = parameters * BYTES_AT_LEAST / 1e9
    for case in (example.before, example.after):
        if case.vram_gb < least:
            text = (
                f"{case.vram_gb:g} GB for {parameters / 1e9:g}B parameters are {case.vram_gb * 1e9 / parameters:.1f} bytes each; "
                f"AdamW keeps {BYTES_AT_LEAST} even all in bf16 ({least:,.0f} GB), at any sequence length"
            )
            yield finding(name, "memory", case.vram_gb, least, text)
    saved = 100 * (1 - example.after.vram_gb / example.before.vram_gb)
    tip = next((t for t in document.memory_tips if "checkpointing" in t.name and t.memory_saved_percent), None)
    if tip is not None and example.after.checkpointing and saved < tip.memory_saved_percent[0] - 0.5:
        text = (
            f"checkpointing and a sequence a quarter shorter save {saved:.0f} % here; "
            f"the tip says {tip.memory_saved_percent[0]:g}-{tip.memory_saved_percent[-1]:g} % for checkpointing alone"
        )
        yield finding(name, "percent", tip.memory_saved_percent[0], saved, text)


SECTIONS: tuple[Callable[[Benchmark], Iterator[Finding]], ...] = (
    *(_prices, _winners, _budget, _tiers, _insights, _scenario, _memory_example, _conclusion),
)
