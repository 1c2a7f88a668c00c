"""Every fault by its name: what it does, at each provider, and that it stops when it is spent."""

import json
from decimal import Decimal

import pytest

from providers.emulator import faults
from providers.emulator.faults import Armed

from .conftest import PROVIDERS, Virtual

each = pytest.mark.parametrize("provider", PROVIDERS)
LIST = {"vastai": "/api/v1/instances/", "runpod": "/v2/pods", "lambda": "/api/v1/instances"}


def lists(it, provider):
    return it.get(provider, LIST[provider])


def seconds_to_run(it, provider):
    it.wait(10)
    return provider


def test_the_catalogue_names_what_can_go_wrong():
    """One fault for each trouble that the sandbox promises, in its order."""
    promised = [
        "lost_create_before",
        "lost_create_after",
        "create_fails_leaves_stopped",
        "duplicated_create",
        "rate_limit_storm",
        "error_500",
        "error_500_after_effect",
        "timeout",
        "slow_loris",
        "malformed_body",
        "html_200",
        "empty_list",
        "retired_endpoint",
        "slow_boot",
        "never_boot",
        "ssh_refused",
        "host_key_changed",
        "wrong_gpu",
        "slow_download",
        "disk_full",
        "preempted",
        "preempted_with_warning",
        "host_death",
        "network_partition",
        "terminate_ignored",
        "terminate_lies",
        "listing_lag",
        "clock_skew",
        "price_rise",
        "balance_gone",
    ]
    assert set(promised) <= set(faults.BY_NAME)


@each
def test_lost_create_before(virtual, provider):
    virtual.arm("lost_create_before", provider=provider)
    assert virtual.create_reply(provider).delivery == "dropped" and virtual.listed(provider) == []
    assert virtual.create_reply(provider).delivery == "whole"


@each
def test_lost_create_after(virtual, provider):
    virtual.arm("lost_create_after", provider=provider)
    assert virtual.create_reply(provider).delivery == "dropped" and len(virtual.listed(provider)) == 1


@each
def test_create_fails_leaves_stopped(virtual, provider):
    """Something is left and costs money; only Vast.ai names it in the error."""
    virtual.arm("create_fails_leaves_stopped", provider=provider)
    reply = virtual.create_reply(provider)
    (left,) = virtual.listed(provider)
    assert reply.status >= 400
    if provider == "vastai":
        assert str(reply.document()["new_contract"]) == left
    if provider != "lambda":  # which knows no stopped machines
        assert virtual.status(left)["state"] == "stopped"
    before = Decimal(virtual.status(left)["usd_billed"])
    virtual.wait(48 * 3600)
    paid = Decimal(virtual.status(left)["usd_billed"]) - before
    assert paid > 0 if provider != "runpod" else paid == 0  # a pod without a volume keeps nothing


@each
def test_duplicated_create(virtual, provider):
    virtual.arm("duplicated_create", provider=provider)
    assert virtual.create_reply(provider).status in (200, 201)
    assert len(virtual.listed(provider)) == 2 and {one["tag"] for one in virtual.emulator.status()["instances"]} == {"lumina-t"}


@each
def test_rate_limit_storm(virtual, provider):
    virtual.arm("rate_limit_storm", provider=provider, times=3)
    replies = [lists(virtual, provider) for _ in range(4)]
    assert [one.status for one in replies] == [429, 429, 429, 200] and int(replies[0].headers["retry-after"]) >= 1


@each
def test_error_500(virtual, provider):
    virtual.arm("error_500", provider=provider, call="create", times=1)
    assert virtual.create_reply(provider).status == 500 and virtual.listed(provider) == []


@each
def test_error_500_after_effect(virtual, provider):
    virtual.arm("error_500_after_effect", provider=provider)
    assert virtual.create_reply(provider).status == 500 and len(virtual.listed(provider)) == 1


@each
@pytest.mark.parametrize(("name", "made"), [("timeout", 1), ("timeout_before", 0)])
def test_timeouts(virtual, provider, name, made):
    virtual.arm(name, provider=provider, call="create", seconds=90)
    reply = virtual.create_reply(provider)
    assert (reply.delivery, reply.seconds) == ("hung", 90) and len(virtual.listed(provider)) == made


@each
def test_slow_loris(virtual, provider):
    virtual.arm("slow_loris", provider=provider, call="list")
    reply = lists(virtual, provider)
    assert reply.delivery == "dribbled" and reply.document() is not None


@each
def test_malformed_body(virtual, provider):
    virtual.arm("malformed_body", provider=provider, call="create")
    reply = virtual.create_reply(provider)
    with pytest.raises(json.JSONDecodeError):
        reply.document()
    assert len(virtual.listed(provider)) == 1


@each
def test_html_200(virtual, provider):
    virtual.arm("html_200", provider=provider, call="list")
    reply = lists(virtual, provider)
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/html") and b"<html" in reply.body


@each
def test_empty_list(virtual, provider):
    made = virtual.create(provider)
    virtual.arm("empty_list", provider=provider, times=1)
    assert virtual.listed(provider) == [] and virtual.listed(provider) == [made]


@each
def test_retired_endpoint(virtual, provider):
    virtual.arm("retired_endpoint", provider=provider, call="list")
    assert [lists(virtual, provider).status for _ in range(3)] == [410] * 3
    virtual.emulator.world.faults.clear("retired_endpoint")
    assert lists(virtual, provider).status == 200


@each
def test_terminate_ignored(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(10)
    virtual.arm("terminate_ignored", provider=provider)
    assert virtual.terminate(provider, made).status in (200, 204)
    virtual.wait(3600)
    assert virtual.listed(provider) == [made]
    virtual.terminate(provider, made)
    virtual.wait(60)
    assert virtual.listed(provider) == []


@each
def test_terminate_lies(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(10)
    virtual.arm("terminate_lies", provider=provider)
    assert virtual.terminate(provider, made).status in (200, 204)
    virtual.wait(59)
    assert virtual.listed(provider) == [made] and virtual.status(made)["state"] == "running"
    virtual.wait(10)
    assert virtual.listed(provider) == [] and virtual.status(made)["state"] == "ended"


@each
def test_boots(virtual, provider):
    virtual.arm("slow_boot", provider=provider)
    slow = virtual.create(provider)
    virtual.arm("never_boot", provider=provider)
    never = virtual.create(provider)
    virtual.wait(100)
    assert [virtual.status(one)["state"] for one in (slow, never)] == ["creating", "creating"]
    virtual.wait(100)
    assert [virtual.status(one)["state"] for one in (slow, never)] == ["running", "creating"]
    virtual.wait(24 * 3600)
    assert virtual.status(never)["state"] == "creating" and Decimal(virtual.status(never)["usd_billed"]) > 0


def machine(it, provider, number):
    return it.world.instances[provider][number].machine


@each
def test_faults_of_the_machine(virtual, provider):
    """What strikes a box reaches it: its network, its host key, its disk."""
    for name in ("ssh_refused", "host_key_changed", "disk_full"):
        virtual.arm(name, provider=provider, at_seconds=2)
    made = virtual.create(provider)
    virtual.wait(5)
    box = machine(virtual, provider, made)
    key = box.key
    assert box.mode == "refused"
    virtual.wait(5)
    assert box.disk_full and "rotate_host_key" in box.calls and virtual.status(made)["state"] == "running" and key


@each
def test_wrong_gpu_and_slow_download_are_not_told(virtual, provider):
    virtual.arm("wrong_gpu", provider=provider)
    virtual.arm("slow_download", provider=provider)
    made = virtual.create(provider)
    spec = virtual.world.instances[provider][made].spec
    offered = "NVIDIA A10" if provider == "lambda" else "NVIDIA GeForce RTX 4090"
    assert spec.gpu_name != offered and spec.download_kib_per_second == 64
    shown = json.dumps(virtual.get(provider, {"vastai": f"/api/v0/instances/{made}/"}.get(provider, f"{LIST[provider]}/{made}")).document())
    assert ("A10" if provider == "lambda" else "4090") in shown


@each
def test_preempted(virtual, provider):
    virtual.arm("preempted", provider=provider, at_seconds=10)
    made = virtual.create(provider)
    virtual.wait(5)
    assert virtual.status(made)["state"] == "running"
    virtual.wait(20)
    assert virtual.status(made)["state"] == ("ended" if provider == "lambda" else "stopped")
    assert "warn" not in machine(virtual, provider, made).calls


@each
def test_preempted_with_warning(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(10)
    virtual.arm("preempted_with_warning", provider=provider, now=True)
    virtual.wait(1)
    assert machine(virtual, provider, made).calls[-1] == "warn" and virtual.status(made)["state"] == "running"
    virtual.wait(5)
    assert virtual.status(made)["state"] in ("stopped", "ended")


@each
def test_host_death(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(10)
    virtual.arm("host_death", provider=provider, now=True)
    virtual.wait(1)
    assert machine(virtual, provider, made).calls[-1] == "halt"
    virtual.terminate(provider, made)
    virtual.wait(60)
    assert virtual.status(made)["state"] == "ended"


@each
def test_network_partition(virtual, provider):
    """Nobody reaches the box, and it does not reach its provider's API; after a minute both are well again."""
    made = virtual.create(provider)
    virtual.wait(10)
    virtual.arm("network_partition", provider=provider, now=True, seconds=60)
    virtual.wait(1)
    assert machine(virtual, provider, made).mode == "partitioned"
    if provider != "lambda":  # whose boxes hold no key
        key = virtual.world.instances[provider][made].key
        path = f"/api/v0/instances/{made}/" if provider == "vastai" else f"/v2/pods/{made}"
        assert virtual.get(provider, path, key=key).delivery == "dropped" and virtual.get(provider, path).delivery == "whole"
        virtual.wait(60)
        assert virtual.get(provider, path, key=key).status == 200
    virtual.wait(60)
    assert machine(virtual, provider, made).mode == "open"


@each
def test_listing_lag(virtual, provider):
    virtual.arm("listing_lag", provider=provider, seconds=20)
    made = virtual.create(provider)
    virtual.wait(19)
    assert virtual.listed(provider) == []
    virtual.wait(1)
    assert virtual.listed(provider) == [made]
    virtual.terminate(provider, made)
    virtual.wait(10)
    assert virtual.listed(provider) == [made]
    virtual.wait(40)
    assert virtual.listed(provider) == []


@each
def test_clock_skew(virtual, provider):
    honest = lists(virtual, provider).headers["date"]
    virtual.arm("clock_skew", provider=provider)
    made = virtual.create(provider)
    assert lists(virtual, provider).headers["date"] != honest
    if provider == "runpod":
        pod = virtual.get("runpod", f"/v2/pods/{made}").document()
        assert pod["createdAt"][:10] != virtual.world.history[0]["at"][:10]


@each
def test_box_clock_skew(virtual, provider):
    virtual.arm("box_clock_skew", provider=provider)
    made = virtual.create(provider)
    assert virtual.world.instances[provider][made].spec.clock_skew_seconds == 86_400


@each
def test_price_rise(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(3600)
    first = Decimal(virtual.status(made)["usd_billed"])
    virtual.arm("price_rise", provider=provider)
    virtual.wait(3600)
    second = Decimal(virtual.status(made)["usd_billed"]) - first
    assert second > first * Decimal("1.9")


@each
def test_balance_gone(virtual, provider):
    made = virtual.create(provider)
    virtual.wait(60)
    virtual.arm("balance_gone", provider=provider)
    virtual.wait(60)
    assert virtual.status(made)["state"] == {"vastai": "stopped", "runpod": "ended", "lambda": "ended"}[provider]
    assert virtual.create_reply(provider).status in (400, 402, 403)


def test_after_chance_and_times(make):
    it = make(seed=5)
    it.arm("error_500", provider="lambda", call="list", after=2, times=1)
    assert [lists(it, "lambda").status for _ in range(4)] == [200, 200, 500, 200]
    it.arm("error_500", provider="lambda", call="list", chance=0.5, times=-1)
    statuses = [lists(it, "lambda").status for _ in range(40)]
    assert 5 < statuses.count(500) < 35
    again = Virtual(seed=5)
    again.arm("error_500", provider="lambda", call="list", after=2, times=1)
    _ = [lists(again, "lambda").status for _ in range(4)]
    again.arm("error_500", provider="lambda", call="list", chance=0.5, times=-1)
    assert [lists(again, "lambda").status for _ in range(40)] == statuses  # the seed decides


def test_a_scenario_file():
    text = """
    seed = 7
    market = "wild"
    switches = { lambda_billing_starts_at = "active" }
    [[fault]]
    name = "preempted"
    provider = "vastai"
    at_seconds = 30
    times = 2
    [[fault]]
    name = "lost_create_after"
    """
    settings, armed = faults.read_scenario(text)
    assert settings == {"seed": 7, "market": "wild", "switches": {"lambda_billing_starts_at": "active"}}
    assert armed == [Armed("preempted", provider="vastai", at_seconds=30, times=2), Armed("lost_create_after")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[fault]]\nname = "earthquake"', "unknown fault 'earthquake'"),
        ('[[fault]]\nname = "timeout"\nprovider = "aws"', "unknown provider 'aws'"),
        ('[[fault]]\nname = "timeout"\ncall = "dance"', "unknown call 'dance'"),
        ('[[fault]]\nname = "timeout"\nwhen = 3', "unknown key 'when'"),
        ('[[fault]]\nname = "timeout"\nchance = 2', "between 0 and 1"),
        ('[[fault]]\nname = "timeout"\nseconds = "long"', "must be a number"),
        ("[[fault]]\ntimes = 1", "needs a name"),
        ("weather = 1", "unknown key 'weather'"),
    ],
)
def test_scenarios_that_cannot_be_meant(text, said):
    with pytest.raises(ValueError, match=said):
        faults.read_scenario(text)
