"""The folder whose weights a run trains further: what model it is, and which of its files go onto the machine.

Nothing in it is loaded here. It is a model of the `transformers` library (config.json, safetensors, tokenizer.json), or what the trainer
wrote: a results folder, a checkpoint, an imported model (run.json, model.safetensors).
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import DataError, UsageError
from trainer import config as trainer_config

if TYPE_CHECKING:
    from trainer.config import RunConfig

_SMALL = (
    *("config.json", "run.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
)
_WHAT = "--init-from takes a folder with safetensors beside config.json (a model of transformers) or run.json (a checkpoint of ours)"


def config(folder: str, model: str, arch: str) -> RunConfig:
    """Return the configuration that trains the weights in `folder` further.

    With a preset's name as `model` the run is that preset's, and the weights must be of its shape; without one (the trainer's
    `FINE_TUNED`) shape and settings follow from the weights. Raises UsageError or DataError.
    """
    path = absolute(folder)
    files(path)
    found = trainer_config.fine_tuning(path)
    if model == trainer_config.FINE_TUNED:
        return found
    wanted = trainer_config.preset(model, arch)
    if found.model != wanted.model:
        raise UsageError(
            f"the weights in {str(path)!r} are no {model} {arch}",
            "leave out the model: its shape follows from the weights",
        )
    return replace(wanted, init_from=str(path))


def arch_of(folder: str) -> str:
    """Return the architecture of the weights in a folder. Raises DataError, or the trainer's ConfigError."""
    path = absolute(folder)
    files(path)
    return trainer_config.fine_tuning(path).model.arch


def absolute(folder: str) -> Path:
    """Return the folder's absolute path. Raises DataError when there is none."""
    path = Path(folder).expanduser().absolute()
    if path.is_dir():
        return path
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    raise DataError(f"no folder {folder!r}", f"did you mean {str(path.parent / near[0])!r}?" if near else _WHAT)


def files(folder: Path) -> list[Path]:
    """Return the files that the machine needs. Raises DataError when weights, shape or tokenizer are missing."""
    weights = sorted(p for p in folder.glob("*.safetensors") if p.is_file() and not p.name.startswith("."))
    described = [name for name in ("config.json", "run.json") if (folder / name).is_file()]
    if not described or not weights:
        lacking = "safetensors" if described else "config.json or run.json"
        raise DataError(f"{str(folder)!r} holds no {lacking}", _WHAT)
    if described == ["config.json"] and not (folder / "tokenizer.json").is_file():
        raise DataError(f"{str(folder)!r} holds no tokenizer.json", "save the model's tokenizer there too, in the `tokenizers` format")
    return [*(folder / name for name in _SMALL if (folder / name).is_file()), *weights]
