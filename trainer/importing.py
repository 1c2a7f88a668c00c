"""A model that others trained, as a checkpoint of ours: to sample from, to export again, and to train further from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from trainer import config as configs
from trainer import hf_config, hf_weights, weights
from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from trainer.config import ModelConfig, RunConfig


def import_model(source: Path, target: Path) -> RunConfig:
    """Write a Llama- or Mixtral-shaped model and its tokenizer as a checkpoint into `target`, and return its configuration.

    Raises ConfigError for a model that can't be computed exactly, DataError for missing files or a `target` that is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} is there already and not empty: give another folder with --to")
    config = configs.fine_tuning(source)
    state = read_state(source, config.model)
    if not (source / "tokenizer.json").is_file():
        raise DataError(f"{source} has no tokenizer.json: save its tokenizer there in the `tokenizers` format first")
    target.mkdir(parents=True, exist_ok=True)
    weights.put_beside(source, target)
    weights.write(state, target / weights.WEIGHTS)
    # The configuration says what the folder holds, not where it came from.
    config = replace(config, init_from=None)
    (target / weights.RUN).write_text(config.to_json(), encoding="utf-8")
    return config


def initial_state(source: Path, model: ModelConfig) -> dict[str, Tensor]:
    """Return the weights to start from, in our names: of a checkpoint or results folder of ours, or of a model of `transformers`.

    Raises DataError when they are not of the shape `model`, ConfigError for a folder that is neither.
    """
    if (source / "config.json").is_file():
        found, state = hf_config.from_config(hf_config.read_config(source)), None
    else:
        saved = weights.find(source)
        found, state = saved.config.model, saved.state()
    differing = [name for name in _SHAPE if getattr(found, name) != getattr(model, name)]
    if differing:
        told = ", ".join(f"{name} {getattr(found, name)} there, {getattr(model, name)} here" for name in differing)
        raise DataError(f"the weights in {source} are of another model: {told}")
    return read_state(source, model) if state is None else state


_SHAPE = (
    *("vocab", "d_model", "n_layers", "n_heads", "n_kv_heads", "tie_embeddings", "qk_norm", "has_experts", "has_depth_routing"),
    *("rope_theta", "norm_eps"),
)


def read_state(source: Path, model: ModelConfig) -> dict[str, Tensor]:
    """Return a `transformers` folder's weights in our names. Raises DataError when some are missing or of another shape."""
    tensor = _reader(source)
    return {part.ours: part.together([tensor(name) for name in part.theirs]) for part in hf_weights.parts(model)}


def _reader(source: Path) -> Callable[[str], Tensor]:
    from safetensors import safe_open

    index = source / "model.safetensors.index.json"
    if index.is_file():
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {name: safe_open(str(source / name), framework="pt") for name in sorted(set(places.values()))}
    elif (source / weights.WEIGHTS).is_file():
        files = {weights.WEIGHTS: safe_open(str(source / weights.WEIGHTS), framework="pt")}
        places = dict.fromkeys(files[weights.WEIGHTS].keys(), weights.WEIGHTS)
    else:
        raise DataError(f"{source} has no model.safetensors: older .bin files are programs as much as data, and are not opened")

    def read(name: str) -> Tensor:
        if name in places:
            return files[places[name]].get_tensor(name)
        raise DataError(f"{source} lacks the weights {name!r}")

    return read


def load_into(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Copy weights into a freshly built model."""
    with torch.no_grad():
        model.load_state_dict(state)
