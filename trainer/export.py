"""A trained model for others: safetensors, `config.json` and tokenizer, as `transformers` and what reads its format load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer import hf_config, hf_weights, weights
from trainer import tokenizer as tokenizers
from trainer.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.weights import Saved

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARD_BYTES = 4 << 30
"""A file of weights is not larger, unless one tensor is."""


def export(source: Path, target: Path, *, dtype: str = "float32", shard_bytes: int = SHARD_BYTES) -> str:
    """Write the model of a checkpoint or results folder into the folder `target`, and return its class in `transformers`.

    Raises DataError when there is no model, or when `target` is not empty.
    """
    saved = weights.find(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} is there already and not empty: give another folder with --to")
    target.mkdir(parents=True, exist_ok=True)
    model, special = saved.config.model, saved.tokenizer().special
    ids = {"eos_token_id": special.end, "bos_token_id": special.begin, "pad_token_id": special.pad}
    _write_weights(saved, target, DTYPES[dtype], shard_bytes)
    _write_json(target / "config.json", hf_config.to_config(model, context=saved.config.training.seq_len, dtype=dtype, special=ids))
    _write_tokenizer(saved, target)
    if not (target / "generation_config.json").is_file():
        _write_json(target / "generation_config.json", {k: v for k, v in ids.items() if v is not None})
    name = hf_config.architecture(model)
    if name == hf_config.LUMINA:
        shutil.copyfile(Path(__file__).with_name("modeling_lumina.py"), target / "modeling_lumina.py")
    return name


def _write_weights(saved: Saved, target: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    """Write shard after shard, so that no more than one is in memory."""
    from safetensors import safe_open

    with safe_open(str(saved.weights), framework="pt") as file:
        shards: list[list[hf_weights.Part]] = [[]]
        filled = 0
        for part in hf_weights.parts(saved.config.model):
            size = file.get_slice(part.ours).get_shape()
            n_bytes = torch.Size(size).numel() * dtype.itemsize
            if filled and filled + n_bytes > shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(part)
            filled += n_bytes
        index: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            name = weights.WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            pieces: dict[str, Tensor] = {}
            for part in shard:
                pieces |= dict(zip(part.theirs, map(_narrowed(dtype), part.apart(file.get_tensor(part.ours))), strict=True))
            weights.write(pieces, target / name)
            index |= dict.fromkeys(pieces, name)
    if len(shards) > 1:
        total = sum(path.stat().st_size for path in target.glob("model-*.safetensors"))
        _write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _narrowed(dtype: torch.dtype) -> Any:
    return lambda tensor: tensor.to(dtype).clone() if tensor.is_floating_point() else tensor


def _write_tokenizer(saved: Saved, target: Path) -> None:
    weights.put_beside(saved.folder, target)
    if saved.config.data.tokenizer == "bytes":
        tokenizers.byte_library().save(str(target / "tokenizer.json"))
    if not (target / "tokenizer_config.json").is_file():
        end, begin, pad = tokenizers.SPECIAL
        described = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "bos_token": begin,
            "pad_token": pad,
            "model_max_length": saved.config.training.seq_len,
            "clean_up_tokenization_spaces": False,
        }
        _write_json(target / "tokenizer_config.json", described)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
