"""`lumina offers`, `prices`, `doctor` and `plan --live` as real processes, against a server that plays the clouds' own examples."""

import json
import threading
from collections import Counter
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.providers import worlds
from tests.providers.exchanges import load

KEY = "canary-5f1c0de"


class Clouds:
    """The three clouds on one loopback port; `broken` maps a cloud to a status and a body that it answers everything with."""

    def __init__(self):
        self.pairs = {}
        for provider in ("vastai", "runpod", "lambda"):
            for pair in load(provider).values():
                self.pairs.setdefault((provider, pair["request"]["method"], pair["request"]["path"]), pair["response"])
        self.broken, self.asked = {}, Counter()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self, *keyed):
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        urls = {"VAST_URL": f"{url}/vastai", "RUNPOD_API_BASE_URL": f"{url}/runpod", "LAMBDA_BASE_URL": f"{url}/lambda"}
        return urls | {{"vastai": "VAST_API_KEY", "runpod": "RUNPOD_API_KEY", "lambda": "LAMBDA_API_KEY"}[name]: KEY for name in keyed}

    def _handler(self):
        clouds = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                _, provider, path = urlsplit(self.path).path.split("/", 2)
                clouds.asked[provider] += 1
                status, body = clouds.reply(provider, self.command, f"/{path}", sent)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_args):
                pass

        return Handler

    def reply(self, provider, method, path, sent):
        if provider in self.broken:
            status, text = self.broken[provider]
            return status, text.encode()
        balance = path == "/graphql" and b"myself" in sent
        said = load("runpod")["balance"]["response"] if balance else self.pairs[provider, method, path]
        return said["status"], (said["text"] if "text" in said else json.dumps(said["body"])).encode()


@pytest.fixture
def clouds():
    made = Clouds()
    yield made
    made.server.shutdown()
    made.server.server_close()


ALL = ("vastai", "runpod", "lambda")


def test_offers_of_three_clouds_in_one_table(lumina, clouds):
    document = lumina.json("offers", **clouds.environment(*ALL))
    assert document["failed"] == []
    assert {o["provider"] for o in document["offers"]} == set(ALL)
    prices = [Decimal(o["usd_per_hour"]) for o in document["offers"]]
    assert prices == sorted(prices)
    assert all(o["age_seconds"] >= 0 and o["region"] is not None for o in document["offers"])
    shown = lumina("offers", **clouds.environment(*ALL))
    assert shown.returncode == 0
    for part in ("1 x RTX4090", "1 x A10", "vastai", "runpod", "lambda", "interruptible", "99.6%", "us-east-1"):
        assert part in shown.stdout
    assert KEY not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("args", "holds"),
    [
        (["--gpu", "4090"], lambda o: o["gpu"] == "RTX4090"),
        (["--gpu", "NVIDIA GeForce RTX 4090", "--count", "1"], lambda o: (o["gpu"], o["count"]) == ("RTX4090", 1)),
        (["--max-usd", "0.40"], lambda o: Decimal(o["usd_per_hour"]) <= Decimal("0.40")),
        (["--secure"], lambda o: o["secure"]),
        (["--min-reliability", "0.98"], lambda o: o["reliability"] >= 0.98),
        (["--interruptible"], lambda o: o["interruptible"] and o["bid_usd_per_hour"] is not None),
        (["--region", "us-east"], lambda o: o["region"].startswith("us-east")),
        (["--region", "US"], lambda o: "US" in o["region"] or o["region"].startswith("us-")),
        (["--provider", "runpod"], lambda o: o["provider"] == "runpod"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_hold(lumina, clouds, args, holds):
    offers = lumina.json("offers", *args, **clouds.environment(*ALL))["offers"]
    assert offers
    assert all(holds(o) for o in offers), offers


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((500, "{}"), "provider_down"),
        ((200, "<html>maintenance</html>"), "bad_reply"),
        ((200, ""), "bad_reply"),
        ((410, '{"success": false, "error": "deprecated_endpoint", "msg": "gone"}'), "bad_reply"),
        ((404, '{"success": false, "error": "auth_error", "msg": "Invalid user key"}'), "credentials"),
    ],
)
def test_a_cloud_that_is_down_is_a_footnote(lumina, clouds, reply, kind):
    clouds.broken["vastai"] = reply
    done = lumina("offers", "--json", **clouds.environment(*ALL))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {o["provider"] for o in document["offers"]} == {"runpod", "lambda"}
    assert [(f["provider"], f["kind"]) for f in document["failed"]] == [("vastai", kind)]
    assert KEY not in done.stdout + done.stderr


def test_nobody_answering_is_no_empty_market(lumina, clouds):
    for name in ALL:
        clouds.broken[name] = (200, "<html></html>")
    done = lumina("offers", "--json", **clouds.environment(*ALL))
    assert done.returncode == 7
    assert json.loads(done.stdout)["offers"] == []
    refused = lumina("offers", "--provider", "lambda")
    assert refused.returncode == 3
    assert "LAMBDA_API_KEY" in refused.stdout


def test_vastai_can_be_looked_at_without_a_key(lumina, clouds):
    document = lumina.json("offers", **clouds.environment())
    assert {o["provider"] for o in document["offers"]} == {"vastai"}
    assert {f["provider"]: f["kind"] for f in document["failed"]} == {"runpod": "credentials", "lambda": "credentials"}


@pytest.mark.pain(8)
def test_a_live_plan_stands_on_what_is_offered(lumina, clouds):
    document = lumina.json("plan", "b1", "--live", **clouds.environment(*ALL))
    best = document["recommendation"]
    assert best["provider"] in ALL
    live = {(r["provider"], r["gpu"], r["count"], r["interruptible"]) for r in document["rows"]}
    assert ("vastai", "RTX4090", 1, True) in live
    assert ("lambda", "A10", 1, False) in live
    assert any("live" in note for note in document["notes"])
    # The plan's price is the offer's, with the disk that the model needs in it.
    row = next(r for r in document["rows"] if (r["provider"], r["count"]) == ("lambda", 1))
    assert row["usd_per_hour"] == "1.29"
    clouds.broken["runpod"] = (500, "")
    noted = lumina.json("plan", "b1", "--live", "--gpu", "4090", **clouds.environment(*ALL))
    assert any("no offers from runpod" in note for note in noted["notes"])


def test_prices_are_remembered(lumina, clouds):
    assert lumina.json("prices", "4090")["seen"] == []
    lumina.json("offers", "--gpu", "4090", **clouds.environment(*ALL))
    document = lumina.json("prices", "4090")
    assert {p["provider"] for p in document["seen"]} == {"vastai", "runpod"}
    assert {p["gpu"] for p in document["seen"] + document["book"]} == {"RTX4090"}
    assert all(p["offers"] >= 1 for p in document["seen"])
    assert lumina.json("prices", "4090", "--provider", "runpod")["book"] == []
    shown = lumina("prices", "4090")
    assert "seen on the market" in shown.stdout


def test_the_doctor_accepts_good_keys_and_names_a_bad_one(lumina, clouds):
    done = lumina("doctor", "--json", **clouds.environment(*ALL))
    document = json.loads(done.stdout)
    checks = {c["name"]: c for c in document["checks"]}
    assert done.returncode == 0, document
    assert document["ok"]
    assert {checks[name]["state"] for name in ALL} == {"ok"}
    assert "$17.25" in checks["vastai balance"]["message"]
    assert checks["clock"]["state"] == "ok"
    clouds.broken["lambda"] = (401, '{"error": {"code": "global/invalid-api-key", "message": "API key was invalid."}}')
    done = lumina("doctor", **clouds.environment(*ALL))
    assert done.returncode == 3
    assert "refused the key" in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_a_hostile_market_writes_nothing_on_the_terminal(lumina, clouds):
    body = load("vastai")["search on-demand"]["response"]["body"]
    nasty = {**body["offers"][0], "gpu_name": "[bold]\x1b]52;c;ZXZpbA==\x07RTX\u202e 4090[/bold]", "geolocation": "\x1b[2J[link=x]y, US"}
    clouds.broken["vastai"] = (200, json.dumps({"offers": [nasty]}))
    done = lumina("offers", **clouds.environment("vastai"))
    assert done.returncode == 0
    assert "[bold]" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x07", "\u202e"}


# --- in the sandbox ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with worlds.sandbox(tmp_path_factory.mktemp("market"), 8) as made:
        yield made


def test_the_sandboxs_market_doctor_and_plans(sandbox):
    document = sandbox.lumina("offers", "--sandbox")
    assert document["failed"] == []
    kinds = {(o["provider"], o["gpu"], o["count"], o["interruptible"]) for o in document["offers"]}
    assert kinds >= {("vastai", "RTX4090", 1, False), ("runpod", "RTX4090", 1, False), ("lambda", "A10", 1, False)}
    for args in (["--gpu", "4090"], ["--interruptible"], ["--secure", "--max-usd", "1"], ["--min-reliability", "0.95"]):
        assert sandbox.lumina("offers", "--sandbox", *args)["offers"]
    checks = {c["name"]: c["state"] for c in sandbox.lumina("doctor", "--sandbox")["checks"]}
    assert {checks[name] for name in ALL} == {"ok"}
    plan = sandbox.lumina("plan", "b1", "--live", "--sandbox")
    assert plan["recommendation"]["provider"] in ALL
    assert {r["provider"] for r in plan["rows"]} >= {*ALL, "local"}
    assert {p["provider"] for p in sandbox.lumina("prices", "4090", "--sandbox")["seen"]} == {"vastai", "runpod"}
    # The sandbox's prices are no prices of the real markets.
    assert sandbox.lumina("prices", "4090")["seen"] == []
    assert sandbox.instances() == []


def test_a_cloud_of_the_sandbox_that_is_down_is_a_footnote(sandbox):
    sandbox.arm("error_500", provider="runpod")
    try:
        document = sandbox.lumina("offers", "--sandbox")
    finally:
        sandbox.disarm()
    assert [f["provider"] for f in document["failed"]] == ["runpod"]
    assert {o["provider"] for o in document["offers"]} == {"vastai", "lambda"}
