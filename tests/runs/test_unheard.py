"""A line on a bill that no rental knows is a rental's only where nothing else can be meant."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.ledger import EventRecord
from lumina_cloud.runs import unheard
from providers.contract import Charge
from tests.ledger.conftest import NOW

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PRICE, OWN = Decimal("0.36"), Decimal("0.012")
WINDOW = unheard.Window(NOW, NOW + 3 * MINUTE, 1, PRICE)
BUCKET = NOW.replace(minute=0, second=0, microsecond=0)


def line(instance="pod", usd="0.012", since=BUCKET, until=BUCKET + HOUR):
    return Charge(f"{instance} {since}", instance, "gpu", Decimal(usd), since, until)


def events(*kinds):
    return [EventRecord(n, NOW + n * MINUTE, "r", "r-1", kind, {}) for n, kind in enumerate(kinds)]


def test_a_window_is_there_while_a_create_has_no_answer():
    create, heard = unheard.CREATE, unheard.HEARD
    assert unheard.window(events(create, heard), "r-1", PRICE, timedelta(0), OWN) is None
    assert unheard.window(events(create), "r-1", PRICE, timedelta(0), OWN) is None, "it is not known yet what came of it"
    at = (NOW - HOUR, NOW + MINUTE - HOUR)
    twice = unheard.window(events(create, create, heard), "r-1", PRICE, HOUR, OWN)
    assert twice == unheard.Window(NOW - HOUR, NOW + 2 * MINUTE - HOUR, 1, PRICE, at), "by the provider's clock"
    assert unheard.window(events(create, create, unheard.UNSEEN), "r-1", PRICE, timedelta(0), OWN).most == 2
    unseen = events(create, heard, unheard.END_UNSEEN, unheard.GONE)
    gone = unheard.window(unseen, "r-1", PRICE, timedelta(0), OWN)
    assert gone == unheard.Window(NOW, NOW + 3 * MINUTE, 1, PRICE, (NOW,), OWN), "nobody was there to see whether its create had made two"
    assert unheard.window(events(create, heard, unheard.GONE), "r-1", PRICE, timedelta(0), OWN) is None
    assert unheard.window(events(create, create, heard), "r-2", PRICE, timedelta(0), OWN) is None, "of another rental"


def test_the_pod_of_a_lost_reply_is_its_rentals():
    assert unheard.presumed({"r-1": WINDOW}, [line()], {"known"}, HOUR) == {"r-1": {"pod"}}


def test_an_exact_bill_says_when_a_machine_began():
    of = replace(WINDOW, asked=(NOW,))
    soon, late = (line(since=NOW + wait, until=NOW + 2 * MINUTE) for wait in (timedelta(seconds=20), timedelta(seconds=50)))
    assert unheard.presumed({"r-1": of}, [soon], (), timedelta(0)) == {"r-1": {"pod"}}
    assert unheard.presumed({"r-1": of}, [late], (), timedelta(0)) == {}


def test_the_second_of_one_create_cost_about_what_the_first_did():
    of = replace(WINDOW, twin_of_usd=OWN)
    assert unheard.presumed({"r-1": of}, [line(usd="0.0145")], (), HOUR) == {"r-1": {"pod"}}
    assert unheard.presumed({"r-1": of}, [line(usd="0.0155")], (), HOUR) == {}
    assert unheard.presumed({"r-1": of}, [line(usd="0.008")], (), HOUR) == {}


def test_a_known_a_dearer_an_older_and_a_later_one_are_not():
    others = [
        line("known"),
        line("dear", usd="0.03"),
        line("old", since=BUCKET - 2 * HOUR, until=BUCKET - HOUR),
        line("late", since=BUCKET + 2 * HOUR, until=BUCKET + 3 * HOUR),
        line("long"),
        line("long", since=BUCKET + HOUR, until=BUCKET + 2 * HOUR, usd="0.3"),
    ]
    assert unheard.presumed({"r-1": WINDOW}, others, {"known"}, HOUR) == {}


def test_of_two_that_could_be_it_neither_is_taken():
    assert unheard.presumed({"r-1": WINDOW}, [line("a"), line("b")], (), HOUR) == {}
    assert unheard.presumed({"r-1": replace(WINDOW, most=2)}, [line("a"), line("b")], (), HOUR) == {"r-1": {"a", "b"}}


def test_one_that_could_be_of_two_rentals_is_of_neither():
    assert unheard.presumed({"r-1": WINDOW, "s-1": WINDOW}, [line()], (), HOUR) == {}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 40_000), st.integers(-5, 5)), max_size=8), st.integers(1, 3))
def test_no_rental_is_given_more_than_it_asked_for_nor_more_money_than_its_time_is_worth(rows, most):
    charges = [line(i, usd=f"{usd / 1e6:.6f}", since=BUCKET + h * HOUR, until=BUCKET + (h + 1) * HOUR) for i, usd, h in rows]
    found = unheard.presumed({"r-1": replace(WINDOW, most=most)}, charges, (), HOUR).get("r-1", set())
    assert len(found) <= most
    worth = PRICE * unheard.PRICE_SLACK * Decimal(repr((3 * MINUTE + unheard.SLACK).total_seconds())) / 3600
    for instance in found:
        assert sum(c.usd for c in charges if c.instance_id == instance) <= worth
