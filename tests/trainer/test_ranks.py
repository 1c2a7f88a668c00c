"""Two ranks train what one does on the same micro batches, at every ZeRO stage and architecture, and checkpoints change hands."""

import json
import sys

import pytest

from tests.trainer.conftest import ROOT, environment, torchrun
from tests.trainer.rank_script import CASES, SAVED, case_name

pytestmark = pytest.mark.trains
SCRIPT = ROOT / "tests" / "trainer" / "rank_script.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Losses of all cases by two ranks, and by one rank that resumes from what the two wrote."""
    import subprocess

    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    torchrun(2, SCRIPT, two)
    done = subprocess.run([sys.executable, SCRIPT, one, two], capture_output=True, text=True, env=environment(), timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return {"two": json.loads((two / "losses.json").read_text()), "one": json.loads((one / "losses.json").read_text())}


@pytest.mark.parametrize(("arch", "stage", "precision"), [c for c in CASES if c[2] == "fp32"])
def test_two_ranks_have_the_losses_of_one_that_accumulates(found, arch, stage, precision):
    name = case_name(arch, stage, precision)
    assert found["two"][name] == pytest.approx(found["one"][name], abs=1e-4)
    assert found["one"][name][0] != found["one"][name][-1], "nothing was learned, so nothing was compared"


@pytest.mark.parametrize(("arch", "stage", "precision"), CASES)
def test_a_resumed_run_goes_on_exactly(found, arch, stage, precision):
    """The same ranks, from their own checkpoint, to the last digit."""
    name = case_name(arch, stage, precision)
    assert found["two"][f"{name} resumed"] == found["two"][name][SAVED:]


@pytest.mark.parametrize(("arch", "stage", "precision"), CASES)
def test_one_rank_goes_on_from_the_checkpoint_of_two(found, arch, stage, precision):
    name, tolerance = case_name(arch, stage, precision), 1e-4 if precision == "fp32" else 5e-3
    assert found["one"][f"{name} resumed"] == pytest.approx(found["two"][name][SAVED:], abs=tolerance)


@pytest.mark.parametrize(("arch", "stage", "precision"), CASES)
def test_a_checkpoint_is_taken_over_at_another_zero_stage(found, arch, stage, precision):
    name, tolerance = case_name(arch, stage, precision), 1e-4 if precision == "fp32" else 5e-3
    assert found["one"][f"{name} resumed at another stage"] == pytest.approx(found["two"][name][SAVED:], abs=tolerance)
