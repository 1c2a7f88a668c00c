"""What a user is told by webhook, as pure functions of what changed: the end of a run, an interruption, drift, a budget in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina_cloud.core import money
from lumina_cloud.core.clock import iso
from lumina_cloud.ledger.records import NoticeRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from lumina_cloud.ledger.records import BudgetRecord, RentalRecord, RunRecord

BUDGET_PERCENTS = (50, 80, 100)
_ENDS = {"succeeded": "end", "stopped": "end", "failed": "failure"}


def notice(notice_id: str, kind: str, at: datetime, run_id: str | None, **body: Any) -> NoticeRecord:
    """Return a notice that is to be sent at once."""
    content = {"id": notice_id, "kind": kind, "at": iso(at), "run": run_id, **body}
    return NoticeRecord(notice_id[:200], at, kind, run_id, content, "due", 0, at, "")


def of_change(before: RunRecord, after: RunRecord, now: datetime) -> Iterator[NoticeRecord]:
    """Yield the notice of a run that has just ended. A run that was resumed and ends again is told again."""
    kind = _ENDS.get(after.state)
    if kind is None or before.state == after.state:
        return
    yield notice(
        f"{kind}:{after.run_id}:{iso(after.ended_at or now)}",
        kind,
        now,
        after.run_id,
        state=after.state,
        reason=after.reason,
        text=f"run {after.run_id} {after.state}" + (f": {after.reason}" if after.reason else ""),
    )


def of_interruption(before: RentalRecord, after: RentalRecord, now: datetime) -> Iterator[NoticeRecord]:
    """Yield the notice of a machine that was taken away while it worked."""
    if after.ending == "interrupted" != before.ending:
        yield notice(
            f"interruption:{after.rental_id}",
            "interruption",
            now,
            after.run_id,
            rental=after.rental_id,
            provider=after.provider,
            text=f"run {after.run_id} lost its machine at {after.provider} (rental {after.attempt})",
        )


def of_drift(run: RunRecord, seconds: float, now: datetime) -> Iterator[NoticeRecord]:
    """Yield the notice of a run that will take longer than the plan held likely. `seconds` is its whole time at its present speed."""
    high = run.planned.get("seconds", {}).get("high")
    if high is not None and seconds > high:
        yield notice(
            f"drift:{run.run_id}",
            "drift",
            now,
            run.run_id,
            planned_seconds=run.planned["seconds"],
            seconds=seconds,
            text=f"run {run.run_id} is slower than planned: {seconds / 3600:.2f} h at its speed, at most {high / 3600:.2f} h were planned",
        )


def of_budgets(budgets: Sequence[BudgetRecord], month: str, spent: Mapping[str, int], now: datetime) -> Iterator[NoticeRecord]:
    """Yield the notices of caps of which half, four fifths or all is spent. `spent` holds micro-dollars by project."""
    for budget in budgets:
        if budget.month not in ("", month):
            continue
        used = sum(spent.values()) if budget.project == "" else spent.get(budget.project, 0)
        cap = money.to_micros(budget.usd_cap)
        for percent in BUDGET_PERCENTS:
            if used * 100 >= cap * percent and used:
                whose = f"project {budget.project}" if budget.project else "all projects"
                yield notice(
                    f"budget:{month}:{budget.project}:{money.text(budget.usd_cap)}:{percent}",
                    "budget",
                    now,
                    None,
                    project=budget.project,
                    month=month,
                    percent=percent,
                    usd_spent=money.text(money.from_micros(used)),
                    usd_cap=money.text(budget.usd_cap),
                    text=f"{percent} % of the budget of {whose} for {month} is spent: "
                    f"{money.show(money.from_micros(used))} of {money.show(budget.usd_cap)}",
                )
