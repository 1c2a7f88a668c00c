"""The contract, run against every provider. A world gives a provider that can really rent, and says what its neighbours see.

Clouds are spoken to over loopback HTTP, at the sandbox's emulator. It shares no code with the clients.
"""

import contextlib
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core.errors import NotFound, OutcomeUnknown, ProviderDown, StillTerminating
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

SCALE = 8
"""How much faster than ours the sandbox's time runs: its limits are of seconds, and a suite is not to wait for them."""

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f lumina"


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


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with worlds.sandbox(tmp_path_factory.mktemp("sandbox"), SCALE) as made:
        yield made


@pytest.fixture(params=["local", "vastai", "runpod", "lambda"])
def provider(request, tmp_path):
    if request.param == "local":
        return worlds.local(tmp_path)
    return request.getfixturevalue("sandbox").connect(request.param)


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
    assert sum(c.usd for c in charges) > 0
    assert all(c.since < c.until for c in charges)
    # The machine's time is told apart from what is billed beside it, and nothing is of a kind that nobody knows.
    assert "gpu" in {c.kind for c in charges} <= {"gpu", "storage", "traffic"}
    assert len({c.charge_id for c in charges}) == len(charges)


@pytest.mark.pain(7)
@pytest.mark.parametrize("name", ["vastai", "runpod"])
def test_charges_are_the_providers_own_bill_to_the_micro_dollar(sandbox, name):
    provider, tag = sandbox.connect(name), new_tag()
    # By the sandbox's clock, which is not ours.
    since = sandbox.clock.now() - timedelta(hours=1)
    created = provider.create(first_offer(provider), LaunchSpec(ssh_public_key=PUBLIC), tag)
    until(lambda: provider.get(created.instance_id).state == "running")
    gone(provider, created.instance_id)
    (billed,) = sandbox.instances(tag)

    def charged():
        return sum(c.usd for c in provider.charges(since) if c.instance_id == created.instance_id)

    assert until(lambda: charged() == Decimal(billed["usd_billed"]) and charged()) > 0


@pytest.mark.parametrize("name", ["vastai", "runpod"])
def test_what_the_start_up_script_prints_comes_over_the_providers_own_channel(sandbox, name):
    """So that host keys are known before first contact."""
    provider = sandbox.connect(name)
    spec = LaunchSpec(ssh_public_key=PUBLIC, startup_script='#!/bin/sh\necho "host key of $WHOSE: abc"\n', env={"WHOSE": "mine"})
    created = provider.create(first_offer(provider), spec, new_tag())
    until(lambda: provider.get(created.instance_id).state == "running")

    def said():
        try:
            return "host key of mine: abc" in provider.boot_log(created.instance_id)
        except ProviderDown:
            # None yet.
            return False

    until(said)
    gone(provider, created.instance_id)


@pytest.mark.parametrize("name", ["vastai", "runpod", "lambda"])
def test_the_address_answers_ssh(sandbox, name):
    provider = sandbox.connect(name)
    created = provider.create(first_offer(provider), LaunchSpec(ssh_public_key=PUBLIC), new_tag())
    address = until(lambda: provider.get(created.instance_id).address)

    def greeting():
        # In a process of its own: the sandbox's machines have loopback addresses that tests may not connect to themselves.
        code = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).recv(8).decode())"
        return subprocess.run(
            [sys.executable, "-c", code, address.host, str(address.port)], check=False, capture_output=True, text=True
        ).stdout

    assert until(greeting).startswith("SSH-2.0")
    gone(provider, created.instance_id)


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
