"""Each client call sends exactly what the cloud's API pages say, and understands what they say comes back."""

import base64
import gzip
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core.errors import NotFound, StillTerminating
from providers.contract import (
    HasBalance,
    HasCharges,
    HasClock,
    HostKeyChannel,
    InstanceScopedKey,
    Interruptible,
    LaunchSpec,
    OfferQuery,
    ProviderDeadline,
    SshAddress,
    StartupScript,
)
from providers.lambda_cloud import LambdaCloud
from providers.local import LocalProvider
from providers.runpod import RunPod
from providers.vastai import VastAi
from tests.providers.conftest import KEY, NOW
from tests.providers.exchanges import Played

TAG = "lumina-b1-mod-x7k2-1"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ lumina"
ONE_4090 = OfferQuery(gpu="RTX4090", count=1)


@pytest.fixture
def play(client):
    """Return a function that connects a client to pairs; all of them must have been played at the end."""
    played = []

    def start(provider, *names, **more):
        transport = Played(provider, *names)
        played.append(transport)
        return client(provider, transport, **more), transport

    yield start
    assert all(transport.done for transport in played)


# --- Vast.ai -------------------------------------------------------------------------------------------------------------


def test_vastai_offers_are_all_in_and_for_the_whole_machine(play):
    provider, _ = play("vastai", "search on-demand", "search bids")
    firm, bid = provider.offers(ONE_4090)
    storage = Decimal("0.15") * 50 / 720
    traffic = (8 * Decimal("0.00123") + 4 * Decimal("0.00456")) / 4
    assert firm.usd_per_hour == pytest.approx(Decimal("0.40") + storage + traffic, abs=Decimal("1e-6"))
    assert bid.usd_per_hour == pytest.approx(Decimal("0.22") + storage + traffic, abs=Decimal("1e-6"))
    assert (firm.bid_usd_per_hour, bid.bid_usd_per_hour) == (None, Decimal("0.22"))
    assert (firm.interruptible, bid.interruptible) == (False, True)
    assert (firm.gpu, firm.gpu_known, firm.count, firm.region, firm.machine_id) == ("RTX4090", True, 1, "Oregon, US", "88888")
    assert firm.reliability == pytest.approx(0.9962)
    assert firm.memory_gib == pytest.approx(257560 / 1024 * 16 / 64)
    assert firm.cuda == "12.8"


def test_vastai_search_needs_no_key(play):
    provider, transport = play("vastai", "search on-demand", "search bids", key=None, need_key=False)
    assert len(provider.offers(ONE_4090)) == 2
    assert all("authorization" not in request.headers for request, _ in transport.sent)


def test_vastai_create_labels_and_lets_the_key_in(play):
    provider, transport = play("vastai", "search on-demand", "create")
    offer = provider.offers(OfferQuery(gpu="RTX4090", count=1, interruptible=False))[0]
    spec = LaunchSpec(ssh_public_key=PUBLIC, startup_script='#!/bin/sh\necho it\'s "here" $HOME\n', env={"HF_HOME": "/data"})
    instance = provider.create(offer, spec, TAG)
    assert (instance.instance_id, instance.tag, instance.state) == ("1234568", TAG, "creating")
    onstart = transport.sent[1][1]["onstart"]
    assert PUBLIC in onstart
    packed = re.search(r"echo (\S+) \| base64 -d \| gzip", onstart)[1]
    assert gzip.decompress(base64.b64decode(packed)).decode() == spec.startup_script
    assert KEY not in onstart


def test_vastai_bids_what_the_offer_shows(play):
    provider, transport = play("vastai", "search bids", "create a bid")
    offer = provider.offers(OfferQuery(gpu="RTX4090", count=1, interruptible=True))[0]
    provider.create(offer, LaunchSpec(), TAG)
    assert Decimal(str(transport.sent[1][1]["price"])) == offer.bid_usd_per_hour


def test_vastai_find_and_pages_of_the_list(play):
    provider, _ = play("vastai", "find", "list, first page", "list, last page")
    (found,) = provider.find(TAG)
    assert found.address == SshAddress("203.0.113.42", 20000, "root")
    assert (found.gpu, found.count, found.usd_per_hour) == ("RTX4090", 1, Decimal("0.4104"))
    assert found.created_at == datetime.fromtimestamp(1795176000.25, UTC)
    assert [i.instance_id for i in provider.list_owned()] == ["1234568"]


def test_vastai_get_and_gone(play):
    provider, _ = play("vastai", "get", "get, gone")
    assert provider.get("1234568").state == "running"
    with pytest.raises(NotFound):
        provider.get("1234568")


@pytest.mark.pain(3)
def test_vastai_terminate_returns_only_with_two_proofs(play):
    provider, _ = play("vastai", "destroy", "get, gone", "list, empty")
    provider.terminate("1234568")
    again, _ = play("vastai", "destroy, gone", "get, gone", "list, empty")
    again.terminate("1234568")
    slow, _ = play("vastai", "destroy", "get")
    with pytest.raises(StillTerminating):
        slow.terminate("1234568")
    listed, _ = play("vastai", "destroy", "get, gone", "list, first page", "list, last page")
    with pytest.raises(StillTerminating, match="list"):
        listed.terminate("1234568")


def test_vastai_account_charges_bid_and_log(play):
    provider, transport = play("vastai", "account", "account", "list, empty", "charges", "change bid", "request logs", "logs")
    assert provider.balance() == Decimal("17.25")
    provider.check()
    charges = provider.charges(NOW - timedelta(hours=1))
    assert {(c.kind, c.usd) for c in charges} == {
        ("gpu", Decimal("0.40")),
        ("storage", Decimal("0.0104")),
        ("traffic", Decimal("0.002706")),
        ("traffic", Decimal("0.000094")),
    }
    assert {c.instance_id for c in charges} == {"1234568"}
    assert len({c.charge_id for c in charges}) == 4
    provider.change_bid("1234568", Decimal("0.31"))
    log = provider.boot_log("1234568")
    assert "ssh-host-key ssh-ed25519 AAAAC3Nz" in log
    assert "\x1b" not in log
    # Where the log lies is somebody else's server: the key is not for it.
    assert "authorization" not in transport.sent[-1][0].headers


# --- RunPod --------------------------------------------------------------------------------------------------------------


def test_runpod_offers_are_for_the_whole_pod(play):
    provider, _ = play("runpod", "catalog", "catalog, community")
    secure, community = provider.offers(ONE_4090)
    disk = Decimal("0.10") * 50 / 720
    assert secure.usd_per_hour == pytest.approx(Decimal("0.69") + disk, abs=Decimal("1e-6"))
    assert community.usd_per_hour == pytest.approx(Decimal("0.34") + disk, abs=Decimal("1e-6"))
    assert (secure.secure, community.secure) == (True, False)
    assert secure.region == "US-KS-2"


@pytest.mark.pain(6)
def test_runpod_creates_with_an_end_that_runpod_keeps(play):
    provider, _ = play("runpod", "catalog", "deploy")
    offer = provider.offers(OfferQuery(gpu="RTX4090", count=1, secure=True))[0]
    ends_at = NOW + timedelta(hours=8)
    instance = provider.create_until(offer, LaunchSpec(ssh_public_key=PUBLIC, env={"HF_HOME": "/data"}), TAG, ends_at)
    assert (instance.instance_id, instance.ends_at, instance.detail) == ("5xpma5eg46tqjq", ends_at, "")


def test_runpod_without_graphql_creates_without_that_end_and_says_so(play):
    provider, _ = play("runpod", "catalog", "deploy, GraphQL gone", "create")
    offer = provider.offers(OfferQuery(gpu="RTX4090", count=1, secure=True))[0]
    spec = LaunchSpec(ssh_public_key=PUBLIC, env={"HF_HOME": "/data"})
    instance = provider.create_until(offer, spec, TAG, NOW + timedelta(hours=8))
    assert instance.instance_id == "5xpma5eg46tqjq"
    assert instance.ends_at is None
    assert "GraphQL" in instance.detail


def test_runpod_lists_and_knows_running_from_ready(play):
    provider, _ = play("runpod", "list", "list", "get", "get, gone")
    (found,) = provider.find(TAG)
    assert found.address == SshAddress("213.173.104.74", 35558, "root")
    assert found.state == "running"
    assert [i.tag for i in provider.list_owned()] == [TAG]
    assert provider.get("5xpma5eg46tqjq").gpu == "RTX4090"
    with pytest.raises(NotFound):
        provider.get("5xpma5eg46tqjq")


def test_runpod_terminate_balance_and_charges(play):
    provider, _ = play("runpod", "delete", "get, gone", "list, empty", "delete, gone", "get, gone", "list, empty", "balance", "billing")
    provider.terminate("5xpma5eg46tqjq")
    provider.terminate("5xpma5eg46tqjq")
    assert provider.balance() == Decimal("17.0630444381")
    gpu, disk = provider.charges(NOW - timedelta(hours=1))
    assert (gpu.kind, gpu.usd, disk.kind, disk.usd) == ("gpu", Decimal("0.5"), "storage", Decimal("0.006944"))
    slow, _ = play("runpod", "delete", "get")
    with pytest.raises(StillTerminating):
        slow.terminate("5xpma5eg46tqjq")


def test_runpod_log_is_a_stream_of_events(play):
    provider, _ = play("runpod", "logs")
    assert provider.boot_log("5xpma5eg46tqjq") == "ssh-host-key ssh-ed25519 AAAAC3Nz\nready"


# --- Lambda --------------------------------------------------------------------------------------------------------------


def test_lambda_offers_are_where_there_is_capacity(play):
    provider, _ = play("lambda", "instance types")
    (offer,) = provider.offers(OfferQuery())
    assert (offer.gpu, offer.count, offer.usd_per_hour, offer.region) == ("A10", 1, Decimal("1.29"), "us-east-1")
    assert offer.secure


def test_lambda_launches_with_the_accounts_key(play):
    provider, transport = play("lambda", "instance types", "ssh keys", "add ssh key", "launch")
    offer = provider.offers(OfferQuery(gpu="A10"))[0]
    spec = LaunchSpec(ssh_public_key=PUBLIC, startup_script="#!/bin/sh\necho hello\n", env={"HF_HOME": "/data"})
    instance = provider.create(offer, spec, TAG)
    assert (instance.instance_id, instance.created_at) == ("0920582c7ff041399e34823a0be62549", NOW)
    assert transport.sent[-1][1]["tags"][0]["value"] == "2026-11-20T12:00:00.000Z"


def test_lambda_lists_gets_and_terminates(play, clock):
    provider, _ = play(
        "lambda", "list", "get, booting", "get", "terminate", "get, gone", "list, empty", "terminate, gone", "get, gone", "list, empty"
    )
    (found,) = provider.list_owned()
    assert found.address == SshAddress("198.51.100.2", 22, "ubuntu")
    clock.sleep(3600)
    booting = provider.get(found.instance_id)
    assert (booting.state, booting.address) == ("creating", None)
    # Lambda keeps no time: ours comes back in a tag.
    assert booting.created_at == NOW
    assert provider.get(found.instance_id).state == "running"
    provider.terminate(found.instance_id)
    provider.terminate(found.instance_id)
    slow, _ = play("lambda", "terminate", "get")
    with pytest.raises(StillTerminating):
        slow.terminate(found.instance_id)


# --- abilities -----------------------------------------------------------------------------------------------------------

ABILITIES = (HasCharges, HasBalance, Interruptible, ProviderDeadline, InstanceScopedKey, StartupScript, HostKeyChannel, HasClock)


@pytest.mark.pain(9)
@pytest.mark.parametrize(
    ("kind", "able"),
    [
        (VastAi, {HasCharges, HasBalance, Interruptible, InstanceScopedKey, StartupScript, HostKeyChannel, HasClock}),
        (RunPod, {HasCharges, HasBalance, ProviderDeadline, InstanceScopedKey, StartupScript, HostKeyChannel, HasClock}),
        (LambdaCloud, {StartupScript, HasClock}),
        (LocalProvider, {HasCharges}),
    ],
)
def test_what_a_cloud_cannot_do_has_no_method(kind, able):
    provider = kind.__new__(kind)
    assert {ability for ability in ABILITIES if isinstance(provider, ability)} == able


@pytest.mark.pain(15)
def test_a_box_key_is_of_the_instance_alone(client):
    vast = client("vastai", lambda _request: None).box_key()
    assert (vast.key_variable, vast.method, vast.url) == ("CONTAINER_API_KEY", "DELETE", "https://console.vast.ai/api/v0/instances/{id}/")
    pod = client("runpod", lambda _request: None).box_key()
    assert (pod.key_variable, pod.url) == ("RUNPOD_API_KEY", "https://api.runpod.io/v2/pods/{id}")
