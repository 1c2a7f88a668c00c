"""Caps on months and projects: what could exceed them does not begin, and the user is told on the way there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import budgets
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.ledger import BudgetRecord, Ledger
from tests.ledger.conftest import NOW, a_charge, a_run, fill

MARCH = "2026-03"
amounts = st.decimals(0, 100, places=2)


class Clock:
    """A clock that stands still."""

    def __init__(self, now=NOW):
        self.at = now

    def now(self):
        return self.at

    def monotonic(self):
        return 0.0

    def sleep(self, seconds):
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path, Clock())
    yield opened
    opened.close()


def charge(ledger, run, usd, *, project="", state="succeeded", cap="0", since=NOW):
    fill(ledger, run, project=project, state=state, usd_cap=Decimal(cap))
    with ledger.transaction() as tx:
        tx.put_charge(a_charge(run, usd=usd, since=since, until=since + timedelta(hours=1)))


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b"]), amounts, amounts), max_size=6), amounts, amounts, st.sampled_from(["", "a", "b"])
)
def test_what_is_let_through_fits_whatever_the_runs_cost(active, cap, ask, project):
    """Spent, promised and asked for never exceed the cap of the project, nor that of all of them."""
    runs = [(a_run(f"r{n}", project=p, usd_cap=max(limit, spent)), spent) for n, (p, limit, spent) in enumerate(active)]
    spent_by = {}
    for run, spent in runs:
        spent_by[run.project] = spent_by.get(run.project, Decimal(0)) + spent
    known = budgets.Known([BudgetRecord("", "", cap, NOW), BudgetRecord("a", "", cap / 2, NOW)], spent_by, runs)
    worst = sum((run.usd_cap for run, _ in runs), Decimal(0)) + ask
    worst_of_a = sum((run.usd_cap for run, _ in runs if run.project == "a"), Decimal(0)) + ask
    fits = worst <= cap and (project != "a" or worst_of_a <= cap / 2)
    if fits:
        budgets.refuse_beyond(known, project, ask, NOW)
    else:
        with pytest.raises(RefusedError, match="budget of"):
            budgets.refuse_beyond(known, project, ask, NOW)


def test_a_budget_shows_what_is_spent_promised_and_left(ledger):
    charge(ledger, "done", "3", project="vision")
    charge(ledger, "going", "1", project="vision", state="training", cap="5")
    charge(ledger, "other", "2")
    budgets.set_budget(ledger, "vision", "", Decimal(10), NOW)
    budgets.set_budget(ledger, "", MARCH, Decimal(100), NOW)
    document = budgets.document(ledger, NOW)
    rows = {row.project: row for row in document.budgets}
    assert (rows["vision"].usd_spent, rows["vision"].usd_promised, rows["vision"].usd_left) == ("4.00", "4.00", "2.00")
    assert (rows["vision"].percent, rows[""].usd_spent, rows[""].month) == (40.0, "6.00", MARCH)
    budgets.remove_budget(ledger, "vision", "")
    assert [row.project for row in budgets.document(ledger, NOW).budgets] == [""]
    with pytest.raises(UsageError, match="no budget of vision"):
        budgets.remove_budget(ledger, "vision", "")


def test_the_cap_of_one_month_goes_before_that_of_every_month():
    every, march = BudgetRecord("", "", Decimal(10), NOW), BudgetRecord("", MARCH, Decimal(99), NOW)
    assert budgets.in_force([every, march], "", MARCH) == march
    assert budgets.in_force([every, march], "", "2026-04") == every


@pytest.mark.parametrize("month", ["March", "2026-13", "26-03"])
def test_a_month_that_is_none_is_refused(ledger, month):
    with pytest.raises(UsageError, match="--month"):
        budgets.set_budget(ledger, "", month, Decimal(1), NOW)


def test_half_four_fifths_and_all_of_a_budget_are_told_once_each(ledger):
    budgets.set_budget(ledger, "vision", "", Decimal(10), NOW)
    for n, usd in enumerate(("4", "2", "2.5", "1", "3")):
        charge(ledger, f"r{n}", usd, project="vision")
    told = [n for n in ledger.due_notices(NOW + timedelta(days=1)) if n.kind == "budget"]
    assert [n.body["percent"] for n in sorted(told, key=lambda n: n.body["percent"])] == [50, 80, 100]
    assert {n.body["project"] for n in told} == {"vision"}


def test_a_forecast_lies_between_what_runs_and_the_pace(ledger):
    today = datetime(2026, 3, 11, tzinfo=UTC)
    for day in range(1, 11):
        charge(ledger, f"d{day}", "2", since=datetime(2026, 3, day, 10, tzinfo=UTC))
    going = replace(a_run("going", state="training", usd_cap=Decimal(9)), planned={"usd": {"low": "3", "mid": "4", "high": "8"}})
    with ledger.transaction() as tx:
        tx.add_run(going)
    made = budgets.forecast(ledger, today)
    assert (made.usd_spent, made.usd_running) == ("20.00", "4.00")
    # Two dollars a day for the 21 days that are left.
    assert Decimal(made.usd_at_pace) == pytest.approx(Decimal(42), abs=Decimal("0.2"))
    assert Decimal(made.usd.low) == Decimal(24)
    assert Decimal(made.usd.low) <= Decimal(made.usd.mid) <= Decimal(made.usd.high)
