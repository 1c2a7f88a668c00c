"""The HTTP side: how faults look to a client's socket, keep-alive, and that nothing but the loopback answers."""

import json
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
import requests

from providers.emulator import sandbox

from .conftest import start

CATALOGUE = "/v2/catalog/gpus"


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield start(home, {"market": "still", "rate_limits": False})
    sandbox.down(home)


def arm(up, name, **more):
    up.ask("POST", "/faults", {"faults": [{"name": name, **more}]})


def get(up, path=CATALOGUE, timeout=20):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(up.connection.runpod_url + path, headers={"Authorization": f"Bearer {up.connection.api_key}"}, timeout=timeout)


def raw(up, path=CATALOGUE):
    """Send a request by hand. Returns the connected socket."""
    parts = urlsplit(up.connection.runpod_url)
    one = socket.create_connection((parts.hostname, parts.port), timeout=30)
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {up.connection.api_key}\r\n\r\n".encode())
    return one


def test_a_whole_reply(up):
    reply = get(up)
    assert reply.status_code == 200 and reply.json()["gpus"] and reply.headers["date"]


def test_a_dropped_connection_is_a_reset(up):
    arm(up, "lost_create_before", provider="runpod", call="offers")
    with raw(up) as one, pytest.raises(ConnectionResetError):
        while one.recv(1000):
            pass


def test_a_reply_that_hangs_says_nothing_until_it_breaks(up):
    arm(up, "timeout", provider="runpod", call="offers", seconds=2)
    begin = time.monotonic()
    with raw(up) as one, pytest.raises(ConnectionResetError):
        one.recv(1000)
    assert time.monotonic() - begin > 1


def test_a_reply_that_drips_defeats_a_read_timeout_but_not_a_deadline(up):
    """Each byte comes within the read's own time-out: only a deadline for the whole call ends it."""
    arm(up, "slow_loris", provider="runpod", call="offers", seconds=3)
    with raw(up) as one:
        seen = b""
        with pytest.raises(ConnectionResetError):
            while data := one.recv(1000):
                seen += data
    head, _, body = seen.partition(b"\r\n\r\n")
    assert b"200" in head and 2 <= len(body) <= 6


def test_a_malformed_body_is_half_of_one(up):
    arm(up, "malformed_body", provider="runpod", call="offers")
    reply = get(up)
    assert reply.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.text)


def test_an_html_page_with_200(up):
    arm(up, "html_200", provider="runpod", call="offers")
    reply = get(up)
    assert reply.status_code == 200 and "<html" in reply.text


def test_one_connection_serves_many_requests_and_204(up):
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {up.connection.api_key}"
        body = {"name": "n", "image": "x", "gpu": {"id": "NVIDIA GeForce RTX 4090"}}
        pod = session.post(up.connection.runpod_url + "/v2/pods", json=body, timeout=20).json()["id"]
        assert session.delete(up.connection.runpod_url + f"/v2/pods/{pod}", timeout=20).status_code == 204
        assert session.get(up.connection.runpod_url + f"/v2/pods/{pod}", timeout=20).status_code == 404


def test_fifty_at_once_are_all_answered(up):
    statuses = []

    def ask():
        statuses.append(get(up).status_code)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert statuses == [200] * 50


def test_only_the_loopback_answers(up):
    for url in (up.connection.vastai_url, up.connection.runpod_url, up.connection.lambda_url, up.connection.control_url):
        assert urlsplit(url).hostname == "127.0.0.1"
    listening = [one for one in __import__("psutil").Process(up.connection.pid).net_connections("tcp") if one.status == "LISTEN"]
    assert listening and {one.laddr.ip for one in listening} == {"127.0.0.1"}


def test_the_control_port_wants_the_key(up):
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(up.connection.control_url + "/status", timeout=20).status_code == 401


def test_the_control_port_refuses_what_cannot_be_meant(up):
    for body in ({"faults": [{"name": "nothing"}]}, {"faults": [{"name": "timeout", "when": 1}]}, {"faults": [1]}):
        with pytest.raises(sandbox.SandboxError):
            up.ask("POST", "/faults", body)
    with pytest.raises(sandbox.SandboxError, match="no such request"):
        up.ask("GET", "/nothing")
    up.ask("DELETE", "/faults")
    assert up.ask("GET", "/faults")["armed"] == []


def test_history_and_requests(up):
    get(up)
    document = up.ask("GET", "/history")
    assert document["requests"][-1]["call"] == "offers" and isinstance(document["history"], list)


def test_scaled_time_runs_faster(tmp_path):
    """Two minutes of a minute-billed machine pass in two seconds when time runs sixty times as fast."""
    it = start(tmp_path, {"time_scale": 60, "market": "still", "rate_limits": False})
    try:
        headers = {"Authorization": f"Bearer {it.connection.api_key}"}
        with requests.Session() as session:
            session.trust_env = False
            session.headers.update(headers)
            base = it.connection.lambda_url + "/api/v1"
            session.post(f"{base}/ssh-keys", json={"name": "k", "public_key": "ssh-ed25519 AAAA"}, timeout=20)
            body = {"region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["k"]}
            assert session.post(f"{base}/instance-operations/launch", json=body, timeout=20).status_code == 200
        deadline = time.monotonic() + 30
        while it.instances()[0]["usd_billed"] < "0.043000" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert it.instances()[0]["usd_billed"] >= "0.043000"
    finally:
        sandbox.down(tmp_path)


def test_up_down_and_what_is_left(tmp_path):
    first, started = sandbox.up(tmp_path, {"market": "still"})
    again, started_again = sandbox.up(tmp_path, {})
    assert (started, started_again) == (True, False) and first["pid"] == again["pid"]
    with pytest.raises(sandbox.SandboxError, match="other settings"):
        sandbox.up(tmp_path, {"seed": 9})
    assert sandbox.down(tmp_path) is True and sandbox.down(tmp_path) is False
    with pytest.raises(sandbox.SandboxDown, match="no sandbox is up"):
        sandbox.connection(tmp_path)
    assert sandbox.environment(tmp_path)["VAST_URL"] == "http://127.0.0.1:1"
    # Settings that cannot be meant are told, with the reason.
    with pytest.raises(sandbox.SandboxError, match="unknown switch"):
        sandbox.up(tmp_path, {"switches": {"x": 1}})


def test_a_sandbox_that_was_killed_is_not_taken_for_one_that_is_up(tmp_path):
    import os
    import signal

    document, _ = sandbox.up(tmp_path, {"market": "still"})
    os.kill(document["pid"], signal.SIGKILL)
    sandbox._ours.pop(document["pid"]).wait()
    with pytest.raises(sandbox.SandboxDown):
        sandbox.connection(tmp_path)
    fresh, started = sandbox.up(tmp_path, {"market": "still"})
    assert started and fresh["pid"] != document["pid"]
    sandbox.down(tmp_path)
