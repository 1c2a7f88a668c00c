"""Limits that change while a run goes on: what is kept back always covers what its machine may still cost."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import extending as verb
from lumina_cloud.api.launching import Limits
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.ledger import BudgetRecord, EventRecord, Ledger
from lumina_cloud.runs import caps, extending, holds
from lumina_cloud.runs.decide import Decision, Facts, decide
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run

RUN = a_run("r", provider="vastai", usd_cap=Decimal(2), usd_per_hour=Decimal(1), seconds_cap=7200.0, state="training")


class FakeSession:
    """A ledger and a clock: what `extend` asks for."""

    def __init__(self, ledger, clock):
        self.ledger, self.clock = ledger, clock


class Still(SystemClock):
    """A clock that stands at NOW."""

    def now(self):
        return NOW


@pytest.fixture
def session(tmp_path):
    ledger = Ledger.open(tmp_path, Still())
    machine = a_rental("r", 1, usd_per_hour=Decimal(1), intended_at=NOW, state="ready", ended_at=None)
    with ledger.transaction() as tx:
        tx.add_run(RUN)
        holds.reserve(tx, RUN, machine, NOW)
    yield FakeSession(ledger, Still())
    ledger.close()


def events(*kinds):
    """Return events of one machine, each kind with the number of limits that it stands for."""
    return [EventRecord(n, NOW, "r", "r-1", kind, {"limits": limits}) for n, (kind, limits) in enumerate(kinds, 1)]


def test_a_machine_is_behind_until_it_was_told_of_the_last_change():
    changed = (extending.EXTENDED, None)
    assert not extending.is_behind(events(changed), "r-1"), "one that is not at work yet is told when it starts"
    assert not extending.is_behind(events((extending.STARTED, 0)), "r-1")
    assert extending.is_behind(events((extending.STARTED, 0), changed), "r-1")
    assert not extending.is_behind(events(changed, (extending.STARTED, 1)), "r-1")
    assert extending.is_behind(events((extending.STARTED, 0), changed, (extending.TOLD, 1), changed), "r-1")
    assert not extending.is_behind(events((extending.STARTED, 0), changed, changed, (extending.TOLD, 2)), "r-1")


def test_a_change_that_came_while_the_machine_was_told_is_told_again():
    """The number is read before the limits, so one that came in between is beyond it."""
    changed = (extending.EXTENDED, None)
    assert extending.is_behind(events((extending.STARTED, 0), changed, changed, (extending.TOLD, 1)), "r-1")


def test_a_machine_that_is_behind_is_told_and_one_that_is_to_stop_is_not():
    at_work = Facts("training", rental="ready", machine="running", started=True, training=True, limits_behind=True)
    assert decide(at_work) == Decision("tell_limits")
    assert decide(replace(at_work, stop_requested=True)) == Decision("ask_to_stop")
    assert decide(replace(at_work, unreachable_seconds=1.0)) == Decision("wait")
    assert decide(replace(at_work, started=False)) == Decision("ship")


@pytest.mark.parametrize("state", ["planned", "finishing", "succeeded", "failed", "stopped"])
def test_only_a_run_at_work_has_limits_to_change(session, state):
    with pytest.raises(UsageError, match=state):
        verb.new_cap(session, replace(RUN, state=state), Limits(max_hours=5.0))


amounts = st.decimals("0.01", 50, places=2)


@given(amounts, amounts, st.floats(0, 86400), st.decimals("0.05", 5, places=2))
def test_a_cap_that_is_taken_leaves_time_to_save_and_to_end(usd, earlier, lived, price):
    cap = caps.Cap(usd, caps.seconds_for(usd, price))
    try:
        taken = extending.changed_cap(RUN, cap, earlier=earlier, lived_seconds=lived, usd_per_hour=price)
    except RefusedError:
        return
    left = caps.longest_seconds(taken.seconds, taken.usd, earlier, price) - lived
    assert left >= caps.grace_seconds("vastai") + caps.LEAST_SECONDS


def test_a_higher_limit_is_kept_back_before_the_machine_hears_of_it_and_a_lower_one_after(session):
    def held():
        return session.ledger.holds("r")[0].usd

    verb.extend(session, RUN, caps.Cap(Decimal(3), 10800.0))
    assert held() == Decimal(3)
    raised = session.ledger.run("r")
    assert (raised.usd_cap, raised.seconds_cap) == (Decimal(3), 10800.0)
    verb.extend(session, raised, caps.Cap(Decimal(1), 3600.0))
    assert held() == Decimal(3), "it may live by the earlier limit until it was told"
    with session.ledger.transaction() as tx:
        extending.keep_back(tx, tx.run("r"), tx.rentals("r")[0], no_less=False)
    assert held() == Decimal(1)


def test_what_other_machines_of_the_run_cost_is_not_kept_back_twice(session):
    with session.ledger.transaction() as tx:
        tx.add_rental(a_rental("r", 0, state="ended"))
        tx.put_charge(replace(a_charge("r", usd="0.50"), rental_id="r-0"))
    verb.extend(session, RUN, caps.Cap(Decimal(3), 10800.0))
    assert session.ledger.holds("r")[0].usd == Decimal("2.5")


def test_a_budget_holds_against_an_extension(session):
    with session.ledger.transaction() as tx:
        tx.set_budget(BudgetRecord("", "", Decimal("2.50"), NOW))
    with pytest.raises(RefusedError, match="budget"):
        verb.extend(session, RUN, caps.Cap(Decimal(3), 10800.0))
    assert session.ledger.run("r").usd_cap == Decimal(2)
    verb.extend(session, RUN, caps.Cap(Decimal("2.50"), 9000.0))


def test_of_two_extensions_at_once_the_second_is_told_so(session):
    verb.extend(session, RUN, caps.Cap(Decimal(3), 10800.0))
    with pytest.raises(UsageError, match="changed meanwhile"):
        verb.extend(session, RUN, caps.Cap(Decimal(4), 14400.0))


def test_without_a_limit_nothing_is_changed(session):
    with pytest.raises(UsageError, match="say what its limit is to be"):
        verb.new_cap(session, RUN, Limits())
    assert verb.new_cap(session, RUN, Limits(max_hours=3.0)).usd == Decimal(3)
