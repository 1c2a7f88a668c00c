"""Vast.ai's own command line and SDK are the referee: they search, create, show, label, stop and destroy here as they do there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import PUBLIC_KEY

BINARY = Path(sys.executable).parent / "vastai"


@pytest.fixture
def vastai(real, tmp_path):
    """The command line, with a home of its own."""

    def run(*args, key=None, check=True):
        env = real.env(tmp_path) | ({"VAST_API_KEY": key} if key else {})
        done = subprocess.run([BINARY, *args], check=False, env=env, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def sdk(real, tmp_path, monkeypatch):
    for name, value in real.env(tmp_path).items():
        monkeypatch.setenv(name, value)
    from vastai import VastAI

    return VastAI(api_key=real.connection.api_key, server_url=real.connection.vastai_url, raw=True)


def cheapest(vastai):
    query = "gpu_name=RTX_4090 num_gpus=1 reliability>0.99 direct_port_count>=1 rentable=true"
    return json.loads(vastai("search", "offers", query, "-o", "dph", "--raw").stdout)


def state(real, number):
    return next(one for one in real.instances() if one["id"] == str(number))


def wait_for(real, number, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while state(real, number)["state"] != wanted:
        assert time.monotonic() < deadline, state(real, number)
        time.sleep(0.1)


def test_the_command_line_from_search_to_destroy(real, vastai):
    offers = cheapest(vastai)
    assert offers and all(one["gpu_name"] == "RTX 4090" and one["num_gpus"] == 1 for one in offers)
    assert "RTX_4090" in vastai("search", "offers", "gpu_name=RTX_4090").stdout
    vastai("create", "ssh-key", PUBLIC_KEY)
    args = ["--image", "pytorch/pytorch", "--disk", "20", "--label", "lumina-cli", "--ssh", "--direct", "--raw"]
    made = json.loads(vastai("create", "instance", str(offers[0]["id"]), *args, "--onstart-cmd", "echo hello from the box").stdout)
    number = made["new_contract"]
    assert made["success"] is True and state(real, number)["tag"] == "lumina-cli"
    wait_for(real, number, "running")
    (row,) = json.loads(vastai("show", "instances", "--raw").stdout)
    assert (row["id"], row["label"], row["actual_status"]) == (number, "lumina-cli", "running")
    assert "running" in vastai("show", "instance", str(number)).stdout
    assert vastai("ssh-url", str(number)).stdout.startswith("ssh://root@127.0.0.1:")
    vastai("label", "instance", str(number), "lumina-other")
    assert state(real, number)["tag"] == "lumina-other"
    assert "hello from the box" in vastai("logs", str(number)).stdout
    vastai("stop", "instance", str(number))
    wait_for(real, number, "stopped")
    assert "starting instance" in vastai("start", "instance", str(number)).stdout
    wait_for(real, number, "running")
    charges = vastai("show", "invoices-v1", "--charges", "--raw").stdout
    assert f"instance-{number}" in charges
    assert "destroying instance" in vastai("destroy", "instance", str(number), "-y").stdout
    wait_for(real, number, "ended")
    assert json.loads(vastai("show", "instances", "--raw").stdout) == []
    assert vastai("show", "instance", str(number), check=False).returncode == 1


def test_a_wrong_key_is_told_in_vastais_own_way(vastai):
    done = vastai("show", "instances", key="nonsense", check=False)
    assert "Failed with error 404: Invalid user key" in done.stderr


def test_an_offer_that_is_gone(vastai):
    done = vastai("create", "instance", "1", "--image", "x", check=False)
    assert "no_such_ask" in done.stderr


def test_a_storm_of_429_is_waited_out(real, vastai):
    """The client honours Retry-After and comes again."""
    real.ask("POST", "/faults", {"faults": [{"name": "rate_limit_storm", "provider": "vastai", "call": "balance", "times": 2}]})
    assert json.loads(vastai("show", "user", "--raw").stdout)["credit"] > 0


def test_the_retired_list_is_an_error_for_the_client_too(real, vastai):
    real.ask("POST", "/faults", {"faults": [{"name": "retired_endpoint", "provider": "vastai", "call": "list", "times": 1}]})
    assert "Failed with error 410" in vastai("show", "instances", check=False).stderr


def test_the_sdk_from_search_to_destroy(real, sdk):
    offers = sdk.search_offers(query="gpu_name=RTX_4090 num_gpus=1 reliability>0.99", order="dph_total")
    offer = offers[0]
    made = sdk.create_instance(id=offer["id"], image="pytorch/pytorch", disk=16, label="lumina-sdk", ssh=True, direct=True, env={"A": "b"})
    number = made["new_contract"]
    wait_for(real, number, "running")
    row = sdk.show_instance(id=number)
    assert row["actual_status"] == "running" and row["extra_env"] == {"A": "b"}
    assert [one["id"] for one in sdk.show_instances()] == [number]
    sdk.label_instance(id=number, label="lumina-two")
    assert state(real, number)["tag"] == "lumina-two"
    assert sdk.destroy_instance(id=number)["success"] is True
    wait_for(real, number, "ended")
    assert sdk.show_instance(id=number) is None


def test_the_sdk_bids(real, sdk):
    offer = sdk.search_offers(query="gpu_name=RTX_4090 num_gpus=1", type="bid", order="dph_total")[0]
    made = sdk.create_instance(id=offer["id"], image="x", disk=10, price=offer["min_bid"], label="lumina-bid")
    number = made["new_contract"]
    wait_for(real, number, "running")
    assert sdk.show_instance(id=number)["is_bid"] is True
    sdk.change_bid(id=number, price=0.9)
    assert sdk.show_instance(id=number)["dph_base"] == 0.9
    sdk.destroy_instance(id=number)
    wait_for(real, number, "ended")


def test_the_environment_of_the_sandbox_is_enough(real, tmp_path):
    """VAST_URL and VAST_API_KEY lead the command line here, and nothing else is needed."""
    assert set(real.env(tmp_path)) >= {"VAST_URL", "VAST_API_KEY"} and os.environ.get("VAST_URL") is None
