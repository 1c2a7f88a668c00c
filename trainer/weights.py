"""Weights in a folder: `model.safetensors`, or a checkpoint's pieces, beside `run.json` and the tokenizer; nothing is unpickled.

Wherever a command takes a checkpoint, three folders will do: a run's results, one of its checkpoints (`checkpoints/step-000123`), and
what `import` wrote.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainer import checkpoint, pieces
from trainer import tokenizer as tokenizers
from trainer.config import load
from trainer.errors import DataError
from trainer.model import Model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from trainer.config import RunConfig
    from trainer.tokenizer import Tokenizer

WEIGHTS, RUN = "model.safetensors", "run.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@dataclass(frozen=True)
class Saved:
    """A model as it lies in a folder."""

    config: RunConfig
    weights: Path
    """`model.safetensors`, or the `state.json` of a checkpoint."""
    folder: Path
    """Where the tokenizer's files are."""

    def tokenizer(self) -> Tokenizer:
        """Return its tokenizer. Raises DataError when it is missing."""
        return tokenizers.open_in(self.folder, self.config.data.tokenizer)

    def state(self) -> dict[str, Tensor]:
        """Return its tensors by our names, in the type they are stored in."""
        if self.weights.name == checkpoint.STATE:
            return pieces.weights(self.weights.parent, checkpoint.state(self.weights.parent)["parameters"])
        from safetensors.torch import load_file

        return load_file(str(self.weights))

    def model(self) -> Model:
        """Return it in fp32, ready to sample from."""
        model = Model(self.config.model)
        model.load_state_dict(self.state())
        return model.to(torch.float32).eval()


def find(folder: Path) -> Saved:
    """Return the model that a results folder, checkpoint or imported folder holds; of unfinished runs the newest checkpoint's.

    Raises DataError when there is none, ConfigError for a malformed `run.json`.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {str(folder)!r}: give a run's results folder or one of its checkpoints")
    places = [folder, *reversed(checkpoint.named(folder / "checkpoints"))]
    candidates = (place / name for place in places for name in (WEIGHTS, checkpoint.STATE))
    weights = next((path for path in candidates if path.is_file()), None)
    if weights is None:
        raise DataError(f"{folder} holds no {WEIGHTS}: give a run's results folder, or a checkpoint such as checkpoints/step-000100")
    home = weights.parent if (weights.parent / RUN).is_file() else folder
    if not (home / RUN).is_file():
        raise DataError(f"{folder} holds no {RUN}: only what this trainer wrote can be opened (models of others: python -m trainer import)")
    return Saved(load(home / RUN), weights, home)


def write(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; the file appears when it is whole."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, str(partial), metadata={"format": "pt"})
    partial.replace(path)


def put_beside(source: Path, target: Path) -> None:
    """Copy a folder's tokenizer files into another."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
