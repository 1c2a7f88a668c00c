"""Caps on what a project may cost in a month: what is spent, what is promised to runs that go on, what is left, and where it is going.

A launch promises its whole cap. It is refused when what is spent and promised in this month would exceed a budget of its project, or
that of all projects; the question is asked again within the transaction that begins the run, so that two launches cannot both take
the last of it.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.api.documents import of_money, root
from lumina_cloud.core import money
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.ledger import BudgetRecord
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lumina_cloud.ledger import ChargeRecord, Ledger, RunRecord, SpendingRecord
    from lumina_cloud.ledger.transaction import Transaction

PACE_DAYS = 28
"""Days whose spending is taken for the pace of the rest of a month."""


@dataclass(frozen=True)
class Known:
    """What budgets are decided from."""

    budgets: Sequence[BudgetRecord]
    spent: Mapping[str, Decimal]
    """Dollars of a month by project."""
    active: Sequence[tuple[RunRecord, Decimal]]
    """Runs that go on, and what each has cost."""

    @classmethod
    def of_ledger(cls, ledger: Ledger, month: str | None = None) -> Known:
        """Read what is known now."""
        budgets = ledger.budgets()
        if not budgets and month is None:
            return cls((), {}, ())
        runs = ledger.runs(ACTIVE)
        charges = ledger.charges_of([run.run_id for run in runs])
        month = month or this_month(ledger.database.clock.now())
        spent = ledger.spending_in("project_month", f"{month}/")
        return cls(budgets, _by_project(spent), [(run, _sum(charges[run.run_id])) for run in runs])

    @classmethod
    def of_transaction(cls, tx: Transaction, now: datetime) -> Known:
        """Read what is known within a write transaction, where it stays true until the commit."""
        budgets = tx.budgets()
        if not budgets:
            return cls((), {}, ())
        spent = tx.spending_of("project_month", f"{this_month(now)}/")
        active = [(run, _sum([c for c in tx.charges(run.run_id) if c.counted])) for run in tx.active_runs(ACTIVE)]
        return cls(budgets, _by_project(spent), active)

    def spent_by(self, project: str) -> Decimal:
        """Return a month's dollars of a project, or of all for an empty one."""
        return sum(self.spent.values(), Decimal(0)) if project == "" else self.spent.get(project, Decimal(0))

    def promised_to(self, project: str) -> Decimal:
        """Return what runs that go on may still cost under their caps."""
        return sum((max(Decimal(0), run.usd_cap - spent) for run, spent in self.active if project in ("", run.project)), Decimal(0))


def this_month(now: datetime) -> str:
    """Return a month as budgets and costs name it, in UTC."""
    return f"{now.astimezone(UTC):%Y-%m}"


def in_force(budgets: Sequence[BudgetRecord], project: str, month: str) -> BudgetRecord | None:
    """Return the cap of a project in a month: the one set for that very month, else the one for every month."""
    mine = {b.month: b for b in budgets if b.project == project}
    return mine.get(month) or mine.get("")


def refuse_beyond(known: Known, project: str, usd_cap: Decimal, now: datetime) -> None:
    """Raise RefusedError when a run with such a cap could exceed a budget."""
    for whose in dict.fromkeys(("", project)):
        budget = in_force(known.budgets, whose, this_month(now))
        if budget is None:
            continue
        spent, promised = known.spent_by(whose), known.promised_to(whose)
        if spent + promised + usd_cap > budget.usd_cap:
            of_whom = f"project {whose}" if whose else "all projects"
            option = f" --project {whose}" if whose else ""
            raise RefusedError(
                f"this run may cost {money.show(usd_cap)}, but of the budget of {of_whom} for {this_month(now)}, "
                f"{money.show(budget.usd_cap)}, {money.show(spent)} is spent and {money.show(promised)} is promised to runs that go on",
                f"a lower cap: --max-cost {money.text(max(Decimal(0), budget.usd_cap - spent - promised))}\n"
                f"a higher budget: lumina budget {money.text(spent + promised + usd_cap)}{option}",
            )


# --- the verb ------------------------------------------------------------------------------------------------------------


def set_budget(ledger: Ledger, project: str, month: str, usd: Decimal, now: datetime) -> None:
    """Set a cap. Raises UsageError for an amount below zero or a malformed month."""
    if usd < 0:
        raise UsageError(f"a budget of {money.text(usd)} dollars is below zero", "lumina budget 50")
    _check_month(month)
    with ledger.transaction() as tx:
        tx.set_budget(BudgetRecord(project, month, usd, now))


def remove_budget(ledger: Ledger, project: str, month: str) -> None:
    """Remove a cap. Raises UsageError when there is none."""
    _check_month(month)
    with ledger.transaction() as tx:
        if not tx.remove_budget(project, month):
            raise UsageError(f"no budget of {project or 'all projects'} for {month or 'every month'}", "lumina budget shows them")


def is_month(text: str) -> bool:
    """Whether a text names a month, as 2026-03."""
    return re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) is not None


def _check_month(month: str) -> None:
    if month and not is_month(month):
        raise UsageError(f"--month is {month!r}, but must be a month such as 2026-03", "leave it out for every month")


def document(ledger: Ledger, now: datetime) -> of_money.BudgetDocument:
    """Return every cap with what is spent, promised, left and forecast of it in this month."""
    month = this_month(now)
    known = Known.of_ledger(ledger, month)
    projects = dict.fromkeys(b.project for b in known.budgets)
    rows = []
    for project in projects:
        budget = in_force(known.budgets, project, month)
        if budget is None:
            rows += [_other_month(b) for b in known.budgets if b.project == project]
            continue
        spent, promised = known.spent_by(project), known.promised_to(project)
        foreseen = forecast(ledger, now, project=project, known=known)
        rows.append(
            of_money.Budget(
                project=project,
                month=budget.month,
                usd_cap=money.text(budget.usd_cap),
                usd_spent=money.text(spent),
                usd_promised=money.text(promised),
                usd_left=money.text(max(Decimal(0), budget.usd_cap - spent - promised)),
                percent=float(round(spent / budget.usd_cap * 100, 1)) if budget.usd_cap else (100.0 if spent else 0.0),
                forecast_usd=foreseen.usd.mid,
                over=Decimal(foreseen.usd.mid) > budget.usd_cap,
            )
        )
    return of_money.BudgetDocument(month=month, budgets=rows, forecast=forecast(ledger, now, known=known))


def _other_month(budget: BudgetRecord) -> of_money.Budget:
    zero = money.text(Decimal(0))
    return of_money.Budget(
        project=budget.project,
        month=budget.month,
        usd_cap=money.text(budget.usd_cap),
        usd_spent=zero,
        usd_promised=zero,
        usd_left=money.text(budget.usd_cap),
        percent=0.0,
        forecast_usd=zero,
        over=False,
    )


# --- forecast ------------------------------------------------------------------------------------------------------------


def forecast(ledger: Ledger, now: datetime, project: str = "", known: Known | None = None) -> of_money.Forecast:
    """Return where spending will be at the month's end.

    low: what is spent, and what running runs are expected to cost yet. high: what is spent, and all that is promised to them, and the
    rest of the month at the pace of the last four weeks. mid: the larger of what runs are expected to cost and that pace.
    """
    month = this_month(now)
    known = known or Known.of_ledger(ledger, month)
    spent = known.spent_by(project)
    running = sum((_expected_yet(run, cost) for run, cost in known.active if project in ("", run.project)), Decimal(0))
    promised = known.promised_to(project)
    at_pace = _daily(ledger, now, project) * _days_left(now)
    low, high = spent + min(running, promised), spent + promised + at_pace
    return of_money.Forecast(
        month=month,
        usd_spent=money.text(spent),
        usd_running=money.text(min(running, promised)),
        usd_at_pace=money.text(at_pace),
        usd=root.MoneyRange(low=money.text(low), mid=money.text(max(low, spent + at_pace)), high=money.text(high)),
    )


def _expected_yet(run: RunRecord, cost: Decimal) -> Decimal:
    planned = run.planned.get("usd", {}).get("mid")
    return max(Decimal(0), (run.usd_cap if planned is None else money.usd(str(planned))) - cost)


def _daily(ledger: Ledger, now: datetime, project: str) -> Decimal:
    """Return dollars a day over the last four weeks, or since the first charge where that is later. Of a project: of this month."""
    today = now.astimezone(UTC)
    if project:
        days = Decimal(today.day - 1) + _share_of_day(today)
        key = f"{this_month(now)}/{project}"
        micros = sum(s.usd_micros for s in ledger.spending_in("project_month", key) if s.key == key)
        return money.from_micros(micros) / max(days, Decimal(1))
    first = f"{today - timedelta(days=PACE_DAYS):%Y-%m-%d}"
    days_charged = [s for s in ledger.spending("day") if s.key >= first]
    if not days_charged:
        return Decimal(0)
    began = datetime.strptime(min(s.key for s in days_charged), "%Y-%m-%d").replace(tzinfo=UTC)
    span = Decimal((today - began) // timedelta(seconds=1)) / 86400
    return sum((money.from_micros(s.usd_micros) for s in days_charged), Decimal(0)) / max(span, Decimal(1))


def _days_left(now: datetime) -> Decimal:
    today = now.astimezone(UTC)
    return Decimal(calendar.monthrange(today.year, today.month)[1] - today.day + 1) - _share_of_day(today)


def _share_of_day(today: datetime) -> Decimal:
    return Decimal(today.hour * 3600 + today.minute * 60 + today.second) / 86400


def _by_project(spent: Sequence[SpendingRecord]) -> dict[str, Decimal]:
    return {s.key.split("/", 1)[1]: money.from_micros(s.usd_micros) for s in spent}


def _sum(charges: Sequence[ChargeRecord]) -> Decimal:
    return sum((c.usd for c in charges), Decimal(0))
