"""Whoever has no key, or comes from another site, is refused; what is answered says so in its headers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from lumina_cloud.web.guard import HEADERS, Asked, Lock, judge
from tests.web.conftest import served

LOCK = Lock(token="right-token", session="right-session", port=4321, root="/way")
COOKIE = "lumina-4321=right-session"
OWN = {"host": "127.0.0.1:4321", "cookie": COOKIE}
PAGES = ("/", "/plan", "/money", "/prices", "/published", "/accuracy", "/api/plan", "/live", "/static/style.css", "/nothing")


def status(method="GET", path="/way/", query="", **headers):
    return judge(LOCK, Asked(method, path, query, {name.replace("_", "-"): value for name, value in headers.items()})).status


def test_the_key_opens_once_and_the_cookie_after():
    verdict = judge(LOCK, Asked("GET", "/way/money", "token=right-token&by=arch", {"host": "localhost:4321"}))
    assert (verdict.status, verdict.location) == (303, "/way/money?by=arch")
    assert status(**OWN) == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "lumina-4321=",
        "lumina-4321=wrong",
        "lumina-4321=right-token",
        "lumina-9999=right-session",
        "other=right-session",
        "lumina-4321=é",
    ],
)
def test_without_the_right_cookie_nothing_is_shown(cookie):
    assert status(host="127.0.0.1:4321", cookie=cookie) == 403


@pytest.mark.parametrize("token", ["wrong", "right-toke", "right-token2", "%00"])
def test_a_wrong_key_is_refused_even_with_the_cookie(token):
    assert status(query=f"token={token}", **OWN) == 403


def test_the_way_on_never_leads_away():
    for path in ("/way//evil.example/x", "/way/\\evil.example", "/way///evil.example"):
        assert judge(LOCK, Asked("GET", path, "token=right-token", {"host": "127.0.0.1:4321"})).location.startswith("/way/")
    for path in ("//evil.example/x", "/\\evil.example", "//way/"):
        assert judge(LOCK, Asked("GET", path, "token=right-token", {"host": "127.0.0.1:4321"})).status == 403
    assert "\n" not in judge(LOCK, Asked("GET", "/way/a\r\nset-cookie: x", "token=right-token", {"host": "127.0.0.1:4321"})).location


@pytest.mark.parametrize("path", ["/", "/way", "/wa/", "/wayside/", "/WAY/", "/runs", ""])
def test_nothing_is_there_but_below_the_path_that_cannot_be_guessed(path):
    assert status(path=path, **OWN) == 403
    assert status(path=path, query="token=right-token", host="127.0.0.1:4321") == 403


def test_no_two_starts_share_a_secret():
    one, other = Lock.new(1), Lock.new(1)
    secrets = {one.token, one.session, one.root, other.token, other.session, other.root}
    assert len(secrets) == 6
    assert min(map(len, secrets)) > 20


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:4321", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:4321"])
def test_a_foreign_host_is_refused(host):
    assert status(host=host, cookie=COOKIE) == 403


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://127.0.0.1:9", "https://127.0.0.1:4321", "http://localhost:4321"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_origin_is_refused(method, origin):
    assert status(method, origin=origin, **OWN) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_browser_says_another_site_sent_is_refused(site):
    assert status("POST", origin="http://127.0.0.1:4321", sec_fetch_site=site, **OWN) == 403
    assert status("GET", sec_fetch_site=site, sec_fetch_mode="no-cors", **OWN) == 403
    # A link may lead here; without the cookie, which other sites cannot send, nothing is shown.
    assert status("GET", sec_fetch_site=site, sec_fetch_mode="navigate", **OWN) == 200


def test_a_change_has_to_say_where_it_comes_from():
    assert status("POST", **OWN) == 403
    assert status("POST", origin="http://127.0.0.1:4321", sec_fetch_site="same-origin", **OWN) == 200
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert status(method, **OWN) == 405


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with served(tmp_path_factory.mktemp("guard") / "home") as running:
        yield running


def test_the_running_pages_refuse_whoever_has_no_key(site):
    with site.client(entered=False) as stranger:
        for path in PAGES:
            for address in (path, site.origin + path):
                assert stranger.get(address).status_code == 403
            answer = stranger.get(path)
            assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
        assert stranger.get("/?token=wrong").status_code == 403
        assert stranger.get("/", headers={"Host": f"evil.example:{site.port}"}).status_code == 403


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(site):
    with site.client(entered=False) as client:
        said = client.get(f"/?token={site.token}").headers
    root = site.base.removeprefix(site.origin)
    assert said["location"] == f"{root}/"
    cookie, *rest = said["set-cookie"].split("; ")
    # The path is why a browser sends it to no other program on this computer: it is asked for at no other port.
    assert {"HttpOnly", "SameSite=Strict", f"Path={root}/"} == set(rest)
    assert cookie.startswith(f"lumina-{site.port}=")
    assert site.token not in cookie


def test_a_browser_sends_the_cookie_to_no_other_port(site, browser):
    """Browsers do not tell the ports of a host apart, and another program may listen on one of them."""
    heard = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.headers.get("Cookie", ""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_of):
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{site.base}/?token={site.token}")
        assert [one["name"] for one in context.cookies()] == [f"lumina-{site.port}"]
        for path in ("/", "/runs", "/live"):
            page.goto(f"http://127.0.0.1:{other.server_port}{path}")
        page.goto(f"{site.base}/money")
        assert page.locator("h1").inner_text() == "Money"
    finally:
        context.close()
        other.shutdown()
        other.server_close()
    assert heard
    assert not any(heard)


def test_the_pages_of_a_rehearsal_name_commands_of_the_rehearsal(tmp_path):
    with served(tmp_path / "home", LUMINA_SANDBOX="1") as rehearsed, rehearsed.client() as client:
        assert "lumina launch --sandbox debug --provider local" in client.get("/").text
        assert "lumina plan --sandbox debug says what one takes" in client.get("/runs/nothing").text
        assert client.get("/api/plan?model=debug&arch=mod").json()["type"] == "lumina plan debug --arch mod --sandbox"


def test_every_answer_carries_the_headers(site):
    with site.client() as client:
        for path in ("/", "/static/curves.js", "/api/plan?model=debug", "/nothing"):
            answer = client.get(path)
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS
            assert "server" not in answer.headers
        assert client.get("/static/../app.py").status_code == 404
        assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_a_post_from_another_site_changes_nothing(site):
    with site.client() as client:
        for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": site.origin, "Sec-Fetch-Site": "cross-site"}):
            answer = client.post("/runs/any/stop", data={"sure": "yes"}, headers=headers)
            assert answer.status_code == 403
        # One of our own gets as far as the run that is not there.
        answer = client.post("/runs/any/stop", data={"sure": "yes"}, headers={"Origin": site.origin})
        assert (answer.status_code, "no run" in answer.text) == (400, True)
        assert client.post("/runs/any/stop", content=b"a" * 20_000, headers={"Origin": site.origin}).status_code == 400


def test_only_this_computer_is_listened_to(site):
    heard = {c.laddr for c in psutil.Process(site.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    assert heard == {("127.0.0.1", site.port)}


def test_wrong_questions_get_an_answer_in_words(site):
    with site.client() as client:
        for path in (
            "/api/plan?model=huge",
            "/api/plan?budget=-1",
            "/api/plan?budget=nan",
            "/api/curves",
            "/api/curves?run=x",
            "/api/prices?days=x",
        ):
            answer = client.get(path)
            assert answer.status_code == 400, path
            assert json.loads(answer.text)["error"]["message"]
        for path in ("/money?by=colour", "/prices?gpu=nothing", "/prices?days=1", "/runs/none", "/runs/none/stop"):
            assert client.get(path).status_code == 400, path
