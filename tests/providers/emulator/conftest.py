"""Fixtures: an emulator on a virtual clock without sockets, and a real sandbox with HTTP and boxes."""

import json
import os
from dataclasses import dataclass

import pytest

from providers.emulator import sandbox as sandbox_module
from providers.emulator.clock import VirtualClock
from providers.emulator.emulator import Emulator
from providers.emulator.faults import Armed
from providers.emulator.switches import Options, Unverified
from providers.emulator.wire import Request

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF7EyOIOVEewDZy+X+Mgf7tvzuPoVfQVzxxJE7vAI40v test"


class Virtual:
    """An emulator on a virtual clock, with stub machines, and an account's key."""

    def __init__(self, **options):
        switches = options.pop("switches", {})
        options.setdefault("market", "still")
        options.setdefault("rate_limits", False)
        self.clock = VirtualClock()
        self.emulator = Emulator(self.clock, Options(unverified=Unverified(**switches), **options))
        self.world = self.emulator.world
        self.key = self.world.api_key

    def ask(self, provider, method, target, body=None, *, key=None, headers=None):
        """Send a request; a key of "" sends none."""
        key = self.key if key is None else key
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        data = b"" if body is None else json.dumps(body).encode()
        return self.emulator.handle(provider, Request.of(method, target, sent, data))

    def get(self, provider, target, **more):
        return self.ask(provider, "GET", target, **more)

    def graphql(self, query, **more):
        return self.ask("runpod", "POST", "/graphql", {"query": query}, **more)

    def wait(self, seconds):
        """Let time pass."""
        self.clock.advance(seconds)
        self.emulator.status()

    def arm(self, name, *, now=False, **more):
        self.emulator.arm([Armed(name, **more)], now=now)

    def status(self, number):
        return next(one for one in self.emulator.status()["instances"] if one["id"] == str(number))

    # One of each, as simple as it can be

    def offers(self, **filters):
        query = {
            "gpu_name": {"eq": "RTX 4090"},
            "num_gpus": {"eq": 1},
            "reliability2": {"gte": 0.99},
            "direct_port_count": {"gte": 1},
            "order": [["dph_total", "asc"]],
            **filters,
        }
        return self.ask("vastai", "POST", "/api/v0/bundles/", query).document()["offers"]

    def rent_reply(self, offer=None, **more):
        offer = offer or self.offers()[0]
        body = {"image": "pytorch/pytorch", "disk": 20, "label": "lumina-t", "runtype": "ssh_direc ssh_proxy", **more}
        return self.ask("vastai", "PUT", f"/api/v0/asks/{offer['id']}/", body)

    def rent(self, offer=None, **more):
        return str(self.rent_reply(offer, **more).document()["new_contract"])

    def pod_reply(self, **more):
        body = {"name": "lumina-t", "image": "runpod/pytorch:x", "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1}, "disk": 50, **more}
        body.setdefault("ports", ["22/tcp"])
        body.setdefault("env", {"PUBLIC_KEY": PUBLIC_KEY})
        return self.ask("runpod", "POST", "/v2/pods", body)

    def pod(self, **more):
        return self.pod_reply(**more).document()["id"]

    def launch_reply(self, **more):
        self.world.accounts["lambda"].ssh_keys.setdefault("k", PUBLIC_KEY)
        body = {"region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["k"], "name": "lumina-t", **more}
        return self.ask("lambda", "POST", "/api/v1/instance-operations/launch", body)

    def launch(self, **more):
        return self.launch_reply(**more).document()["data"]["instance_ids"][0]

    def create_reply(self, provider):
        return {"vastai": self.rent_reply, "runpod": self.pod_reply, "lambda": self.launch_reply}[provider]()

    def create(self, provider):
        return {"vastai": self.rent, "runpod": self.pod, "lambda": self.launch}[provider]()

    def terminate(self, provider, number):
        if provider == "vastai":
            return self.ask("vastai", "DELETE", f"/api/v0/instances/{number}/", {})
        if provider == "runpod":
            return self.ask("runpod", "DELETE", f"/v2/pods/{number}")
        return self.ask("lambda", "POST", "/api/v1/instance-operations/terminate", {"instance_ids": [number]})

    def listed(self, provider):
        """Return the ids in the provider's own list."""
        if provider == "vastai":
            return [str(one["id"]) for one in self.get("vastai", "/api/v1/instances/").document()["instances"]]
        if provider == "runpod":
            return [one["id"] for one in self.get("runpod", "/v2/pods").document()["pods"]]
        return [one["id"] for one in self.get("lambda", "/api/v1/instances").document()["data"]]


PROVIDERS = ("vastai", "runpod", "lambda")


@pytest.fixture
def make():
    return Virtual


@pytest.fixture
def virtual():
    return Virtual()


@dataclass
class Real:
    """A sandbox that is up."""

    home: object
    connection: sandbox_module.Connection

    def env(self, home):
        """Return an environment for an official client, with a home of its own."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        found = sandbox_module.environment(self.home)
        return {**kept, **found, "HOME": str(home), "XDG_CONFIG_HOME": f"{home}/.config", "VASTAI_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}

    def ask(self, method, path, body=None):
        return sandbox_module.ask(self.home, method, path, body)

    def instances(self):
        return self.ask("GET", "/status")["instances"]


def start(home, settings):
    sandbox_module.up(home, settings)
    return Real(home, sandbox_module.connection(home))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A sandbox with real boxes, shared by a module; rate limits are off where they are not what is tested."""
    home = tmp_path_factory.mktemp("home")
    yield start(home, {"market": "still", "rate_limits": False})
    sandbox_module.down(home)
