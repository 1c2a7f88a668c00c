"""Text to token ids and back: byte-level BPE of the model's vocabulary, plain bytes, or a Hugging Face tokenizer folder.

The end token stands behind each document. With bytes and with BPE trained here it has id 0, and byte b has id b + 3.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

END, BEGIN, PAD = 0, 1, 2
SPECIAL = ("<|end|>", "<|begin|>", "<|pad|>")
SAMPLE_CHARACTERS = 4 << 20
"""How much text the merges are learned from."""

_END_NAMES = ("<|end|>", "<|endoftext|>", "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>", "[SEP]")

Ids = np.ndarray[tuple[int], np.dtype[np.int64]]


class Tokenizer(Protocol):
    """Encodes and decodes."""

    end: int
    """The token that ends a document."""
    size: int
    """Ids are below this."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, nothing added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        ...


class ByteTokenizer:
    """One id a byte."""

    end, size = END, 256 + len(SPECIAL)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [(np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) + len(SPECIAL)).tolist() for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; ids that are no byte are left out."""
        return bytes(i - len(SPECIAL) for i in ids if len(SPECIAL) <= i < 256 + len(SPECIAL)).decode("utf-8", "replace")


class BpeTokenizer:
    """A `tokenizer.json` by the `tokenizers` library, which encodes in parallel."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_file(str(path))
        except Exception as error:
            raise DataError(f"{path} is no tokenizer that can be read: {error}") from error
        self.size = int(self._library.get_vocab_size())
        self.end = _end_of(self._library, path)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [encoding.ids for encoding in self._library.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._library.decode(list(ids), skip_special_tokens=True))


def _end_of(library: object, path: Path) -> int:
    """Return the id that ends a document: what `tokenizer_config.json` beside the tokenizer says, else one of the usual names."""
    names = list(_END_NAMES)
    try:
        said = json.loads((path.parent / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
        names.insert(0, said["content"] if isinstance(said, dict) else said)
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    for name in names:
        found = library.token_to_id(name) if isinstance(name, str) else None  # type: ignore[attr-defined]
        if found is not None:
            return int(found)
    raise DataError(f"{path} has no token that ends a document: name it as eos_token in tokenizer_config.json beside it")


def load(kind: str, path: Path) -> Tokenizer:
    """Return the tokenizer of a run: bytes, or the `tokenizer.json` at `path`. Raises DataError."""
    return ByteTokenizer() if kind == "bytes" else BpeTokenizer(path)


def copy_folder(folder: Path, path: Path) -> None:
    """Copy a Hugging Face tokenizer folder's `tokenizer.json` (and its configuration) to `path`. Raises DataError."""
    source = folder.expanduser() / "tokenizer.json"
    if not source.is_file():
        raise DataError(
            f"{folder} has no tokenizer.json: save it as a fast tokenizer first "
            "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, path.parent / name)


def train_bpe(texts: Iterable[str], vocab: int, path: Path) -> int:
    """Learn `vocab` tokens from texts, save them at `path`, and return how many there are: fewer when the text is short."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    library.save(str(partial))
    partial.replace(path)
    return int(library.get_vocab_size())
