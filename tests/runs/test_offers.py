"""Which offer a run rents next: its own kind and price, until its deadline demands a machine that nobody takes away."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import offers, remembered, renting
from lumina_cloud.runs.terms import Terms
from providers.contract import Instance, Offer
from tests.ledger.conftest import NOW, a_rental, a_run
from tests.runs.test_extending import Still
from trainer import config

CONFIG = config.preset("debug", "dense")
RUN = a_run(
    "r",
    provider="vastai",
    gpu="RTX4090",
    usd_cap=Decimal(5),
    usd_per_hour=Decimal("0.30"),
    seconds_cap=10_800.0,
    state="provisioning",
    planned={"seconds": {"mid": 7200.0}},
    config_json=CONFIG.to_json(),
)
CHEAP = Offer("vastai", "cheap", "RTX4090", 1, Decimal("0.30"), interruptible=True, region="US")
SURE = Offer("vastai", "sure", "RTX4090", 1, Decimal("0.60"), interruptible=False, region="US")
SPOT = Terms(interruptible=True)


class Later(Still):
    """NOW, and some hours."""

    def __init__(self, hours):
        self.hours = hours

    def now(self):
        return NOW + timedelta(hours=self.hours)


@dataclass
class Context:
    """A ledger, a market and a clock."""

    ledger: Ledger
    clock: object
    market: list = field(default_factory=lambda: [CHEAP, SURE])
    told: list = field(default_factory=list)
    machines: object = field(default_factory=lambda: SimpleNamespace(rehearsal=False))

    @property
    def reporter(self):
        return self

    def said(self, _run, text):
        self.told.append(text)

    def connect(self, _name):
        return self

    def offers(self, query):
        return [o for o in self.market if o.interruptible is query.interruptible]


@pytest.fixture
def context(tmp_path):
    def made(hours, *, taken=True, run=RUN, **more):
        ledger = Ledger.open(tmp_path, Still())
        with ledger.transaction() as tx:
            tx.add_run(run)
            tx.add_event("run.launched", run_id="r")
            if taken:
                tx.add_event("run.next_machine", run_id="r", reason="interrupted")
        return Context(ledger, Later(hours), **more)

    return made


def test_while_there_is_time_the_cheaper_kind_is_rented(context):
    at = context(0.1)
    assert offers.choose(at, RUN, SPOT) == CHEAP
    assert not at.told


def test_when_the_deadline_demands_it_a_sure_one_is(context):
    at = context(1.0)
    assert offers.choose(at, RUN, SPOT) == SURE
    assert "on demand" in at.told[0]


def test_one_that_was_not_interrupted_stays_with_what_was_asked_for(context):
    assert offers.choose(context(1.0, taken=False), RUN, SPOT) == CHEAP


@pytest.mark.parametrize("market", [[CHEAP], [CHEAP, replace(SURE, usd_per_hour=Decimal("2.5"))]])
def test_where_none_is_offered_or_the_cap_does_not_pay_for_it_the_cheaper_kind_stays(context, market):
    assert offers.choose(context(1.0, market=market), RUN, SPOT) == CHEAP


def test_an_on_demand_run_is_never_given_a_machine_that_may_be_taken_away(context):
    assert offers.choose(context(1.0, market=[CHEAP]), RUN, Terms()) is None


def test_a_rental_is_asked_for_again_as_what_it_was_intended(context):
    rental = a_rental("r", 1, usd_per_hour=Decimal("0.60"), offer_id="sure", interruptible=False)
    assert offers.again(context(0.1), RUN, SPOT, rental) == SURE


@pytest.mark.parametrize(("asks", "known", "given_back"), [("0.30", "0.30", False), ("0.32", "0.32", False), ("0.35", "0.30", True)])
def test_a_machine_that_costs_more_than_prices_move_meanwhile_is_dearer_than_its_offer_after_it_was_taken_over_too(
    context, asks, known, given_back
):
    at = context(0.1)
    rental = a_rental("r", 1, provider="vastai", usd_per_hour=Decimal("0.30"), state="creating", instance_id=None, ended_at=None)
    with at.ledger.transaction() as tx:
        tx.add_rental(rental)
    renting._adopt(at, rental, Instance("i-1", rental.tag, "creating", Decimal(asks), NOW, ended_at=None, address=None))
    (after,) = at.ledger.rentals("r")
    assert after.usd_per_hour == Decimal(known)
    assert offers.is_dearer(after, Decimal(asks)) is given_back


@pytest.mark.pain(5)
def test_a_host_that_failed_is_not_rented_again_for_a_week_and_what_it_has_in_the_market_counts_by_its_host(context):
    """By its host: a new offer of the same one is as bad."""
    bad, again, good = (replace(CHEAP, offer_id=name, machine_id=host) for name, host in (("a", "7"), ("b", "7"), ("c", "8")))
    at = context(0.1, taken=False, market=[bad, again, replace(good, usd_per_hour=Decimal("0.32"))])
    assert offers.choose(at, RUN, SPOT).machine_id == "7"
    with at.ledger.transaction() as tx:
        tx.add_rental(a_rental("r", 1, provider="vastai", offer_id="a"))
        tx.add_event("rental.intended", run_id="r", rental_id="r-1", machine="7")
    remembered.remember(at.ledger, at.ledger.rentals("r")[0], None, "the machine did not come up in time")
    assert offers.choose(at, RUN, SPOT).machine_id == "8"
    at.market = [bad, again]
    assert offers.choose(at, RUN, SPOT) is None
    at.clock = Later(24 * 8)
    assert offers.choose(at, RUN, SPOT).machine_id == "7"
