"""`lumina compare` without runs, on a terminal: each published figure beside ours."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.text import Text

from lumina_cloud.cli.tables import next_step, table
from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from lumina_cloud.api.documents.of_claims import Figures, SectionsDocument


def sections(d: SectionsDocument) -> list[RenderableType]:
    """Return all sections, one table each."""
    return [*_winners(d), *_tiers(d), _billions(d), _insights(d), *_breakdowns(d), _scenario(d), *_strategy(d), *_memory(d)]


def _cells(f: Figures) -> tuple[str, str, str]:
    """Return loss, time and cost of a row that is known."""
    loss = "-" if f.loss is None else f"{f.loss:.2f}"
    time = "-" if f.hours is None else units.duration(f.hours * 3600)
    return loss, time, "-" if f.usd is None else money.show(Decimal(f.usd))


def _lines(f: Figures | None, *, machine: bool = False) -> str:
    """Return a row as lines that are broken between figures and fit half a narrow terminal; with its `machine` as one more."""
    if f is None:
        return "nothing fits"
    if f.usd is None:
        return f"{f.model} {f.arch} on {f.on}:\ndoes not fit"
    loss, time, cost = _cells(f)
    return f"{f.model} {f.arch}, loss {loss}\n{time}, {cost}" + (f"\non {f.on}" if machine else "")


def _winners(d: SectionsDocument) -> list[RenderableType]:
    made = table("winners by category", "category", "published", "modelled")
    for w in d.winners:
        made.add_row(w.category, _lines(w.published), _lines(w.modelled, machine=True))
    return [made, *other_tokens(_models(w.modelled for w in d.winners))]


def _tiers(d: SectionsDocument) -> list[RenderableType]:
    figures = ("loss", "time", "cost")
    made = table("budget tiers", "tier", "what", "model", *figures, right=figures)
    for t in d.tiers:
        low, top = (f"{float(usd):g}" for usd in t.usd)
        rows = [("published", f"{f.model} {f.arch}", *_cells(f)) for f in t.published]
        rows += [("costs that", f"{f.model} {f.arch}", *_cells(f)) for f in t.modelled]
        rows += [] if t.modelled else [("costs that", "none of the rows", "-", "-", "-")]
        if t.best_for_it is not None:
            best = t.best_for_it
            rows.append((f"best for ${top}", f"{best.model} {best.arch}\non {units.count(best.tokens or 0)} tokens", *_cells(best)))
        names = (t.name, f"${low}-{top}")
        for n, (what, *cells) in enumerate(rows):
            repeated = n > 0 and rows[n - 1][0] == what
            made.add_row(names[n] if n < len(names) else "", "" if repeated else what, *cells, end_section=n == len(rows) - 1)
    return [made, *other_tokens(_models(f for t in d.tiers for f in (*t.modelled, t.best_for_it)))]


def _models(figures: Iterable[Figures | None]) -> Iterator[tuple[str, int | None]]:
    return ((f.model, f.vocab) for f in figures if f is not None and f.loss is not None)


def other_tokens(shown: Iterable[tuple[str, int | None]]) -> list[RenderableType]:
    """Return a note for a list of losses where they are per token of different vocabularies: of which model each has which."""
    of = [(name, vocab) for name, vocab in shown if vocab is not None]
    counted = Counter(vocab for _, vocab in of)
    if len(counted) < 2:
        return []
    most = counted.most_common(1)[0][0]
    others = [f"{name} has {vocab:,}" for name, vocab in dict.fromkeys(of) if vocab != most]
    said = f"{', '.join(others)}, the {'others' if counted[most] > 1 else 'other'} {most:,}"
    return [Text(f"· a loss is per token, and does not compare between vocabularies: {said}", style="dim")]


def _billions(d: SectionsDocument) -> RenderableType:
    made = table("cost per 10^9 tokens", "model", "published", "modelled", "times", right=("published", "modelled", "times"))
    for c in d.cost_per_billion_tokens:
        ours = "-" if c.modelled is None else money.show(Decimal(c.modelled))
        made.add_row(f"{c.model} {c.arch}", money.show(Decimal(c.published)), ours, "-" if c.ratio is None else f"{c.ratio:.1f}")
    return made


def _insights(d: SectionsDocument) -> RenderableType:
    made = table("percent against dense, on the same machine", "arch", "figure", "published", "modelled", right=("modelled",))
    for i in d.insights:
        ours = {"loss": i.loss_percent, "time": i.hours_percent, "memory": i.memory_percent, "cost": i.usd_percent}
        for n, (figure, (low, high)) in enumerate(ours.items()):
            said = [f"{'-'.join(f'{v:g}' for v in i.published[key])} {word}" for key, word in SAID[figure].items() if key in i.published]
            made.add_row("" if n else i.arch, figure, ", ".join(said) or "-", f"{low:+.1f} to {high:+.1f}", end_section=n == len(ours) - 1)
    return made


SAID: dict[str, dict[str, str]] = {
    "loss": {"loss_better_percent": "better", "loss_worse_percent": "worse"},
    "time": {"slower_percent": "slower", "faster_percent": "faster"},
    "memory": {},
    "cost": {},
}
"""What the document says of an architecture's figures, and in which word; of memory and cost it says nothing in percent."""


def _breakdowns(d: SectionsDocument) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for b in d.breakdowns:
        made = table(f"hours of {b.model} {b.arch} on {b.on}", "published", "h", "modelled", "h ", right=("h", "h "))
        left = [(name, f"{hours:.2f}") for name, hours in b.published.items()]
        right = [(name.replace("_", " "), f"{hours:,.2f}") for name, hours in b.modelled.items()]
        for n in range(max(len(left), len(right))):
            made.add_row(*(left[n] if n < len(left) else ("", "")), *(right[n] if n < len(right) else ("", "")))
        parts.append(made)
    return parts


def _scenario(d: SectionsDocument) -> RenderableType:
    made = table("the example project", "option", "published", "modelled on the same card")
    for o in d.scenario:
        made.add_row(f"{o.name}: {o.label}", _lines(o.published), _lines(o.modelled))
    return made


def _strategy(d: SectionsDocument) -> list[RenderableType]:
    figures = ("loss", "time", "cost", "published", "in all")
    made = table("train small first", "stage", "model", *figures, right=figures, whole=("stage", "model"))
    then = table("after each stage", "stage", "on", "then decide", whole=("stage",))
    for s in d.strategy:
        spent, published = money.show(Decimal(s.spent_usd)), money.show(Decimal(s.published_usd))
        made.add_row(str(s.stage), f"{s.modelled.model} {s.modelled.arch}", *_cells(s.modelled), published, spent)
        then.add_row(str(s.stage), s.modelled.on.replace(" (", "\n("), s.decision)
    return [made, then]


def _memory(d: SectionsDocument) -> list[RenderableType]:
    figures = ("before", "after", "saved")
    made = table("memory tips, each alone, GiB a GPU at most", "tip", *figures, "fits", right=figures)
    for t in d.memory_tips:
        made.add_row(t.name, f"{t.before_gib:.1f}", f"{t.after_gib:.1f}", f"{t.saved_percent:.0f} %", "yes" if t.fits else "no")
    return [made, Text(f"· {d.memory_example}", style="dim"), next_step("lumina plan --budget 50 --deadline 48h --arch all")]
