"""Prices are of the whole machine everywhere: 1, 2, 4 and 8 GPUs multiplied out in each dialect."""

import json
from decimal import Decimal

import httpx
import pytest

from lumina_cloud.runs import offers
from providers.contract import LaunchSpec, OfferQuery
from tests.ledger.conftest import a_rental
from tests.providers.exchanges import load

COUNTS = (1, 2, 4, 8)
DISK = Decimal(50)


def runpod(request):
    gpu = load("runpod")["catalog"]["response"]["body"]["gpus"][0]
    return httpx.Response(200, json={"gpus": [{**gpu, "maxCount": {"secure": 8, "community": 8}}]})


@pytest.mark.pain(9)
@pytest.mark.parametrize("count", COUNTS)
def test_runpod_quotes_one_gpu(client, count):
    found = client("runpod", runpod).offers(OfferQuery(gpu="RTX4090", count=count, secure=True))
    assert [o.usd_per_hour - Decimal("0.10") * DISK / 720 for o in found] == [pytest.approx(Decimal("0.69") * count, abs=Decimal("1e-6"))]
    assert [o.count for o in found] == [count]


def test_runpod_offers_all_counts_up_to_its_ceiling(client):
    found = client("runpod", lambda _r: httpx.Response(200, json=load("runpod")["catalog"]["response"]["body"])).offers(
        OfferQuery(gpu="RTX4090")
    )
    assert sorted((o.secure, o.count) for o in found) == [(False, 1), (False, 2), (False, 4), (True, 1), (True, 2), (True, 4), (True, 8)]


@pytest.mark.pain(9)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("bid", [False, True])
def test_vastai_quotes_the_machine(client, count, bid):
    """The offer says dph_base for all its GPUs together, and so does the bid that is sent."""
    ask = load("vastai")["search on-demand"]["response"]["body"]["offers"][0]
    sent = []

    def handler(request):
        if request.url.path == "/api/v0/bundles/":
            return httpx.Response(200, json={"offers": [{**ask, "num_gpus": count, "dph_base": 0.4 * count, "min_bid": 0.25 * count}]})
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"success": True, "new_contract": 1})

    provider = client("vastai", handler)
    (offer,) = provider.offers(OfferQuery(gpu="RTX4090", interruptible=bid))
    each = Decimal("0.25") if bid else Decimal("0.4")
    storage = Decimal("0.15") * DISK / 720
    traffic = (8 * Decimal("0.00123") + 4 * Decimal("0.00456")) / 4
    assert offer.count == count
    assert offer.usd_per_hour == pytest.approx(each * count + storage + traffic, abs=Decimal("2e-6"))
    provider.create(offer, LaunchSpec(), "lumina-x-1")
    assert sent[0]["price"] == (pytest.approx(0.25 * count) if bid else None)


@pytest.mark.pain(9)
@pytest.mark.parametrize("count", COUNTS)
def test_lambda_quotes_the_machine_in_cents(client, count):
    type_ = load("lambda")["instance types"]["response"]["body"]["data"]["gpu_1x_a10"]
    kind = {**type_["instance_type"], "price_cents_per_hour": 129 * count, "specs": {**type_["instance_type"]["specs"], "gpus": count}}
    body = {"data": {"x": {**type_, "instance_type": kind}}}
    (offer,) = client("lambda", lambda _r: httpx.Response(200, json=body)).offers(OfferQuery(gpu="A10"))
    assert (offer.count, offer.usd_per_hour) == (count, Decimal("1.29") * count)


def test_a_price_passes_through_no_float(client):
    """0.1 + 0.2 would show: the digits of the reply are the digits of the offer."""
    text = json.dumps(load("lambda")["instance types"]["response"]["body"])
    (offer,) = client("lambda", lambda _r: httpx.Response(200, text=text)).offers(OfferQuery())
    assert str(offer.usd_per_hour) == "1.29"
    machine = load("vastai")["get"]["response"]["body"]
    text = json.dumps(machine).replace("0.4104", "0.41040000000000000001")
    assert str(client("vastai", lambda _r: httpx.Response(200, text=text)).get("1").usd_per_hour) == "0.41040000000000000001"


@pytest.mark.pain(8)
def test_the_traffic_of_the_query_is_in_the_price(client):
    ask = load("vastai")["search on-demand"]["response"]["body"]["offers"][0]
    provider = client("vastai", lambda _r: httpx.Response(200, json={"offers": [ask]}))

    def price(**more):
        return provider.offers(OfferQuery(gpu="RTX4090", interruptible=False, **more))[0].usd_per_hour

    assert price(download_gb=0, upload_gb=0) == pytest.approx(Decimal("0.4") + Decimal("0.15") * 50 / 720, abs=Decimal("1e-6"))
    more = price(download_gb=0, upload_gb=100, hours=2) - price(download_gb=0, upload_gb=0, hours=2)
    assert more == pytest.approx(Decimal("0.00456") * 50, abs=Decimal("1e-5"))


def test_hosts_with_dear_traffic_are_left_out(client):
    ask = {**load("vastai")["search on-demand"]["response"]["body"]["offers"][0], "inet_up_cost": 0.06}
    assert client("vastai", lambda _r: httpx.Response(200, json={"offers": [ask]})).offers(OfferQuery(interruptible=False)) == []


def machine_of(name, count):
    """Return what a cloud says of a machine of so many GPUs, and its price an hour: of all of them, whatever its offers say."""
    body = load(name)["get"]["response"]["body"]
    if name == "vastai":
        return {"instances": {**body["instances"], "num_gpus": count, "dph_total": 0.4 * count}}, Decimal("0.4") * count
    if name == "runpod":
        return {**body, "gpu": {**body["gpu"], "count": count}, "cost": 0.69 * count, "disk": 0}, Decimal("0.69") * count
    kind = body["data"]["instance_type"]
    kind = {**kind, "price_cents_per_hour": 129 * count, "specs": {**kind["specs"], "gpus": count}}
    return {"data": {**body["data"], "instance_type": kind}}, Decimal("1.29") * count


@pytest.mark.pain(9)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["vastai", "runpod", "lambda"])
def test_a_machines_own_rate_is_read_back_whole_and_one_shown_by_the_gpu_is_given_back(client, name, count):
    body, whole = machine_of(name, count)
    machine = client(name, lambda _r: httpx.Response(200, json=body)).get("1")
    assert machine.usd_per_hour == pytest.approx(whole, abs=Decimal("1e-9"))
    as_it_is, by_the_gpu = (a_rental("r", provider=name, usd_per_hour=usd) for usd in (whole, whole / count))
    assert not offers.is_dearer(as_it_is, machine.usd_per_hour)
    assert offers.is_dearer(by_the_gpu, machine.usd_per_hour) is (count > 1)
