"""The generator of large ledgers writes what Lumina itself would have written."""

import os
import subprocess
import sys
from pathlib import Path

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from lumina_cloud.ledger.verifying import verify

ROOT = Path(__file__).resolve().parents[2]


def generated(home, runs, points):
    argv = [sys.executable, "-m", "tests.scale", "--runs", str(runs), "--points", str(points), "--home", str(home)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "LUMINA_LEDGER_URL": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_generated_ledger_is_whole(tmp_path):
    said = generated(tmp_path / "home", 60, 6000)
    assert said.startswith("60 runs, 6,000 points")
    ledger = Ledger.open(tmp_path / "home", SystemClock())
    found = verify(ledger.database)
    assert found.problems == []
    assert (found.rows["runs"], found.rows["events"], found.rows["curves"]) == (60, 600, 60)
    assert sum(len(ledger.metrics(name)) for name in ledger.run_names()) == 6000
    assert len({s.key for s in ledger.spending("month")}) > 12
    ledger.close()


def test_long_curves_are_thinned_out(tmp_path):
    generated(tmp_path / "home", 2, 20_000)
    ledger = Ledger.open(tmp_path / "home", SystemClock())
    for name in ledger.run_names():
        steps = [m.step for m in ledger.metrics(name)]
        assert len(steps) <= 512
        assert (steps[0], steps[-1]) == (1, 10_000)
    ledger.close()
