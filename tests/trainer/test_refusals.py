"""What the engine cannot train is refused by one table, with a reason, and planner and trainer both ask it."""

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.trainer.conftest import ROOT, environment, tiny, trainer
from trainer import config as trainer_config
from trainer.config import REFUSALS, ConfigError, check, refusals


def changed(config, **values):
    """Return `config` with fields of any section replaced, unchecked."""
    for name, value in values.items():
        section = next((s for s in ("layout", "training", "model") if hasattr(getattr(config, s), name)), None)
        config = replace(config, **({name: value} if section is None else {section: replace(getattr(config, section), **{name: value})}))
    return config


# key: (architecture, what is refused, the nearest that is not)
CASES = {
    "unknown stage": ("dense", {"zero_stage": 4}, {"zero_stage": 3}),
    "fp16 on a CPU": ("dense", {"precision": "fp16"}, {"precision": "bf16"}),
    "bf16 at stage 0": ("dense", {"precision": "bf16", "zero_stage": 0}, {"precision": "bf16", "zero_stage": 1}),
    "fp16 at stage 0": ("dense", {"precision": "fp16", "zero_stage": 0, "device": "cuda"}, {"precision": "fp16", "device": "cuda"}),
    "expert parallelism without experts": ("mod", {"expert_parallel": 2}, {}),
    "expert parallelism": ("hybrid", {"expert_parallel": 2}, {"zero_stage": 3}),
    "optimizer offload below stage 2": ("dense", {"offload": "optimizer"}, {"offload": "optimizer", "zero_stage": 2}),
    "parameter offload below stage 3": (
        "dense",
        {"offload": "optimizer+parameters", "zero_stage": 2},
        {"offload": "optimizer+parameters", "zero_stage": 3},
    ),
    "8-bit AdamW on a CPU": ("dense", {"optimizer": "adamw8bit"}, {"optimizer": "adamw8bit", "device": "cuda"}),
    "8-bit AdamW with offload": (
        "dense",
        {"optimizer": "adamw8bit", "device": "cuda", "offload": "optimizer", "zero_stage": 2},
        {"optimizer": "adamw8bit", "device": "cuda", "zero_stage": 2},
    ),
    "every n-th block without checkpointing": ("dense", {"checkpoint_every": 2}, {"checkpoint_every": 2, "checkpointing": "block"}),
    "every n-th of fewer blocks": (
        "dense",
        {"checkpoint_every": 3, "checkpointing": "block"},
        {"checkpoint_every": 2, "checkpointing": "block"},
    ),
    "compiling sharded parameters": ("dense", {"compile": "on", "zero_stage": 3}, {"compile": "on", "zero_stage": 2}),
    "unknown tracker": ("dense", {"trackers": "tensorboard,aim"}, {"trackers": "tensorboard,wandb"}),
}


def test_every_entry_of_the_table_has_a_case():
    assert [refusal.key for refusal in REFUSALS] == list(CASES)


@pytest.mark.parametrize("key", CASES)
def test_an_entry_refuses_its_case_and_nothing_beside_it(key):
    arch, refused, accepted = CASES[key]
    refusal = next(r for r in REFUSALS if r.key == key)
    found = refusals(changed(tiny(arch), **refused))
    assert [error.name for error in found] == [refusal.name]
    assert found[0].message and found[0].hint and "{c" not in found[0].message + found[0].hint
    with pytest.raises(ConfigError) as caught:
        check(changed(tiny(arch), **refused))
    assert caught.value.message == found[0].message
    check(changed(tiny(arch), **accepted))


def test_the_document_has_the_table():
    """`python scripts/refusal_table.py docs/training.md` writes it."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "refusal_table.py"], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout.strip() in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_planner_asks_the_same_function():
    from lumina_cloud.planner import layout_search

    assert layout_search.check is trainer_config.check


def test_the_trainer_refuses_before_it_loads_anything(tmp_path):
    arch, refused, _ = CASES["bf16 at stage 0"]
    path = tmp_path / "run.json"
    path.write_text(changed(tiny(arch), **refused).to_json())
    done = trainer("train", "--config", path, "--out", tmp_path / "out", check=2)
    assert "bf16 at ZeRO stage 0 trains measurably differently" in done.stderr and "take zero_stage=1" in done.stderr
    assert not (tmp_path / "out").exists()
