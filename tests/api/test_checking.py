"""`lumina costs --check`: each line is equal, or explained, and what cannot be explained is loud.

The month is real but for its clock: the real clients speak HTTP to the sandbox's three clouds, whose bill is not ours; the rentals are
metered by the product's own code.
"""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import checking
from lumina_cloud.api.checking import Metered, compare
from lumina_cloud.api.session import Session
from lumina_cloud.api.settings import Settings
from lumina_cloud.core import money
from lumina_cloud.core.errors import NotFound
from lumina_cloud.ledger import Ledger
from lumina_cloud.ledger.verifying import verify
from lumina_cloud.runs import conclude
from lumina_cloud.runs.context import Context
from providers import registry
from providers.contract import Charge, LaunchSpec, OfferQuery
from providers.emulator.clock import VirtualClock
from providers.emulator.emulator import Emulator
from providers.emulator.faults import Armed
from providers.emulator.switches import Options
from providers.emulator.wire import Request
from tests.ledger.conftest import a_rental, a_run

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRICE = Decimal("1.89")


# --- one rental ----------------------------------------------------------------------------------------------------------


def rental_at(provider="runpod", ended=NOW + HOUR):
    return a_rental(provider=provider, instance_id="i-1", usd_per_hour=PRICE, intended_at=NOW, state="ended", ended_at=ended)


def metered(seconds=3600):
    return Metered(money.for_time(PRICE, timedelta(seconds=seconds)), PRICE, NOW, NOW + timedelta(seconds=seconds))


def billed(usd, kind="gpu", since=NOW, until=NOW + HOUR, n=1):
    return Charge(f"c-{kind}-{n}", "i-1", kind, Decimal(usd), since, until)


LATER = NOW + timedelta(days=2)


def one(bill, provider="runpod", metered_time=None, now=LATER, ended=NOW + HOUR):
    lines = compare(rental_at(provider, ended), metered_time or metered(), bill, now)
    return lines[0]


def test_an_equal_bill_is_equal():
    assert one([billed("1.89")]).verdict == "equal"


@pytest.mark.parametrize(
    ("provider", "usd", "word"),
    [("runpod", "1.890525", "rounds to 1.0 s and"), ("lambda", "1.92", "rounds to 60 s and")],
)
def test_rounding_is_explained(provider, usd, word):
    line = one([billed(usd)], provider)
    assert (line.verdict, word in line.why) == ("explained", True)


def test_the_disk_within_an_all_in_price_is_explained():
    line = one([billed("1.79"), billed("0.10", "storage")])
    assert (line.verdict, "disk" in line.why) == ("explained", True)


def test_other_edges_at_the_same_price_are_explained():
    early = NOW - timedelta(seconds=40)
    line = one([billed(money.for_time(PRICE, HOUR + timedelta(seconds=40)), since=early)])
    assert (line.verdict, "before" in line.why) == ("explained", True)


def test_whole_hours_of_the_clock_are_explained():
    bill = [billed("0.95", n=1), billed("0.98", n=2)]
    assert one(bill).verdict == "explained"


@pytest.mark.parametrize("usd", ["2.80", "0.50", "1.999999"])
def test_more_or_less_money_than_that_is_loud(usd):
    since = NOW + timedelta(seconds=7)
    line = one([billed(usd, since=since)])
    assert line.verdict == "unexplained"
    assert "an hour comes to" in line.why


def test_nothing_billed_waits_for_the_lag_and_is_loud_after_it():
    assert one([], now=NOW + HOUR + timedelta(minutes=30)).verdict == "waiting"
    assert one([], now=LATER).verdict == "unexplained"
    assert one([], now=NOW, ended=None).verdict == "waiting"


def test_a_machine_that_was_billed_and_never_metered_is_loud():
    (line,) = compare(rental_at(), None, [billed("0.40")], LATER)
    assert line.verdict == "unexplained"


@given(st.decimals(0, 20, places=6), st.integers(0, 7200))
def test_no_difference_of_more_than_minutes_passes_as_explained(usd, seconds):
    line = one([billed(usd, since=NOW + timedelta(seconds=1))], metered_time=metered(seconds))
    difference = abs(usd - metered(seconds).usd)
    if line.verdict in ("equal", "explained"):
        assert difference <= PRICE / 3600 * 361


# --- a month -------------------------------------------------------------------------------------------------------------


class VirtualTime:
    """The product's clock: the emulator's, and nobody waits."""

    def __init__(self, clock):
        self._clock, self._start = clock, clock.now()

    def now(self):
        return datetime.fromtimestamp(self._clock.now() / 1000, UTC)

    def monotonic(self):
        return (self._clock.now() - self._start) / 1000

    def sleep(self, seconds):
        self._clock.advance(max(seconds, 0.0))


class InProcess(httpx.BaseTransport):
    """Carries requests to the emulator without a socket, dated by its clock."""

    def __init__(self, emulator, name, time):
        self._emulator, self._name, self._time = emulator, name, time

    def handle_request(self, request):
        target = request.url.raw_path.decode()
        asked = Request.of(request.method, target, dict(request.headers), request.read())
        reply = self._emulator.handle(self._name, asked)
        date = self._time.now().strftime("%a, %d %b %Y %H:%M:%S GMT")
        return httpx.Response(reply.status, headers={"date": date, **reply.headers}, content=reply.body)


class Month:
    """Three clouds, a ledger, and rentals over a month."""

    def __init__(self, folder):
        self.clock = VirtualClock()
        self.time = VirtualTime(self.clock)
        self.emulator = Emulator(self.clock, Options(market="still", rate_limits=False))
        self.ledger = Ledger.open(folder / "home", self.time)
        settings = Settings(folder / "home", folder / "home" / "config.toml", Decimal("0.05"))
        self._clients = {}
        self.session = Session(settings, self.ledger, self.time, self.provider)
        self.context = Context(self.ledger, self.provider, None, self.time, folder / "home", "python", folder)
        self.folder = folder

    def provider(self, name):
        if name not in self._clients:
            key = self.emulator.world.api_key
            env = {"HOME": str(self.folder), "VAST_API_KEY": key, "RUNPOD_API_KEY": key, "LAMBDA_API_KEY": key}
            transport = InProcess(self.emulator, name, self.time)
            self._clients[name] = registry.connect(
                name, home=self.folder, local_usd_per_hour=Decimal("0.05"), clock=self.time, env=env, transport=transport
            )
        return self._clients[name]

    def wait(self, seconds):
        self.clock.advance(seconds)
        self.emulator.status()

    def rent(self, name, n, interruptible):
        """Rent the cheapest machine of a cloud, as the controller does: intent, look-up, create, adopt."""
        offers = self.provider(name).offers(OfferQuery(interruptible=interruptible if name == "vastai" else None))
        offer = min((o for o in offers if o.gpu_known), key=lambda o: (o.usd_per_hour, o.offer_id))
        run = a_run(f"{name}-{n}", created_at=self.time.now(), state="training", provider=name, gpu=offer.gpu, usd_cap=Decimal(500))
        rental = replace(
            a_rental(run.run_id),
            provider=name,
            gpu=offer.gpu,
            usd_per_hour=offer.usd_per_hour,
            offer_id=offer.offer_id,
            intended_at=self.time.now(),
            interruptible=offer.interruptible,
        )
        with self.ledger.transaction() as tx:
            tx.add_run(run)
            tx.add_rental(rental)
        created = self.provider(name).create(offer, LaunchSpec(ssh_public_key="ssh-ed25519 AAAA test", disk_gb=50), rental.tag)
        with self.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, state="booting", instance_id=created.instance_id)
        return run, self.ledger.rentals(run.run_id)[0]

    def meter(self, run, rental):
        instance = self.provider(rental.provider).get(rental.instance_id)
        conclude.meter(self.context, run, rental, instance)
        return instance

    def end(self, run, rental):
        """Terminate until it is gone, as the conclusion of a run does, and close the rental."""
        try:
            known = self.meter(run, rental)
        except NotFound:
            # It was taken away, and its provider remembers it no more.
            known = None
        conclude._terminate(self.context, run, replace(rental, state="ready"), known)


@pytest.fixture
def month(tmp_path):
    made = Month(tmp_path)
    yield made
    made.ledger.close()


@pytest.mark.pain(7)
def test_of_a_month_on_three_clouds_every_line_is_equal_or_explained(month):
    chance, began = random.Random(11), month.time.now()
    for n in range(27):
        name = ("vastai", "runpod", "lambda")[n % 3]
        run, rental = month.rent(name, n, interruptible=n % 6 == 0)
        month.wait(chance.uniform(60, 400))
        with month.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, state="ready", ready_at=month.time.now())
        for _hour in range(chance.randrange(1, 9)):
            month.wait(chance.uniform(900, 5400))
            month.meter(run, rental)
        if name == "vastai" and n % 2 == 0:
            traffic(month, rental, chance.randrange(10**9, 4 * 10**10))
        if n % 12 in TAKEN_AWAY:
            interrupt(month, rental)
            month.wait(chance.uniform(30, 60))
        month.end(run, month.ledger.rentals(run.run_id)[0])
        month.wait(chance.uniform(60_000, 130_000))
    month.wait(2 * 86400)
    assert month.time.now() - began > timedelta(days=30)

    invoice = Decimal(month.emulator.status()["invoice_usd"])
    document = checking.check(month.session, NOW - timedelta(days=4000))
    loud = [line for line in document.lines if line.verdict not in ("equal", "explained")]
    assert [(line.rental, line.kind, line.metered_usd, line.billed_usd, line.why) for line in loud] == []
    assert document.unexplained == 0
    assert {line.provider for line in document.lines} == {"vastai", "runpod", "lambda"}
    assert {line.kind for line in document.lines} >= {"gpu", "storage", "traffic"}
    assert any("lambda has no billing interface" in note for note in document.notes)

    # What is explained was taken into the ledger: it is now the bill of the two clouds that send one, to the micro-dollar.
    by_provider = {row.key: row for row in month.ledger.costs("provider")}
    billed_by = {name: Decimal(0) for name in by_provider}
    for one_ in month.emulator.status()["instances"]:
        billed_by[one_["provider"]] += Decimal(one_["usd_billed"])
    for name in ("vastai", "runpod"):
        assert by_provider[name].usd == billed_by[name]
    assert abs(by_provider["lambda"].usd - billed_by["lambda"]) <= Decimal("0.75") / 60 * 12 * 2
    assert abs(sum(r.usd for r in by_provider.values()) - invoice) <= Decimal("0.30")
    assert by_provider["vastai"].spending.storage_micros > 0
    assert by_provider["vastai"].spending.traffic_micros > 0
    assert verify(month.ledger.database).problems == []
    again = checking.check(month.session, NOW - timedelta(days=4000))
    assert [(line.rental, line.kind, line.verdict) for line in again.lines] == [(x.rental, x.kind, x.verdict) for x in document.lines]


def traffic(month, rental, n_bytes):
    machine = instance_of(month, rental).machine
    machine.received += n_bytes
    machine.sent += n_bytes // 7


def instance_of(month, rental):
    return next(i for i in month.emulator.world.live(rental.provider) if str(i.id) == rental.instance_id)


TAKEN_AWAY = (0, 6, 1, 2)
"""Of twelve rentals, those that an interruption ends: two at Vast.ai, one each at RunPod and Lambda."""


def interrupt(month, rental):
    clouds = {"vastai": month.emulator.vastai, "runpod": month.emulator.runpod, "lambda": month.emulator.lambda_}
    clouds[rental.provider].preempt(instance_of(month, rental))


def test_an_instance_that_nobody_knows_is_loud(month):
    run, rental = month.rent("runpod", 1, interruptible=False)
    month.wait(3600)
    month.meter(run, rental)
    offer = month.provider("runpod").offers(OfferQuery())[0]
    stranger = month.provider("runpod").create(offer, LaunchSpec(ssh_public_key="ssh-ed25519 AAAA test"), "lumina-lost-1")
    month.wait(7200)
    document = checking.check(month.session, NOW - timedelta(days=4000))
    loud = [line for line in document.lines if line.verdict == "unexplained"]
    assert {line.instance for line in loud} == {stranger.instance_id}
    assert all("not in this ledger" in line.why for line in loud)


def test_a_twin_of_a_create_is_known_and_paid_for_by_its_rental(month):
    month.emulator.arm([Armed("duplicated_create", "runpod", times=1)])
    run, rental = month.rent("runpod", 1, interruptible=False)
    month.wait(7200)
    month.end(run, month.ledger.rentals(run.run_id)[0])
    month.wait(86400)
    document = checking.check(month.session, NOW - timedelta(days=4000))
    assert [(line.why, line.verdict) for line in document.lines if line.verdict not in ("equal", "explained")] == []
    assert {line.rental for line in document.lines} == {rental.rental_id}
    assert any("one create made" in line.why for line in document.lines)
    assert month.ledger.spent(run.run_id) == Decimal(month.emulator.status()["invoice_usd"])


def test_a_line_that_the_bill_has_no_more_counts_no_more(month):
    run, rental = month.rent("runpod", 1, interruptible=False)
    month.wait(7200)
    month.end(run, month.ledger.rentals(run.run_id)[0])
    month.wait(86400)
    with month.ledger.transaction() as tx:
        tx.put_charge(
            replace(tx.charges(run.run_id)[0], charge_id=f"{rental.rental_id}-other-1", kind="other", basis="billed", counted=True)
        )
    assert checking.check(month.session, NOW - timedelta(days=4000)).unexplained == 0
    assert month.ledger.spent(run.run_id) == Decimal(month.emulator.status()["invoice_usd"])


def test_without_this_computers_own_record_what_was_metered_stands():
    line = one([], provider="local")
    assert (line.verdict, "folder is gone" in line.why) == ("explained", True)


PLANTED = {
    "a line of a kind that nobody knows": lambda c: [*c, replace(c[0], charge_id="x", kind="other", usd=Decimal("0.04"))],
    "a disk at ten times its price": lambda c: [replace(x, usd=x.usd * 10) if x.kind == "storage" else x for x in c],
    "a tenth more for the machine": lambda c: [replace(x, usd=x.usd * Decimal("1.1")) if x.kind == "gpu" else x for x in c],
    "a credit": lambda c: [*c, replace(c[0], charge_id="x", usd=Decimal(-1))],
    "a charge a day after the end": lambda c: [
        *c,
        replace(c[0], charge_id="x", since=c[-1].until + 24 * HOUR, until=c[-1].until + 25 * HOUR),
    ],
    "nothing for the machine": lambda c: [x for x in c if x.kind != "gpu"],
}


@pytest.mark.parametrize("name", ["runpod", "vastai"])
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_difference_is_loud_and_not_taken_over(month, name, planted):
    run, rental = month.rent(name, 1, interruptible=False)
    month.wait(7200)
    month.end(run, month.ledger.rentals(run.run_id)[0])
    month.wait(86400)
    provider, spent = month.provider(name), month.ledger.spent(run.run_id)
    honest = type(provider).charges

    class Planted(type(provider)):
        def charges(self, since):
            return planted(list(honest(self, since)))

    provider.__class__ = Planted
    document = checking.check(month.session, NOW - timedelta(days=4000))
    assert document.unexplained >= 1
    assert {line.rental for line in document.lines if line.verdict == "unexplained"} == {rental.rental_id}
    assert month.ledger.spent(run.run_id) == spent


@pytest.mark.pain(10)
def test_a_disk_of_a_price_of_its_own_is_held_against_the_offers_word():
    def disk(usd):
        lines = compare(rental_at(), metered(), [billed("1.89"), billed(usd, "storage")], LATER, Decimal("0.02"))
        return {line.kind: line.verdict for line in lines}

    assert disk("0.017361") == {"gpu": "equal", "storage": "explained"}
    assert disk("0.17") == {"gpu": "equal", "storage": "unexplained"}


def test_a_provider_that_does_not_answer_leaves_its_rentals_waiting_and_not_equal(month):
    run, rental = month.rent("runpod", 1, interruptible=False)
    month.wait(7200)
    month.end(run, month.ledger.rentals(run.run_id)[0])
    month.wait(86400)
    month.emulator.arm([Armed("error_500", "runpod", "charges", times=-1)])
    document = checking.check(month.session, NOW - timedelta(days=4000))
    assert [(line.rental, line.verdict) for line in document.lines] == [(rental.rental_id, "waiting")]
    assert "could not be asked" in document.lines[0].why


def test_a_rental_that_goes_on_is_waited_for_unless_its_price_is_another():
    bill = [billed("3.78", until=NOW + 2 * HOUR)]
    assert one(bill, ended=None).verdict == "waiting"
    assert one([billed("7.56", until=NOW + 2 * HOUR)], ended=None).verdict == "unexplained"


@pytest.mark.pain(9)
def test_a_provider_that_bills_twice_as_much_is_loud_and_not_taken_over(month):
    run, _rental = month.rent("runpod", 1, interruptible=False)
    month.wait(7200)
    month.end(run, month.ledger.rentals(run.run_id)[0])
    month.wait(86400)
    provider = month.provider("runpod")
    honest = provider.charges

    class Doubled(type(provider)):
        def charges(self, since):
            return [replace(c, usd=c.usd * 2) for c in honest(since)]

    provider.__class__ = Doubled
    spent = month.ledger.spent(run.run_id)
    document = checking.check(month.session, NOW - timedelta(days=4000))
    assert document.unexplained == 1
    assert month.ledger.spent(run.run_id) == spent
