"""The world as a whole: the market, the seed, and what holds whatever happens."""

import json
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.emulator.clock import VirtualClock, http_date, parse, rfc3339

from .conftest import PROVIDERS, Virtual

STEPS = st.lists(
    st.tuples(st.sampled_from(["create", "terminate", "wait", "fault", "stop"]), st.sampled_from(PROVIDERS), st.integers(0, 10_000)),
    max_size=25,
)
STRIKES = ("preempted", "host_death", "network_partition", "price_rise", "disk_full")


def play(it, steps):
    """Do steps, and check after each what must always hold. Returns all that was answered."""
    answers, last = [], Decimal(0)
    for what, provider, number in steps:
        ids = it.listed(provider)
        if what == "create":
            answers.append(it.create_reply(provider).status)
        elif what == "terminate" and ids:
            answers.append(it.terminate(provider, ids[number % len(ids)]).status)
        elif what == "stop" and ids and provider == "vastai":
            answers.append(it.ask("vastai", "PUT", f"/api/v0/instances/{ids[number % len(ids)]}/", {"state": "stopped"}).status)
        elif what == "fault":
            it.arm(STRIKES[number % len(STRIKES)], provider=provider, now=True, at_seconds=0)
        else:
            it.wait(number)
        document = it.emulator.status()
        invoice = Decimal(document["invoice_usd"])
        assert invoice == sum(Decimal(one["usd_billed"]) for one in document["instances"])
        assert invoice >= last
        last = invoice
    return answers


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_the_invoice_is_always_the_sum_and_never_falls(steps):
    play(Virtual(market="wild"), steps)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.integers(0, 5))
def test_the_same_seed_gives_the_same_history(steps, seed):
    one, other = Virtual(market="wild", seed=seed), Virtual(market="wild", seed=seed)
    assert play(one, steps) == play(other, steps)
    assert one.world.history == other.world.history
    assert [dict(line.items()) for line in one.emulator.gateway.requests] == other.emulator.gateway.requests


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_ended_instance_never_costs_more_and_stays_in_the_status(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(100)
    virtual.terminate(provider, made)
    virtual.wait(60)
    final = virtual.status(made)
    virtual.wait(10**6)
    assert virtual.status(made) == final and final["state"] == "ended"
    assert set(final) == {"provider", "id", "state", "tag", "usd_billed"}


@pytest.mark.parametrize("market", ["still", "calm", "wild"])
def test_the_promised_gpus_can_always_be_had(make, market):
    """A single RTX 4090 at Vast.ai and RunPod and an A10 at Lambda, in any market, however many are rented."""
    it = make(market=market)
    for _ in range(12):
        assert [it.create_reply(provider).status for provider in PROVIDERS] == [200, 201, 200]
        it.wait(3600)
        assert any(one["num_gpus"] == 1 for one in it.offers())


def test_the_market_moves(make):
    it = make(market="wild")
    before = {one["id"]: one["dph_base"] for one in it.offers(reliability2={"gte": 0})}
    it.wait(3600)
    after = {one["id"]: one["dph_base"] for one in it.offers(reliability2={"gte": 0})}
    assert set(before) - set(after) and set(after) - set(before)
    assert any(before[one] != after[one] for one in set(before) & set(after))


def test_a_still_market_stands_still(make):
    it = make(market="still")
    before = {one["id"]: one["dph_base"] for one in it.offers()}
    it.wait(3600)
    assert {one["id"]: one["dph_base"] for one in it.offers()} == before


def test_a_low_bid_is_outbid_in_a_moving_market(make):
    it = make(market="wild", seed=3)
    offer = it.offers(type="bid")[0]
    number = it.rent(offer, price=offer["min_bid"])
    states = set()
    for _ in range(200):
        it.wait(60)
        states.add(it.status(number)["state"])
    assert "stopped" in states


def test_another_seed_is_another_market(make):
    prices = [[one["dph_base"] for one in make(seed=seed).offers()] for seed in (1, 1, 2)]
    assert prices[0] == prices[1] != prices[2]


def test_ids_of_an_earlier_sandbox_never_come_back(make):
    """The same seed at another time: what an old ledger knows is gone, not somebody else's."""
    first = make()
    pod, number = first.pod(), first.rent()
    later = Virtual.__new__(Virtual)
    later.__init__()
    later.clock = VirtualClock(1_790_000_500_000)
    from providers.emulator.emulator import Emulator

    later.emulator = Emulator(later.clock, first.world.options)
    later.world, later.key = later.emulator.world, later.emulator.world.api_key
    assert pod != later.pod() and number != later.rent()


def test_what_is_due_is_billed_to_its_own_moment(make):
    """Nobody looks for a day: a pod with a deadline of ten minutes is billed for ten minutes all the same."""
    from .test_runpod_api import deploy

    it = make()
    deploy(it, seconds=600)
    it.clock.advance(86_400)
    (one,) = it.emulator.status()["instances"]
    assert one["state"] == "ended" and one["usd_billed"] == str(Decimal("0.115000") + Decimal("0.000463"))


def test_the_requests_are_written_down_without_secrets(virtual):
    virtual.rent(env={"TOKEN": "canary"})
    text = json.dumps(virtual.emulator.gateway.requests) + json.dumps(virtual.world.history)
    assert virtual.key not in text and "canary" not in text and '"call": "create"' in text


def test_a_read_only_key_reads(virtual):
    key = virtual.world.accounts["vastai"].read_only_key
    for provider, path in (("vastai", "/api/v1/instances/"), ("runpod", "/v2/pods"), ("lambda", "/api/v1/instances")):
        assert virtual.get(provider, path, key=key).status == 200
    assert virtual.ask("vastai", "PUT", "/api/v0/asks/1/", {}, key=key).status == 403
    assert virtual.ask("runpod", "POST", "/v2/pods", {}, key=key).status == 403


def test_times_of_all_dialects():
    moment = 1_787_206_579_436
    assert rfc3339(moment) == "2026-08-20T06:16:19.436Z" and parse(rfc3339(moment)) == moment
    assert http_date(moment) == "Thu, 20 Aug 2026 06:16:19 GMT"
    with pytest.raises(ValueError, match="without a zone"):
        parse("2026-08-20T06:16:19")
