"""The sixteen presets (`presets.toml`), recipes of depth routing, and what trains a finished model further."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from trainer.config.checking import with_layout
from trainer.config.files import load
from trainer.config.shapes import ARCHS, MODELS, DataConfig, LayoutConfig, ModelConfig, Recipe, RunConfig, TrainingConfig, unknown

if TYPE_CHECKING:
    from pathlib import Path


@cache
def _preset_table() -> dict[str, Any]:
    text = resources.files("trainer").joinpath("presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def preset(model: str, arch: str, recipe: Recipe = "paper") -> RunConfig:
    """Return a preset's full configuration on one GPU, one sequence at a time.

    `recipe` chooses depth routing: `paper` (every second block, capacity 0.125) or `published` (every block, capacity 0.5,
    b1 0.6). Raises ConfigError for a name that is not a preset.
    """
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    if arch not in ARCHS:
        raise unknown("arch", arch, ARCHS)
    table = _preset_table()[model]
    shape = ModelConfig(arch=arch, **table["model"])
    training = TrainingConfig(**table["training"])
    config = RunConfig(preset=model, model=shape, training=training, data=DataConfig(**table["data"]))
    return with_layout(with_recipe(config, recipe), LayoutConfig())


def with_recipe(config: RunConfig, recipe: Recipe) -> RunConfig:
    """Return `config` with depth routing by a named recipe; nothing changes where none is routed.

    `paper`: every second block, capacity 0.125 (Raposo et al. 2024, section 4.2). `published`: every block, capacity 0.5, for b1 0.6, as
    the published benchmark says.
    """
    every, capacity = (2, 0.125) if recipe == "paper" else (1, 0.6 if config.preset == "b1" else 0.5)
    return replace(config, model=replace(config.model, mod_every=every, mod_capacity=capacity))


FINE_TUNED = "fine-tune"
"""What stands for a preset's name where the model is an imported one."""


def fine_tuning(folder: Path) -> RunConfig:
    """Return the configuration that trains the model in `folder` further: its shape, and settings that suit a finished model.

    Learning rate, batch and weight decay are those of Llama 2's fine-tuning (Touvron et al. 2023, arXiv 2307.09288, section 3.1):
    2e-5, 64 sequences, 0.1; a checkpoint of ours keeps its sequence length. Raises ConfigError for a folder that holds no model.
    """
    if (folder / "config.json").is_file():
        # The import runs the other way round at the top of that module.
        from trainer import hf_config

        raw = hf_config.read_config(folder)
        model, seq_len = hf_config.from_config(raw), min(2048, hf_config.context_of(raw))
        data = DataConfig(source="stdlib")
    else:
        kept = load(folder / "run.json")
        model, seq_len = kept.model, kept.training.seq_len
        data = DataConfig(source="stdlib", tokenizer=kept.data.tokenizer)
    training = TrainingConfig(tokens=30_000_000, unique_tokens=10_000_000, global_batch_tokens=64 * seq_len, lr=2e-5, seq_len=seq_len)
    config = RunConfig(preset=FINE_TUNED, model=model, training=training, data=data, init_from=str(folder))
    return with_layout(config, LayoutConfig())
