"""Whoever has no key, or comes from another site, is refused; what is answered says so in its headers."""

import json

import psutil
import pytest

from lumina_cloud.web.guard import HEADERS, Asked, Lock, judge
from tests.web.conftest import served

LOCK = Lock(token="right-token", port=4321)
COOKIE = "lumina-4321=right-token"
OWN = {"host": "127.0.0.1:4321", "cookie": COOKIE}
PAGES = ("/", "/plan", "/money", "/prices", "/published", "/accuracy", "/api/plan", "/live", "/static/style.css", "/nothing")


def status(method="GET", path="/", query="", **headers):
    return judge(LOCK, Asked(method, path, query, {name.replace("_", "-"): value for name, value in headers.items()})).status


def test_the_key_opens_once_and_the_cookie_after():
    verdict = judge(LOCK, Asked("GET", "/money", "token=right-token&by=arch", {"host": "localhost:4321"}))
    assert (verdict.status, verdict.location) == (303, "/money?by=arch")
    assert status(**OWN) == 200


@pytest.mark.parametrize(
    "cookie", ["", "lumina-4321=", "lumina-4321=wrong", "lumina-9999=right-token", "other=right-token", "lumina-4321=riéht"]
)
def test_without_the_right_cookie_nothing_is_shown(cookie):
    assert status(host="127.0.0.1:4321", cookie=cookie) == 403


@pytest.mark.parametrize("token", ["wrong", "right-toke", "right-token2", "%00"])
def test_a_wrong_key_is_refused_even_with_the_cookie(token):
    assert status(query=f"token={token}", **OWN) == 403


def test_the_way_on_never_leads_away():
    for path in ("//evil.example/x", "/\\evil.example", "///evil.example"):
        location = judge(LOCK, Asked("GET", path, "token=right-token", {"host": "127.0.0.1:4321"})).location
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))
    assert "\n" not in judge(LOCK, Asked("GET", "/a\r\nset-cookie: x", "token=right-token", {"host": "127.0.0.1:4321"})).location


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
            answer = stranger.get(path)
            assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
        assert stranger.get("/?token=wrong").status_code == 403
        assert stranger.get("/", headers={"Host": f"evil.example:{site.port}"}).status_code == 403


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(site):
    with site.client(entered=False) as client:
        said = client.get(f"/?token={site.token}").headers
    assert said["location"] == "/"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(said["set-cookie"].split("; "))


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
        for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": site.base, "Sec-Fetch-Site": "cross-site"}):
            answer = client.post("/runs/any/stop", data={"sure": "yes"}, headers=headers)
            assert answer.status_code == 403
        # One of our own gets as far as the run that is not there.
        answer = client.post("/runs/any/stop", data={"sure": "yes"}, headers={"Origin": site.base})
        assert (answer.status_code, "no run" in answer.text) == (400, True)
        assert client.post("/runs/any/stop", content=b"a" * 20_000, headers={"Origin": site.base}).status_code == 400


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
