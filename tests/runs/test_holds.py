"""What may be spent is kept back before it is: however many ask at once, a cap holds."""

import threading
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import launching
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import RefusedError
from lumina_cloud.ledger import BudgetRecord, HoldRecord, Ledger
from lumina_cloud.runs import holds
from lumina_cloud.runs.terms import Terms
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run

CROWD = 50


def crowd(home, work):
    """Call `work(ledger, number)` in many threads at once, each with a ledger of its own; return what it returned."""
    gate, answers = threading.Barrier(CROWD), []

    def one(number):
        ledger = Ledger.open(home, SystemClock())
        gate.wait()
        answers.append(work(ledger, number))
        ledger.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_fifty_launches_at_once_under_one_cap(tmp_path):
    """A budget of $10 and fifty runs that may cost $0.75 each: thirteen begin."""
    ledger = Ledger.open(tmp_path, SystemClock())
    with ledger.transaction() as tx:
        tx.set_budget(BudgetRecord("", "", Decimal(10), NOW))

    def launch(mine, number):
        try:
            launching.write_down(mine, a_run(f"r{number}", usd_cap=Decimal("0.75"), created_at=NOW), Terms())
        except RefusedError:
            return False
        return True

    assert sum(crowd(tmp_path, launch)) == 13
    assert len(ledger.runs(["provisioning"])) == 13
    ledger.close()


def test_fifty_rentals_of_one_run_at_once_keep_back_no_more_than_its_cap(tmp_path):
    ledger = Ledger.open(tmp_path, SystemClock())
    run = a_run("r", usd_cap=Decimal("1.00"), usd_per_hour=Decimal(1), seconds_cap=1080.0)
    with ledger.transaction() as tx:
        tx.add_run(run)

    def rent(mine, number):
        with mine.transaction() as tx:
            return holds.reserve(tx, run, a_rental("r", number + 1, usd_per_hour=Decimal(1)), NOW)

    rooms = [room for room in crowd(tmp_path, rent) if room is not None]
    # 18 minutes at $1 an hour are 30 cents; the fourth has ten left, which pay for less.
    assert sorted(room.usd for room in rooms) == [Decimal("0.1"), Decimal("0.3"), Decimal("0.3"), Decimal("0.3")]
    assert holds.committed([], ledger.holds("r")) == Decimal(1)
    ledger.close()


amounts = st.decimals(0, 5, places=3)


@given(st.lists(st.tuples(amounts, amounts, st.booleans()), max_size=6), amounts, st.floats(1, 10**6))
def test_held_and_spent_never_exceed_the_cap_whatever_is_settled(rentals, cap, seconds_cap):
    charges, kept, taken = [], [], Decimal(0)
    for n, (price, cost, over) in enumerate(rentals):
        room = holds.room(cap, seconds_cap, taken, price + Decimal("0.001"), "vastai")
        if room is None:
            continue
        assert room.seconds <= seconds_cap
        kept.append(HoldRecord(str(n), "r", room.usd, NOW, NOW if over else None))
        charges.append(replace(a_charge("r", n=n), rental_id=str(n), usd=min(cost, room.usd)))
        taken = holds.committed(charges, kept)
        assert taken <= cap


def test_a_settled_hold_leaves_what_was_not_spent_to_the_next_rental(tmp_path):
    ledger = Ledger.open(tmp_path, SystemClock())
    run = a_run("debug-dense-1", usd_cap=Decimal("0.10"), usd_per_hour=Decimal("0.05"))
    with ledger.transaction() as tx:
        tx.add_run(run)
        first = holds.reserve(tx, run, a_rental(), NOW)
    assert first.usd == Decimal("0.1")
    with ledger.transaction() as tx:
        assert holds.reserve(tx, run, a_rental(attempt=2), NOW) is None
        assert [r.attempt for r in tx.rentals(run.run_id)] == [1]
        tx.put_charge(a_charge(usd="0.04"))
        holds.settle(tx, a_rental(), NOW)
        second = holds.reserve(tx, run, a_rental(attempt=2), NOW)
    assert second.usd == Decimal("0.06")
    ledger.close()


@pytest.mark.parametrize(("taken", "fits"), [("0", True), ("0.93", True), ("0.94", False), ("2", False)])
def test_what_pays_for_no_first_step_is_not_rented(taken, fits):
    """A minute of training and three for the end, at $1 an hour, are 6.7 cents."""
    assert (holds.room(Decimal(1), 10**6, Decimal(taken), Decimal(1), "vastai") is not None) is fits
