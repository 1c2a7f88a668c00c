"""`lumina compare --csv` without runs: all sections as one long table, each published figure beside ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.api.documents.of_claims import Figures, SectionsDocument

NAMES = ("section", "row", "figure", "published", "ours")
FIGURES = ("model", "arch", "on", "loss", "hours", "usd", "tokens", "vocab", "fits")

Value = str | int | float | bool | None
Line = tuple[str, str, str, Value, Value]


def rows(d: SectionsDocument) -> list[Line]:
    """Return every figure of every section; None where there is none. What only one side has stands alone in its line."""
    return [*_models(d), *_money(d), *_insights(d), *_breakdowns(d), *_strategy(d), *_memory(d)]


def _pair(section: str, row: str, published: Figures | None, ours: Figures | None) -> Iterator[Line]:
    for figure in FIGURES:
        pair = [None if side is None else getattr(side, figure) for side in (published, ours)]
        if pair != [None, None]:
            yield section, row, figure, pair[0], pair[1]


def _models(d: SectionsDocument) -> Iterator[Line]:
    for published, ours in d.rows:
        yield from _pair("rows", f"{published.model} {published.arch}", published, ours)
    for w in d.winners:
        yield from _pair("winners", w.category, w.published, w.modelled)
    for o in d.scenario:
        yield from _pair("scenario", f"{o.name}: {o.label}", o.published, o.modelled)


def _money(d: SectionsDocument) -> Iterator[Line]:
    for t in d.tiers:
        yield "tiers", t.name, "usd_from", t.usd[0], None
        yield "tiers", t.name, "usd_to", t.usd[1], None
        for f in t.published:
            yield from _pair("tiers", f"{t.name}: {f.model} {f.arch}", f, None)
        for f in t.modelled:
            yield from _pair("tiers", f"{t.name}: {f.model} {f.arch}", None, f)
        yield from _pair("tiers", f"{t.name}: best", None, t.best_for_it)
    for c in d.cost_per_billion_tokens:
        yield "cost per 10^9 tokens", f"{c.model} {c.arch}", "usd", c.published, c.modelled


def _insights(d: SectionsDocument) -> Iterator[Line]:
    for i in d.insights:
        for name, (low, high) in i.published.items():
            yield "insights", i.arch, f"{name}_low", low, None
            yield "insights", i.arch, f"{name}_high", high, None
        for name in ("loss_percent", "hours_percent", "memory_percent", "usd_percent"):
            low, high = getattr(i, name)
            yield "insights", i.arch, f"{name}_low", None, low
            yield "insights", i.arch, f"{name}_high", None, high


def _breakdowns(d: SectionsDocument) -> Iterator[Line]:
    for b in d.breakdowns:
        for part in dict.fromkeys((*b.published, *b.modelled)):
            yield "breakdowns", f"{b.model} {b.arch} on {b.on}", f"{part} hours", b.published.get(part), b.modelled.get(part)


def _strategy(d: SectionsDocument) -> Iterator[Line]:
    for s in d.strategy:
        row = f"stage {s.stage}"
        for section, of_row, figure, _, ours in _pair("strategy", row, None, s.modelled):
            yield section, of_row, figure, s.published_usd if figure == "usd" else None, ours
        yield "strategy", row, "spent_usd", None, s.spent_usd
        yield "strategy", row, "decision", None, s.decision


def _memory(d: SectionsDocument) -> Iterator[Line]:
    for t in d.memory_tips:
        for figure in ("before_gib", "after_gib", "saved_percent", "fits"):
            yield "memory tips", t.name, figure, None, getattr(t, figure)
