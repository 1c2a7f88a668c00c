"""Checkpoint folders for tests, made without training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trainer import tokenizer, weights
from trainer.config import preset

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.model import Model

TEXT = "The quick brown fox jumps over the lazy dog. def softmax(x): return x / x.sum()\n" * 20


def written(model: Model, folder: Path, kind: str = "bpe") -> Path:
    """Write a model as a results folder with a tokenizer of its vocabulary."""
    folder.mkdir(parents=True)
    config = preset("debug", model.config.arch)
    config = replace(config, model=model.config, data=replace(config.data, tokenizer=kind))
    if kind == "bpe":
        tokenizer.train_bpe([TEXT], model.config.vocab, folder / "tokenizer.json")
    weights.write(model.state_dict(), folder / weights.WEIGHTS)
    (folder / weights.RUN).write_text(config.to_json(), encoding="utf-8")
    return folder
