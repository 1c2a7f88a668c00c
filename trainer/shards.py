"""Tokens on disk: packed, memory-mapped, with an index that proves them whole.

`index.json` lists every shard of a split with its tokens and SHA-256, and is written last: without it there are no shards. Each document
is followed by the end token. A document is held out for validation by the hash of its text, so the split is the same text for every
seed and every tokenizer. The others are shuffled by the seed, in a buffer, as they are written; training then draws its sequences from
all of them in an order of its own (`trainer.batches`).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import tokenizer as tokenizers
from trainer.config import BYTE_VOCAB
from trainer.errors import DataError
from trainer.sources import documents, n_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainer.tokenizer import Tokenizer

FORMAT = 2
SHARD_TOKENS = 1 << 27
BUFFER_TOKENS = 1 << 22
"""Documents are shuffled within a buffer of this many tokens."""
FEW_DOCUMENTS = 64
"""A source with no more documents than this is held out by rank of hash, not by share."""
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 512, 4 << 20


@dataclass(frozen=True)
class Recipe:
    """What to prepare."""

    source: str
    tokenizer: str = "bpe"
    """`bpe`, `bytes`, or a folder with a Hugging Face tokenizer."""
    vocab: int = 32_000
    wanted: int = 0
    """Tokens to stop at, 0 for all there are."""
    validation_tokens: int = 262_144
    """Held out are two bytes of text for each of these, never more than a tenth of what is wanted."""
    seq_len: int = 2048
    """The splits must hold at least one sequence of this length."""
    seed: int = 0


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
    wanted: int
    validation_tokens: int
    seed: int
    dtype: str
    documents: int
    train_bytes: int
    """UTF-8 bytes of the text, end tokens not counted."""
    validation_bytes: int
    train: tuple[Shard, ...]
    validation: tuple[Shard, ...]
    format: int = FORMAT

    def count(self, split: str) -> int:
        """Return the tokens of a split."""
        return sum(shard.tokens for shard in getattr(self, split))

    @property
    def n_bytes(self) -> int:
        """Size of all shards on disk."""
        return (self.count("train") + self.count("validation")) * np.dtype(self.dtype).itemsize


def prepare(recipe: Recipe, folder: Path, tokenizer_path: Path, tick: Callable[[int], None] = lambda _tokens: None) -> Index:
    """Write the shards of a source into `folder`, the tokenizer to `tokenizer_path`, and return the index.

    `tick` is called with the tokens so far. Raises DataError for a source without enough text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    tokenizer, texts = _tokenizer(recipe, documents(recipe.source), tokenizer_path)
    if tokenizer.size > recipe.vocab:
        raise DataError(f"the tokenizer has {tokenizer.size:,} tokens, and the model's vocabulary is {recipe.vocab:,}: set vocab to that")
    dtype, held_out, number = _dtype(recipe), _HeldOut(recipe), 0
    with _Writer(folder, "train", dtype, Random(recipe.seed)) as train, _Writer(folder, "validation", dtype, None) as validation:
        for text, ids in _encoded(tokenizer, held_out.marked(texts), tick, train):
            is_full = bool(recipe.wanted) and train.total >= recipe.wanted
            if is_full and validation.total > recipe.seq_len:
                break
            if text.held_out or not is_full:
                (validation if text.held_out else train).add(ids, text.n_bytes)
                number += 1
    index = index_of(
        recipe, train.done(), validation.done(), documents=number, train_bytes=train.n_bytes, validation_bytes=validation.n_bytes
    )
    require(index, recipe.seq_len)
    _write_json(folder / "index.json", asdict(index))
    tick(train.total)
    return index


def index_of(
    recipe: Recipe,
    train: tuple[Shard, ...],
    validation: tuple[Shard, ...],
    *,
    documents: int = 0,
    train_bytes: int = 0,
    validation_bytes: int = 0,
) -> Index:
    """Return the index of shards that were made by a recipe."""
    return Index(
        source=recipe.source,
        tokenizer=_kind(recipe),
        vocab=recipe.vocab,
        wanted=recipe.wanted,
        validation_tokens=recipe.validation_tokens,
        seed=recipe.seed,
        dtype=_dtype(recipe).name,
        documents=documents,
        train_bytes=train_bytes,
        validation_bytes=validation_bytes,
        train=train,
        validation=validation,
    )


def _dtype(recipe: Recipe) -> np.dtype[Any]:
    return np.dtype(np.uint16 if recipe.vocab <= 1 << 16 else np.uint32)


def existing(recipe: Recipe, folder: Path, say: Callable[[str], None] = print) -> Index | None:
    """Return the index that is there, if it is of this recipe and every shard is whole."""
    try:
        index = read(folder)
    except DataError:
        return None
    made_from = (index.source, index.tokenizer, index.vocab, index.wanted, index.validation_tokens, index.seed)
    if made_from != (recipe.source, _kind(recipe), recipe.vocab, recipe.wanted, recipe.validation_tokens, recipe.seed):
        return None
    for problem in damage(folder, index):
        say(f"{problem}: the data is prepared again")
        return None
    return index


def _kind(recipe: Recipe) -> str:
    return "bytes" if recipe.vocab < BYTE_VOCAB else recipe.tokenizer


def is_prepared(path: Path) -> bool:
    """Whether a folder holds prepared shards."""
    return (path / "index.json").is_file()


def read(folder: Path) -> Index:
    """Return the index of prepared shards. Raises DataError when there is none that can be read."""
    try:
        raw = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        splits = {name: tuple(Shard(**shard) for shard in raw.pop(name)) for name in ("train", "validation")}
        index = Index(**raw, **splits)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / 'index.json'} is no index of prepared shards: {error}") from error
    if index.format != FORMAT or index.dtype not in ("uint16", "uint32"):
        raise DataError(f"{folder} holds shards of format {index.format}, and this trainer reads {FORMAT}: prepare them again")
    return index


def damage(folder: Path, index: Index, tick: Callable[[int], None] = lambda _tokens: None) -> Iterator[str]:
    """Yield what is wrong with each shard that is not whole, by name."""
    done = 0
    for shard in (*index.train, *index.validation):
        path, size = folder / Path(shard.file).name, shard.tokens * np.dtype(index.dtype).itemsize
        if not path.is_file():
            yield f"{shard.file} is missing"
        elif path.stat().st_size != size:
            yield f"{shard.file} has {path.stat().st_size:,} of {size:,} bytes"
        else:
            with path.open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != shard.sha256:
                    yield f"{shard.file} is not what was written"
        done += shard.tokens
        tick(done)


def require(index: Index, seq_len: int) -> None:
    """Raise DataError when a split does not hold one sequence."""
    for split in ("train", "validation"):
        if index.count(split) <= seq_len:
            raise DataError(
                f"the {split} split has {index.count(split):,} tokens, and one sequence needs {seq_len + 1:,}: "
                "give more text, or a smaller seq_len"
            )


# --- text to tokens -------------------------------------------------------------------------------------------------------


def _tokenizer(recipe: Recipe, texts: Iterator[str], path: Path) -> tuple[Tokenizer, Iterator[str]]:
    """Return the tokenizer, trained on the first texts if need be, and all texts again."""
    kind = _kind(recipe)
    if kind == "bytes":
        return tokenizers.ByteTokenizer(), texts
    if kind != "bpe":
        tokenizers.copy_folder(Path(kind), path)
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
    learned = tokenizers.train_bpe(sample, recipe.vocab, path)
    if learned < recipe.vocab:
        print(f"the text is short: the tokenizer has {learned} of {recipe.vocab} tokens", flush=True)
    return tokenizers.BpeTokenizer(path), chain(sample, texts)


@dataclass(frozen=True)
class _Text:
    text: str
    n_bytes: int
    held_out: bool


class _HeldOut:
    """Decides which documents are the validation split, from their text alone."""

    def __init__(self, recipe: Recipe) -> None:
        here = n_bytes(recipe.source)
        # Among the first bytes that every tokenizer reads: one token is at least one byte.
        among = [n for n in (here, recipe.wanted or None) if n]
        self._among = min(among) if among else 1 << 40
        self._least = 16 * (recipe.seq_len + 1)
        """In case the first documents are too few: then later ones are held out as well."""
        self._target = max(self._least, min(2 * recipe.validation_tokens, self._among // 10))
        self._share = min(0.2, self._target / self._among)

    def marked(self, texts: Iterator[str]) -> Iterator[_Text]:
        first = list(islice(texts, FEW_DOCUMENTS + 1))
        if not first:
            raise DataError("the data holds no text")
        if len(first) <= FEW_DOCUMENTS:
            yield from self._of_few(first)
            return
        read = held = 0
        for text in chain(first, texts):
            raw = text.encode("utf-8", "replace")
            read += len(raw)
            is_held = _hash(raw) < self._share and (read <= self._among or held < self._least)
            held += len(raw) * is_held
            yield _Text(text, len(raw), is_held)

    def _of_few(self, texts: list[str]) -> Iterator[_Text]:
        if len(texts) == 1:
            # The last twentieth of a single short text.
            cut = max(len(texts[0]) - max(len(texts[0]) // 20, min(self._target, len(texts[0]) // 5)), 0)
            for text, is_held in ((texts[0][cut:], True), (texts[0][:cut], False)):
                yield _Text(text, len(text.encode("utf-8", "replace")), is_held)
            return
        sizes = [len(text.encode("utf-8", "replace")) for text in texts]
        held, size = set(), 0
        for number in sorted(range(len(texts)), key=lambda n: _hash(texts[n].encode("utf-8", "replace"))):
            if held and size + sizes[number] > max(self._target, sum(sizes) // 20):
                continue
            if len(held) >= max(1, len(texts) // 5):
                break
            held.add(number)
            size += sizes[number]
        for number in sorted(range(len(texts)), key=lambda n: n not in held):
            yield _Text(texts[number], sizes[number], number in held)


def _hash(raw: bytes) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=7).digest(), "big") / (1 << 56)


def _encoded(
    tokenizer: Tokenizer, texts: Iterator[_Text], tick: Callable[[int], None], train: _Writer
) -> Iterator[tuple[_Text, list[int]]]:
    """Yield documents with their tokens and the end token; the library encodes a batch on all cores."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    while batch := list(_batch(texts)):
        for text, ids in zip(batch, tokenizer.encode([text.text for text in batch]), strict=True):
            if ids[-1:] != [tokenizer.special.end]:
                ids.append(tokenizer.special.end)
            yield text, ids
        tick(train.total)


def _batch(texts: Iterator[_Text]) -> Iterator[_Text]:
    size = 0
    for text in islice(texts, _BATCH_DOCUMENTS):
        yield text
        size += text.n_bytes
        if size > _BATCH_CHARACTERS:
            return


# --- tokens to files ------------------------------------------------------------------------------------------------------


class _Writer:
    """Appends documents to numbered shards of a split, shuffled in a buffer by `random` where it is given."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], random: Random | None) -> None:
        self.total = self.n_bytes = 0
        self._folder, self._split, self._dtype, self._random = folder, split, dtype, random
        self._buffer: list[bytes] = []
        self._held = 0
        self._done: list[Shard] = []
        self._open()

    def _open(self) -> None:
        self._name = f"{self._split}-{len(self._done):05d}.bin"
        self._file = (self._folder / self._name).open("wb")
        self._hash, self._tokens = hashlib.sha256(), 0

    def add(self, ids: list[int], n_bytes: int) -> None:
        """Append one document."""
        self.total += len(ids)
        self.n_bytes += n_bytes
        raw = np.asarray(ids, dtype=self._dtype).tobytes()
        if self._random is None:
            self._write(raw)
            return
        self._buffer.append(raw)
        self._held += len(ids)
        while self._held > BUFFER_TOKENS:
            self._write_any()

    def _write_any(self) -> None:
        assert self._random is not None
        place = self._random.randrange(len(self._buffer))
        self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
        raw = self._buffer.pop()
        self._held -= len(raw) // self._dtype.itemsize
        self._write(raw)

    def _write(self, raw: bytes) -> None:
        self._file.write(raw)
        self._hash.update(raw)
        self._tokens += len(raw) // self._dtype.itemsize
        if self._tokens >= SHARD_TOKENS:
            self._close_shard()
            self._open()

    def _close_shard(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._done.append(Shard(self._name, self._tokens, self._hash.hexdigest()))

    def done(self) -> tuple[Shard, ...]:
        """Return the shards that were written."""
        return tuple(shard for shard in self._done if shard.tokens)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._file.close()
            return
        while self._buffer:
            self._write_any()
        self._close_shard()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(path)
