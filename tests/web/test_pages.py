"""Every page in real Chromium: readable by everybody, silent to the outside, and text stays text."""

import re

import pytest

from tests.web import shelf
from tests.web.conftest import served
from tests.web.watched import findings, overflow, watched

RUN = "debug200m-hybrid-8"
PAGES = ("/", f"/runs/{RUN}", "/plan", "/money", "/money?by=project", "/prices", "/published", "/accuracy", "/runs/hostile-1")
DRAWN = {f"/runs/{RUN}": "#loss canvas", "/plan": "#front canvas", "/prices": "#prices canvas"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    home = tmp_path_factory.mktemp("pages") / "home"
    shelf.fill(home, hostile=True)
    with served(home) as running:
        yield running


def opened(page, site, path):
    page.goto(site.base + path)
    if path in DRAWN:
        page.wait_for_selector(DRAWN[path])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_in_both_schemes(site, browser, scheme):
    with watched(browser, site, color_scheme=scheme) as page:
        for path in PAGES:
            opened(page, site, path)
            assert findings(page) == [], path


@pytest.mark.parametrize("width", [390, 1024, 1920])
def test_no_page_is_wider_than_its_window(site, browser, width):
    with watched(browser, site, viewport={"width": width, "height": 800}) as page:
        for path in PAGES:
            opened(page, site, path)
            assert overflow(page) == 0, path


def test_what_comes_from_outside_is_text(site, browser):
    with watched(browser, site) as page:
        for path in ("/", "/runs/hostile-1", "/money?by=project", "/money?by=label", "/money?by=gpu", f"/runs/{RUN}?with=hostile-1"):
            opened(page, site, path)
            page.wait_for_timeout(300)
            assert page.locator("script:not([src]), img, main iframe").count() == 0
            assert "49" not in page.locator("h1").inner_text()
        page.goto(f"{site.base}/runs/hostile-1")
        shown = page.locator("pre").first.inner_text()
        assert shown.startswith("<img src=x onerror=")
        assert "{{ 7*7 }}" in shown
        assert "\u202e" not in page.locator("main").inner_text()


def test_unknown_addresses_say_so(site):
    with site.client() as client:
        for path in ("/nothing", "/runs/x/y"):
            answer = client.get(path)
            assert (answer.status_code, "there is no page" in answer.text) == (404, True)
        assert "<script>window" not in client.get("/runs/%3Cscript%3Ewindow.owned=1").text


def test_the_table_of_runs_is_narrowed_by_typing_and_read_by_keyboard(site, browser):
    with watched(browser, site) as page:
        rows = page.locator("#runs tbody tr:visible")
        everything = rows.count()
        assert everything == 15
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "filter"
        page.keyboard.type("mod failed")
        assert 0 < rows.count() < everything
        assert page.locator("#shown").inner_text() == f"{rows.count()} of {everything}"
        page.locator("#filter").fill("")
        link = page.locator("#runs tbody a").first
        name = link.inner_text()
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/*")
        assert page.locator("h1").inner_text() == name


def test_curves_are_compared_smoothed_and_scaled(site, browser):
    with watched(browser, site) as page:
        opened(page, site, f"/runs/{RUN}")
        picture = lambda: page.locator("#loss canvas").evaluate("c => c.toDataURL()")  # noqa: E731
        plain = picture()
        page.locator("#smoothing").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        smooth = picture()
        page.locator("#log").check()
        assert len({plain, smooth, picture()}) == 3
        page.locator("#with").select_option("debug-dense-1")
        page.wait_for_selector("#loss .u-legend >> text=debug-dense-1")
        assert page.url.endswith("?with=debug-dense-1")
        page.reload()
        page.wait_for_selector("#loss .u-legend >> text=debug-dense-1")
        page.locator("#alone").click()
        page.wait_for_selector("#loss .u-legend >> text=debug-dense-1", state="detached")
        page.get_by_text("The curves as figures").click()
        assert page.locator("#points tbody tr").count() >= 10


def test_a_move_of_the_planner_redraws_the_front(site, browser):
    with watched(browser, site) as page:
        page.goto(f"{site.base}/plan?model=b1&arch=all")
        page.wait_for_selector("#rows tbody tr")
        answer = page.locator("#answer")
        before, picture = answer.inner_text(), page.locator("#front canvas").evaluate("c => c.toDataURL()")
        move(page, "tokens", "9")
        page.wait_for_function("before => document.getElementById('answer').textContent !== before", arg=before)
        assert answer.inner_text().startswith("1B tokens")
        assert page.locator("#front canvas").evaluate("c => c.toDataURL()") != picture
        assert "--tokens 1000000000" in page.locator("#type").inner_text()
        move(page, "budget", "-1")
        page.wait_for_selector("text=nothing that fits keeps within this budget")
        assert page.locator("#rows tbody tr.beyond").count() == page.locator("#rows tbody tr").count()
        move(page, "budget", "5")
        page.wait_for_selector("#rows tbody tr.front-row")
    with site.client() as client:
        rows = client.get("/api/plan?model=b1&arch=all&budget=200&deadline=100").json()["rows"]
        assert {r["within"] for r in rows} == {True, False}
        assert all(r["within"] == (r["usd"] <= 200 and r["hours"] <= 100) for r in rows)


def move(page, name, value):
    page.locator(f"input[name={name}]").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value)


def test_money_is_the_ledgers(site):
    with site.client() as client:
        text = client.get("/money?by=provider").text
    shown = re.search(r"<strong>(\$[\d,.]+)</strong>", text)[1]
    from lumina_cloud.core import money
    from lumina_cloud.core.clock import SystemClock
    from lumina_cloud.ledger import Ledger

    ledger = Ledger.open(site.home, SystemClock(), "")
    assert shown == money.show(sum(c.usd for c in ledger.charges()))
    ledger.close()
    assert "speech" in text
