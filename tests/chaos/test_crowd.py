"""A small form of `python -m tests.chaos.crowd`."""

import json
import subprocess
import sys
from decimal import Decimal

import pytest

from tests.chaos import crowd
from tests.chaos.stage import ROOT


@pytest.mark.trains
def test_launches_at_once_stay_under_one_cap():
    command = [sys.executable, "-m", "tests.chaos.crowd", "--launches", "9", "--controllers", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["findings"] == [], done.stderr
    assert found["over_cap_usd"] == "0"
    # On a busy computer one may be over before another begins, and leave it its place.
    assert found["rented_at_once"] <= 5 <= found["rented_runs"]
    assert found["refused"] >= 1


def test_what_a_month_is_exposed_to_is_what_was_spent_and_what_each_machine_could_spend():
    def line(at, number, what):
        return {"at": at, "id": number, "what": what}

    apart = [line("1", "a", "created"), line("2", "a", "ended"), line("3", "b", "created"), line("4", "b", "ended")]
    usd = {"a": Decimal("0.25"), "b": Decimal("0.5")}
    assert crowd.most_allowed(apart, usd) == (1, Decimal("1.25"))
    together = [apart[0], apart[2], {**apart[1], "at": "5"}, {**apart[3], "at": "6"}]
    assert crowd.most_allowed(together, usd) == (2, Decimal(2))
