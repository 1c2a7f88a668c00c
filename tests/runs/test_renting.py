"""From an intent to one machine: what a late list, a lost reply, a failed look and a lost lease make of it."""

import contextvars
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from lumina_cloud.api import reconciling
from lumina_cloud.core.errors import LeaseLost, NotFound, OutcomeUnknown, ProviderDown, StillTerminating
from lumina_cloud.ledger import Ledger
from lumina_cloud.ledger.ledger import fenced_by
from lumina_cloud.runs import billing, conclude, lease, moves, offers, renting
from lumina_cloud.runs.terms import Terms
from providers.contract import Instance, Offer
from tests.ledger.conftest import NOW, a_rental, a_run
from tests.runs.test_billing import Clock

OFFER = Offer("there", "o", "RTX4090", 1, Decimal(1), False, "x")


class There:
    """A provider whose list shows a machine `lag` seconds after it was made, and whose first replies `fails` takes away."""

    name = "there"

    def __init__(self, clock, lag=0.0):
        self.clock, self.lag, self.made, self.fails = clock, lag, [], []

    def make(self, instance_id, tag):
        self.made.append((self.clock.monotonic(), Instance(instance_id, tag, "running", Decimal(1), self.clock.now(), None, None)))

    def find(self, tag):
        if self.fails and self.fails[0] == "find":
            self.fails.pop(0)
            raise ProviderDown("no answer")
        return [i for at, i in self.made if i.tag == tag and self.clock.monotonic() - at >= self.lag]

    def terminate(self, instance_id):
        if self.fails and self.fails[0] == "terminate":
            self.fails.pop(0)
            raise StillTerminating("not yet")
        self.made = [(at, i) for at, i in self.made if i.instance_id != instance_id]


class Context(SimpleNamespace):
    """As much of a controller's as renting uses. A create makes a machine, and its reply is lost."""

    def connect(self, _name):
        return self.provider

    def create(self, provider, _offer, rental, _terms, _seconds):
        provider.make(f"i-{len(provider.made)}", rental.tag)
        raise OutcomeUnknown("no reply")

    @property
    def machines(self):
        return self

    def known_before_contact(self, _rental):
        return True


@pytest.fixture
def make(tmp_path):
    """Makes a context with one run and one rental in some state."""
    clock = Clock()
    ledger = Ledger.open(tmp_path, clock)

    def made(state, lag=0.0, run_state="provisioning", **rental):
        kept = a_rental("r", provider="there", state=state, intended_at=NOW, **rental)
        with ledger.transaction() as tx:
            tx.add_run(a_run("r", provider="there", state=run_state, usd_cap=Decimal(9), seconds_cap=30_000.0))
            tx.add_rental(kept)
        quiet = SimpleNamespace(said=lambda *_said: None)
        return Context(ledger=ledger, clock=clock, provider=There(clock, lag), reporter=quiet, home=tmp_path), kept

    yield made
    ledger.close()


@pytest.mark.pain(2)
@pytest.mark.parametrize("lag", [0.0, 50.0, 95.0])
def test_a_machine_that_a_list_shows_late_is_not_made_twice(make, monkeypatch, lag):
    """Lists lagged for longer than the 45 seconds that were once waited for."""
    context, rental = make("intended", lag)
    monkeypatch.setattr(offers, "again", lambda *_asked: OFFER)
    seen = SimpleNamespace(run=context.ledger.run("r"), terms=Terms())
    while moves.fresh(context, rental).state != "booting":
        renting.create(context, seen, moves.fresh(context, rental))
        context.clock.sleep(1)
    assert len(context.provider.made) == 1
    assert moves.fresh(context, rental).instance_id == "i-0"


@pytest.mark.parametrize("failing", ["find", "terminate"])
def test_a_second_machine_is_looked_for_until_a_late_look_succeeds(make, failing):
    """A provider that answers nothing just when its list cannot lag any more left one billed for as long as the run went on."""
    context, rental = make("ready", instance_id="i-1", run_state="training")
    context.provider.make("i-1", rental.tag)
    twins = renting.Twins(context)
    for second in range(600):
        if second == 150:
            context.provider.make("i-2", rental.tag)
            context.provider.fails = [failing] * 5
        try:
            twins.end_in_time(rental)
        except ProviderDown:
            assert failing == "find"
        context.clock.sleep(1)
    assert [i.instance_id for _at, i in context.provider.made] == ["i-1"]
    assert billing.twins(context, rental) == {"i-2"}


@pytest.mark.parametrize("step", ["end_work", "move_rental", "adopt", "mark_ready", "close", "terminate"])
def test_who_lost_a_run_whose_state_moved_on_is_told_so_and_of_no_illegal_transition(make, step):
    """A controller that slept with what it had read: another took the run and brought it to its end."""
    context, rental = make("creating" if step == "adopt" else "booting", instance_id=None if step == "adopt" else "i-1")
    run = context.ledger.run("r")
    here = Instance("i-1", rental.tag, "running", Decimal(1), NOW, None, None)
    steps = {
        "end_work": lambda: moves.end_work(context, run, "boot_timeout"),
        "move_rental": lambda: moves.move_rental(context, rental, "ready"),
        "adopt": lambda: renting._adopt(context, rental, here),
        "mark_ready": lambda: renting.mark_ready(context, SimpleNamespace(run=run), rental),
        "close": lambda: conclude._close(context, replace(run, state="finishing", reason="cap_reached")),
        "terminate": lambda: conclude._terminate(context, run, rental, here),
    }
    with pytest.raises(LeaseLost), lease.holding(context.ledger, context.clock, context.home, "r", renewal=None) as held:
        assert held is not None
        context.clock.at += timedelta(seconds=lease.SECONDS + 1)
        take(context)
        steps[step]()


def take(context):
    """Be another computer's controller that drives the run to its end."""

    def drive():
        with fenced_by(lambda _tx: None):
            assert lease.acquire(context.ledger, context.clock, "r", "elsewhere", lock_is_free=False) is not None
            with context.ledger.transaction() as tx:
                tx.update_rental("r-1", state="ended", ended_at=context.clock.now())
                tx.update_run("r", state="failed", reason="boot_timeout")

    contextvars.copy_context().run(drive)


def test_a_machine_that_went_while_reconciling_ended_it_is_charged_and_closed_by_the_next(make):
    """Found after its run was over, told to end, and the command was killed: no list shows it, and no controller drives its run."""
    context, rental = make("terminating", instance_id="i-1", run_state="failed")
    context.provider.get = lambda instance_id: (_ for _ in ()).throw(NotFound(instance_id))
    context.clock.at += timedelta(minutes=30)
    session = SimpleNamespace(ledger=context.ledger, clock=context.clock, provider=context.connect)
    context.provider.list_owned = list
    outcome = reconciling._Outcome()
    reconciling._look(session, "there", outcome)
    reconciling._act(session, context, reconciling.Wanted(), outcome)
    assert moves.fresh(context, rental).state == "ended"
    assert context.ledger.spent("r") > 0
