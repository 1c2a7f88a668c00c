"""`Reader`: what a ledger says of its runs, their money and their figures. It drives nothing; `Lumina` does, and is one too."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, get_args

from lumina_cloud.core.errors import UsageError
from lumina_cloud.ledger.records import CostKey
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from lumina_cloud.api import watching
    from lumina_cloud.api.documents import of_money, of_plans, of_runs
    from lumina_cloud.api.documents.of_money import CostRow
    from lumina_cloud.api.reporting import Selection
    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import Ledger, MetricRecord, RunRecord

COST_KEYS: tuple[CostKey, ...] = get_args(CostKey)

STATUS_RUNS = 25
"""Runs that `status` shows when there are more, beside those that go on."""


class Reader:
    """What one ledger says."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock

    def settle(self) -> None:
        """Bring runs up to date before they are read: whoever only reads has nothing to do."""

    def find(self, name: str) -> RunRecord:
        """Return the run of that name, unique prefix, or `last`. Raises UsageError when there is none or several."""
        if name == "last":
            newest = self.ledger.runs(limit=1)
            if newest:
                return newest[0]
        exact = self.ledger.run(name)
        if exact is not None:
            return exact
        matches = self.ledger.names_beginning(name)
        if len(matches) == 1:
            return self._run(matches[0])
        if matches:
            raise UsageError(f"{name!r} could be {', '.join(matches[:6])}", "type more of the name")
        raise _unknown_run(name, self.ledger.run_names())

    def status(self, *, everything: bool = False) -> of_runs.StatusDocument:
        """Return what is running and what it has cost: runs that go on and the newest others, or all of them."""
        from lumina_cloud.api import views
        from lumina_cloud.api.documents import of_runs

        self.settle()
        now, open_rentals = self.clock.now(), self.ledger.open_rentals()
        newest = self.ledger.runs(limit=None if everything else STATUS_RUNS + 1)
        more = not everything and len(newest) > STATUS_RUNS
        shown = {run.run_id: run for run in (newest[:STATUS_RUNS] if more else newest)}
        if more:
            shown |= {run.run_id: run for run in self.ledger.runs(ACTIVE)}
        charges = self.ledger.charges_of(shown)
        runs = []
        for run in sorted(shown.values(), key=lambda r: r.created_at, reverse=True):
            mine = [r for r in open_rentals if r.run_id == run.run_id]
            runs.append(views.run_status(run, views.running_cost(charges[run.run_id], mine, now), now))
        return of_runs.StatusDocument(runs=runs, rentals=[views.rental_status(r) for r in open_rentals], more=more)

    def pulses(self, run_ids: Sequence[str]) -> dict[str, watching.Pulse]:
        """Return how the loss and the spending of runs went so far, by run."""
        from lumina_cloud.api import watching

        now, rentals = self.clock.now(), self.ledger.open_rentals()
        charges = self.ledger.charges_of(run_ids)
        return {
            run_id: watching.pulse(self.ledger.metrics(run_id), charges[run_id], [r for r in rentals if r.run_id == run_id], now)
            for run_id in run_ids
        }

    def results(self, name: str) -> of_runs.ResultsDocument:
        """Return planned beside actual for one run."""
        from lumina_cloud.api import views

        self.settle()
        run = self.find(name)
        ledger, name = self.ledger, run.run_id
        return views.results(run, ledger.charges(name), ledger.artifacts(name), ledger.spent(name), self._said_of_its_end(run))

    def metrics(self, name: str) -> list[MetricRecord]:
        """Return a run's steps."""
        return self.ledger.metrics(self.find(name).run_id)

    def costs(self, by: str) -> of_money.CostsDocument:
        """Return spending under each value of a key, in all, and where this month is going. Raises UsageError for another key."""
        from lumina_cloud.api import budgets, views

        key = _cost_key(by)
        self.settle()
        total = self.ledger.spending("all")
        return views.costs(key, self.ledger.costs(key), total[0] if total else None, budgets.forecast(self.ledger, self.clock.now()))

    def compare(self, names: Sequence[str]) -> of_runs.ComparisonDocument:
        """Return runs side by side, in the order in which they are named. Raises UsageError for an unknown one."""
        from lumina_cloud.api import comparing

        self.settle()
        return comparing.compare(self.ledger, list({run.run_id: run for run in map(self.find, names)}.values()))

    def reported(self, selection: Selection) -> list[RunRecord]:
        """Return the runs that a report is about. Raises UsageError for unknown ones, or where there are none."""
        from lumina_cloud.api import reporting

        selection.check()
        self.settle()
        if selection.runs:
            return list({run.run_id: run for run in map(self.find, selection.runs)}.values())
        return reporting.chosen(self.ledger, selection)

    def money_of(self, runs: Sequence[RunRecord]) -> CostRow:
        """Return what runs cost together, with lost money apart."""
        from lumina_cloud.api import reporting

        return reporting.money_of(self.ledger, runs)

    def command_of(self, run: RunRecord) -> str:
        """Return what to type to do a run again."""
        from lumina_cloud.api import reporting

        return reporting.command_of(self.ledger, run)

    def spent(self, run: RunRecord) -> Decimal:
        """Return what a run has cost so far, open rentals up to this moment."""
        from lumina_cloud.api import views

        rentals = [r for r in self.ledger.rentals(run.run_id) if r.ended_at is None]
        return views.running_cost(self.ledger.charges(run.run_id), rentals, self.clock.now())

    def why_ended(self, run: RunRecord) -> str:
        """Return why a run ended, in words, with what its provider or its machine said; empty while it goes on."""
        from lumina_cloud.api import views

        return views.reason_text(run, self._said_of_its_end(run))

    def _said_of_its_end(self, run: RunRecord) -> str:
        from lumina_cloud.api import views

        return views.said_of_its_end(run, self.ledger.events(run.run_id))

    def budget(self) -> of_money.BudgetDocument:
        """Return the caps on months and projects, and what is left of them."""
        from lumina_cloud.api import budgets

        self.settle()
        return budgets.document(self.ledger, self.clock.now())

    def set_budget(self, usd: Decimal, *, project: str = "", month: str = "") -> None:
        """Set the most that a project, or all together, may cost in a month, or in every month. Raises UsageError."""
        from lumina_cloud.api import budgets

        budgets.set_budget(self.ledger, project, month, usd, self.clock.now())

    def remove_budget(self, *, project: str = "", month: str = "") -> None:
        """Remove a cap. Raises UsageError when there is none."""
        from lumina_cloud.api import budgets

        budgets.remove_budget(self.ledger, project, month)

    def accuracy(self) -> of_plans.AccuracyDocument:
        """Return how plans turned out: predicted against actual, per figure, over all finished runs."""
        from lumina_cloud.api import teaching

        self.settle()
        return teaching.accuracy(self.ledger)

    def _run(self, run_id: str) -> RunRecord:
        run = self.ledger.run(run_id)
        if run is None:
            raise _unknown_run(run_id, self.ledger.run_names())
        return run


def _unknown_run(name: str, names: list[str]) -> UsageError:
    if not names:
        what = "there is no run yet" if name == "last" else f"no run {name!r}: there is none yet"
        return UsageError(what, "lumina plan debug says what one takes, lumina launch begins it; lumina init shows where, also for nothing")
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return UsageError(f"no run {name!r}", f"did you mean {near[0]!r}?" if near else "lumina status lists the runs")


def _cost_key(by: str) -> CostKey:
    for key in COST_KEYS:
        if by == key:
            return key
    near = difflib.get_close_matches(by, COST_KEYS, n=1)
    raise UsageError(f"costs cannot be shown by {by!r}", f"{f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(COST_KEYS)}")
