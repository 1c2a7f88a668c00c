"""Text to token ids and back: byte-level BPE of the model's vocabulary trained on the data, plain bytes, or a Hugging Face tokenizer.

Id 0 ends a document, id 1 begins a text. With bytes, byte b has id b + 3.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

END, BEGIN, PAD = 0, 1, 2
SPECIAL = ("<|end|>", "<|begin|>", "<|pad|>")
SAMPLE_CHARACTERS = 4 << 20
"""How much text the merges are learned from."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that are no text; None where a tokenizer has none."""

    end: int
    """Ends a document, and with it what a model writes."""
    begin: int | None = None
    pad: int | None = None


OURS = SpecialIds(END, BEGIN, PAD)


class Tokenizer(Protocol):
    """Encodes and decodes."""

    special: SpecialIds
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

    special, size = OURS, 256 + len(SPECIAL)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [(np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) + len(SPECIAL)).tolist() for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; ids that are no byte are left out."""
        return bytes(i - len(SPECIAL) for i in ids if len(SPECIAL) <= i < 256 + len(SPECIAL)).decode("utf-8", "replace")


class BpeTokenizer:
    """A `tokenizer.json` of the `tokenizers` library: our own byte-level BPE, or an imported model's.

    What an imported one puts around a text by itself (Llama's begin token) is put there. Which tokens are special says
    `tokenizer_config.json` beside it, as `transformers` writes it; without that file they are ours.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_file(str(path))
        except Exception as error:
            raise DataError(f"{path} is no tokenizer that can be read: {error}") from error
        self.size = int(self._library.get_vocab_size())
        self.special = special_ids(path.parent, self._library.token_to_id)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [encoding.ids for encoding in self._library.encode_batch(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._library.decode(list(ids), skip_special_tokens=True))


def special_ids(folder: Path, id_of: Callable[[str], int | None]) -> SpecialIds:
    """Return the special tokens that a folder's `tokenizer_config.json` names. Raises DataError when it names no end."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return OURS
    named = json.loads(path.read_text(encoding="utf-8"))

    def find(role: str) -> int | None:
        token = named.get(role)
        # Older files hold a description of the token rather than its text.
        text = token.get("content") if isinstance(token, dict) else token
        return id_of(text) if isinstance(text, str) else None

    end = find("eos_token")
    if end is None:
        raise DataError(f"{path} names no eos_token that the tokenizer has: a model has to know where a text ends")
    return SpecialIds(end, find("bos_token"), find("pad_token"))


def open_in(folder: Path, kind: str) -> Tokenizer:
    """Return the tokenizer of a results folder or checkpoint, `kind` as in `DataConfig.tokenizer`. Raises DataError without one."""
    if kind == "bytes":
        return ByteTokenizer()
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} holds no tokenizer.json")
    return BpeTokenizer(folder / "tokenizer.json")


def copy_folder(folder: Path, path: Path) -> None:
    """Copy a Hugging Face tokenizer folder's `tokenizer.json`, and what says which tokens are special, to `path`. Raises DataError."""
    source = folder.expanduser() / "tokenizer.json"
    if not source.is_file():
        raise DataError(
            f"{folder} has no tokenizer.json: save it as a fast tokenizer first "
            "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, path.parent / name)


def byte_library() -> Any:
    """Return the byte tokenizer as the `tokenizers` library's, for programs that read `tokenizer.json`."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    vocab = {text: i for i, text in enumerate(SPECIAL)}
    vocab |= {letter: byte + len(SPECIAL) for byte, letter in enumerate(_byte_letters())}
    library = Library(models.BPE(vocab=vocab, merges=[]))
    library.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return library


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte in byte-level BPE: itself where it can be printed, else one from 256 on (GPT-2)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


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
