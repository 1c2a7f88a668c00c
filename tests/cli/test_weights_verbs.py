"""`lumina sample` and `lumina weights` on a results folder, and what they say when there is nothing to use."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from lumina_cloud.cli.app import app
from tests.trainer.checkpoints import written
from tests.trainer.shapes import built, small


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    return lambda *words: CliRunner().invoke(app, list(map(str, words)))


def test_sample_prints_what_the_trainer_writes(run, tmp_path):
    folder = written(built(small("mod-paper")), tmp_path / "results")
    done = run("sample", folder, "--prompt", "The quick", "--max-new-tokens", 8, "--json")
    assert done.exit_code == 0, done.output
    from trainer import weights
    from trainer.sample import sample

    saved = weights.find(folder)
    text = sample(saved.model(), saved.tokenizer(), "The quick", new_tokens=8, temperature=0, seed=0)
    said = json.loads(done.stdout)
    assert said["prompt"] == "The quick"
    # What could drive a terminal is taken out of it on the way.
    assert said["text"].replace("\ufffd", "").strip()[:3] == text.replace("\ufffd", "").strip()[:3]


def test_weights_writes_what_transformers_loads(run, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = written(built(small("moe")), tmp_path / "results")
    done = run("weights", folder, "--to", tmp_path / "hf", "--json")
    assert done.exit_code == 0, done.output
    assert "MixtralForCausalLM" in json.loads(done.stdout)["load"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    again = run("weights", folder, "--to", tmp_path / "hf")
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_an_unknown_run_is_refused(run):
    assert run("sample", "nosuch", "--prompt", "x").exit_code == 2
    assert run("weights", "nosuch", "--to", "x").exit_code == 2


def test_a_plan_of_mod_shows_both_recipes(run):
    done = run("plan", "debug", "--arch", "mod", "--provider", "local", "--json")
    assert done.exit_code == 0, done.output
    assert [r["recipe"] for r in json.loads(done.stdout)["recipes"]] == ["paper", "published"]
    shown = run("plan", "debug", "--arch", "mod", "--provider", "local")
    assert "paper" in shown.output
    assert "published" in shown.output
