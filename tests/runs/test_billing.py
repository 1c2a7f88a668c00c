"""A bill is taken when it is whole: at once where it covers what was metered, else when its provider has had its time."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import billing, conclude, unheard
from providers.contract import Charge, Instance
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run


class Clock(SystemClock):
    """Stands at a moment; a wait moves it."""

    def __init__(self):
        self.at, self.slept = NOW, 0.0

    def now(self):
        return self.at

    def monotonic(self):
        return self.slept

    def sleep(self, seconds):
        self.slept += seconds
        self.at += timedelta(seconds=seconds)


class Books:
    """A provider of which only the bill matters. Its clock is `behind` seconds behind ours."""

    def __init__(self, behind=0.0):
        self.rows, self.behind, self.asked_since = [], behind, []

    def charges(self, since):
        self.asked_since.append(since)
        return [c for c in self.rows if c.until > since]

    def clock_skew(self):
        return self.behind

    def bill(self, usd, until):
        shift = timedelta(seconds=self.behind)
        self.rows = [Charge("line", "i-1", "gpu", Decimal(usd), NOW - timedelta(minutes=30) - shift, until - shift)]


class Context:
    """As much of a controller's as billing uses."""

    def __init__(self, ledger, clock, books):
        self.ledger, self.clock, self.books = ledger, clock, books

    def connect(self, _name):
        return self.books


@contextmanager
def ended(tmp_path, provider="runpod", behind=0.0, intended=NOW - timedelta(minutes=30)):
    """A rental that ended a moment ago, and that we metered half an hour of for fifty cents."""
    clock, books = Clock(), Books(behind)
    ledger = Ledger.open(tmp_path, clock)
    rental = a_rental(
        "r",
        provider=provider,
        state="ended",
        instance_id="i-1",
        usd_per_hour=Decimal(1),
        intended_at=intended,
        ready_at=NOW - timedelta(minutes=29),
        ended_at=NOW,
    )
    shift = timedelta(seconds=behind)
    metered = a_charge("r", usd="0.50", since=NOW - timedelta(minutes=30) - shift, until=NOW - shift)
    metered = replace(metered, charge_id="r-1-time", provider=provider)
    with ledger.transaction() as tx:
        tx.add_run(a_run("r", provider=provider, state="succeeded"))
        tx.add_rental(rental)
        tx.put_charge(metered)
        tx.add_event("rental.gone", run_id="r", rental_id="r-1")
    yield Context(ledger, clock, books), rental
    ledger.close()


def test_a_bill_that_still_grows_is_not_taken_for_whole_until_its_provider_had_its_time(tmp_path):
    with ended(tmp_path) as (context, rental):
        context.books.bill("0.20", NOW + timedelta(minutes=20))
        assert not billing.settle(context, context.ledger.run("r"), rental)
        assert context.ledger.spent("r") == Decimal("0.50")
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.50")
        context.books.bill("0.47", NOW + timedelta(minutes=20))
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.47")
        asked = len(context.books.asked_since)
        billing.settle_late(context, "runpod")
        assert len(context.books.asked_since) == asked


@pytest.mark.parametrize(("provider", "usd", "minutes", "taken"), [("runpod", "0.495", 20, True), ("vastai", "0.31", 0, True)])
def test_a_bill_that_covers_what_was_metered_is_taken_at_once(tmp_path, provider, usd, minutes, taken):
    """By its sum; or by its end, where it bills less than the whole time: Vast.ai's begins when the machine runs."""
    with ended(tmp_path, provider) as (context, rental):
        context.books.bill(usd, NOW + timedelta(minutes=minutes))
        assert billing.settle(context, context.ledger.run("r"), rental) is taken
        assert context.ledger.spent("r") == Decimal(usd)


@pytest.mark.parametrize("behind", [86_400.0, -86_400.0])
def test_a_clock_that_is_a_day_wrong_hides_no_bill(tmp_path, behind):
    with ended(tmp_path, behind=behind) as (context, rental):
        context.books.bill("0.499", NOW + timedelta(minutes=20))
        assert billing.settle(context, context.ledger.run("r"), rental)
        assert context.ledger.spent("r") == Decimal("0.499")


@pytest.mark.parametrize(("reading", "came_up", "stays"), [("0.004", True, "0"), ("0.50", True, "0.50"), ("0.50", False, "0")])
def test_a_whole_bill_that_leaves_a_machine_out_is_believed_of_a_moment_or_of_one_that_never_came_up(tmp_path, reading, came_up, stays):
    with ended(tmp_path) as (context, rental):
        if not came_up:
            with context.ledger.transaction() as tx:
                tx.update_rental(rental.rental_id, ready_at=None)
        known = context.ledger.charges("r")[0]
        with context.ledger.transaction() as tx:
            tx.put_charge(replace(known, usd=Decimal(reading)))
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal(stays)


def test_a_machine_that_was_lost_sight_of_and_found_later_is_billed_by_its_end_and_not_by_when_it_was_lost(tmp_path):
    """Its bill was asked for, and said nothing, before it was found; and is not whole an hour after it was lost, but after it ended."""
    with ended(tmp_path) as (context, _rental):
        context.clock.at = NOW - timedelta(hours=3)
        add_event(context, unheard.UNSEEN)
        add_event(context, billing.BILLED)
        context.clock.at = NOW + timedelta(seconds=1)
        add_event(context, billing.ENDED_LATE)
        add_event(context, unheard.GONE)
        context.books.bill("0.20", NOW + timedelta(minutes=20))
        context.clock.sleep(1800)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.50"), "an hour after its end, not before"
        context.books.bill("0.47", NOW + timedelta(minutes=20))
        context.clock.sleep(2000)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.47")


def test_what_a_bill_says_of_a_second_machine_takes_no_first_ones_place(tmp_path):
    """Neither at once, where it makes up for what the first one's lacks yet, nor when it is whole."""
    with ended(tmp_path) as (context, rental):
        with context.ledger.transaction() as tx:
            tx.add_event(billing.TWIN, run_id="r", rental_id="r-1", instance="i-2")
        context.books.bill("0.30", NOW + timedelta(minutes=20))
        twins = replace(context.books.rows[0], charge_id="twins", instance_id="i-2", usd=Decimal("0.20"))
        context.books.rows.append(twins)
        assert not billing.settle(context, context.ledger.run("r"), rental)
        assert context.ledger.spent("r") == Decimal("0.50")
        context.books.rows = [twins]
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.70")


def test_a_controller_that_repeats_an_end_does_not_count_the_reading_beside_the_bill(tmp_path):
    """The one before it died between the bill and the end; when it is repeated the bill cannot be had."""
    with ended(tmp_path, "vastai") as (context, rental):
        context.books.bill("0.499", NOW)
        assert billing.settle(context, context.ledger.run("r"), rental)
        context.books.rows = []
        there = Instance("i-1", rental.tag, "ended", Decimal(1), NOW - timedelta(minutes=30), NOW + timedelta(minutes=1), None)
        conclude.meter(context, context.ledger.run("r"), rental, there, final=True)
        billing.settle(context, context.ledger.run("r"), rental)
        assert context.ledger.spent("r") == Decimal("0.499")


def add_event(context, kind):
    with context.ledger.transaction() as tx:
        tx.add_event(kind, run_id="r", rental_id="r-1", **({"whole": True} if kind == billing.BILLED else {}))


def test_the_bill_of_a_machine_that_worked_for_months_is_asked_for_late_too(tmp_path):
    with ended(tmp_path) as (context, rental):
        with context.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, intended_at=NOW - timedelta(days=60))
        context.books.bill("0.47", NOW + timedelta(minutes=20))
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.47")


# --- a machine whose end nobody saw -------------------------------------------------------------------------------------------


def unseen(context, rental, cap="2"):
    """Let a controller find the rental's machine gone; return what its run has spent then."""
    run = replace(context.ledger.run("r"), usd_cap=Decimal(cap), seconds_cap=36_000.0)
    conclude.meter_unseen(context, run, replace(rental, usd_per_hour=Decimal(1)))
    return context.ledger.spent("r")


def test_it_is_reckoned_until_it_was_found_gone_and_at_most_what_its_cap_paid_for(tmp_path):
    with ended(tmp_path) as (context, rental):
        context.clock.sleep(1800)
        assert unseen(context, rental) == Decimal(1)
        context.clock.sleep(36_000)
        assert unseen(context, rental) == Decimal(2)


def test_its_whole_bill_takes_the_place_of_that(tmp_path):
    with ended(tmp_path) as (context, rental):
        context.clock.sleep(1800)
        unseen(context, rental)
        context.books.bill("0.61", NOW + timedelta(minutes=20))
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.61")


def test_a_bill_that_was_taken_before_is_not_added_to(tmp_path):
    """The controller that took it died before it wrote down that the machine is gone."""
    with ended(tmp_path) as (context, rental):
        context.books.bill("0.499", NOW + timedelta(minutes=20))
        billing.settle(context, context.ledger.run("r"), rental)
        context.clock.sleep(7200)
        assert unseen(context, rental) == Decimal("0.499")


@pytest.mark.parametrize(("late", "taken"), [(0, True), (9, True), (10, True), (11, False), (60, False)])
def test_of_a_machine_that_was_there_for_a_moment_the_bill_may_be_some_seconds_shorter_than_our_reading(tmp_path, late, taken):
    """A pod that lived 20 seconds at $1 an hour: what lies between its end and the proof of it is much of its life, and no money."""
    with ended(tmp_path) as (context, rental):
        known = context.ledger.charges("r")[0]
        per_second = Decimal(1) / 3600
        with context.ledger.transaction() as tx:
            tx.put_charge(
                replace(
                    known, usd=((20 + late) * per_second).quantize(Decimal("0.000001")), until=known.since + timedelta(seconds=20 + late)
                )
            )
        context.books.bill(str((20 * per_second).quantize(Decimal("0.000001"))), NOW + timedelta(minutes=20))
        priced = replace(rental, usd_per_hour=Decimal(1))
        assert billing.settle(context, context.ledger.run("r"), priced) is taken


def test_the_machine_of_a_lost_reply_is_paid_for_with_the_one_that_came_after_it(tmp_path):
    """The first create's controller died before it wrote its answer down; that machine had ended by itself when the second was made."""
    with ended(tmp_path, "vastai") as (context, rental):
        began = NOW - timedelta(minutes=30)
        for at in (began - timedelta(minutes=10), began):
            context.clock.at = at
            with context.ledger.transaction() as tx:
                tx.add_event(unheard.CREATE, run_id="r", rental_id="r-1")
        with context.ledger.transaction() as tx:
            tx.add_event(unheard.HEARD, run_id="r", rental_id="r-1", instance="i-1")
        context.clock.at = NOW
        context.books.bill("0.50", NOW)
        first = Charge("first", "i-0", "gpu", Decimal("0.02"), began - timedelta(minutes=10), began - timedelta(minutes=8))
        strangers = Charge("theirs", "x", "gpu", Decimal("0.02"), began - timedelta(minutes=5), began - timedelta(minutes=4))
        context.books.rows += [first, strangers]
        assert billing.settle(context, context.ledger.run("r"), replace(rental, usd_per_hour=Decimal(1)))
        assert context.ledger.spent("r") == Decimal("0.52")


def test_a_bill_whose_last_hour_is_missing_is_not_taken_of_a_machine_that_was_seen_in_it(tmp_path):
    """It ran for three hours until now; its provider's books may lag an hour, and have written down not quite two."""
    with ended(tmp_path) as (context, rental):
        known = context.ledger.charges("r")[0]
        with context.ledger.transaction() as tx:
            tx.put_charge(replace(known, usd=Decimal(3), since=NOW - timedelta(hours=3)))
        context.books.bill("1.97", NOW - timedelta(minutes=62))
        assert not billing.settle(context, context.ledger.run("r"), replace(rental, usd_per_hour=Decimal(1)))
        assert context.ledger.spent("r") == Decimal(3), "what goes on elsewhere would have more of the cap than there is"


def test_an_old_bill_is_taken_of_a_machine_that_nobody_saw_for_long(tmp_path):
    with ended(tmp_path) as (context, rental):
        context.books.bill("0.61", NOW + timedelta(minutes=5))
        context.clock.sleep(7200)
        unseen(context, rental)
        assert billing.settle(context, context.ledger.run("r"), rental)
        assert context.ledger.spent("r") == Decimal("0.61")


def test_a_lost_machine_that_was_found_and_ended_has_its_bill_asked_for_from_then_on(tmp_path):
    """Its rental was given up as lost once, and its bill asked for: what it cost until it was found comes later."""
    with ended(tmp_path) as (context, _rental):
        context.clock.at = NOW - timedelta(hours=3)
        with context.ledger.transaction() as tx:
            tx.add_event(unheard.UNSEEN, run_id="r", rental_id="r-1")
        context.clock.at = NOW
        context.books.bill("0.20", NOW - timedelta(minutes=20))
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.50"), "its bill is not whole yet"
        context.books.bill("0.51", NOW)
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.51")


def test_metering_again_after_a_bill_was_taken_counts_nothing_twice(tmp_path):
    """The controller that took it died; the provider still shows the machine as ended, and does not say when it did."""
    with ended(tmp_path) as (context, rental):
        context.books.bill("0.499", NOW + timedelta(minutes=20))
        billing.settle(context, context.ledger.run("r"), rental)
        context.clock.sleep(7200)
        shown = Instance("i-1", rental.tag, "ended", Decimal(1), NOW - timedelta(minutes=30), ended_at=None, address=None)
        conclude.meter(context, context.ledger.run("r"), rental, shown, final=True)
        assert context.ledger.spent("r") == Decimal("0.499")


def unanswered(context, run_id, at, *, heard=None):
    """Write down a create of a run's rental that nobody answered, and one after it that was."""
    context.clock.at = at
    with context.ledger.transaction() as tx:
        tx.add_event(unheard.CREATE, run_id=run_id, rental_id=f"{run_id}-1")
    if heard is not None:
        context.clock.at = heard
        with context.ledger.transaction() as tx:
            tx.add_event(unheard.CREATE, run_id=run_id, rental_id=f"{run_id}-1")
            tx.add_event(unheard.HEARD, run_id=run_id, rental_id=f"{run_id}-1", instance="i-1")
    context.clock.at = NOW


def test_a_create_is_not_given_a_second_machine_by_asking_for_the_bill_again(tmp_path):
    with ended(tmp_path, "vastai") as (context, rental):
        began = NOW - timedelta(minutes=30)
        first = began - timedelta(minutes=10)
        unanswered(context, "r", first, heard=began)
        context.books.bill("0.50", NOW)
        context.books.rows.append(Charge("first", "i-0", "gpu", Decimal("0.02"), first, first + timedelta(minutes=1)))
        priced = replace(rental, usd_per_hour=Decimal(1))
        billing.settle(context, context.ledger.run("r"), priced)
        context.books.rows.append(Charge("theirs", "x", "gpu", Decimal("0.02"), first, first + timedelta(minutes=1)))
        billing.settle(context, context.ledger.run("r"), priced)
        assert context.ledger.spent("r") == Decimal("0.52")


@pytest.mark.parametrize("state", ["creating", "lost"])
def test_a_machine_that_another_run_may_have_made_is_not_taken_for_the_first_that_asks(tmp_path, state):
    with ended(tmp_path, "vastai") as (context, rental):
        began = NOW - timedelta(minutes=30)
        first = began - timedelta(minutes=10)
        other = a_rental("s", provider="vastai", state=state, instance_id=None, intended_at=first, usd_per_hour=Decimal(1), ended_at=None)
        with context.ledger.transaction() as tx:
            tx.add_run(a_run("s", provider="vastai", state="provisioning"))
            tx.add_rental(other)
        unanswered(context, "r", first, heard=began)
        unanswered(context, "s", first)
        if state == "lost":
            with context.ledger.transaction() as tx:
                tx.add_event(unheard.UNSEEN, run_id="s", rental_id="s-1")
        context.books.bill("0.50", NOW)
        context.books.rows.append(Charge("first", "i-0", "gpu", Decimal("0.02"), first, first + timedelta(minutes=1)))
        billing.settle(context, context.ledger.run("r"), replace(rental, usd_per_hour=Decimal(1)))
        assert context.ledger.spent("r") == Decimal("0.50")


def test_a_machine_that_was_there_hours_before_a_create_is_not_its(tmp_path):
    """Its last hour on the bill is cheap enough and of the right time; its earlier ones show that it is somebody else's."""
    with ended(tmp_path, intended=NOW.replace(hour=4, minute=50)) as (context, _rental):
        asked = NOW.replace(hour=4, minute=50)
        unanswered(context, "r", asked, heard=asked + timedelta(minutes=3))
        context.books.bill("0.50", NOW)
        for hour in (2, 3, 4):
            since = NOW.replace(hour=hour, minute=0, second=0, microsecond=0)
            context.books.rows.append(Charge(f"theirs {hour}", "x", "gpu", Decimal("0.002"), since, since + timedelta(hours=1)))
        context.clock.at = NOW + timedelta(minutes=65)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.50")


@pytest.mark.parametrize(("missing", "taken"), [(50, True), (70, False), (3600, False)])
def test_of_a_machine_that_was_there_for_days_no_hour_may_be_missing(tmp_path, missing, taken):
    with ended(tmp_path) as (context, rental):
        known = context.ledger.charges("r")[0]
        with context.ledger.transaction() as tx:
            tx.put_charge(replace(known, usd=Decimal(60), since=NOW - timedelta(hours=60)))
        context.books.bill(str((60 - Decimal(missing) / 3600).quantize(Decimal("0.000001"))), NOW)
        assert billing.settle(context, context.ledger.run("r"), replace(rental, usd_per_hour=Decimal(1))) is taken


def test_a_bill_that_divides_itself_anew_is_counted_once(tmp_path):
    """RunPod tells a total and its parts, and what the parts leave is a line of its own: gone when the parts have grown to the total."""
    with ended(tmp_path) as (context, rental):
        until = NOW + timedelta(minutes=20)
        began = NOW - timedelta(minutes=30)
        context.books.rows = [Charge(k, "i-1", k, Decimal(usd), began, until) for k, usd in (("gpu", "0.30"), ("other", "0.20"))]
        assert billing.settle(context, context.ledger.run("r"), rental)
        assert context.ledger.spent("r") == Decimal("0.50")
        context.books.rows = [Charge("gpu", "i-1", "gpu", Decimal("0.51"), began, until)]
        context.clock.sleep(3700)
        billing.settle_late(context, "runpod")
        assert context.ledger.spent("r") == Decimal("0.51")


def test_a_price_that_falls_at_its_end_takes_nothing_back(tmp_path):
    """A machine that was stopped may cost only its disk from then on: what is left of the cap for the next one must not grow by that."""
    with ended(tmp_path) as (context, rental):
        stopped = Instance("i-1", "t", "stopped", Decimal("0.01"), NOW - timedelta(minutes=30), ended_at=None, address=None)
        context.clock.sleep(60)
        conclude.meter(context, context.ledger.run("r"), rental, stopped, final=True)
        assert context.ledger.spent("r") == Decimal("0.50")
        context.clock.sleep(60)
        conclude.meter(context, context.ledger.run("r"), rental, replace(stopped, usd_per_hour=Decimal(2)), final=True)
        assert context.ledger.spent("r") > Decimal("1.06")


def test_a_line_that_says_its_label_is_the_rentals_and_one_that_says_another_is_not(tmp_path):
    """Vast.ai's bill names the label: no time and no price has to be compared, and a stranger's machine of the same second is not ours."""
    with ended(tmp_path, "vastai") as (context, rental):
        began = NOW - timedelta(minutes=30)
        context.clock.at = began
        with context.ledger.transaction() as tx:
            for kind in (unheard.CREATE, unheard.CREATE, unheard.HEARD):
                tx.add_event(kind, run_id="r", rental_id="r-1")
        context.clock.at = NOW
        context.books.bill("0.50", NOW)
        second, theirs = (
            Charge(n, n, "gpu", Decimal("0.02"), began, NOW, tag) for n, tag in (("i-2", rental.tag), ("x", "lumina-of-another"))
        )
        context.books.rows += [second, theirs]
        assert billing.settle(context, context.ledger.run("r"), replace(rental, usd_per_hour=Decimal(1)))
        assert context.ledger.spent("r") == Decimal("0.52")
