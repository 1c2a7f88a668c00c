"""The market: every cloud at once, a silent one as a footnote, what was seen in the history, and plans on it."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lumina_cloud.api import market
from lumina_cloud.api.planning import MachineFilter, live_machines
from lumina_cloud.api.settings import Settings
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import BadReply, CredentialsError, ProviderDown, UsageError
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import workloads
from lumina_cloud.runs.workloads import WorkloadRequest
from providers.contract import Offer, OfferQuery

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def an_offer(provider="vastai", gpu="RTX4090", usd="0.40", **more):
    values = {"offer_id": f"{provider}-{gpu}-{usd}", "count": 1, "interruptible": False, "region": "US", "seen_at": NOW}
    return Offer(provider=provider, gpu=gpu, usd_per_hour=Decimal(usd), **{**values, **more})


class Cloud:
    """A cloud that offers what it was given, or fails."""

    def __init__(self, answer):
        self.answer = answer

    def offers(self, query):
        if isinstance(self.answer, Exception):
            raise self.answer
        if callable(self.answer):
            return self.answer()
        return self.answer


def asked(query=None, **clouds):
    return market.ask(lambda name: Cloud(clouds[name]), tuple(clouds), query or OfferQuery(), NOW)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path / "home", SystemClock())
    yield opened
    opened.close()


def test_offers_of_all_clouds_come_in_one_order():
    found = asked(vastai=[an_offer(usd="0.50"), an_offer(usd="0.30")], runpod=[an_offer("runpod", usd="0.40")])
    assert [(o.provider, o.usd_per_hour) for o in found.offers] == [
        ("vastai", Decimal("0.30")),
        ("runpod", Decimal("0.40")),
        ("vastai", Decimal("0.50")),
    ]
    assert market.silence(found) is None


def test_clouds_are_asked_at_once():
    meeting = threading.Barrier(3, timeout=30)

    def together():
        meeting.wait()
        return []

    assert asked(vastai=together, runpod=together, **{"lambda": together}).silent == ()


def test_a_cloud_that_is_down_is_a_footnote():
    found = asked(vastai=[an_offer()], runpod=ProviderDown("down"), **{"lambda": CredentialsError("no key")})
    assert [o.provider for o in found.offers] == ["vastai"]
    assert {s.provider: type(s.error) for s in found.silent} == {"runpod": ProviderDown, "lambda": CredentialsError}
    assert market.silence(found) is None
    document = market.document(found, NOW + timedelta(seconds=90))
    assert [(f.provider, f.kind) for f in document.failed] == [("runpod", "provider_down"), ("lambda", "credentials")]
    assert document.offers[0].age_seconds == 90


@pytest.mark.pain(8)
def test_when_nobody_answers_that_is_no_empty_market():
    found = asked(vastai=BadReply("?"), runpod=CredentialsError("no key"))
    assert isinstance(market.silence(found), BadReply)
    assert isinstance(market.silence(asked(runpod=CredentialsError("no key"))), CredentialsError)


def test_the_plan_takes_the_cheapest_known_and_reliable_of_each_kind():
    found = asked(
        vastai=[
            an_offer(usd="0.10", reliability=0.5),
            an_offer(usd="0.20", gpu="RTX 9090", gpu_known=False),
            an_offer(usd="0.30", reliability=0.99),
            an_offer(usd="0.40", reliability=0.99),
            an_offer(usd="0.25", reliability=0.99, interruptible=True),
            an_offer(usd="0.60", count=2, reliability=0.99),
        ],
        runpod=[an_offer("runpod", usd="0.69")],
    )
    best = [(o.provider, o.count, o.interruptible, o.usd_per_hour) for o in market.cheapest(found)]
    assert best == [
        ("vastai", 1, True, Decimal("0.25")),
        ("vastai", 1, False, Decimal("0.30")),
        ("vastai", 2, False, Decimal("0.60")),
        ("runpod", 1, False, Decimal("0.69")),
    ]


def test_what_was_seen_is_kept_once_while_it_stays(ledger):
    def look(usd, minutes, query=None):
        later = NOW + timedelta(minutes=minutes)
        found = market.ask(lambda _n: Cloud([an_offer(usd=usd), an_offer(usd="0.90")]), ("vastai",), query or OfferQuery(), later)
        market.remember(ledger, found)

    look("0.40", 0)
    look("0.40", 5)
    look("0.41", 6)
    look("0.41", 30)
    # A query that leaves cheaper offers out, or prices a larger disk in, says nothing about the market's lowest.
    look("0.80", 31, OfferQuery(secure=True))
    look("0.80", 32, OfferQuery(disk_gb=500))
    seen = ledger.prices(NOW - timedelta(days=1), "RTX4090")
    assert [(p.usd_per_hour, p.offers) for p in seen] == [(Decimal("0.40"), 2), (Decimal("0.41"), 2), (Decimal("0.41"), 2)]
    assert ledger.prices(NOW - timedelta(days=1), "A10") == []
    assert ledger.prices(NOW + timedelta(minutes=20), None, "vastai") == seen[2:]
    assert ledger.prices(NOW, None, "runpod") == []


def test_an_unknown_gpu_leaves_no_price(ledger):
    market.remember(ledger, asked(vastai=[an_offer(gpu="RTX 9090", gpu_known=False)]))
    assert ledger.prices(NOW - timedelta(days=1)) == []


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ({"gpu": "4091"}, "4090"),
        ({"min_reliability": 98}, "0 to 1"),
        ({"max_usd": Decimal("-1")}, "--max-usd"),
        ({"count": 0}, "--count"),
        ({"region": " "}, "--region"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(typed, named):
    with pytest.raises(UsageError) as caught:
        market.query(**typed)
    assert named in caught.value.message + caught.value.hint


# --- live plans -----------------------------------------------------------------------------------------------------------


def machines(tmp_path, wanted, answer, model="b1"):
    queries = []

    def look(query, provider):
        queries.append((query, provider))
        return asked(query, **dict.fromkeys(market.names_for(provider), answer))

    settings = Settings(home=tmp_path, config_file=tmp_path / "config.toml", local_usd_per_hour=Decimal("0.05"))
    built = workloads.build(WorkloadRequest(model=model, archs=("dense",)))
    found, notes = live_machines(settings, wanted, look, built)
    return found, notes, queries


def test_a_live_plan_stands_on_offers_and_this_computer(tmp_path):
    found, notes, queries = machines(tmp_path, MachineFilter(), [an_offer(usd="0.40"), an_offer(usd="0.30")])
    assert [(m.provider, m.gpu.name, m.usd_per_hour) for m in found] == [
        ("vastai", "RTX4090", Decimal("0.30")),
        ("local", "cpu", Decimal("0.05")),
    ]
    assert "live" in notes[0]
    assert queries[0][0].gpu is None


def test_a_large_model_is_priced_with_its_disk(tmp_path):
    _, _, queries = machines(tmp_path, MachineFilter(gpu="4090"), [an_offer()], model="b7")
    # Two checkpoints of about 98 GB each.
    assert queries[0][0].disk_gb >= 2 * 98
    assert queries[0][0].gpu == "RTX4090"


def test_a_silent_market_is_no_plan(tmp_path):
    with pytest.raises(ProviderDown):
        machines(tmp_path, MachineFilter(gpu="4090"), ProviderDown("down"))
    with pytest.raises(UsageError, match="no market offers"):
        machines(tmp_path, MachineFilter(gpu="4090"), [])
    found, notes, _ = machines(tmp_path, MachineFilter(), ProviderDown("down"))
    assert [m.provider for m in found] == ["local"]
    assert sum("down" in note for note in notes) == 3


def test_this_computer_has_no_market(tmp_path):
    found, _notes, queries = machines(tmp_path, MachineFilter(provider="local"), [])
    assert [m.provider for m in found] == ["local"]
    assert queries == []
