"""The contract, run against every provider. A world gives a provider that can really rent, and says what its neighbours see.

Clouds are spoken to over loopback HTTP, at the sandbox's emulator. It shares no code with the clients.
"""

import contextlib
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core.errors import NotFound, OutcomeUnknown, StillTerminating
from providers.contract import (
    HasBalance,
    HasCharges,
    LaunchSpec,
    LocalAddress,
    OfferQuery,
    ProviderDeadline,
    SshAddress,
)
from tests.providers import worlds

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0123456789abcdefghijklmnopqrstuvwxyzABCDEF lumina"


def until(condition, seconds=60.0):
    """Wait until `condition()` is truthy and return it."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


def gone(provider, instance_id):
    """Terminate until it is gone."""

    def ended():
        try:
            provider.terminate(instance_id)
        except StillTerminating:
            return False
        return True

    until(ended)


def first_offer(provider):
    """Return the cheapest on-demand offer of one GPU."""
    offers = [o for o in provider.offers(OfferQuery(count=1)) if not o.interruptible]
    return min(offers, key=lambda o: o.usd_per_hour)


@pytest.fixture(params=["local"])
def provider(request, tmp_path):
    return worlds.local(tmp_path)


@pytest.fixture
def rent(provider):
    """Return a function that rents under a tag; whatever it rented is ended."""
    rented = []

    def create(tag, **spec):
        if provider.name != "local":
            spec.setdefault("ssh_public_key", PUBLIC)
        instance = provider.create(first_offer(provider), LaunchSpec(**spec), tag)
        rented.append(instance.instance_id)
        return instance

    yield create
    for instance_id in rented:
        gone(provider, instance_id)


def new_tag():
    return f"lumina-contract-{time.time_ns() % 10**9}-1"


def test_the_key_is_good(provider):
    provider.check()


def test_offers_say_what_they_are(provider):
    offers = provider.offers(OfferQuery())
    assert offers
    for offer in offers:
        assert offer.provider == provider.name
        assert offer.usd_per_hour > 0
        assert isinstance(offer.usd_per_hour, Decimal)
        assert offer.count >= 1
        assert offer.seen_at.tzinfo is not None
        assert (offer.bid_usd_per_hour is not None) == offer.interruptible
    things = [(o.offer_id, o.count, o.interruptible) for o in offers]
    assert len(set(things)) == len(things)


def test_a_query_narrows_and_nothing_else_comes(provider):
    offer = first_offer(provider)
    assert all((o.gpu, o.count) == (offer.gpu, 1) for o in provider.offers(OfferQuery(gpu=offer.gpu, count=1)))
    assert provider.offers(OfferQuery(gpu=offer.gpu, count=1))
    assert provider.offers(OfferQuery(gpu="T4", count=7)) == []
    assert provider.offers(OfferQuery(max_usd_per_hour=Decimal("0.000001"))) == []


def test_a_life(provider, rent):
    tag = new_tag()
    assert provider.find(tag) == []
    before = datetime.now(UTC)
    created = rent(tag)
    assert created.tag == tag
    assert created.state in ("creating", "running")
    (found,) = until(lambda: provider.find(tag))
    assert found.instance_id == created.instance_id
    assert created.instance_id in [i.instance_id for i in provider.list_owned()]
    running = until(lambda: (i := provider.get(created.instance_id)).state == "running" and i, 120)
    assert isinstance(running.address, LocalAddress if provider.name == "local" else SshAddress)
    assert running.usd_per_hour > 0
    assert before - timedelta(hours=1) <= running.created_at <= datetime.now(UTC) + timedelta(hours=1)
    gone(provider, created.instance_id)
    assert created.instance_id not in [i.instance_id for i in provider.list_owned()]
    with contextlib.suppress(NotFound):
        assert provider.get(created.instance_id).state == "ended"
    assert all(i.state == "ended" for i in provider.find(tag))


def test_terminate_may_be_repeated_and_gone_is_success(provider, rent):
    created = rent(new_tag())
    gone(provider, created.instance_id)
    gone(provider, created.instance_id)
    provider.terminate({"lambda": "0" * 32, "vastai": "999999999"}.get(provider.name, "never-was"))


def test_an_unknown_id_is_not_found(provider):
    with pytest.raises(NotFound):
        provider.get({"lambda": "0" * 32, "vastai": "999999999"}.get(provider.name, "never-was"))


def test_two_of_one_tag_are_both_found_or_the_second_is_refused(provider, rent):
    tag = new_tag()
    one = rent(tag)
    try:
        two = rent(tag)
    except OutcomeUnknown as refused:
        assert refused.created_id == one.instance_id
        return
    until(lambda: {i.instance_id for i in provider.find(tag)} == {one.instance_id, two.instance_id})


def test_what_is_not_ours_is_not_listed(provider, rent):
    stranger = rent(f"somebody-{time.time_ns() % 10**9}")
    until(lambda: provider.find(stranger.tag))
    assert stranger.instance_id not in [i.instance_id for i in provider.list_owned()]


def test_charges_name_the_instance(provider, rent):
    if not isinstance(provider, HasCharges):
        pytest.skip(f"{provider.name} tells no charges")
    since = datetime.now(UTC) - timedelta(minutes=1)
    created = rent(new_tag())
    until(lambda: provider.get(created.instance_id).state == "running", 120)
    gone(provider, created.instance_id)
    charges = until(lambda: [c for c in provider.charges(since) if c.instance_id == created.instance_id])
    assert sum(c.usd for c in charges) >= 0
    assert all(c.since < c.until for c in charges)
    assert len({c.charge_id for c in charges}) == len(charges)


def test_a_balance_is_money(provider):
    if not isinstance(provider, HasBalance):
        pytest.skip(f"{provider.name} tells no balance")
    assert provider.balance() > 0


def test_a_deadline_is_taken(provider, rent):
    if not isinstance(provider, ProviderDeadline):
        pytest.skip(f"{provider.name} keeps no deadline")
    ends_at = datetime.now(UTC) + timedelta(hours=1)
    tag = new_tag()
    instance = provider.create_until(first_offer(provider), LaunchSpec(ssh_public_key=PUBLIC), tag, ends_at)
    assert instance.ends_at == ends_at
    gone(provider, instance.instance_id)
