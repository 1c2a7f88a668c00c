"""When a run goes on on another machine, and that what failing costs is bounded."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.ledger import EventRecord
from lumina_cloud.runs import failover, states
from providers.contract import Offer
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run

RUN = a_run("r", provider="vastai", usd_cap=Decimal(10), usd_per_hour=Decimal(1), seconds_cap=36000.0, state="finishing")


def an_event(n, kind, rental=None):
    return EventRecord(n, NOW, "r", rental, kind, {})


def leg(machines=1, *, trained=(), lost="0.10"):
    """Return a leg of some machines that failed."""
    events = [an_event(1, "run.launched")]
    rentals, charges = [], []
    for n in range(machines):
        began = NOW + timedelta(minutes=10 * n)
        events += [an_event(3 * n + 2, "rental.intended", f"r-{n + 1}"), an_event(3 * n + 3, "rental.gone", f"r-{n + 1}")]
        if n + 1 < machines:
            events.append(an_event(3 * n + 4, "run.next_machine"))
        at = began if n in trained else None
        rentals.append(a_rental("r", n + 1, state="ended", intended_at=began, ended_at=began + timedelta(minutes=5), training_at=at))
        charges.append(replace(a_charge("r", usd=lost, n=n), rental_id=f"r-{n + 1}"))
    return failover.leg_of(events, rentals, charges)


@pytest.mark.parametrize("reason", states.REASONS)
def test_only_what_a_machine_did_is_mended_by_another(reason):
    assert (failover.why_not(RUN, reason, leg()) == "") is (reason in failover.MACHINES_FAULT)


@pytest.mark.pain(5)
@pytest.mark.parametrize(
    ("run", "of", "said"),
    [
        (replace(RUN, provider="local"), leg(), "would not help"),
        (replace(RUN, stop_requested_at=NOW), leg(), "stop"),
        (RUN, leg(failover.MOST_MACHINES), "machines were tried"),
        (RUN, leg(2, lost="1.30"), "quarter"),
        (replace(RUN, usd_cap=Decimal("0.45")), leg(trained=(0,), lost="0.40"), "first step"),
        (RUN, replace(leg(), tried=False), "nothing of that kind"),
    ],
)
def test_what_failing_costs_is_bounded(run, of, said):
    assert said in failover.why_not(run, "machine_lost", of)


def test_machines_that_trained_are_not_counted_as_lost_and_a_resume_begins_anew():
    assert leg(2, trained=(0, 1)).lost == 0
    assert leg(2, trained=(1,)).lost == Decimal("0.10")
    events = [an_event(1, "run.launched"), an_event(2, "rental.intended", "r-1"), an_event(9, "run.resumed")]
    assert failover.leg_of(events, [a_rental("r", 1)], []).rentals == []


offers = st.builds(
    Offer,
    provider=st.just("vastai"),
    offer_id=st.sampled_from("abcdef"),
    gpu=st.just("RTX4090"),
    count=st.just(1),
    usd_per_hour=st.decimals("0.1", 5, places=2),
    interruptible=st.just(False),
    region=st.just("US"),
    reliability=st.none() | st.floats(0, 1),
)


@given(st.lists(offers, max_size=8), st.floats(0.01, 100), st.sets(st.sampled_from("abcdef")), st.floats(0, 1))
def test_the_offer_of_least_expected_cost_is_taken_and_one_that_failed_only_where_there_is_no_other(listed, hours, failed, boot_hours):
    chosen = failover.choose(listed, hours, failed, boot_hours=boot_hours)
    assert (chosen is None) is (not listed)
    if chosen is not None:
        assert chosen.offer_id not in failed or all(o.offer_id in failed for o in listed)
        rivals = [o for o in listed if (o.offer_id in failed) is (chosen.offer_id in failed)]
        assert all(failover.expected_usd(chosen, hours, boot_hours) <= failover.expected_usd(o, hours, boot_hours) for o in rivals)


@pytest.mark.pain(5)
def test_a_host_that_fails_often_is_dearer_than_its_price():
    good = Offer("vastai", "a", "RTX4090", 1, Decimal("0.40"), False, "US", reliability=0.99)
    bad = replace(good, offer_id="b", usd_per_hour=Decimal("0.38"), reliability=0.90)
    assert failover.choose([good, bad], 10, (), boot_hours=0.25) is good


@pytest.mark.pain(5)
def test_the_longer_a_machine_may_boot_the_more_a_host_that_fails_may_cost():
    good = Offer("vastai", "a", "RTX4090", 1, Decimal("0.40"), False, "US", reliability=0.99)
    bad = replace(good, offer_id="b", usd_per_hour=Decimal("0.36"), reliability=0.90)
    assert failover.choose([good, bad], 0.5, (), boot_hours=0.05) is bad
    assert failover.choose([good, bad], 0.5, (), boot_hours=0.5) is good


# --- a run on interruptible machines and its deadline ------------------------------------------------------------------------

PLANNED = replace(RUN, planned={"seconds": {"mid": 7200.0}}, seconds_cap=10_800.0)


def story(*kinds):
    """Return events a minute apart, each a kind and what it holds."""
    return [EventRecord(n, NOW + timedelta(minutes=n), "r", None, kind, data) for n, (kind, data) in enumerate(kinds)]


LAUNCHED, TAKEN = ("run.launched", {}), ("run.next_machine", {"reason": "interrupted"})
HALF = ("run.checkpoint_home", {"name": "step-000050"})


def test_where_a_run_stands_is_told_by_what_came_home_since_it_was_launched():
    at = failover.standing(PLANNED, story(LAUNCHED, HALF, TAKEN), steps=100)
    assert at == failover.Standing(NOW + timedelta(seconds=10_800), 3600.0)
    assert failover.standing(PLANNED, story(LAUNCHED, HALF), steps=100).ends_by is None, "nothing was taken away yet"
    lost = ("run.next_machine", {"reason": "machine_lost"})
    assert failover.standing(PLANNED, story(LAUNCHED, lost), steps=100).ends_by is None, "a machine that died is no market's doing"
    assert failover.standing(PLANNED, story(LAUNCHED, TAKEN, ("run.resumed", {})), steps=100).ends_by is None, "a resume begins anew"


@pytest.mark.parametrize(("hours", "demanded"), [(0.0, False), (1.4, False), (1.6, True), (5.0, True)])
def test_a_deadline_demands_a_sure_machine_once_another_interruption_would_break_it(hours, demanded):
    """Three hours in all, one of work is left, a quarter of one goes with an interruption and a quarter with what is done again."""
    at = failover.standing(PLANNED, story(LAUNCHED, HALF, TAKEN), steps=100)
    assert failover.deadline_demands(at, NOW + timedelta(hours=hours), interval_seconds=900.0) is demanded


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_time_that_passes_and_work_that_is_left_never_undo_a_demand(rest, more, later):
    at, dearer = (failover.Standing(NOW + timedelta(days=3), s) for s in (rest, rest + more))
    now = NOW + timedelta(seconds=later)
    if failover.deadline_demands(at, NOW, interval_seconds=60.0):
        assert failover.deadline_demands(at, now, interval_seconds=60.0)
        assert failover.deadline_demands(dearer, NOW, interval_seconds=60.0)


@given(st.decimals(0, 1000, places=2), st.floats(0, 1e6))
def test_what_is_affordable_pays_for_the_rest_of_the_work(left, rest):
    price = failover.affordable(left, failover.Standing(NOW, rest), "vastai")
    assert float(price) * rest / 3600 <= float(left) + 1e-6
