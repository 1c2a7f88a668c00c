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
        ("plan b1 --max-cost 5", "here that is --budget USD\nlumina plan --help"),
        ("launch debug --budget 5", "here that is --max-cost USD\nlumina launch --help"),
        ("plan debug --seq-len 512", "here that is --set seq_len=N\nlumina plan --help"),
        ("weights last", "e.g. lumina weights last --to build/my-model\nlumina weights --help"),
        ("weights last --sandbox", "e.g. lumina weights --sandbox last --to build/my-model\nlumina weights --help"),
        ("budget -5", "an amount below 0 cannot be meant\nlumina budget --help"),
        ("config set x", "it shows, and changes nothing: the file that it names is for writing in\nlumina config --help"),
        ("status last", "about one run: lumina results RUN, or lumina logs RUN\nlumina status --help"),
        ("plan b1 --tokens -5", "e.g. the preset's own: leave out --tokens, or --tokens 20B"),
        ("plan b1 --global-batch 100", "take 2,048"),
        ("launch --plan p-nothing", "lumina plan MODEL makes one; where none is named, the last one is taken"),
        ("sandbox up --market mad", "take still, calm or wild"),
        ("report --month foo", "e.g. --month 2026-03"),
        ("ledger backup /dev/null/x", "name a file in a folder that can be written"),
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


@pytest.mark.parametrize("verb", ["logs last", "results last", "stop last", "resume last", "weights last --to x"])
def test_where_there_is_no_run_it_is_said_how_to_come_by_one(tmp_path, verb):
    code, error = said(tmp_path, verb)
    assert (code, error["message"]) == (2, "there is no run yet")
    assert "lumina plan debug" in error["hint"]
    assert "lumina launch" in error["hint"]


def test_who_has_no_key_anywhere_is_told_what_needs_none(tmp_path):
    code, error = said(tmp_path, "launch b1 --max-cost 50")
    assert (code, error["kind"]) == (3, "credentials")
    assert "export VAST_API_KEY=" in error["hint"]
    assert "lumina sandbox up, then the same with --sandbox" in error["hint"]
    assert "lumina launch debug --provider local" in error["hint"]
    # Whoever has an account needs the other key, and no advice on how to do without.
    (tmp_path / ".vast_api_key").write_text("abc")
    assert "--sandbox" not in said(tmp_path, "launch debug --provider runpod --max-cost 5")[1]["hint"]


def test_a_home_that_cannot_be_one_is_named(tmp_path):
    code, error = said(Path("/dev/null/nope"), "status")
    assert (code, error["kind"]) == (6, "ledger")
    assert "/dev/null/nope cannot be the folder of the ledger" in error["message"]
    assert "export LUMINA_HOME=" in error["hint"]


def test_what_is_named_is_there():
    """Each verb and option that stands for another tool's word is one of ours."""
    verbs = typer.main.get_command(app).commands
    for name in mistyped.VERBS.values():
        assert name.split()[0] in {*verbs, "--version"}
    options = {name for verb in verbs.values() for param in verb.params for name in param.opts}
    assert {option.split()[0] for options_of in mistyped.MEANT.values() for option in options_of} <= options | {"--to"}
    assert not set(mistyped.VERBS) & set(verbs)
