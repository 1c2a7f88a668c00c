"""`lumina data`: shards from text, and what a source holds, by the trainer itself in a process of its own.

Tokenising needs numpy and a tokenizer library, which the orchestrator alone does not have: then `check` says what the size of the
text suggests, and that it is no count.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.api.documents import of_keeping
from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import DataError, RefusedError
from lumina_cloud.runs import workloads
from trainer import config as trainer_config

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = ("numpy", "tokenizers")


@dataclass(frozen=True)
class DataRequest:
    """What to prepare or check: a source, and either a preset's vocabulary or one's own."""

    source: str
    model: str | None = None
    vocab: str | None = None
    tokenizer: str | None = None
    tokens: str | None = None
    seq_len: str | None = None
    seed: int = 0


def prepare(request: DataRequest, to: str, tell: Callable[[str], None]) -> of_keeping.PreparedDataDocument:
    """Write shards into `to`; `tell` is given the progress. Raises DataError, UsageError or RefusedError."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(f"preparing data needs {' and '.join(missing)}, not installed here", "pip install 'lumina-cloud[trainer]'")
    said = _trainer(tell, "prepare", request.source, "--to", to, "--seed", str(request.seed), *_options(request, with_length=True))
    return of_keeping.PreparedDataDocument.model_validate(said)


def check(request: DataRequest) -> of_keeping.CheckedDataDocument:
    """Return what a source holds. Raises DataError for one that is empty, damaged or not there."""
    path = Path(request.source).expanduser()
    if not request.source.strip():
        raise DataError("the path of the text is empty", "lumina data check notes.txt")
    if request.source != "stdlib" and not path.exists():
        raise DataError(f"no data at {request.source!r}", "give the path of a file or folder of text, or of prepared shards")
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return _estimated(request, path)
    said = _trainer(lambda _line: None, "check", request.source, *_options(request, with_length=False))
    return of_keeping.CheckedDataDocument.model_validate({"documents": None, **said})


def _options(request: DataRequest, *, with_length: bool) -> list[str]:
    """Return the trainer's options; where a preset is named, its own settings fill in. Raises UsageError."""
    vocab, tokens, tokenizer, seq_len = request.vocab, request.tokens, request.tokenizer, request.seq_len
    try:
        if request.model is not None:
            preset = trainer_config.preset(request.model, "dense")
            vocab = vocab or str(preset.model.vocab)
            tokenizer = tokenizer or preset.data.tokenizer
            seq_len = seq_len or str(preset.training.seq_len)
            tokens = tokens or (None if with_length else str(preset.training.tokens))
        named = {"vocab": vocab, "tokens": tokens, "seq_len": seq_len}
        counts = {name: str(trainer_config.parse_count(name, text)) for name, text in named.items() if text is not None}
    except trainer_config.ConfigError as error:
        raise workloads.usage(error) from error
    out = [] if tokenizer is None else ["--tokenizer", tokenizer]
    for name, count in counts.items():
        if name != "seq_len" or with_length:
            out += [f"--{name.replace('_', '-')}", count]
    return out


_MEND = {
    "prepare": "lumina data check PATH says what is there; --to takes a folder that can be written",
    "check": "mend what is named, or leave it out",
}


def _trainer(tell: Callable[[str], None], verb: str, *arguments: str) -> dict[str, Any]:
    """Run a data verb and return the document that it prints; `tell` is given what it says meanwhile. Raises DataError."""
    argv = [sys.executable, "-m", "trainer", "data", verb, *arguments, "--json"]
    last = "no word of why"
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for raw in process.stderr:
            last = untrusted.line(raw.strip(), 400)
            if not last.startswith("error: "):
                tell(last)
        printed = process.stdout.read()
    if process.returncode != 0:
        raise DataError(last.removeprefix("error: "), _MEND[verb])
    said: dict[str, Any] = json.loads(printed)
    return said


def _estimated(request: DataRequest, path: Path) -> of_keeping.CheckedDataDocument:
    """Return what the size of the text suggests."""
    try:
        preset = trainer_config.preset(request.model or "b1", "dense")
        vocab = trainer_config.parse_count("vocab", request.vocab) if request.vocab else preset.model.vocab
        wanted = trainer_config.parse_count("tokens", request.tokens) if request.tokens else None
    except trainer_config.ConfigError as error:
        raise workloads.usage(error) from error
    if wanted is None and request.model is not None:
        wanted = preset.training.tokens
    tokens = workloads.estimated_tokens(path, vocab)
    return of_keeping.CheckedDataDocument(
        path=request.source,
        kind="text",
        documents=None,
        tokens=tokens,
        exact=False,
        upload_bytes=sum(file.stat().st_size for file in workloads.text_files(path)),
        wanted_tokens=wanted,
        epochs=None if wanted is None else wanted / tokens,
    )
