"""A report holds what the ledger holds, loads nothing, runs nothing, and says how to do a run again."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core import money
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from tests.e2e.conftest import Cli, tiny_launch
from tests.e2e.rented import STAND_IN
from tests.web import shelf
from tests.web.watched import AXE, SERIOUS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("report") / "home"
    shelf.fill(made, hostile=True)
    return made


@pytest.fixture
def lumina(home, tmp_path):
    return Cli(home)


def written(lumina, *words, out):
    done = lumina("report", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    return out.read_text()


def test_all_runs_with_their_money_and_what_was_lost(lumina, home, tmp_path):
    text = written(lumina, out=tmp_path / "all.html")
    ledger = Ledger.open(home, SystemClock(), "")
    (total,) = ledger.spending("all")
    assert f"<strong>{money.show(money.from_micros(total.usd_micros))}</strong> for 15 runs" in text
    assert f"{money.show(money.from_micros(total.usd_micros - total.training_micros))} was lost" in text
    assert all(f"<h2>{name}</h2>" in text for name in ledger.run_names())
    ledger.close()
    for word in ("skip rate 0.48", "The river ran slowly", "lumina launch debug200m --arch hybrid", "torch 2.11.0", "polyline"):
        assert word in text


def test_the_page_loads_nothing_and_runs_nothing(lumina, browser, tmp_path):
    written(lumina, out=tmp_path / "all.html")
    for width in (390, 1024, 1920):
        page = browser.new_page(viewport={"width": width, "height": 800})
        asked, said = [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.goto(f"file://{tmp_path / 'all.html'}")
        assert page.evaluate("window.owned") is None
        assert (asked, said) == ([f"file://{tmp_path / 'all.html'}"], [])
        assert page.locator("script, img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        page.close()
    # The policy of the page itself forbids scripts: the checker needs one that does not.
    text = (tmp_path / "all.html").read_text()
    (tmp_path / "open.html").write_text(text.replace("default-src 'none'", "script-src 'unsafe-inline' 'unsafe-eval'"))
    page = browser.new_page()
    page.goto(f"file://{tmp_path / 'open.html'}")
    assert [v["id"] for v in AXE.run(page).response["violations"] if v["impact"] in SERIOUS] == []
    page.close()


def test_markdown_says_the_same_and_hostile_texts_stay_text(lumina, tmp_path):
    text = written(lumina, "hostile-1", "debug200m-hybrid-8", out=tmp_path / "two.md")
    outside_fences = "".join(text.split("```")[::2])
    assert not any(sign in outside_fences.replace("\\<", "") for sign in ("<img", "<script"))
    for word in (
        "| validation loss | 3.290 | 3.260 |",
        "| training loss |",
        "skip rate 0.48",
        "lumina launch debug200m",
        "| lost to | boot |",
    ):
        assert word in text


def test_months_and_projects_are_chosen(lumina, home, tmp_path):
    month = f"{datetime.now(UTC) - timedelta(days=40):%Y-%m}"
    text = written(lumina, "--month", month, out=tmp_path / "month.html")
    ledger = Ledger.open(home, SystemClock(), "")
    for run in ledger.runs():
        assert (f"<h2>{run.run_id}</h2>" in text) == (f"{run.created_at:%Y-%m}" == month)
    text = written(lumina, "--project", "speech", out=tmp_path / "project.html")
    (row,) = [s for s in ledger.spending("project") if s.key == "speech"]
    assert f"<strong>{money.show(money.from_micros(row.usd_micros))}</strong>" in text
    ledger.close()


@pytest.mark.parametrize(
    "words", [("--month", "2026-13"), ("--month", "1999-01"), ("--project", "none"), ("debug-dense-1", "--month", "2026-01"), ("nobody",)]
)
def test_what_cannot_be_meant_is_refused(lumina, words):
    assert lumina("report", *words).returncode == 2


def test_the_command_does_the_same_again(tmp_path):
    lumina = Cli(tmp_path / "home")
    words = tiny_launch("mod", more=("--seed", "7", "--project", "a b", "--label", "night", "--follow"))
    run = lumina.json(*words, LUMINA_TRAINER=str(STAND_IN))["run"]
    text = written(lumina, run, out=tmp_path / "run.md")
    command = next(line for line in text.splitlines() if line.startswith("lumina launch"))
    assert "--project 'a b' --label night" in command
    again = lumina.json(*shlex.split(command)[1:], "--dry-run")
    ledger = Ledger.open(lumina.home, SystemClock(), "")
    before, after = json.loads(ledger.run(run).config_json), again["config"]
    ledger.close()
    assert Decimal(again["usd_cap"]) == Decimal("0.10")
    assert (after["model"], after["training"], after["data"]) == (before["model"], before["training"], before["data"])
