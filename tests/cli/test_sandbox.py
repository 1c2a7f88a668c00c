"""`lumina sandbox …` and `--sandbox` as a user types them, in processes of their own."""

import json
import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from providers.emulator import sandbox

LUMINA = Path(sys.executable).parent / "lumina"
KEYS = ("vastai_url", "runpod_url", "lambda_url", "api_key", "pid")


@pytest.fixture
def home(tmp_path):
    yield tmp_path / "home"
    sandbox.down(tmp_path / "home")


def lumina(home, *args, **more):
    env = {**os.environ, "LUMINA_HOME": str(home), "NO_COLOR": "1", **more}
    return subprocess.run([LUMINA, *args], check=False, env=env, capture_output=True, text=True, timeout=120)


def post(url, key, body):
    import urllib.request

    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
        return json.load(reply)


def rent_a_pod(document, name="lumina-x"):
    body = {"name": name, "image": "runpod/x", "gpu": {"id": "NVIDIA GeForce RTX 4090"}, "ports": ["22/tcp"], "args": "sleep 1234"}
    return post(document["runpod_url"] + "/v2/pods", document["api_key"], body)["id"]


def wait(home, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        document = sandbox.ask(home, "GET", "/status")
        if [one["state"] for one in document["instances"]] == wanted:
            return document
        assert time.monotonic() < deadline, document
        time.sleep(0.1)


def test_up_status_down(home):
    """The documents have exactly the promised keys; ended instances stay; the server is another process, and gone after down."""
    up = lumina(home, "sandbox", "up", "--json")
    assert up.returncode == 0, up.stderr
    document = json.loads(up.stdout)
    assert tuple(document) == KEYS and psutil.pid_exists(document["pid"])
    pod = rent_a_pod(document)
    wait(home, ["running"])
    running = json.loads(lumina(home, "sandbox", "status", "--json").stdout)
    assert set(running) == {"instances", "invoice_usd"} and isinstance(running["invoice_usd"], str)
    (one,) = running["instances"]
    assert set(one) == {"provider", "id", "state", "tag", "usd_billed"} and (one["provider"], one["id"], one["tag"]) == (
        "runpod",
        pod,
        "lumina-x",
    )
    assert Decimal(running["invoice_usd"]) > 0
    query = {"query": f'mutation {{ podTerminate(input: {{podId: "{pod}"}}) }}'}
    post(document["runpod_url"] + "/graphql", document["api_key"], query)
    ended = wait(home, ["ended"])
    assert ended["invoice_usd"] == ended["instances"][0]["usd_billed"]
    assert "lumina-x" in lumina(home, "sandbox", "status").stdout
    assert json.loads(lumina(home, "sandbox", "down", "--json").stdout) == {"stopped": True}
    assert not psutil.pid_exists(document["pid"]) or psutil.Process(document["pid"]).status() == psutil.STATUS_ZOMBIE
    gone = lumina(home, "sandbox", "status", "--json")
    assert gone.returncode == 7 and "no sandbox is up" in json.loads(gone.stderr)["error"]["message"]


def test_up_twice_is_one_sandbox(home):
    first, second = (json.loads(lumina(home, "sandbox", "up", "--json").stdout) for _ in range(2))
    assert first == second
    other = lumina(home, "sandbox", "up", "--seed", "5", "--json")
    assert other.returncode == 7 and "other settings" in json.loads(other.stderr)["error"]["message"]


def test_the_server_keeps_none_of_the_callers_handles(home, tmp_path):
    """A pipe, a file and a lock that the caller left open are not open in the server; its own output goes to a file."""
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        env = {**os.environ, "LUMINA_HOME": str(home)}
        done = subprocess.run(
            [LUMINA, "sandbox", "up", "--json"], check=False, env=env, capture_output=True, text=True, timeout=60, close_fds=False
        )
    server = psutil.Process(json.loads(done.stdout)["pid"])
    assert str(tmp_path / "held") not in {one.path for one in server.open_files()}
    handles = {path.readlink().as_posix() for path in Path(f"/proc/{server.pid}/fd").iterdir()} if Path("/proc").exists() else set()
    assert not any(one.startswith("pipe:") for one in handles)


def test_everything_in_it_dies_with_it(home):
    """A server that is killed without a chance takes its boxes along, and what runs in them."""
    document = json.loads(lumina(home, "sandbox", "up", "--json").stdout)
    rent_a_pod(document)
    wait(home, ["running"])
    server = psutil.Process(document["pid"])
    deadline = time.monotonic() + 20
    while not any("1234" in one.cmdline() for one in server.children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = server.children(recursive=True)
    server.kill()
    psutil.wait_procs(family, timeout=20)
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_faults_are_shown_armed_and_cleared(home, tmp_path):
    known = json.loads(lumina(home, "sandbox", "faults", "--json").stdout)["faults"]
    assert len(known) >= 30 and set(known[0]) == {"name", "kind", "what", "armed"}
    assert "host_key_changed" in lumina(home, "sandbox", "faults").stdout
    down = lumina(home, "sandbox", "faults", "timeout")
    assert down.returncode == 7 and "lumina sandbox up" in down.stderr
    lumina(home, "sandbox", "up", "--fault", "slow_boot")
    armed = json.loads(lumina(home, "sandbox", "faults", "error_500", "--provider", "runpod", "--times", "2", "--json").stdout)["armed"]
    assert [(one["name"], one["provider"], one["times"]) for one in armed] == [("slow_boot", None, 1), ("error_500", "runpod", 2)]
    (tmp_path / "storm.toml").write_text('[[fault]]\nname = "rate_limit_storm"\nprovider = "lambda"\n')
    lumina(home, "sandbox", "faults", "--scenario", str(tmp_path / "storm.toml"))
    left = json.loads(lumina(home, "sandbox", "faults", "--clear", "error_500", "--json").stdout)["armed"]
    assert [one["name"] for one in left] == ["slow_boot", "rate_limit_storm"]
    assert json.loads(lumina(home, "sandbox", "faults", "--clear", "--json").stdout)["armed"] == []
    wrong = lumina(home, "sandbox", "faults", "earthquake", "--json")
    assert wrong.returncode == 2 and "earthquake" in json.loads(wrong.stderr)["error"]["message"]


def test_a_fault_strikes_what_runs(home):
    document = json.loads(lumina(home, "sandbox", "up", "--json").stdout)
    rent_a_pod(document)
    wait(home, ["running"])
    lumina(home, "sandbox", "faults", "preempted", "--now", "--at-seconds", "0")
    wait(home, ["stopped"])
    assert not [one for one in psutil.Process(document["pid"]).children(recursive=True) if "1234" in one.cmdline()]


@pytest.mark.parametrize(
    "args", [("--market", "mad"), ("--switch", "nothing=1"), ("--switch", "x"), ("--deposit", "much"), ("--time-scale", "0")]
)
def test_settings_that_cannot_be_meant(home, args):
    done = lumina(home, "sandbox", "up", *args)
    assert done.returncode in (2, 7) and done.stderr and "Traceback" not in done.stderr


def test_sandbox_on_any_command_has_a_ledger_of_its_own(home):
    """Before the verb, after it, and by the variable; the real ledger is not even created."""
    for args, env in (
        (("--sandbox", "status", "--json"), {}),
        (("status", "--sandbox", "--json"), {}),
        (("status", "--json"), {"LUMINA_SANDBOX": "1"}),
    ):
        done = lumina(home, *args, **env)
        assert done.returncode == 0, done.stderr
    assert list((home / "sandbox").glob("*ledger*")) and not list(home.glob("*ledger*"))
    lumina(home, "status")
    assert list(home.glob("*ledger*"))


def test_sandbox_help_and_up_under_the_variable(home):
    assert "up" in lumina(home, "sandbox", "--help").stdout
    assert lumina(home, "sandbox", "up", LUMINA_SANDBOX="1").returncode == 0
    assert json.loads(lumina(home, "sandbox", "status", "--json", LUMINA_SANDBOX="1").stdout)["instances"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("offers",),
        ("plan", "debug", "--live"),
        ("launch", "debug", "--provider", "vastai", "--max-cost", "2", "--yes"),
        ("launch", "debug", "--provider", "runpod", "--dry-run"),
        ("reconcile",),
    ],
    ids=" ".join,
)
def test_without_a_sandbox_a_rehearsal_says_so_and_blames_no_cloud(home, words):
    done = lumina(home, *words, "--sandbox", "--json")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["kind"], error["message"]) == (7, "sandbox_down", "the sandbox is not running")
    assert error["hint"] == "lumina sandbox up"


def test_without_a_sandbox_a_rehearsal_can_still_be_read(home):
    for words in (("status",), ("costs",), ("plan", "debug"), ("budget",)):
        assert lumina(home, *words, "--sandbox").returncode == 0
    found = json.loads(lumina(home, "doctor", "--sandbox", "--json").stdout)["checks"]
    assert next((check["name"], check["hint"]) for check in found if check["state"] == "missing") == ("sandbox", "lumina sandbox up")
    assert not {"vastai", "runpod", "lambda"} & {check["name"] for check in found}
    begun = lumina(home, "init", "--yes", "--where", "vastai", "--sandbox", "--json")
    assert begun.returncode == 7 and json.loads(begun.stdout)["ready"] is False


def test_without_a_sandbox_nothing_leads_to_a_real_cloud(home):
    """What is typed with --sandbox while none is up must never reach a real provider: its variables lead to a dead port."""
    code = (
        "import os, sys; from lumina_cloud.cli import sandboxed; back = sandboxed.enter();"
        "print(os.environ['VAST_URL'], os.environ['RUNPOD_API_BASE_URL'], os.environ['VAST_API_KEY']); back();"
        "print(os.environ.get('VAST_URL'), os.environ['VAST_API_KEY'])"
    )
    env = {**os.environ, "LUMINA_HOME": str(home), "VAST_API_KEY": "real"}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["http://127.0.0.1:1 http://127.0.0.1:1 no-sandbox", "None real"]
