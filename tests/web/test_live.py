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
