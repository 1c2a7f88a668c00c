"""What nobody has verified is a switch: each one is turned both ways here, and none is left out."""

from dataclasses import fields
from decimal import Decimal

import pytest

from providers.emulator.switches import Unverified

from .conftest import Virtual


def bad_key(value):
    return Virtual(switches={"vastai_bad_key_status": value}).get("vastai", "/api/v1/instances/", key="x").status


def credit(value):
    return Virtual(switches={"vastai_credit_status": value}, deposit_usd="0").rent_reply().status


def gone(value):
    reply = Virtual(switches={"vastai_gone_status": value}).get("vastai", "/api/v0/instances/1/")
    return (reply.status, reply.document().get("instances", "none"), reply.document().get("error"))


def no_such_ask(value):
    it = Virtual(switches={"vastai_no_such_ask_status": value})
    reply = it.rent_reply({"id": 1})
    assert "no_such_ask" in reply.body.decode()
    return reply.status


def offer_cap(value):
    return len(
        Virtual(switches={"vastai_offer_cap": value}).ask("vastai", "POST", "/api/v0/bundles/", {"limit": 1000}).document()["offers"]
    )


def retry_after(value):
    it = Virtual(switches={"vastai_retry_after": value}, rate_limits=True)
    it.rent_reply()
    return "retry-after" in it.rent_reply().headers


def vastai_burst(value):
    it = Virtual(switches={"vastai_burst": value}, rate_limits=True)
    return [it.get("vastai", "/api/v1/instances/").status for _ in range(3)].count(200)


def env_limit(value):
    return Virtual(switches={"vastai_env_limit": value}).rent_reply(env={"A": "x" * 300}).status


def bid_pays(value):
    it = Virtual(switches={"vastai_bid_pays_bid": value})
    offer = it.offers(type="bid")[0]
    it.rent(offer, price=1)
    it.wait(1.2)
    it.wait(3600)
    rate = next(iter(it.world.instances["vastai"].values())).meter.rate("gpu")
    return float(rate) == 1.0


def same_machine(value):
    it = Virtual(switches={"vastai_same_machine_twice": value})
    one, other = it.offers()[:2]
    asks = it.emulator.vastai.market.asks
    asks[other["id"]].machine_id = asks[one["id"]].machine_id
    it.rent(one)
    return it.rent_reply(other).status


def v1_gone(value):
    return Virtual(switches={"runpod_v1_gone": value}).get("runpod", "/v1/pods").status


def graphql_gone(value):
    return Virtual(switches={"runpod_graphql_gone": value}).graphql("query { myself { id } }").status


def spot(value):
    it = Virtual(switches={"runpod_spot_sold": value})
    mutation = 'mutation { podRentInterruptable(input: {imageName: "x", gpuTypeId: "NVIDIA GeForce RTX 4090", bidPerGpu: 0.5}) { id } }'
    return "errors" in it.graphql(mutation).document()


def pod_key(value):
    it = Virtual(switches={"runpod_pod_key_rest": value})
    pod = it.pod()
    return it.ask("runpod", "DELETE", f"/v2/pods/{pod}", key=it.world.instances["runpod"][pod].key).status


def terminate_after(value):
    from .test_runpod_api import deploy

    it = Virtual(switches={"runpod_terminate_after_lag_seconds": value})
    deploy(it, seconds=600)
    it.wait(605)
    return len(it.listed("runpod"))


def supply_code(value):
    from .test_runpod_api import deploy

    return deploy(Virtual(switches={"runpod_supply_code": value}), count=9)["errors"][0]["extensions"]["code"]


def host_loss(value):
    it = Virtual(switches={"runpod_host_loss_bills": value})
    pod = it.pod()
    it.wait(10)
    it.arm("host_death", now=True)
    it.wait(1)
    before = it.status(pod)["usd_billed"]
    it.wait(3600)
    return it.status(pod)["usd_billed"] > before


def runpod_start(value):
    it = Virtual(switches={"runpod_billing_starts_at": value})
    it.arm("never_boot")
    pod = it.pod()
    it.wait(3600)
    return Decimal(it.status(pod)["usd_billed"]) > 0


def per_minute(value):
    it = Virtual(switches={"runpod_per_minute": value}, rate_limits=True)
    return [it.get("runpod", "/v2/pods").status for _ in range(70)].count(200)


def lambda_429(value):
    it = Virtual(switches={"lambda_429_is_json": value}, rate_limits=True)
    it.launch_reply()
    return it.launch_reply().headers["content-type"].split(";")[0]


def duplicate_key(value):
    it = Virtual(switches={"lambda_duplicate_key_code": value})
    body = {"name": "a", "public_key": "ssh-ed25519 AAAA"}
    it.ask("lambda", "POST", "/api/v1/ssh-keys", body)
    return it.ask("lambda", "POST", "/api/v1/ssh-keys", body).document()["error"]["code"]


def lambda_start(value):
    it = Virtual(switches={"lambda_billing_starts_at": value})
    it.arm("never_boot")
    vm = it.launch()
    it.wait(3600)
    return Decimal(it.status(vm)["usd_billed"]) > 0


def missing(value):
    return Virtual(switches={"lambda_missing_object_status": value}).launch_reply(instance_type_name="x").status


def listed_seconds(value):
    it = Virtual(switches={"lambda_listed_seconds": value})
    vm = it.launch()
    it.wait(10)
    it.terminate("lambda", vm)
    it.wait(31)
    return len(it.listed("lambda"))


def shutdown(value):
    it = Virtual(switches={"lambda_shutdown_bills": value})
    vm = it.launch()
    it.wait(30)
    it.emulator.lambda_.powered_off(it.world.instances["lambda"][vm])
    it.wait(600)
    return it.status(vm)["usd_billed"]


def lambda_burst(value):
    it = Virtual(switches={"lambda_burst": value}, rate_limits=True)
    return [it.get("lambda", "/api/v1/instances").status for _ in range(6)].count(200)


BOTH_WAYS = {
    "vastai_bad_key_status": (bad_key, {404: 404, 401: 401}),
    "vastai_credit_status": (credit, {400: 400, 402: 402, 403: 403}),
    "vastai_gone_status": (gone, {200: (200, None, None), 404: (404, "none", "no_such_instance")}),
    "vastai_no_such_ask_status": (no_such_ask, {410: 410, 404: 404, 400: 400}),
    "vastai_offer_cap": (offer_cap, {64: 64, 20: 20}),
    "vastai_retry_after": (retry_after, {True: True, False: False}),
    "vastai_burst": (vastai_burst, {1: 1, 2: 2}),
    "vastai_env_limit": (env_limit, {None: 200, 256: 400}),
    "vastai_bid_pays_bid": (bid_pays, {True: True, False: False}),
    "vastai_same_machine_twice": (same_machine, {True: 200, False: 410}),
    "runpod_v1_gone": (v1_gone, {False: 200, True: 410}),
    "runpod_graphql_gone": (graphql_gone, {False: 200, True: 410}),
    "runpod_spot_sold": (spot, {True: False, False: True}),
    "runpod_pod_key_rest": (pod_key, {True: 204, False: 403}),
    "runpod_terminate_after_lag_seconds": (terminate_after, {0: 0, 60: 1}),
    "runpod_supply_code": (supply_code, {False: "INTERNAL_SERVER_ERROR", True: "SUPPLY_CONSTRAINT"}),
    "runpod_host_loss_bills": (host_loss, {True: True, False: False}),
    "runpod_billing_starts_at": (runpod_start, {"create": True, "running": False}),
    "runpod_per_minute": (per_minute, {60: 60, None: 70}),
    "lambda_429_is_json": (lambda_429, {True: "application/json", False: "text/plain"}),
    "lambda_duplicate_key_code": (
        duplicate_key,
        {"global/invalid-parameters": "global/invalid-parameters", "global/duplicate": "global/duplicate"},
    ),
    "lambda_billing_starts_at": (lambda_start, {"launch": True, "active": False}),
    "lambda_missing_object_status": (missing, {404: 404, 400: 400}),
    "lambda_listed_seconds": (listed_seconds, {None: 0, 3600: 1}),
    "lambda_shutdown_bills": (shutdown, {True: "0.236500", False: "0.021500"}),
    "lambda_burst": (lambda_burst, {1: 1, 3: 3}),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, results) in BOTH_WAYS.items() for value in results])
def test_switch(name, value):
    act, results = BOTH_WAYS[name]
    assert act(value) == results[value]


def test_every_switch_is_tested_in_its_default_and_another_way():
    for one in fields(Unverified):
        _, results = BOTH_WAYS[one.name]
        assert one.default in results and len(results) >= 2


def test_an_unknown_switch_is_refused():
    with pytest.raises(ValueError, match="unknown switch 'vastai_mood'"):
        Unverified.from_mapping({"vastai_mood": 1})
