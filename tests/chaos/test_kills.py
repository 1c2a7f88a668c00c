"""A small sample of `python -m tests.chaos.kills`: real processes, real SIGKILL, at all three providers."""

import json
import subprocess
import sys

import pytest

from tests.chaos.stage import ROOT

pytestmark = pytest.mark.trains


@pytest.mark.pain(2)
def test_a_sample_of_crash_points_leaves_nothing_running_and_costs_what_was_billed():
    command = [sys.executable, "-m", "tests.chaos.kills", "--points", "3", "--states", "new", "--workers", "3", "--alone", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["leaked"], found["duplicates"], found["stuck"], found["findings"]) == (0, 0, 0, 0), done.stderr
    assert found["ledger_minus_invoice_usd"] in ("0", "0.000000")
    assert found["kills"] == 3, done.stderr
    assert len(found["sites"]) >= 30
