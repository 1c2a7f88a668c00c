"""Lambda's dialect against its specification 1.8.3."""

import base64

import pytest

from .conftest import PUBLIC_KEY

INSTANCE_FIELDS = {
    *("id", "name", "private_ip", "status", "ssh_key_names", "file_system_names", "region", "instance_type", "hostname"),
    *("jupyter_token", "jupyter_url", "actions", "tags", "firewall_rulesets"),
}


def show(it, vm):
    return it.get("lambda", f"/api/v1/instances/{vm}").document()["data"]


def test_types_are_an_object_by_name_and_keep_those_without_capacity(virtual):
    data = virtual.get("lambda", "/api/v1/instance-types").document()["data"]
    assert isinstance(data, dict) and data["gpu_1x_a10"]["regions_with_capacity_available"]
    assert any(not one["regions_with_capacity_available"] for one in data.values())
    kind = data["gpu_8x_a100_80gb_sxm4"]["instance_type"]
    assert kind["price_cents_per_hour"] == 2232 and kind["specs"]["gpus"] == 8 and kind["gpu_description"] == "A100 (80 GB SXM4)"
    assert set(kind) == {"name", "description", "gpu_description", "price_cents_per_hour", "specs"}


def test_life_of_a_machine(virtual):
    vm = virtual.launch(tags=[{"key": "lumina-job", "value": "42"}])
    row = show(virtual, vm)
    assert len(vm) == 32 and set(row) == INSTANCE_FIELDS and row["status"] == "booting"  # no address yet
    assert row["tags"] == [{"key": "lumina-job", "value": "42"}] and row["actions"]["restart"]["reason_code"] == "vm-has-not-launched"
    virtual.wait(1)
    assert show(virtual, vm)["ip"] and show(virtual, vm)["status"] == "booting"
    virtual.wait(1)
    assert show(virtual, vm)["status"] == "active"
    (ending,) = virtual.terminate("lambda", vm).document()["data"]["terminated_instances"]
    assert ending["status"] == "terminating" and ending["actions"]["terminate"]["reason_code"] == "vm-is-terminating"
    virtual.wait(1)
    assert show(virtual, vm)["status"] == "terminated"
    virtual.wait(2)
    gone = virtual.get("lambda", f"/api/v1/instances/{vm}")
    assert gone.status == 404 and gone.document()["error"]["code"] == "global/object-does-not-exist"
    assert virtual.listed("lambda") == [] and virtual.terminate("lambda", vm).status == 404


def test_keys_by_bearer_and_by_basic(virtual):
    for text in (f"Basic {base64.b64encode(f'{virtual.key}:'.encode()).decode()}", f"Bearer {virtual.key}", f"Basic {virtual.key}"):
        assert virtual.get("lambda", "/api/v1/instances", key="", headers={"Authorization": text}).status == 200


@pytest.mark.parametrize("key", ["", "nonsense"])
def test_wrong_keys(virtual, key):
    reply = virtual.get("lambda", "/api/v1/instances", key=key)
    assert reply.status == 401 and reply.document()["error"]["code"] == "global/invalid-api-key"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"ssh_key_names": []}, 400, "global/invalid-parameters"),
        ({"ssh_key_names": ["k", "k"]}, 400, "global/invalid-parameters"),
        ({"ssh_key_names": ["other"]}, 404, "global/object-does-not-exist"),
        ({"instance_type_name": "gpu_9x_b1"}, 404, "global/object-does-not-exist"),
        ({"quantity": 2}, 400, "global/invalid-parameters"),
        ({"name": "x" * 65}, 400, "global/invalid-parameters"),
        ({"hostname": "UPPER"}, 400, "global/invalid-parameters"),
        ({"tags": [{"key": "Upper", "value": "x"}]}, 400, "global/invalid-parameters"),
        ({"user_data": "x" * (2**20 + 1)}, 400, "global/invalid-parameters"),
        ({"bid": 1}, 400, "global/invalid-parameters"),
        ({"file_system_names": ["x"]}, 404, "global/object-does-not-exist"),
        (
            {"instance_type_name": "gpu_8x_b200_sxm6", "region_name": "asia-northeast-1"},
            400,
            "instance-operations/launch/insufficient-capacity",
        ),
    ],
)
def test_launches_that_are_refused(virtual, change, status, code):
    virtual.emulator.lambda_.capacity["gpu_8x_b200_sxm6"].clear()
    reply = virtual.launch_reply(**change)
    assert (reply.status, reply.document()["error"]["code"]) == (status, code) and virtual.listed("lambda") == []


def test_no_credit_is_an_inactive_account(make):
    reply = make(deposit_usd="0").launch_reply()
    assert reply.status == 403 and reply.document()["error"]["code"] == "global/account-inactive"


def test_user_data_is_never_shown(virtual):
    vm = virtual.launch(user_data="#!/bin/sh\necho canary\n")
    assert "canary" not in str(show(virtual, vm)) and virtual.world.instances["lambda"][vm].spec.user_data.endswith("canary\n")


def test_rename(virtual):
    vm = virtual.launch()
    assert virtual.ask("lambda", "POST", f"/api/v1/instances/{vm}", {"name": "other"}).document()["data"]["name"] == "other"


def test_restart_keeps_it(virtual):
    vm = virtual.launch()
    virtual.wait(5)
    (row,) = virtual.ask("lambda", "POST", "/api/v1/instance-operations/restart", {"instance_ids": [vm]}).document()["data"][
        "restarted_instances"
    ]
    assert row["status"] == "booting"
    virtual.wait(5)
    assert show(virtual, vm)["status"] == "active"


def test_one_bad_id_fails_the_whole_terminate(virtual):
    vm = virtual.launch()
    assert virtual.ask("lambda", "POST", "/api/v1/instance-operations/terminate", {"instance_ids": [vm, "f" * 32]}).status == 404
    assert virtual.listed("lambda") == [vm]


def test_ssh_keys(virtual):
    made = virtual.ask("lambda", "POST", "/api/v1/ssh-keys", {"name": "mine", "public_key": PUBLIC_KEY}).document()["data"]
    assert set(made) == {"id", "name", "public_key"}
    assert virtual.ask("lambda", "POST", "/api/v1/ssh-keys", {"name": "mine", "public_key": PUBLIC_KEY}).status == 400
    pair = virtual.ask("lambda", "POST", "/api/v1/ssh-keys", {"name": "theirs"}).document()["data"]
    assert pair["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert [one["name"] for one in virtual.get("lambda", "/api/v1/ssh-keys").document()["data"]] == ["mine", "theirs"]
    assert virtual.ask("lambda", "DELETE", f"/api/v1/ssh-keys/{made['id']}").document() == {"data": {}}
    assert virtual.ask("lambda", "DELETE", f"/api/v1/ssh-keys/{made['id']}").status == 404


def test_one_request_a_second_and_one_launch_in_twelve(make):
    it = make(rate_limits=True)
    assert it.launch_reply().status == 200
    it.wait(5)
    again = it.launch_reply()
    assert again.status == 429 and int(again.headers["retry-after"]) >= 7
    it.wait(7)
    assert it.launch_reply().status == 200
    it.wait(10)
    statuses = [it.get("lambda", "/api/v1/instances").status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def test_there_is_nothing_to_stop_and_nothing_to_bill_by(virtual):
    vm = virtual.launch()
    for path in ("/api/v1/instance-operations/stop", "/api/v1/billing", "/api/v1/balance"):
        assert virtual.ask("lambda", "POST", path, {"instance_ids": [vm]}).status in (404, 405)


def test_the_audit_log_tells_when_a_machine_was_launched_and_terminated(virtual):
    vm = virtual.launch()
    virtual.wait(90)
    virtual.terminate("lambda", vm)
    events = virtual.get("lambda", "/api/v1/audit-events").document()
    assert [one["action"] for one in events["data"]] == ["launched", "terminated"] and events["page_token"] is None
    assert events["data"][0]["resource_lrns"] == [f"lrn:cloud:instance:{vm}"]
    later = virtual.get("lambda", f"/api/v1/audit-events?start={events['data'][1]['event_time']}").document()["data"]
    assert [one["action"] for one in later] == ["terminated"]


def test_other_lists(virtual):
    images = virtual.get("lambda", "/api/v1/images").document()["data"]
    assert {one["family"] for one in images} >= {"lambda-stack-22-04"}
    for path in ("file-systems", "firewall-rules", "firewall-rulesets"):
        assert isinstance(virtual.get("lambda", f"/api/v1/{path}").document()["data"], list)
