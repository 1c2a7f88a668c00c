"""What was decided is what is rented: a plan from a file at its price, and a run that goes beyond its plan."""

import json
import re
import time
from decimal import Decimal
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY
from tests.e2e.rented import Sandbox

pytestmark = pytest.mark.trains
WORK = ("--arch", "dense", "--tokens", "20480", "--global-batch", "1024", *TINY)


@pytest.fixture
def sandbox(lumina):
    made = Sandbox(lumina)
    made.up()
    yield made
    made.down()


def test_a_plan_from_a_file_is_rented_as_it_stands_and_says_what_prices_did_since(sandbox, tmp_path):
    file = tmp_path / "plan.toml"
    planned = sandbox("plan", "debug", *WORK, "--provider", "vastai", "--gpu", "4090", "--live", "--out", str(file), "--json")
    assert planned.returncode == 0, planned.stderr
    text = file.read_text()
    # As if it had been planned when the machine cost half.
    (price,) = re.findall(r'^usd_per_hour = "([0-9.]+)"$', text, re.MULTILINE)
    file.write_text(text.replace(f'usd_per_hour = "{price}"', f'usd_per_hour = "{float(price) / 2:.6f}"'))
    shown = sandbox("launch", "--plan", str(file), "--max-cost", "2", "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    changes = json.loads(shown.stdout)["price_changes"]
    assert [round(c["percent"]) for c in changes if "an hour" in c["what"]] == [100]
    done = sandbox("launch", "--plan", str(file), "--max-cost", "2", "--follow", "--yes", "--json", timeout=500)
    assert sandbox.outcome(done)["state"] == "succeeded", done.stderr
    assert "an hour" in done.stderr, done.stderr
    sandbox.judge()


@pytest.mark.parametrize(("choice", "state"), [("tell", "succeeded"), ("stop", "stopped")])
def test_a_run_slower_than_its_plan_is_told_at_once_and_stopped_where_that_was_asked_for(sandbox, choice, state):
    """The stand-in says 9,000 tokens/s where a 4090 was planned with a million."""
    done = sandbox.launch("vastai", "--on-drift", choice, tokens="102400", timeout=500)
    outcome = sandbox.outcome(done)
    assert (outcome["state"], outcome["reason"]) == (state, "finished" if state == "succeeded" else "stopped_by_user"), done.stderr
    told = [line for line in done.stderr.splitlines() if "drift:" in line]
    assert len(told) == 1, done.stderr
    assert "9,000 tokens/s" in told[0]
    assert "lumina stop" in told[0]
    sandbox.judge()


PROBE = ("plan", "debug", "--provider", "vastai", "--gpu", "4090", "--probe")


def one_4090(planned):
    """The row of one 4090 in a plan that was printed."""
    return next(row for row in json.loads(planned.stdout.splitlines()[-1])["rows"] if row["count"] == 1)


def test_a_probe_on_a_rented_machine_costs_cents_changes_the_plan_and_leaves_nothing(sandbox):
    """The stand-in does a step of 364,544 tokens in 0.1 s: half of what is modelled of a 4090, so its word counts."""
    nobody = sandbox(*PROBE, "--json")
    assert nobody.returncode == 2, nobody.stderr
    assert "--yes" in nobody.stderr
    dear = sandbox(*PROBE, "--probe-cost", "0.001", "--yes", "--json")
    assert dear.returncode == 4, dear.stderr
    assert "--probe-cost" in dear.stderr and "--max-cost" not in dear.stderr
    # An H100 may take longer to come up than its cap pays for: what is expected of it is cents all the same.
    large = sandbox("plan", "debug", "--provider", "runpod", "--gpu", "h100", "--live", "--probe", "--json")
    assert large.returncode == 2 and "--yes" in large.stderr, large.stderr
    assert sandbox.status()["instances"] == []
    # What was not agreed to is not what `lumina launch` then takes.
    launched = json.loads(sandbox("launch", "--provider", "vastai", "--gpu", "4090", "--dry-run", "--json").stdout)
    assert launched["config"]["training"]["measure_seconds"] == 0
    before = one_4090(sandbox(*PROBE[:-1], "--json"))
    done = sandbox(*PROBE, "--yes", "--json", timeout=500)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout.splitlines()[-1])
    assert re.match(r"probed: \d+ real steps on a rented 1 x RTX4090 \(debug-dense-\w+\) in \d+ s, which cost \$0\.", plan["notes"][0])
    assert plan["notes"][1].startswith("the probe changed: ")
    after = one_4090(done)
    assert (before["basis"], after["basis"]) == ("modelled", "measured")
    assert after["tokens_per_second"]["mid"] < before["tokens_per_second"]["mid"]
    sandbox.judge()
    assert 0 < sandbox.spent() < Decimal("0.50")
    results = json.loads(sandbox("results", "last", "--json").stdout)
    assert results["state"] == "succeeded"
    assert not (Path(results["folder"]) / "checkpoints").exists() and not (Path(results["folder"]) / "model.safetensors").exists()


def test_a_probe_whose_command_was_killed_counts_in_the_next_plan(sandbox):
    killed = sandbox.start(*PROBE, "--yes", "--json")
    give_up = time.monotonic() + 200
    while not sandbox.training():
        assert time.monotonic() < give_up and killed.poll() is None
        time.sleep(0.3)
    killed.kill()
    killed.communicate()
    ended = sandbox("logs", "-f", "last", timeout=300)
    assert ended.returncode == 0, ended.stderr
    sandbox.judge()
    assert one_4090(sandbox(*PROBE[:-1], "--json"))["basis"] == "measured"
