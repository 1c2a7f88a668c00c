"""`lumina compare` without runs, on a terminal: each published figure beside ours."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from rich.text import Text

from lumina_cloud.cli.tables import next_step, table
from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents.of_claims import Figures, SectionsDocument


def sections(d: SectionsDocument) -> list[RenderableType]:
    """Return all sections, one table each."""
    return [*_winners(d), *_tiers(d), _billions(d), _insights(d), *_breakdowns(d), _scenario(d), *_strategy(d), *_memory(d)]


def _short(f: Figures | None) -> str:
    if f is None:
        return "nothing fits"
    if f.usd is None:
        return f"{f.model} {f.arch} on {f.on}: does not fit"
    loss = "" if f.loss is None else f", loss {f.loss:.2f}"
    time = "" if f.hours is None else f", {units.duration(f.hours * 3600)}"
    return f"{f.model} {f.arch}{loss}{time}, {money.show(Decimal(f.usd))}"


def _winners(d: SectionsDocument) -> list[RenderableType]:
    made = table("winners by category", "category", "published", "modelled", "on")
    for w in d.winners:
        made.add_row(w.category, _short(w.published), _short(w.modelled), "" if w.modelled is None else w.modelled.on)
    return [made]


def _tiers(d: SectionsDocument) -> list[RenderableType]:
    made = table("budget tiers", "tier", "published", "really costs that", "best model for its top")
    for t in d.tiers:
        best = "-" if t.best_for_it is None else f"{_short(t.best_for_it)} on {units.count(t.best_for_it.tokens or 0)} tokens"
        ours = "\n".join(_short(f) for f in t.modelled) or "none of the document's rows"
        made.add_row(f"{t.name} ${t.usd[0]}-{t.usd[1]}", "\n".join(_short(f) for f in t.published), ours, best)
    return [made]


def _billions(d: SectionsDocument) -> RenderableType:
    made = table("cost per 10^9 tokens", "model", "published", "modelled", "times", right=("published", "modelled", "times"))
    for c in d.cost_per_billion_tokens:
        ours = "-" if c.modelled is None else money.show(Decimal(c.modelled))
        made.add_row(f"{c.model} {c.arch}", money.show(Decimal(c.published)), ours, "-" if c.ratio is None else f"{c.ratio:.1f}")
    return made


def _insights(d: SectionsDocument) -> RenderableType:
    figures = ("loss", "time", "memory", "cost")
    made = table("architectures against dense, percent, on the same machine", "arch", *figures, "published", right=figures)
    for i in d.insights:
        said = "; ".join(
            f"{name.removesuffix('_percent').replace('_', ' ')} {'-'.join(f'{v:g}' for v in p)}" for name, p in i.published.items()
        )
        made.add_row(i.arch, *(_pair(p) for p in (i.loss_percent, i.hours_percent, i.memory_percent, i.usd_percent)), said or "-")
    return made


def _pair(pair: list[float]) -> str:
    return f"{pair[0]:+.1f} to {pair[1]:+.1f}"


def _breakdowns(d: SectionsDocument) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for b in d.breakdowns:
        made = table(f"where the time goes: {b.model} {b.arch} on {b.on}", "published", "h", "modelled", "h ", right=("h", "h "))
        left = [(name, f"{hours:.2f}") for name, hours in b.published.items()]
        right = [(name.replace("_", " "), f"{hours:,.2f}") for name, hours in b.modelled.items()]
        for n in range(max(len(left), len(right))):
            made.add_row(*(left[n] if n < len(left) else ("", "")), *(right[n] if n < len(right) else ("", "")))
        parts.append(made)
    return parts


def _scenario(d: SectionsDocument) -> RenderableType:
    made = table("the example project", "option", "published", "modelled on the same card")
    for o in d.scenario:
        made.add_row(f"{o.name}: {o.label}", _short(o.published), _short(o.modelled))
    return made


def _strategy(d: SectionsDocument) -> list[RenderableType]:
    made = table("train small first", "stage", "model", "published", "spent by then", "then decide", right=("published", "spent by then"))
    for s in d.strategy:
        spent, published = money.show(Decimal(s.spent_usd)), money.show(Decimal(s.published_usd))
        made.add_row(str(s.stage), f"{_short(s.modelled)} on {s.modelled.on}", published, spent, s.decision)
    return [made]


def _memory(d: SectionsDocument) -> list[RenderableType]:
    figures = ("before", "after", "saved")
    made = table("memory tips, each alone, GiB a GPU at most", "tip", *figures, "fits", right=figures)
    for t in d.memory_tips:
        made.add_row(t.name, f"{t.before_gib:.1f}", f"{t.after_gib:.1f}", f"{t.saved_percent:.0f} %", "yes" if t.fits else "no")
    return [made, Text(f"· {d.memory_example}", style="dim"), next_step("lumina plan --budget 50 --deadline 48h --arch all")]
