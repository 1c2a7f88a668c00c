"""`python -m trainer data prepare` and `data check`: shards from text, and what a source holds, before anything is rented."""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

from trainer.config import BYTE_VOCAB, ConfigError, parse_count
from trainer.errors import DataError

EXACT_BYTES = 8 << 20
"""Text up to this size is tokenised whole by `check`; of more a sample is, and the rest reckoned by its bytes."""


def add_prepare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `prepare`."""
    prepare = verbs.add_parser("prepare", help="write memory-mapped shards with index and checksums")
    prepare.add_argument("source", help="text, JSONL, Parquet or source files, a folder of them, hf:NAME:SUBSET, or stdlib")
    prepare.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for shards, index and tokenizer")
    _add_common(prepare)
    prepare.add_argument("--seq-len", default="2048", help="each split must hold a sequence of this length (default 2048)")
    prepare.add_argument("--validation-tokens", default="262144", help="about how much is held out (default 262144)")
    prepare.add_argument("--seed", type=int, default=0, help="in which order documents are shuffled")
    prepare.set_defaults(run=_prepare)


def add_check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `check`."""
    check = verbs.add_parser("check", help="tokens, epochs that result, size to upload; damaged shards are named")
    check.add_argument("source", metavar="PATH", help="text or prepared shards")
    _add_common(check)
    check.set_defaults(run=_check)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", default="bpe", help="bpe (trained on the text), bytes, or a Hugging Face tokenizer folder")
    parser.add_argument("--vocab", default="32000", help="vocabulary of the model, and of bpe (default 32000)")
    parser.add_argument("--tokens", default="0", help="tokens to train on; prepare stops there (default: all there are)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _prepare(options: argparse.Namespace) -> None:
    from trainer import shards, sources

    say = _Progress()
    try:
        options.to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write shards in {options.to}: {error.strerror}") from error
    recipe = shards.Recipe(
        source=sources.fetched(options.source, options.to),
        tokenizer=options.tokenizer,
        vocab=vocabulary(options),
        wanted=parse_count("tokens", options.tokens),
        validation_tokens=parse_count("validation_tokens", options.validation_tokens),
        seq_len=parse_count("seq_len", options.seq_len),
        seed=options.seed,
    )
    try:
        index = shards.prepare(recipe, options.to, options.to / "tokenizer.json", say.tokens)
    except OSError as error:
        raise DataError(f"cannot write shards in {options.to}: {error}") from error
    say.end()
    figures = {
        "path": str(options.to),
        "documents": index.documents,
        "tokens": index.count("train"),
        "validation_tokens": index.count("validation"),
        "shards": len(index.train) + len(index.validation),
        "upload_bytes": index.n_bytes,
        "tokenizer": index.tokenizer,
        "vocab": index.vocab,
        "seconds": say.seconds,
    }
    _show(
        figures,
        options,
        f"{figures['documents']:,} documents, {figures['tokens']:,} tokens to train on, {figures['validation_tokens']:,} held out, "
        f"{figures['shards']} shards of {index.n_bytes / 2**20:,.1f} MiB in {options.to} ({say.seconds:.1f} s)",
    )


def vocabulary(options: argparse.Namespace) -> int:
    """Return the vocabulary asked for; the byte tokenizer needs its own at least. Raises ConfigError."""
    vocab = parse_count("vocab", options.vocab)
    if vocab < BYTE_VOCAB:
        raise ConfigError("vocab", vocab, f"a vocabulary of {vocab} cannot hold all bytes", f"take at least {BYTE_VOCAB}")
    return vocab


def _check(options: argparse.Namespace) -> None:
    from trainer import shards

    path = Path(options.source).expanduser()
    if shards.is_prepared(path):
        found = _check_shards(path)
    elif options.source.startswith("hf:") or "://" in options.source:
        raise DataError(f"{options.source} is not on this machine: check a path, or prepare it first")
    else:
        found = _check_text(options)
    wanted = parse_count("tokens", options.tokens)
    if wanted:
        found |= {"wanted_tokens": wanted, "epochs": wanted / max(1, found["tokens"])}
    problems = found["problems"]
    about = "" if found["exact"] else "about "
    words = f"{about}{found['tokens']:,} tokens in {found['documents']:,} documents, {found['upload_bytes'] / 2**20:,.1f} MiB to upload"
    if wanted:
        words += f", {found['epochs']:.2f} epochs for {wanted:,} tokens"
    _show(found, options, words)
    if problems:
        raise DataError("; ".join(problems))


def _check_shards(path: Path) -> dict[str, Any]:
    from trainer import shards

    index = shards.read(path)
    return {
        "path": str(path),
        "kind": "shards",
        "documents": index.documents,
        "tokens": index.count("train"),
        "validation_tokens": index.count("validation"),
        "exact": True,
        "upload_bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "problems": list(shards.damage(path, index)),
    }


def _check_text(options: argparse.Namespace) -> dict[str, Any]:
    """Count documents and bytes; tokenise a sample. Raises DataError for no text, or a file that cannot be read."""
    from trainer import sources

    sample: list[str] = []
    documents = size = sampled = 0
    for text in sources.documents(options.source):
        n = len(text.encode("utf-8", "replace"))
        documents, size = documents + 1, size + n
        if sampled < EXACT_BYTES:
            sample.append(text)
            sampled += n
    if not documents:
        raise DataError(f"{options.source!r} holds no text")
    tokens = _count(sample, options)
    return {
        "path": options.source,
        "kind": "text",
        "documents": documents,
        "bytes": size,
        "tokens": round(tokens * size / sampled),
        "exact": sampled == size,
        "upload_bytes": 0 if options.source == "stdlib" else sources.stored_bytes(options.source),
        "problems": [],
    }


def _count(texts: list[str], options: argparse.Namespace) -> int:
    """Return how many tokens texts are, the end of each document counted."""
    import tempfile

    from trainer import tokenizer as tokenizers

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        if options.tokenizer == "bpe":
            tokenizers.train_bpe(_characters(texts, tokenizers.SAMPLE_CHARACTERS), vocabulary(options), path)
        elif options.tokenizer != "bytes":
            tokenizers.copy_folder(Path(options.tokenizer), path)
        tokenizer = tokenizers.open_in(path.parent, options.tokenizer)
        return sum(len(ids) + 1 for start in range(0, len(texts), 512) for ids in tokenizer.encode(list(islice(texts, start, start + 512))))


def _characters(texts: list[str], most: int) -> list[str]:
    kept, size = [], 0
    for text in texts:
        kept.append(text)
        size += len(text)
        if size >= most:
            break
    return kept


class _Progress:
    """Says how far the preparation is: one line on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    def tokens(self, done: int) -> None:
        """Tell of the tokens so far."""
        if time.monotonic() - self._told < (0.2 if self._terminal else 5.0):
            return
        self._told = time.monotonic()
        end = "\r" if self._terminal else "\n"
        print(f"{done:,} tokens, {done / max(self.seconds, 1e-6):,.0f} tokens/s", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print(file=sys.stderr)


def _show(figures: dict[str, Any], options: argparse.Namespace, words: str) -> None:
    print(json.dumps(figures) if options.json else words, flush=True)
