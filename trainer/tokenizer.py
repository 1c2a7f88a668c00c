"""Text to token ids and back: byte-level BPE of exactly the model's vocabulary, trained on the data, or plain bytes.

Id 0 ends a document, id 1 begins a text. With bytes, byte b has id b + 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

END, BEGIN, PAD = 0, 1, 2
SPECIAL = ("<|end|>", "<|begin|>", "<|pad|>")
SAMPLE_CHARACTERS = 4 << 20
"""How much text the merges are learned from."""


class Tokenizer(Protocol):
    """Encodes and decodes."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, nothing added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        ...


class ByteTokenizer:
    """One id a byte."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [[b + len(SPECIAL) for b in text.encode("utf-8")] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; ids that are no byte are left out."""
        return bytes(i - len(SPECIAL) for i in ids if len(SPECIAL) <= i < 256 + len(SPECIAL)).decode("utf-8", "replace")


class BpeTokenizer:
    """Byte-level BPE by the `tokenizers` library: every text can be encoded, nothing is unknown."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        self._library = Library.from_file(str(path))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [encoding.ids for encoding in self._library.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._library.decode(list(ids), skip_special_tokens=True))


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
    partial = path.with_name(f".{path.name}.part")
    library.save(str(partial))
    partial.replace(path)
    return int(library.get_vocab_size())
