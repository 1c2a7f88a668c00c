"""A shell is given runs, plans and GPUs quickly, and nothing at all, without an error, where the ledger cannot be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lumina_cloud.api import completing
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger, PlanRecord
from tests.ledger.conftest import NOW, a_run

LUMINA = Path(sys.executable).with_name("lumina")


@pytest.fixture
def home(tmp_path):
    """A ledger of three runs and a plan; the sandbox's has one run of its own."""
    for folder, names in (("home", ("debug-mod-ab", "debug-moe-cd", "b7-mod-ef")), ("home/sandbox", ("debug-mod-zz",))):
        ledger = Ledger.open(tmp_path / folder, SystemClock())
        with ledger.transaction() as tx:
            for name in names:
                tx.add_run(a_run(name, state="succeeded"))
            tx.add_plan(PlanRecord("p-abc", NOW, {}, {}))
        ledger.close()
    return tmp_path / "home"


def words(found):
    return sorted(word for word, _about in found)


def test_runs_are_found_by_their_beginning(home):
    env = {"LUMINA_HOME": str(home)}
    assert words(completing.runs("debug-m", env)) == ["debug-mod-ab", "debug-moe-cd"]
    assert words(completing.runs("", env)) == ["b7-mod-ef", "debug-mod-ab", "debug-moe-cd", "last"]
    assert ("debug-mod-ab", "succeeded") in completing.runs("debug-mod", env)
    assert words(completing.runs("debug", {**env, "LUMINA_SANDBOX": "1"})) == ["debug-mod-zz"]
    assert completing.plans("p-", env)[0][0] == "p-abc"


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b"\xff" * 5000), lambda p: p.write_bytes(b"")])
def test_a_ledger_that_cannot_be_read_has_no_names_and_is_left_alone(home, spoil):
    path = home / "ledger.db"
    for beside in home.glob("ledger.db-*"):
        beside.unlink()
    spoil(path)
    before = path.read_bytes() if path.exists() else None
    assert words(completing.runs("debug", {"LUMINA_HOME": str(home)})) == []
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_malformed_config_is_no_error_here(home):
    (home / "config.toml").write_text("[")
    assert completing.runs("debug", {"LUMINA_HOME": str(home)}) == []


def test_gpus_are_found_in_any_case_and_by_their_number():
    assert "RTX4090" in words(completing.gpus("rtx40"))
    assert "RTX4090" in words(completing.gpus("4090"))
    assert words(completing.gpus("nothing of that kind")) == []


def asked(home, line):
    """What bash is told for a line whose last word is to be completed."""
    typed = line.split(" ")
    shell = {"_LUMINA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(typed) - 1)}
    done = subprocess.run([LUMINA], env={**os.environ, **shell, "LUMINA_HOME": str(home)}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_is_told(home):
    assert sorted(asked(home, "lumina res")) == ["results", "resume"]
    assert sorted(asked(home, "lumina results debug-")) == ["debug-mod-ab", "debug-moe-cd"]
    assert asked(home, "lumina stop --sandbox debug-") == ["debug-mod-zz"]
    assert asked(home, "lumina plan b7 --gpu RTX409") == ["RTX4090"]
    # Typer would drop what does not begin with just the typed letters.
    assert asked(home, "lumina plan b7 --gpu rtx409") == ["RTX4090"]
    assert asked(home, "lumina prices 4090") == ["RTX4090"]
    assert asked(home, "lumina plan B7 --provider VAST") == ["vastai"]
