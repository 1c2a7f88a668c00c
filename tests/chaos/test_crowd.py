"""A small form of `python -m tests.chaos.crowd`."""

import json
import subprocess
import sys

import pytest

from tests.chaos.stage import ROOT

pytestmark = pytest.mark.trains


def test_launches_at_once_stay_under_one_cap():
    command = [sys.executable, "-m", "tests.chaos.crowd", "--launches", "9", "--controllers", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rented_runs"], found["refused"], found["findings"]) == (5, 4, []), done.stderr
