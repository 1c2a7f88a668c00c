"""Every failure at every call: the right class, no repeated create, nothing that never ends, and no secret in a message."""

import json
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest

from lumina_cloud.core.errors import (
    AuthError,
    BadReply,
    CredentialsError,
    InsufficientBalance,
    InvalidRequest,
    NoCapacity,
    OutcomeUnknown,
    ProviderDown,
    ProviderError,
    RateLimited,
    UsageError,
)
from providers.contract import LaunchSpec, Offer, OfferQuery
from providers.http import ATTEMPTS, TOTAL_SECONDS
from tests.providers.conftest import KEY, NOW

TAG = "lumina-b1-mod-x7k2-1"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ lumina"
SPEC = LaunchSpec(ssh_public_key=PUBLIC, env={"HF_TOKEN": "hf_canary_0123456789"})
OFFER_IDS = {"vastai": "12345678", "runpod": "SECURE//NVIDIA GeForce RTX 4090", "lambda": "gpu_1x_a10@us-east-1"}
CREATES = {"vastai": "/api/v0/asks/12345678/", "runpod": "/graphql", "lambda": "/api/v1/instance-operations/launch"}
PAGE = "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"


def offer(provider):
    return Offer(provider, OFFER_IDS[provider], "RTX4090", 1, Decimal("0.5"), interruptible=False, region="")


CALLS = {
    "offers": lambda p: p.offers(OfferQuery()),
    "find": lambda p: p.find(TAG),
    "get": lambda p: p.get("1234568"),
    "list_owned": lambda p: p.list_owned(),
    "terminate": lambda p: p.terminate("1234568"),
    "check": lambda p: p.check(),
    "balance": lambda p: p.balance(),
    "charges": lambda p: p.charges(NOW - timedelta(hours=1)),
    "change_bid": lambda p: p.change_bid("1234568", Decimal("0.3")),
    "boot_log": lambda p: p.boot_log("1234568"),
}
CREATE = {"create": lambda p: p.create(offer(p.name), SPEC, TAG)}


def raised(error):
    def respond(request):
        raise error("it broke", request=request)

    return respond


def answered(status, body="", **headers):
    return lambda _request: httpx.Response(status, text=body, headers=headers)


FAULTS = {
    # name: (reply, class for what may be repeated, class for a create)
    "connection refused": (raised(httpx.ConnectError), ProviderDown, ProviderDown),
    "connecting takes too long": (raised(httpx.ConnectTimeout), ProviderDown, ProviderDown),
    "time-out": (raised(httpx.ReadTimeout), ProviderDown, OutcomeUnknown),
    "connection reset": (raised(httpx.ReadError), ProviderDown, OutcomeUnknown),
    "half a reply": (raised(httpx.RemoteProtocolError), ProviderDown, OutcomeUnknown),
    "500": (answered(500, '{"detail": "internal"}'), ProviderDown, OutcomeUnknown),
    "503": (answered(503, ""), ProviderDown, OutcomeUnknown),
    "502 with a page": (answered(502, PAGE), ProviderDown, OutcomeUnknown),
    "429": (answered(429, "API requests too frequent", **{"retry-after": "2"}), RateLimited, RateLimited),
    "429 without a word": (answered(429, ""), RateLimited, RateLimited),
    "200 with a page": (answered(200, PAGE), BadReply, OutcomeUnknown),
    "200 with half of JSON": (answered(200, '{"data": [{"id": "0920'), BadReply, OutcomeUnknown),
    "200 with nothing": (answered(200, ""), BadReply, OutcomeUnknown),
    "200 with an empty text": (answered(200, '""'), BadReply, OutcomeUnknown),
    "200 with null": (answered(200, "null"), BadReply, OutcomeUnknown),
    "200 with {}": (answered(200, "{}"), BadReply, OutcomeUnknown),
    "200 with []": (answered(200, "[]"), BadReply, OutcomeUnknown),
    "200 with deep JSON": (answered(200, "[" * 100_000), BadReply, OutcomeUnknown),
    "200 with a giant number": (answered(200, '{"data": ' + "9" * 5000 + "}"), BadReply, OutcomeUnknown),
    "410": (answered(410, '{"success": false, "error": "deprecated_endpoint", "msg": "use v1"}'), BadReply, BadReply),
    "redirect": (answered(308, "", location="https://elsewhere.example.org/"), BadReply, OutcomeUnknown),
    "403 with a page": (answered(403, PAGE), BadReply, OutcomeUnknown),
}


def able(provider, call):
    return not {"lambda": {"balance", "charges", "change_bid", "boot_log"}, "runpod": {"change_bid"}}.get(provider, set()) & {call}


READS = [(p, c, f) for p in OFFER_IDS for c in CALLS for f in FAULTS if able(p, c)]


@pytest.mark.pain(1)
@pytest.mark.parametrize(("provider", "call", "fault"), READS, ids=[" ".join(r) for r in READS])
def test_a_failed_read_is_an_error_and_never_an_empty_answer(client, clock, provider, call, fault):
    reply, wanted, _ = FAULTS[fault]
    if (provider, call, fault) == ("runpod", "boot_log", "200 with nothing"):
        # A stream without an event yet.
        wanted = ProviderDown
    seen = []

    def handler(request):
        seen.append(request.url.path)
        return reply(request)

    began = clock.monotonic()
    with pytest.raises(wanted) as caught:
        CALLS[call](client(provider, handler))
    assert clock.monotonic() - began <= TOTAL_SECONDS + 60
    assert KEY not in str(caught.value.message) + str(caught.value.hint)
    again = wanted in (ProviderDown, RateLimited)
    # RunPod's delete answers with no body: any success is taken, and the look afterwards decides.
    plain = ("200 with nothing", "200 with an empty text", "200 with null", "200 with {}", "200 with []")
    looks = 1 + ((provider, call) == ("runpod", "terminate") and fault in plain)
    if again:
        assert 2 <= len(seen) <= ATTEMPTS, seen
    else:
        assert len(seen) == looks, seen


@pytest.mark.parametrize("provider", OFFER_IDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_create_is_sent_once_and_says_what_is_known(client, provider, fault):
    reply, _, wanted = FAULTS[fault]
    sent = []

    def handler(request):
        if request.url.path == "/api/v1/ssh-keys":
            return httpx.Response(200, json={"data": [{"id": "k", "name": "mine", "public_key": PUBLIC}]})
        sent.append(request.url.path)
        return reply(request)

    with pytest.raises(wanted) as caught:
        CREATE["create"](client(provider, handler))
    assert sent.count(CREATES[provider]) == 1
    if wanted is OutcomeUnknown:
        assert caught.value.created_id is None
    shown = caught.value.message + caught.value.hint
    assert KEY not in shown
    assert "hf_canary" not in shown


def test_runpod_falls_back_once_when_graphql_is_gone(client):
    sent = []

    def handler(request):
        sent.append(request.url.path)
        return httpx.Response(410 if request.url.path == "/graphql" else 500, json={"detail": "internal"})

    with pytest.raises(OutcomeUnknown):
        CREATE["create"](client("runpod", handler))
    assert sent == ["/graphql", "/v2/pods"]


# --- refusals, each in its dialect --------------------------------------------------------------------------------------


def problem(status, detail):
    body = {"title": "T", "status": status, "detail": detail}
    return lambda _r: httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def vast(status, error, msg, **more):
    return lambda _r: httpx.Response(status, json={"success": False, "error": error, "msg": msg, **more})


def graph(message, status=200, code=None, **data):
    error = {"message": message, "path": ["podFindAndDeployOnDemand"], "extensions": {"code": code} if code else {}}
    return lambda _r: httpx.Response(status, json={"errors": [error], "data": {"podFindAndDeployOnDemand": None, **data}})


def lam(status, code, message="m"):
    return lambda _r: httpx.Response(status, json={"error": {"code": code, "message": message, "suggestion": "s"}})


GONE = "There are no longer any instances available with the requested specifications. Please refresh and try again."
REFUSED_KEYS = [
    ("vastai", vast(404, "auth_error", "Invalid user key")),
    ("vastai", vast(401, "auth_error", "Invalid user key")),
    ("vastai", vast(403, "auth_error", "This action requires login.")),
    ("runpod", problem(401, "missing bearer token")),
    ("runpod", problem(403, "access denied")),
    ("lambda", lam(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")),
    ("lambda", lam(403, "global/account-inactive", "Your account is inactive.")),
]


@pytest.mark.parametrize(("provider", "reply"), REFUSED_KEYS)
@pytest.mark.parametrize("call", ["offers", "find", "get", "list_owned", "terminate", "check", "create"])
def test_a_refused_key_is_known_in_each_dialect(client, provider, reply, call):
    """Above all, Vast.ai's 404 for a wrong key is no proof that an instance is gone."""
    with pytest.raises(AuthError) as caught:
        (CALLS | CREATE)[call](client(provider, reply))
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, CredentialsError)
    assert not isinstance(caught.value, ProviderError)


CREATE_REFUSALS = [
    ("vastai", vast(404, "no_such_ask", "error 404/3603: no_such_ask Instance type by id 1 is not available."), NoCapacity),
    ("vastai", vast(410, "no_such_ask", "error 410/3907: no_such_ask Instance type 1 is no longer available."), NoCapacity),
    ("vastai", vast(400, "invalid_args", "error 400/3603: no_such_ask Instance type by id 1"), NoCapacity),
    ("vastai", vast(200, "no_such_ask", "no_such_ask"), NoCapacity),
    ("vastai", vast(400, "insufficient_credit", "Your account lacks credit"), InsufficientBalance),
    ("vastai", vast(402, "missing_billing", "add a card"), InsufficientBalance),
    ("vastai", vast(400, "invalid_args", "error 400/3467: Invalid args: label"), InvalidRequest),
    ("vastai", vast(400, "invalid_price", "price"), InvalidRequest),
    ("runpod", graph(GONE), NoCapacity),
    ("runpod", graph("no", code="SUPPLY_CONSTRAINT"), NoCapacity),
    ("runpod", graph("This machine does not have the resources to deploy your pod. Please try another."), NoCapacity),
    ("runpod", graph("Cannot query field", status=400, code="GRAPHQL_VALIDATION_FAILED"), InvalidRequest),
    ("runpod", graph("Your account has insufficient balance"), InsufficientBalance),
    ("runpod", problem(402, "insufficient balance"), InsufficientBalance),
    ("runpod", graph("Something went wrong. Please try again later or contact support."), OutcomeUnknown),
    ("lambda", lam(400, "instance-operations/launch/insufficient-capacity"), NoCapacity),
    ("lambda", lam(400, "global/quota-exceeded"), NoCapacity),
    ("lambda", lam(400, "global/invalid-parameters"), InvalidRequest),
    ("lambda", lam(404, "global/object-does-not-exist"), InvalidRequest),
    ("lambda", lam(500, "provider/internal-unavailable"), OutcomeUnknown),
]


@pytest.mark.parametrize(("provider", "reply", "wanted"), CREATE_REFUSALS)
def test_a_refused_create_says_what_to_do_next(client, provider, reply, wanted):
    def handler(request):
        if request.url.path == "/api/v1/ssh-keys":
            return httpx.Response(200, json={"data": [{"id": "k", "name": "mine", "public_key": PUBLIC}]})
        return reply(request)

    with pytest.raises(wanted) as caught:
        CREATE["create"](client(provider, handler))
    assert type(caught.value) is wanted


@pytest.mark.pain(10)
@pytest.mark.parametrize("status", [200, 400, 403])
def test_a_refused_create_that_left_a_contract_names_it(client, status):
    """Vast.ai makes a stopped contract of a bid that is too low: its storage bills until it is destroyed."""
    with pytest.raises(OutcomeUnknown) as caught:
        CREATE["create"](client("vastai", vast(status, "bid_too_low", "bid is below the price", new_contract=777)))
    assert caught.value.created_id == "777"


def test_v2s_words_for_no_capacity(client):
    def handler(request):
        return httpx.Response(410) if request.url.path == "/graphql" else problem(400, GONE)(request)

    with pytest.raises(NoCapacity):
        CREATE["create"](client("runpod", handler))


def test_an_error_that_repeats_what_was_sent_is_not_shown(client):
    with pytest.raises(InvalidRequest) as caught:
        CREATE["create"](client("vastai", vast(400, "invalid_args", "Invalid args: env HF_TOKEN=hf_canary_0123456789")))
    assert "hf_canary" not in caught.value.message


def test_a_balance_that_is_not_said_is_not_zero(client):
    for body in ({"data": {"myself": {"id": "u"}}}, {"data": {"myself": {"clientBalance": None}}}, {"data": {}}):
        with pytest.raises(BadReply):
            client("runpod", lambda _r, body=body: httpx.Response(200, json=body)).balance()


# --- time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.pain(4)
def test_retry_after_is_kept_for_every_process_of_the_key(client, clock):
    times = []

    def handler(_request):
        times.append(clock.monotonic())
        return httpx.Response(429, headers={"retry-after": "7"}) if len(times) == 1 else httpx.Response(200, json={"data": []})

    assert client("lambda", handler).list_owned() == []
    assert times[1] - times[0] >= 7
    # Another process, started at that moment, shares the bucket's file.
    assert client("lambda", handler).list_owned() == []
    assert times[2] - times[1] >= 1


def test_a_long_retry_after_is_told_and_not_waited_for(client, clock):
    with pytest.raises(RateLimited) as caught:
        client("lambda", answered(429, "", **{"retry-after": "600"})).list_owned()
    assert caught.value.retry_after == 600
    assert clock.monotonic() < 5


def test_vastais_daily_quota_is_not_asked_again(client):
    seen = []

    def handler(request):
        seen.append(request)
        return httpx.Response(429, json={"success": False, "error": "search_quota_exceeded", "msg": "quota"})

    with pytest.raises(RateLimited):
        client("vastai", handler).offers(OfferQuery())
    assert len(seen) == 1


def test_one_hosts_nonsense_does_not_hide_the_market_but_one_instances_does_hide_the_list(client):
    from tests.providers.exchanges import load

    ask = load("vastai")["search on-demand"]["response"]["body"]["offers"][0]
    rows = [ask, {**ask, "id": 2, "dph_base": -1}, {**ask, "id": 3, "gpu_name": None}, {**ask, "id": 4, "num_gpus": 10**9}]
    text = json.dumps({"offers": [*rows, {**ask, "id": 5, "dph_base": "PLACE"}]}).replace('"PLACE"', "NaN")
    found = client("vastai", answered(200, text)).offers(OfferQuery(gpu="RTX4090", interruptible=False))
    assert [o.offer_id for o in found] == ["12345678"]
    machine = load("vastai")["get"]["response"]["body"]["instances"]
    page = {"success": True, "next_token": None, "instances": [machine, {**machine, "id": "three"}]}
    with pytest.raises(BadReply, match=r"instances\.1\.id"):
        client("vastai", answered(200, json.dumps(page))).list_owned()


def test_a_list_that_never_ends_is_an_error(client):
    page = {"success": True, "next_token": "again", "instances": []}
    with pytest.raises(BadReply, match="does not end"):
        client("vastai", answered(200, json.dumps(page))).list_owned()


# --- addresses and keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["ftp://x", "api.example.org", "https://", "https://user:pass@x.org", "https://x.org?api_key=1", "http://[::"]
)
def test_an_address_that_is_none_is_refused(client, url):
    with pytest.raises(UsageError, match="vastai"):
        client("vastai", answered(200), urls={"vastai": url})


def test_a_key_is_not_sent_unencrypted_over_a_network(client):
    with pytest.raises(UsageError, match="unencrypted"):
        client("vastai", answered(200), urls={"vastai": "http://console.vast.ai"})
    client("vastai", answered(200), urls={"vastai": "http://127.0.0.1:8000"})


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "käy", "x" * 2000])
def test_a_text_that_is_no_key_is_refused_and_not_shown(client, key):
    with pytest.raises(CredentialsError) as caught:
        client("lambda", answered(200), key=key)
    assert key not in caught.value.message


def test_what_would_become_an_option_over_there_is_refused(client):
    for spec in (
        LaunchSpec(env={"-v": "/:/host"}),
        LaunchSpec(ssh_public_key="ssh-ed25519 AAAA'; rm -rf /"),
        LaunchSpec(startup_script="x" * 20_000),
    ):
        with pytest.raises(InvalidRequest):
            client("vastai", answered(200)).create(offer("vastai"), spec, TAG)
