"""A line that no verb can be meant by is answered with what is wrong, with which value, and what to type instead."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lumina_cloud.cli import mistyped
from lumina_cloud.cli.app import app

LUMINA = Path(sys.executable).with_name("lumina")


def said(home, words):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
    env = {**kept, "LUMINA_HOME": str(home), "HOME": str(home), "NO_COLOR": "1"}
    done = subprocess.run(
        [LUMINA, *words.split(), "--json"], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, json.loads(done.stderr)["error"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("ledger bakup", "lumina ledger --help"),
        ("ledger --foo", "lumina ledger --help"),
        ("ledger backup --foo", "lumina ledger backup --help"),
        ("sandbox upp --sandbox", "lumina sandbox --help"),
        ("data chek", "lumina data --help"),
        ("--sandbox status --al", "lumina status --help"),
        ("config nothing", "lumina config --help"),
        ("plan b1 --max-cost 5", "here that is --budget USD\nlumina plan --help"),
        ("launch debug --budget 5", "here that is --max-cost USD\nlumina launch --help"),
        ("plan debug --seq-len 512", "here that is --set seq_len=N\nlumina plan --help"),
        ("weights last", "e.g. lumina weights last --to build/my-model\nlumina weights --help"),
        ("weights last --sandbox", "e.g. lumina weights --sandbox last --to build/my-model\nlumina weights --help"),
        ("ps --sandbox", "here that is lumina status --sandbox\nlumina --help"),
        ("lauch", "lumina --help"),
    ],
)
def test_what_to_type_is_said(tmp_path, words, hint):
    code, error = said(tmp_path, words)
    assert (code, error["kind"], error["hint"]) == (2, "usage", hint)


def test_the_value_is_named(tmp_path):
    assert said(tmp_path, "plan debug --count many")[1]["message"] == "--count is 'many', which is not a whole number"
    assert said(tmp_path, "launch debug --max-hours soon")[1]["message"] == "--max-hours is 'soon', which is not a number"
    assert "did you mean 'backup'" in said(tmp_path, "ledger bakup")[1]["message"].lower()


def test_what_is_named_is_there():
    """Each verb and option that stands for another tool's word is one of ours."""
    verbs = typer.main.get_command(app).commands
    for name in mistyped.VERBS.values():
        assert name.split()[0] in {*verbs, "--version"}
    options = {name for verb in verbs.values() for param in verb.params for name in param.opts}
    assert {option.split()[0] for options_of in mistyped.MEANT.values() for option in options_of} <= options | {"--to"}
    assert not set(mistyped.VERBS) & set(verbs)
