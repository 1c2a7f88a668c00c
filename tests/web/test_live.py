"""A run that goes on, watched in two tabs and stopped in one of them."""

import pytest

from tests.e2e.conftest import TINY, Cli
from tests.e2e.rented import STAND_IN
from tests.web.conftest import served
from tests.web.watched import findings, watched

# Ten minutes of the stand-in: it ends because it is stopped.
LAUNCH = ("launch", "debug", "--arch", "dense", "--provider", "local", "--tokens", "6M", "--global-batch", "1024", *TINY)


@pytest.fixture
def lumina(tmp_path):
    cli = Cli(tmp_path / "home")
    yield cli
    for process in cli.processes():
        process.kill()


def test_a_live_run_moves_in_two_tabs_and_is_stopped_with_confirmation(lumina, browser):
    launched = lumina.json(*LAUNCH, "--max-cost", "1", "--yes", LUMINA_TRAINER=str(STAND_IN))
    run = launched["run"]
    with served(lumina.home, LUMINA_TRAINER=str(STAND_IN)) as site, watched(browser, site) as page:
        row = page.locator(f"tr[data-run='{run}']")
        loss = row.locator("[data-cell=loss]")
        before = loss.inner_text()
        other = page.context.new_page()
        other.goto(f"{site.base}/runs/{run}")
        other.wait_for_selector("#loss canvas")
        changed = "([run, before]) => document.querySelector(`tr[data-run='${run}'] [data-cell=loss]`).textContent !== before"
        page.wait_for_function(changed, arg=[run, before])
        assert "1 run going on" in page.locator("#summary").inner_text()
        assert row.locator("[data-cell=state]").inner_text() == "training"

        other.get_by_role("link", name="Stop this run").click()
        assert other.locator("h1").inner_text() == f"Stop {run}?"
        assert findings(other) == []
        other.get_by_role("link", name="Let it go on").click()
        other.wait_for_selector("#loss canvas")
        assert lumina.json("status")["runs"][0]["state"] == "training"

        other.get_by_role("link", name="Stop this run").click()
        other.get_by_role("button", name="Stop the run").click()
        other.wait_for_url(f"**/runs/{run}")
        # Both tabs hear of it by themselves.
        other.wait_for_selector("#state.stopped", timeout=60_000)
        page.wait_for_selector(f"tr[data-run='{run}'] .state.stopped", timeout=60_000)
        assert other.locator("text=Stop this run").count() == 0
    results = lumina.json("results", run)
    assert (results["state"], results["reason"]) == ("stopped", "stopped_by_user")
    assert lumina.json("status")["rentals"] == []


def test_a_run_that_begins_while_the_page_is_open_appears(lumina, browser):
    with served(lumina.home, LUMINA_TRAINER=str(STAND_IN)) as site, watched(browser, site) as page:
        page.wait_for_selector("text=No runs yet")
        words = [word if word != "6M" else "16384" for word in LAUNCH]
        run = lumina.json(*words, "--max-cost", "1", "--yes", "--follow", LUMINA_TRAINER=str(STAND_IN))["run"]
        page.wait_for_selector(f"tr[data-run='{run}'] .state.succeeded", timeout=60_000)


def test_a_row_of_the_planner_is_started_after_its_page_was_asked(lumina, browser):
    with served(lumina.home, LUMINA_TRAINER=str(STAND_IN)) as site, watched(browser, site) as page:
        page.goto(f"{site.base}/plan?model=debug&arch=dense")
        page.locator("#rows tbody tr", has_text="local").get_by_role("link", name="Start").click()
        assert page.locator("h1").inner_text() == "Start this run?"
        assert findings(page) == []
        assert lumina.json("status")["runs"] == []
        page.get_by_label("At most, dollars").fill("3")
        form = page.locator("form").evaluate("f => Object.fromEntries(new FormData(f))")
        page.get_by_role("button", name="Train here").click()
        page.wait_for_url("**/runs/*")
        (run,) = lumina.json("status")["runs"]
        assert (run["run"], run["usd_cap"]) == (page.locator("h1").inner_text(), "3.00")
        # What `lumina launch` refuses is refused here: a cap that is too low. The same form once more rents nothing more.
        with site.client() as client:
            low = client.post("/launch", data={**form, "cap": "0.000001", "once": "y"}, headers={"Origin": site.origin})
            assert (low.status_code, "Refused" in low.text) == (400, True)
            again = client.post("/launch", data=form, headers={"Origin": site.origin})
            assert again.headers["location"].endswith(run["run"])
            assert client.post("/launch", data={**form, "once": ""}, headers={"Origin": site.origin}).status_code == 400
            assert client.post("/launch", data={**form, "cap": "-1", "once": "x"}, headers={"Origin": site.origin}).status_code == 400
            assert client.post("/launch", data=form).status_code == 403
        assert len(lumina.json("status")["runs"]) == 1
        lumina("stop", run["run"])
