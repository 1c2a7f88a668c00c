"""Vast.ai's dialect against what its documentation and its field reports say."""

import json
from decimal import Decimal
from urllib.parse import quote

import pytest

from .conftest import PUBLIC_KEY

OFFER_FIELDS = {
    *("id", "ask_contract_id", "bundle_id", "machine_id", "host_id", "hosting_type", "num_gpus", "gpu_name", "gpu_arch", "gpu_ram"),
    *("gpu_total_ram", "gpu_mem_bw", "gpu_frac", "compute_cap", "cuda_max_good", "driver_version", "driver_vers", "cpu_name", "cpu_arch"),
    *("cpu_cores", "cpu_cores_effective", "cpu_ram", "disk_space", "disk_bw", "disk_name", "inet_up", "inet_down", "inet_up_cost"),
    *("inet_down_cost", "storage_cost", "storage_total_cost", "dph_base", "dph_total", "min_bid", "is_bid", "reliability", "reliability2"),
    *("expected_reliability", "score", "dlperf", "dlperf_per_dphtotal", "total_flops", "flops_per_dphtotal", "verification", "vericode"),
    *("rentable", "rented", "external", "static_ip", "direct_port_count", "public_ipaddr", "geolocation", "duration", "start_date"),
    *("end_date", "os_version", "vms_enabled", "pcie_bw", "pci_gen", "credit_discount_max", "resource_type", "cluster_id", "search"),
}
INSTANCE_FIELDS = {
    *("id", "label", "machine_id", "host_id", "actual_status", "cur_state", "next_state", "intended_status", "status_msg", "image_uuid"),
    *("image_runtype", "extra_env", "onstart", "ssh_host", "ssh_port", "ssh_idx", "public_ipaddr", "local_ipaddrs", "ports"),
    *("direct_port_start", "direct_port_end", "dph_base", "dph_total", "min_bid", "is_bid", "start_date", "end_date", "duration"),
    *("uptime_mins", "gpu_name", "num_gpus", "gpu_util", "gpu_temp", "gpu_ram", "gpu_totalram", "cpu_util", "mem_usage", "mem_limit"),
    *("disk_space", "disk_usage", "inet_up", "inet_down", "geolocation", "reliability2", "verification", "storage_cost"),
    *("storage_total_cost", "credit_balance", "search", "instance"),
}


def show(it, number):
    return it.get("vastai", f"/api/v0/instances/{number}/").document()["instances"]


def test_an_offer_has_the_fields_of_the_documentation(virtual):
    assert set(virtual.offers()[0]) >= OFFER_FIELDS


def test_an_instance_has_the_fields_of_the_documentation(virtual):
    number = virtual.rent()
    assert set(show(virtual, number)) >= INSTANCE_FIELDS


def test_the_total_is_gpu_and_storage_of_the_whole_offer(virtual):
    """dph_total = dph_base + allocated_storage x storage_cost / 720, for the machine and not for one GPU."""
    for count in (1, 2, 4, 8):
        for offer in virtual.offers(num_gpus={"eq": count}, reliability2={"gte": 0}, allocated_storage=50):
            assert offer["dph_total"] == pytest.approx(offer["dph_base"] + 50 * offer["storage_cost"] / 720)
            assert offer["dph_base"] / count == pytest.approx(0.38, rel=0.3)


def test_bids_are_the_same_offers_at_their_least_bid(virtual):
    plain = {one["id"]: one for one in virtual.offers(reliability2={"gte": 0})}
    for offer in virtual.offers(type="bid", reliability2={"gte": 0}):
        assert offer["is_bid"] is True
        assert offer["dph_base"] == offer["min_bid"] == plain[offer["id"]]["min_bid"]


def test_filters_operators_and_order(virtual):
    found = virtual.offers(
        gpu_name={"in": ["RTX 4090", "H100 SXM"]}, num_gpus={"gte": 2}, dph_total={"lt": 20}, geolocation={"notin": ["SE"]}
    )
    assert {one["gpu_name"] for one in found} <= {"RTX 4090", "H100 SXM"} and all(one["num_gpus"] >= 2 for one in found)
    prices = [one["dph_total"] for one in found]
    assert prices == sorted(prices) and prices[-1] < 20
    assert virtual.offers(gpu_name={"eq": "RTX_4090"}) == []  # the API wants blanks


def test_one_offer_is_found_by_ask_contract_id_and_never_by_id(virtual):
    offer = virtual.offers()[0]
    assert virtual.offers(id={"eq": offer["id"]}) == []
    assert [one["id"] for one in virtual.offers(ask_contract_id={"eq": offer["id"]})] == [offer["id"]]


def test_texts_are_taken_for_numbers_as_the_official_client_sends_them(virtual):
    assert virtual.offers(num_gpus={"eq": "1"}, verified={"eq": "true"})


def test_search_by_the_new_endpoint_and_by_get(virtual):
    query = {"gpu_name": {"eq": "RTX 4090"}}
    new = virtual.ask("vastai", "PUT", "/api/v0/search/asks/", {"select_cols": ["*"], "q": query}).document()["offers"]
    old = virtual.get("vastai", f"/api/v0/bundles?q={quote(json.dumps(query))}").document()["offers"]
    assert {one["id"] for one in new} == {one["id"] for one in old} != set()


def test_search_without_a_key_works_and_with_a_wrong_one_does_not(virtual):
    assert virtual.ask("vastai", "POST", "/api/v0/bundles/", {}, key="").status == 200
    wrong = virtual.ask("vastai", "POST", "/api/v0/bundles/", {}, key="nonsense")
    assert wrong.status == 404 and wrong.document() == {"success": False, "error": "auth_error", "msg": "Invalid user key"}


def test_no_key_at_all(virtual):
    reply = virtual.get("vastai", "/api/v1/instances/", key="")
    assert reply.status == 403 and reply.document()["msg"] == "This action requires login."


def test_the_key_in_the_query_works_too(virtual):
    assert virtual.get("vastai", f"/api/v0/users/current/?api_key={virtual.key}", key="").status == 200


def test_a_broken_body(virtual):
    from providers.emulator.wire import Request

    for method, path in (("POST", "/api/v0/bundles/"), ("PUT", "/api/v0/asks/1/")):
        reply = virtual.emulator.handle("vastai", Request.of(method, path, {"Authorization": f"Bearer {virtual.key}"}, b"{"))
        assert reply.status == 400 and reply.document()["error"] == "invalid_request"


def test_life_of_a_contract(virtual):
    number = virtual.rent()
    seen = [show(virtual, number)["actual_status"]]
    for _ in range(20):
        virtual.wait(0.1)
        status = show(virtual, number)["actual_status"]
        if status != seen[-1]:
            seen.append(status)
    assert seen == [None, "created", "loading", "running"]
    row = show(virtual, number)
    assert row["public_ipaddr"].strip() == "127.0.0.1" != row["public_ipaddr"]
    (port,) = row["ports"]["22/tcp"]
    assert isinstance(port["HostPort"], str)
    reply = virtual.terminate("vastai", number)
    assert reply.document() == {"success": True, "msg": "destroying instance"}
    virtual.wait(1)
    gone = virtual.get("vastai", f"/api/v0/instances/{number}/")
    assert gone.status == 200 and gone.document() == {"instances": None}
    again = virtual.terminate("vastai", number)
    assert again.status == 404 and again.document()["error"] == "not_found"


def test_ports_are_shown_only_while_running(virtual):
    number = virtual.rent()
    assert show(virtual, number)["ports"] is None
    virtual.wait(5)
    assert show(virtual, number)["ports"]
    virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    assert show(virtual, number)["ports"] is None


def test_stop_and_start_read_as_the_real_ones(virtual):
    number = virtual.rent()
    virtual.wait(5)
    assert virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"}).document() == {"success": True}
    row = show(virtual, number)
    assert (row["cur_state"], row["intended_status"], row["next_state"], row["actual_status"]) == (
        "stopped",
        "stopped",
        "stopped",
        "exited",
    )
    assert row["instance"]["gpuCostPerHour"] == 0 < row["instance"]["diskHour"]
    virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"state": "running"})
    assert show(virtual, number)["actual_status"] == "exited"
    virtual.wait(5)
    assert show(virtual, number)["actual_status"] == "running"


def test_a_start_waits_in_line_when_the_gpu_is_taken(virtual):
    """The answer is 200 with success false; it starts, and bills, when the GPU is free again."""
    number = virtual.rent()
    virtual.wait(5)
    virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    contract = virtual.world.instances["vastai"][number]
    taken = virtual.emulator.vastai.market.take(contract.freed_ask)
    reply = virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"state": "running"})
    assert reply.status == 200 and reply.document()["success"] is False and "queued" in reply.document()["msg"]
    row = show(virtual, number)
    assert (row["intended_status"], row["cur_state"]) == ("running", "stopped")
    virtual.emulator.vastai.market.asks[contract.freed_ask] = taken
    virtual.wait(61)
    virtual.wait(5)
    assert show(virtual, number)["actual_status"] == "running"


def test_an_offer_can_be_rented_once(virtual):
    offer = virtual.offers()[0]
    assert virtual.rent_reply(offer).status == 200
    second = virtual.rent_reply(offer)
    assert second.status == 410 and second.document()["error"] == "no_such_ask" and second.document()["ask_id"] == offer["id"]


def test_the_create_returns_a_key_for_that_instance_alone(virtual):
    reply = virtual.rent_reply().document()
    own, other = str(reply["new_contract"]), virtual.rent()
    key = reply["instance_api_key"]
    assert virtual.get("vastai", f"/api/v0/instances/{own}/", key=key).status == 200
    assert virtual.get("vastai", f"/api/v0/instances/{other}/", key=key).status == 403
    assert virtual.get("vastai", "/api/v1/instances/", key=key).status == 403
    assert virtual.ask("vastai", "DELETE", f"/api/v0/instances/{other}/", {}, key=key).status == 403
    assert virtual.ask("vastai", "DELETE", f"/api/v0/instances/{own}/", {}, key=key).status == 200
    virtual.wait(1)
    assert virtual.listed("vastai") == [other]


def test_a_low_bid_fails_and_leaves_a_stopped_contract(virtual):
    reply = virtual.rent_reply(price=0.01)
    number = reply.document()["new_contract"]
    assert reply.status == 400 and reply.document()["success"] is False
    assert virtual.status(number)["state"] == "stopped"
    nothing = virtual.rent_reply(price=0.01, cancel_unavail=True)
    assert nothing.status == 410 and "new_contract" not in nothing.document()


def test_a_bid_that_wins_is_what_is_paid(virtual):
    offer = virtual.offers(type="bid")[0]
    number = virtual.rent(offer, price=0.5)
    virtual.wait(5)
    row = show(virtual, number)
    assert row["is_bid"] is True and row["dph_base"] == 0.5


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"disk": 4}, "invalid_args"),
        ({"image": "x" * 1025}, "invalid_args"),
        ({"label": "x" * 257}, "invalid_args"),
        ({"onstart": "x" * 16385}, "invalid_args"),
        ({"price": 500}, "invalid_price"),
        ({"image": ""}, "invalid_args"),
        ({"disk": 10**6}, "invalid_args"),
        ({"env": {f"-p {n}:{n}": "1" for n in range(65)}}, "invalid_args"),
    ],
)
def test_creates_that_are_refused(virtual, change, error):
    reply = virtual.rent_reply(**change)
    assert reply.status == 400 and reply.document()["error"] == error and virtual.listed("vastai") == []


def test_no_credit(make):
    it = make(deposit_usd="0")
    reply = it.rent_reply()
    assert reply.status == 400 and reply.document()["error"] == "insufficient_credit"


def test_the_old_list_is_gone_and_does_not_look_empty(virtual):
    reply = virtual.get("vastai", "/api/v0/instances/?owner=me")
    assert reply.status == 410 and reply.document()["error"] == "deprecated_endpoint"


def test_the_list_comes_in_pages_of_25(virtual):
    market = virtual.emulator.vastai.market
    numbers = [virtual.rent({"id": one}, label=f"l{n}") for n, one in enumerate(list(market.asks)[:30])]
    seen, token = [], None
    pages = 0
    while True:
        path = "/api/v1/instances/?limit=100" + (f"&after_token={token}" if token else "")
        document = virtual.get("vastai", path).document()
        seen += [str(one["id"]) for one in document["instances"]]
        assert document["total_instances"] == 30 and len(document["instances"]) <= 25
        pages += 1
        token = document["next_token"]
        if not token:
            break
    assert pages == 2 and seen == numbers


def test_the_list_is_filtered_by_label_and_not_by_computed_columns(virtual):
    virtual.rent(label="a")
    number = virtual.rent(label="b")
    found = virtual.get("vastai", f"/api/v1/instances/?select_filters={quote(json.dumps({'label': {'eq': 'b'}}))}").document()
    assert [str(one["id"]) for one in found["instances"]] == [number] and found["label_counts"] == {"a": 1, "b": 1}
    computed = virtual.get("vastai", f"/api/v1/instances/?select_filters={quote(json.dumps({'dph_total': {'lt': 1}}))}")
    assert computed.status == 400


def test_a_label_can_be_changed(virtual):
    number = virtual.rent()
    virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"label": "other"})
    assert show(virtual, number)["label"] == "other" and virtual.status(number)["tag"] == "other"
    assert virtual.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"label": "x" * 1025}).document()["error"] == "label_too_long"


def test_outbid(virtual):
    """The container is stopped without a word, its disk stays and bills."""
    number = virtual.rent(virtual.offers(type="bid")[0], price=0.4)
    virtual.wait(5)
    virtual.arm("preempted", now=True, at_seconds=0)
    virtual.wait(0)
    row = show(virtual, number)
    assert row["cur_state"] == row["intended_status"] == row["next_state"] == "stopped"
    before = Decimal(virtual.status(number)["usd_billed"])
    virtual.wait(3600 * 24)
    assert Decimal(virtual.status(number)["usd_billed"]) > before


def test_a_bid_is_changed_and_billed_from_then_on(virtual):
    number = virtual.rent(virtual.offers(type="bid")[0], price=0.4)
    virtual.wait(1.2)
    virtual.wait(3600)
    assert virtual.ask("vastai", "PUT", f"/api/v0/instances/bid_price/{number}/", {"client_id": "me", "price": 0.8}).status == 200
    virtual.wait(3600)
    times = [line for line in virtual.world.instances["vastai"][number].meter.times if line.kind == "gpu"]
    assert [line.amount(virtual.clock.now()) for line in times] == [Decimal("0.400000"), Decimal("0.800000")]


def test_ssh_keys_of_the_account(virtual):
    assert virtual.get("vastai", "/api/v0/ssh/").status == 404  # none yet
    added = virtual.ask("vastai", "POST", "/api/v0/ssh/", {"ssh_key": PUBLIC_KEY}).document()
    assert added["success"] and added["key"]["public_key"] == PUBLIC_KEY
    number = virtual.rent()
    assert virtual.world.instances["vastai"][number].spec.authorized_keys == (PUBLIC_KEY,)
    assert virtual.ask("vastai", "DELETE", "/api/v0/ssh/999/").document()["error"] == "no_ssh_key"
    virtual.ask("vastai", "POST", f"/api/v0/instances/{number}/ssh/", {"ssh_key": "ssh-ed25519 AAAA other"})
    assert len(virtual.get("vastai", f"/api/v0/instances/{number}/ssh/").document()["ssh_keys"]) == 2


def test_the_box_gets_what_a_container_gets(virtual):
    reply = virtual.rent_reply(env={"HF_HOME": "/x", "-p 8080:8080": "1"}, onstart="echo hi").document()
    spec = virtual.world.instances["vastai"][str(reply["new_contract"])].spec
    assert spec.env["CONTAINER_ID"] == str(reply["new_contract"]) and spec.env["CONTAINER_API_KEY"] == reply["instance_api_key"]
    assert spec.env["HF_HOME"] == "/x" and "-p 8080:8080" not in spec.env
    assert spec.start == ("/bin/sh", "-c", "echo hi") and not spec.login_sees_env and spec.port_variable == "VAST_TCP_PORT_22"


def test_args_run_as_the_entrypoint_without_ssh(virtual):
    number = virtual.rent(runtype="args", onstart="/bin/sh", args=["-c", "true"])
    spec = virtual.world.instances["vastai"][number].spec
    assert spec.start == ("/bin/sh", "-c", "true") and spec.start_is_entrypoint and spec.authorized_keys == ()


def test_creates_are_limited_and_searches_too(make):
    it = make(rate_limits=True)
    offers = it.offers()
    assert it.rent_reply(offers[0]).status == 200
    second = it.rent_reply(offers[1])
    assert second.status == 429 and second.headers["content-type"].startswith("text/plain")
    assert second.body.decode() == "API requests too frequent: endpoint threshold=4.5"
    it.wait(4.5)
    assert it.rent_reply(offers[1]).status == 200
    statuses = [it.ask("vastai", "POST", "/api/v0/bundles/", {}).status for _ in range(12)]
    assert statuses.count(200) == 9 and statuses[-1] == 429


def test_the_credit_running_out_stops_what_runs(make):
    it = make(deposit_usd="0.05")
    number = it.rent()
    it.wait(3600)
    assert it.status(number)["state"] == "stopped"


def test_bulk_calls(virtual):
    offers = virtual.offers()[:2]
    body = {"ids": [one["id"] for one in offers], "image": "x", "disk": 10}
    made = virtual.ask("vastai", "POST", "/api/v0/asks/bulk/", body).document()
    ids = [one["new_contract"] for one in made["results"]]
    virtual.ask("vastai", "DELETE", "/api/v0/instances/", {"instance_ids": ids})
    virtual.wait(1)
    assert virtual.listed("vastai") == []
