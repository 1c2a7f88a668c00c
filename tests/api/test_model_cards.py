"""An exported model comes with a card that Hugging Face's own reader understands, filled from the ledger."""

import shutil

import pytest
from huggingface_hub import ModelCard

from lumina_cloud.api import model_cards
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from tests.ledger.conftest import a_charge, fill
from tests.trainer.checkpoints import written
from tests.trainer.shapes import built, small
from tests.web.shelf import HOSTILE

RESULT = {
    "loss_first": 6.1, "loss_last": 3.25, "perplexity": 25.79, "tokens": 4096, "tokens_per_second": 900.0, "peak_memory_gib": 0.5,
    "routing": {"load_balance": 0.94}, "sample": {"prompt": "The river", "text": " ran ``` slowly"}, "versions": {"torch": "2.11.0"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return written(built(small("moe")), tmp_path / "home" / "runs" / "debug-moe-1")


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path / "home", SystemClock(), "")
    yield opened
    opened.close()


def kept(ledger, folder, **changes):
    result = {**RESULT, **changes.pop("result", {})}
    config = (folder / "run.json").read_text()
    values = {"folder": str(folder), "arch": "moe", "state": "succeeded", "config_json": config, "result": result, "project": "secret"}
    fill(ledger, "debug-moe-1", **{**values, **changes})
    with ledger.transaction() as tx:
        tx.put_charge(a_charge("debug-moe-1", "0.42"))


def read(ledger, folder):
    text = model_cards.card(ledger, folder, "AutoModelForCausalLM.from_pretrained(...)")
    return ModelCard(text, ignore_metadata_errors=False), text


def test_the_card_says_what_the_ledger_knows(ledger, folder):
    kept(ledger, folder)
    card, text = read(ledger, folder)
    assert (card.data.library_name, card.data.pipeline_tag, card.data.tags) == ("transformers", "text-generation", ["lumina", "moe"])
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"loss": 3.25, "perplexity": 25.79}
    for word in (
        "for $0.42",
        "| validation loss | - | 3.250 |",
        "load balance 0.94",
        "lumina launch debug --arch moe",
        "torch 2.11.0",
        "None is stated",
    ):
        assert word in text
    assert "````text\nThe river ran ``` slowly" in text
    # What is nobody else's business stays here.
    assert str(folder.parent) not in text
    assert "secret" not in text


def test_a_checkpoint_of_the_run_has_the_same_card_and_another_folder_the_configuration_alone(ledger, folder, tmp_path):
    kept(ledger, folder)
    (folder / "checkpoints" / "step-2").mkdir(parents=True)
    assert read(ledger, folder / "checkpoints" / "step-2")[1] == read(ledger, folder)[1]
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    card, text = read(ledger, elsewhere)
    assert card.data.eval_results is None
    assert "| layers |" in text
    assert "To train it again" not in text


def test_hostile_texts_stay_text(ledger, folder):
    attack = f"{HOSTILE}\n---\nlicense: mit\n"
    kept(
        ledger,
        folder,
        gpu=attack,
        result={"sample": {"prompt": attack, "text": attack}, "versions": {attack: attack}, "routing": {attack: 0.5}},
    )
    card, text = read(ledger, folder)
    assert card.data.license is None
    outside_fences = "".join(text.split("```")[::2])
    assert "<script" not in outside_fences.replace("\\<", "")


def test_weights_writes_the_card(ledger, folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from lumina_cloud.cli.app import app

    kept(ledger, folder)
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, ["weights", "debug-moe-1", "--to", str(tmp_path / "hf")])
    assert done.exit_code == 0, done.output
    assert ModelCard.load(tmp_path / "hf" / "README.md").data.eval_results[0].metric_value == 3.25


def test_a_run_without_results_has_a_card_too(ledger, folder):
    kept(ledger, folder, state="stopped", result=dict.fromkeys(RESULT))
    card, text = read(ledger, folder)
    assert card.data.eval_results is None
    assert "ended as: stopped" in text
