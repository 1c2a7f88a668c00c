"""Documents of money as tables for people."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from rich.text import Text

from lumina_cloud.cli.tables import WIDE, next_step, table
from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_money

VERDICT_STYLES = {"equal": "green", "explained": "", "waiting": "dim", "unexplained": "bold red"}


FIGURES = ("cost", "training", "lost", "hours", "runs", "tokens", "$/B tokens", "$/loss", "planned", "actual")
NARROW = 6
"""Figures that a terminal of 80 columns has room for."""


def costs(document: of_money.CostsDocument, *, width: int) -> list[RenderableType]:
    """Return spending by one key, the total first, and where the month is going, for a terminal of `width` columns."""
    total = Text(f"{_usd(document.total_usd)} spent in all", style="bold").append(_basis(document.total))
    if document.total is None or not document.rows:
        return [total, *_forecast(document.forecast), next_step("lumina plan debug --arch all")]
    figures = FIGURES if width >= WIDE else FIGURES[:NARROW]
    made = table(f"by {document.by}", document.by, *figures, right=figures)
    for row in [*document.rows, *([document.total] if len(document.rows) > 1 and document.by != "label" else [])]:
        cells = (
            _usd(row.usd),
            _usd(row.usd_training),
            _usd(row.usd_lost),
            f"{row.hours:,.3f}",
            f"{row.runs:,}",
            units.count(row.tokens) if row.tokens else "-",
            _maybe(row.usd_per_billion_tokens),
            _maybe(row.usd_per_loss),
            _maybe(row.planned_usd),
            _maybe(row.actual_usd),
        )
        whole = row is document.total
        key = Text("all" if whole else row.key or "(none)", style="" if row.key or whole else "dim")
        made.add_row(key, *cells[: len(figures)], style="bold" if whole else None)
    if figures != FIGURES:
        made.caption, made.caption_justify = f"a terminal of {WIDE} columns, --csv and --json have more figures", "left"
    other = "month" if document.by != "month" else "provider"
    following = next_step(f"lumina costs --by {other}    or    lumina costs --check    or    lumina report")
    return [total, made, *_lost(document.total), *_forecast(document.forecast), following]


def _basis(total: of_money.CostRow | None) -> Text:
    """Return how much of it is on a provider's own bill, and how much was reckoned here from its states and prices."""
    if total is None or not Decimal(total.usd):
        return Text()
    metered = Decimal(total.usd) - Decimal(total.usd_billed)
    return Text(f": {_usd(total.usd_billed)} as billed, {money.show(metered)} as metered here", style="not bold dim")


def _lost(total: of_money.CostRow) -> list[RenderableType]:
    parts = [(name.replace("boot", "boot time"), Decimal(getattr(total.lost, name))) for name in type(total.lost).model_fields]
    said = ", ".join(f"{name} {money.show(amount)}" for name, amount in parts if amount)
    return [Text(f"lost: {said}", style="yellow")] if said else []


def _forecast(forecast: of_money.Forecast | None) -> list[RenderableType]:
    if forecast is None:
        return []
    amount = forecast.usd
    return [
        Text(
            f"{forecast.month}: {_usd(forecast.usd_spent)} so far, about {_usd(amount.mid)} by its end "
            f"({_usd(amount.low)} if only what runs now goes on, {_usd(amount.high)} at most)",
            style="dim",
        )
    ]


def budget(document: of_money.BudgetDocument) -> list[RenderableType]:
    """Return the caps and what is left of them."""
    if not document.budgets:
        return [Text("no budget is set"), *_forecast(document.forecast), next_step("lumina budget 50 --project NAME")]
    figures = ("cap", "spent", "promised", "left", "used", "by the end")
    made = table(f"budgets, {document.month}", "project", "month", *figures, right=figures)
    for row in document.budgets:
        made.add_row(
            row.project or "(all)",
            row.month or "every",
            _usd(row.usd_cap),
            _usd(row.usd_spent),
            _usd(row.usd_promised),
            _usd(row.usd_left),
            f"{row.percent:.0f} %",
            Text(_usd(row.forecast_usd), style="bold red" if row.over else ""),
        )
    return [made, *_forecast(document.forecast), next_step("lumina costs --by project")]


def check(document: of_money.CheckDocument) -> list[RenderableType]:
    """Return what was metered beside what was billed, line by line, what is not explained first."""
    figures = ("metered", "billed", "difference")
    made = table(f"since {document.since[:10]}", "provider", "rental", "for", *figures, "verdict", "why", right=figures)
    for line in sorted(document.lines, key=lambda one: one.verdict != "unexplained"):
        made.add_row(
            line.provider,
            line.rental or line.instance or "-",
            line.kind,
            _maybe(line.metered_usd),
            _maybe(line.billed_usd),
            _signed(line.difference_usd),
            Text(line.verdict.upper() if line.verdict == "unexplained" else line.verdict, style=VERDICT_STYLES[line.verdict]),
            line.why,
        )
    head = Text(f"metered {_usd(document.metered_usd)}, billed {_usd(document.billed_usd)}", style="bold")
    if document.unexplained:
        head.append(f"   {document.unexplained} NOT EXPLAINED", style="bold red")
    else:
        head.append("   every line is equal or explained", style="green")
    notes = [Text(f"· {note}", style="dim") for note in document.notes]
    return [head, *([made] if document.lines else []), *notes, next_step("lumina costs --by provider")]


def _usd(text: str) -> str:
    return money.show(Decimal(text))


def _maybe(text: str | None) -> str:
    return "-" if text is None else money.show(Decimal(text))


def _signed(text: str) -> str:
    amount = Decimal(text)
    return f"{'+' if amount > 0 else '-' if amount < 0 else ''}{money.show(abs(amount))}"
