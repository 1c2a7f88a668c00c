"""What a machine is told at its creation, and how long its first contact waits for a host key."""

import base64
import gzip
import json
import re
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest

from lumina_cloud.core.errors import BadReply, InvalidRequest, ProviderError, Unreachable
from lumina_cloud.remote.host_keys import Pins
from lumina_cloud.remote.ssh_key import Identity
from lumina_cloud.runs import machines
from lumina_cloud.runs.terms import Terms
from providers import startup
from providers.contract import Instance, Offer
from tests.ledger.conftest import NOW, a_rental
from tests.providers.conftest import KEY, client, clock  # noqa: F401  # fixtures

RENTAL = a_rental("r", provider="there", usd_per_hour=Decimal(1))
HERE = Instance("i-1", RENTAL.tag, "running", Decimal(1), NOW, None, None)


class Clock:
    """Stands at a moment."""

    seconds = 0.0

    def now(self):
        return NOW

    def monotonic(self):
        return self.seconds


class There:
    """A provider that ends machines by itself, by its own clock, and whose boot log is no log."""

    name = "there"

    def __init__(self, ahead):
        self.ahead, self.told = ahead, None

    def clock_skew(self):
        return self.ahead

    def create_until(self, offer, spec, tag, ends_at):
        self.told = ends_at
        return HERE

    def boot_log(self, instance_id):
        raise BadReply("a web page")


@pytest.fixture
def made(tmp_path):
    return machines.Machines(
        home=tmp_path, pins=Pins(tmp_path / "pins"), identity=lambda: Identity("ssh-ed25519 AAAA me", None), clock=Clock()
    )


@pytest.mark.pain(6)
@pytest.mark.parametrize("ahead", [None, 0.0, 86_400.0, -86_400.0])
def test_a_providers_own_deadline_is_the_caps_end_by_the_providers_clock(made, ahead):
    provider = There(ahead)
    made.create(provider, Offer("there", "o", "RTX4090", 1, Decimal(1), False, "x"), RENTAL, Terms(), 600.0)
    assert provider.told == NOW - timedelta(seconds=ahead or 0.0) + timedelta(seconds=600)


def test_a_boot_log_that_is_none_keeps_nobody_out_for_longer_than_one_that_is_late(made):
    with pytest.raises(Unreachable):
        made._told_key(There(0.0), HERE, RENTAL)
    made.clock.seconds = machines.TELL_SECONDS + 1
    assert made._told_key(There(0.0), HERE, RENTAL) == ()


# --- what a cloud is sent ------------------------------------------------------------------------------------------------

CLOUDS = ("vastai", "runpod", "lambda")


def sends_nothing(request):
    raise AssertionError(f"{request.method} {request.url}")


@pytest.fixture
def for_a_cloud(tmp_path):
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEZRJ2jUjYjV6dCpXh0N8pO0l1R0b8wVJq1Y0b5c2b5k me"
    return machines.Machines(home=tmp_path, pins=Pins(tmp_path / "pins"), identity=lambda: Identity(key, None), clock=Clock())


@pytest.mark.pain(4)
@pytest.mark.parametrize("name", CLOUDS)
def test_a_create_carries_the_guard_and_its_limits_and_fits(client, for_a_cloud, name):  # noqa: F811
    provider = client(name, sends_nothing)
    spec = for_a_cloud.spec(provider, replace(RENTAL, provider=name), Terms(lease_seconds=1234.0), 86_400.0)
    packed = [base64.b64decode(text) for text in re.findall(r"[A-Za-z0-9+/]{40,}={0,2}", spec.startup_script)]
    texts = [gzip.decompress(one) if one.startswith(b"\x1f\x8b") else one for one in packed]
    assert [json.loads(one)["lease_seconds"] for one in texts if one.startswith(b"{")] == [1234.0]
    assert any(b"lease_seconds" in one and b"def main" in one for one in texts), "the guard's program"
    assert len(spec.startup_script.encode()) < 0.8 * provider.startup_script_limit
    startup.check(spec, limit=provider.startup_script_limit, title=name)


@pytest.mark.pain(15)
@pytest.mark.parametrize("name", CLOUDS)
def test_a_create_gives_the_machine_no_key_of_the_account(client, for_a_cloud, name):  # noqa: F811
    sent = []

    def handler(request):
        sent.append(request.content)
        # Of Lambda the key that is let in is asked for first.
        key = {"id": "k", "name": "lumina", "public_key": for_a_cloud.identity().public_line}
        return httpx.Response(200, json={"data": [key]}) if request.url.path.endswith("/ssh-keys") else httpx.Response(500)

    ids = {"vastai": "12345678", "runpod": "SECURE//NVIDIA GeForce RTX 4090", "lambda": "gpu_1x_a10@us-east-1"}
    offer = Offer(name, ids[name], "RTX4090", 1, Decimal(1), False, "x")
    with pytest.raises(ProviderError):
        for_a_cloud.create(client(name, handler), offer, replace(RENTAL, provider=name), Terms(), 600.0)
    assert any(RENTAL.tag.encode() in body for body in sent), "the create was asked for"
    for body in sent:
        packed = [base64.b64decode(one) for one in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", body)]
        for said in (body, *(gzip.decompress(one) if one.startswith(b"\x1f\x8b") else one for one in packed)):
            assert KEY.encode() not in said


@pytest.mark.pain(4)
@pytest.mark.parametrize("name", CLOUDS)
def test_where_the_guard_does_not_fit_nothing_is_rented(client, for_a_cloud, monkeypatch, name):  # noqa: F811
    provider = client(name, sends_nothing)
    monkeypatch.setattr(type(provider), "startup_script_limit", 1000)
    with pytest.raises(InvalidRequest, match="start-up script"):
        for_a_cloud.create(provider, Offer(name, "o", "RTX4090", 1, Decimal(1), False, "x"), replace(RENTAL, provider=name), Terms(), 600.0)


@pytest.mark.pain(5)
@pytest.mark.parametrize("name", CLOUDS)
def test_the_boot_deadline_is_known_before_renting_and_grows_with_the_gpus(name):
    deadlines = [machines.boot_seconds(name, count, Terms(), rehearsal=False) for count in (1, 2, 4, 8)]
    assert deadlines == sorted(set(deadlines))
    assert deadlines[-1] < 3600
    assert machines.boot_seconds("lambda", 8, Terms(), rehearsal=False) >= 25 * 60, "an 8-GPU machine of Lambda's may take that long"
    assert machines.boot_seconds(name, 8, Terms(boot_seconds=60.0), rehearsal=False) == 60.0
