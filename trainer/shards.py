"""Tokens on disk: packed, memory-mapped, with an index that proves them whole.

`shards/index.json` lists every shard of a split with its tokens and SHA-256. The index is written last: without it, or for another
source or tokenizer, the shards are made again. Documents are separated by the end token.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import tokenizer as tokenizers
from trainer.config import BYTE_VOCAB
from trainer.errors import DataError
from trainer.sources import documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trainer.config import RunConfig
    from trainer.tokenizer import Tokenizer

SHARD_TOKENS = 1 << 27
VALIDATION_EVERY = 20
"""Every twentieth document is held out, until the validation split is full."""
_BATCH_DOCUMENTS = 64


@dataclass(frozen=True)
class Shard:
    """One file of packed tokens."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What was prepared, and from what."""

    source: str
    tokenizer: str
    vocab: int
    dtype: str
    wanted: int
    train: tuple[Shard, ...]
    validation: tuple[Shard, ...]

    def count(self, split: str) -> int:
        """Return the tokens of a split."""
        return sum(shard.tokens for shard in getattr(self, split))


def prepare(config: RunConfig, source: str, out: Path, tick: Callable[[int], None]) -> tuple[Index, Tokenizer]:
    """Return the index and tokenizer of a source, made where they are not there yet.

    `tick` is called with the tokens so far, every few hundred documents. Raises DataError for a source without enough text.
    """
    training = config.training
    wanted = min(training.unique_tokens, training.tokens)
    found = _existing(config, source, out, wanted)
    if found is not None:
        return found, _load(config, out)
    folder = out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    texts = documents(source)
    tokenizer, texts = _tokenizer(config, texts, out)
    held_out = min(training.validation_tokens, max(training.seq_len + 1, wanted // 20))
    dtype = np.dtype(np.uint16 if config.model.vocab <= 1 << 16 else np.uint32)
    train, validation = _Writer(folder, "train", dtype), _Writer(folder, "validation", dtype)
    for number, ids in enumerate(_encoded(tokenizer, texts)):
        is_held_out = number % VALIDATION_EVERY == 1 and validation.total < held_out
        (validation if is_held_out else train).add(ids)
        if number % 256 == 0:
            tick(train.total)
        if train.total >= wanted and validation.total >= min(held_out, training.seq_len + 1):
            break
    index = Index(source, config.data.tokenizer, config.model.vocab, dtype.name, wanted, train.close(), validation.close())
    _require(index, training.seq_len)
    _write_json(folder / "index.json", asdict(index))
    return index, tokenizer


def _tokenizer(config: RunConfig, texts: Iterator[str], out: Path) -> tuple[Tokenizer, Iterator[str]]:
    """Return the tokenizer, trained on the first texts if need be, and all texts again."""
    path = out / "tokenizer.json"
    if config.data.tokenizer == "bytes" or config.model.vocab < BYTE_VOCAB:
        return tokenizers.ByteTokenizer(), texts
    if path.is_file():
        return tokenizers.BpeTokenizer(path), texts
    sample, size = [], 0
    for text in texts:
        sample.append(text)
        size += len(text)
        if size >= tokenizers.SAMPLE_CHARACTERS:
            break
    if not sample:
        raise DataError("the data holds no text")
    learned = tokenizers.train_bpe(sample, config.model.vocab, path)
    if learned < config.model.vocab:
        print(f"the text is short: the tokenizer has {learned} of {config.model.vocab} tokens", flush=True)
    return tokenizers.BpeTokenizer(path), chain(sample, texts)


def _encoded(tokenizer: Tokenizer, texts: Iterator[str]) -> Iterator[list[int]]:
    while batch := list(islice(texts, _BATCH_DOCUMENTS)):
        for ids in tokenizer.encode(batch):
            if ids[-1:] != [tokenizer.special.end]:
                ids.append(tokenizer.special.end)
            yield ids


def _load(config: RunConfig, out: Path) -> Tokenizer:
    return tokenizers.ByteTokenizer() if config.data.tokenizer == "bytes" else tokenizers.BpeTokenizer(out / "tokenizer.json")


def _require(index: Index, seq_len: int) -> None:
    for split in ("train", "validation"):
        if index.count(split) <= seq_len:
            raise DataError(
                f"the {split} split has {index.count(split):,} tokens, and one sequence needs {seq_len + 1:,}: "
                "give more text, or a smaller seq_len"
            )


class _Writer:
    """Appends tokens to numbered shards of a split."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any]) -> None:
        self.total = 0
        self._folder, self._split, self._dtype = folder, split, dtype
        self._done: list[Shard] = []
        self._open()

    def _open(self) -> None:
        self._name = f"{self._split}-{len(self._done):05d}.bin"
        self._file = (self._folder / self._name).open("wb")
        self._hash, self._tokens = hashlib.sha256(), 0

    def add(self, ids: list[int]) -> None:
        """Append one document."""
        raw = np.asarray(ids, dtype=self._dtype).tobytes()
        self._file.write(raw)
        self._hash.update(raw)
        self._tokens += len(ids)
        self.total += len(ids)
        if self._tokens >= SHARD_TOKENS:
            self._close_shard()
            self._open()

    def _close_shard(self) -> None:
        self._file.close()
        self._done.append(Shard(self._name, self._tokens, self._hash.hexdigest()))

    def close(self) -> tuple[Shard, ...]:
        """Finish and return the shards."""
        self._close_shard()
        return tuple(shard for shard in self._done if shard.tokens)


def _existing(config: RunConfig, source: str, out: Path, wanted: int) -> Index | None:
    """Return the index that is there, if it is of this source and every shard is whole."""
    try:
        raw = json.loads((out / "shards" / "index.json").read_text(encoding="utf-8"))
        splits = {name: tuple(Shard(**shard) for shard in raw.pop(name)) for name in ("train", "validation")}
        index = Index(**raw, **splits)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    asked = (source, config.data.tokenizer, config.model.vocab, wanted)
    if (index.source, index.tokenizer, index.vocab, index.wanted) != asked:
        return None
    for shard in (*index.train, *index.validation):
        path = out / "shards" / shard.file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != shard.sha256:
            print(f"{shard.file} is damaged: the data is prepared again", flush=True)
            return None
    return index


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(path)
