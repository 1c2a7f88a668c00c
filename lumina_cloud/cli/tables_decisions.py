"""What decisions look like on a terminal: answers to a goal, sections of the document beside our figures, how plans turned out."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from rich.text import Text

from lumina_cloud.cli import tables
from lumina_cloud.cli.tables import WIDE, next_step, table
from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_plans


def backwards(document: of_plans.PlanDocument, found: of_plans.Backwards, *, width: int) -> list[RenderableType]:
    """Return the answers to a goal, the best first, then that one's plan, and what plans it by itself.

    What is promised are the high ends, so they are what a narrow terminal has room for.
    """
    wanted = [f"{money.show(Decimal(found.budget_usd))}"] if found.budget_usd is not None else []
    wanted += [units.duration(found.deadline_hours * 3600)] if found.deadline_hours is not None else []
    wanted += [f"a loss of {found.target_loss:g}"] if found.target_loss is not None else []
    if not found.answers:
        return [Text(found.why_none, style="bold red"), next_step(f"{_looser(found)}, or lumina plan debug")]
    best = found.answers[0]
    title = Text(f"for {' and '.join(wanted)}: ", style="bold")
    title.append(f"{units.count(best.parameters_active)} active parameters, {best.arch}", style="bold green")
    title.append(f", on {units.count(best.tokens)} tokens; loss {best.loss.low:.2f}-{best.loss.high:.2f}")
    promised = ("time,\nat most", "cost,\nat most")
    figures = ("active", "tokens", "a parameter", "loss", "time", *promised) if width >= WIDE else ("active", "loss", *promised)
    made = table(f"the best of {found.tried} sizes on machines", "near", "arch", *figures, "on", right=figures, whole=("near", "arch"))
    for a in found.answers:
        cells = {
            "active": units.count(a.parameters_active),
            "tokens": units.count(a.tokens),
            "a parameter": f"{a.tokens_per_parameter:.0f}",
            "loss": f"{a.loss.mid:.3f}",
            "time": units.duration(a.hours.mid * 3600),
            "time,\nat most": units.duration(a.hours.high * 3600),
            "cost,\nat most": money.show(Decimal(a.usd.high)),
        }
        made.add_row(a.model, a.arch, *(cells[name] for name in figures), f"{a.count} x {a.gpu} ({a.provider})")
    planned = tables.plan(document, width=width)
    return [title, "", made, *planned[:-1], next_step(f"{best.type}    plans this answer by itself"), planned[-1]]


def _looser(found: of_plans.Backwards) -> str:
    """Return which of the limits that were named could be looser."""
    loss = [] if found.target_loss is None else ["a higher --target-loss"]
    budget = [] if found.budget_usd is None else ["a larger --budget"]
    return ", ".join([*loss, *budget, *([] if found.deadline_hours is None else ["a later --deadline"])])


def accuracy(document: of_plans.AccuracyDocument, *, width: int) -> list[RenderableType]:
    """Return how plans turned out: each figure over all runs, then run by run."""
    if not document.rows:
        return [
            Text("no run has finished yet: nothing to hold plans against", style="bold"),
            next_step("lumina launch debug --provider local --max-cost 0.10 --follow"),
        ]
    names = ("runs", "actual / plan", "off by, median", "in its range")
    whole = table(f"how the plans of {document.runs} finished runs turned out", "figure", *names, right=names, whole=("figure",))
    for f in document.figures:
        inside = f"{f.within_interval} of {f.runs}"
        whole.add_row(f.figure.replace("_", " "), str(f.runs), f"{f.median_ratio:.3f}", f"{f.median_error_percent:.1f} %", inside)
    where = ("on",) if width >= WIDE else ()
    shown = ("predicted", "actual", "ratio")
    each = table("run by run", "run", *where, "figure", *shown, right=shown, whole=("run", "figure"))
    for r in document.rows[:ROWS]:
        ratio = Text(f"{r.ratio:.3f}" + ("" if r.within else " !"), style="green" if r.within else "yellow")
        machine = [f"{r.gpu} ({r.provider})"] if where else []
        each.add_row(r.run, *machine, r.figure.replace("_", " "), f"{r.predicted:,.4g}", f"{r.actual:,.4g}", ratio)
    if any(not r.within for r in document.rows[:ROWS]):
        each.caption, each.caption_justify = "! outside the plan's interval", "left"
    note = f"the newest {ROWS} rows; --json and --csv have all" if len(document.rows) > ROWS else ""
    notes = [Text(note, style="dim")] if note else []
    return [whole, each, *notes, next_step("lumina accuracy --physics    against published measurements")]


ROWS = 20
