"""From what a user typed to run configurations: sizes, tokens, epochs, data, overrides."""

from __future__ import annotations

import difflib
import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core import units
from lumina_cloud.core.errors import DataError, UsageError
from trainer import config as trainer_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.config import RunConfig, TrainingConfig

TEXT_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".tex", ".jsonl", ".parquet", ".html", ".css", ".xml", ".json", ".yaml", ".yml", ".toml", ".csv", ".tsv"}
    | {".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js", ".jsx", ".ts", ".tsx", ".rb"}
    | {".php", ".pl", ".sh", ".sql", ".lua", ".swift", ".scala", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj"}
)
"""Files that a data folder is searched for; everything else in it is passed over."""

_KINDS = "--data takes a file or folder of .txt, .jsonl, .parquet or source files"

_LAYOUT_FIELDS = (
    *("n_gpus", "micro_batch", "grad_accum", "zero_stage", "checkpointing", "checkpoint_every", "offload", "expert_parallel", "compile"),
)


@dataclass(frozen=True)
class WorkloadRequest:
    """What the options of `plan` and `launch` say about the workload; None where they say nothing."""

    model: str
    archs: tuple[str, ...] = ("dense",)
    tokens: str | None = None
    unique_tokens: str | None = None
    epochs: float | None = None
    global_batch: str | None = None
    data: str | None = None
    seed: int | None = None
    settings: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    """`--set` pairs."""


@dataclass(frozen=True)
class Workloads:
    """One configuration an architecture, which layout fields are the user's, and what to tell about it."""

    configs: tuple[RunConfig, ...]
    fixed: frozenset[str]
    notes: tuple[str, ...]


def expand_archs(arch: str) -> tuple[str, ...]:
    """Return the architectures that `--arch` means. Raises UsageError for an unknown one."""
    if arch == "all":
        return trainer_config.ARCHS
    if arch not in trainer_config.ARCHS:
        raise usage(trainer_config.unknown("arch", arch, (*trainer_config.ARCHS, "all")))
    return (arch,)


def usage(error: trainer_config.ConfigError) -> UsageError:
    """Return a configuration's refusal as a user's error."""
    return UsageError(error.message, error.hint)


def build(request: WorkloadRequest) -> Workloads:
    """Return the configurations that a request means. Raises UsageError or DataError."""
    try:
        configs = tuple(_config(request, arch) for arch in request.archs)
    except trainer_config.ConfigError as error:
        raise usage(error) from error
    fixed = frozenset(name for name, _ in request.settings if name in _LAYOUT_FIELDS)
    return Workloads(configs, fixed, tuple(_notes(request, configs[0])))


def _config(request: WorkloadRequest, arch: str) -> RunConfig:
    config = trainer_config.preset(request.model, arch)
    if request.data is not None:
        config = replace(config, data=replace(config.data, source=str(_data_path(request.data))))
    settings = dict(request.settings)
    if request.global_batch is not None:
        settings["global_batch_tokens"] = request.global_batch
    if request.seed is not None:
        settings["seed"] = str(request.seed)
    config = trainer_config.override(config, {k: v for k, v in settings.items() if k not in ("tokens", "unique_tokens")})
    config = replace(config, training=_amounts(request, settings, config))
    explicit = {name: getattr(config.layout, name) for name in settings if name in _LAYOUT_FIELDS}
    if "grad_accum" not in explicit:
        config = trainer_config.with_layout(config, config.layout)
    trainer_config.check(config)
    return config


def _amounts(request: WorkloadRequest, settings: dict[str, str], config: RunConfig) -> TrainingConfig:
    """Return the training configuration with tokens, unique tokens and epochs made to agree."""
    training = config.training
    total_text = request.tokens or settings.get("tokens")
    unique_text = request.unique_tokens or settings.get("unique_tokens")
    unique = trainer_config.parse_count("unique_tokens", unique_text) if unique_text else None
    if total_text == "chinchilla":
        active = trainer_config.count_parameters(config.model).active
        total: int | None = trainer_config.CHINCHILLA_TOKENS_PER_PARAMETER * active
    else:
        total = trainer_config.parse_count("tokens", total_text) if total_text else None
    if request.epochs is not None:
        if not 0 < request.epochs <= 1e6:
            raise UsageError(f"--epochs is {request.epochs}, but must be above 0", "e.g. --epochs 3")
        if total is not None and unique is not None:
            raise UsageError("--tokens, --unique-tokens and --epochs together say too much", "leave one of the three out")
        if total is not None:
            unique = max(1, round(total / request.epochs))
        else:
            total = max(1, round((unique or training.unique_tokens) * request.epochs))
    total = training.tokens if total is None else total
    available = unique if unique is not None else training.unique_tokens
    if request.data is not None and unique is None:
        available = min(available, estimated_tokens(Path(request.data), config.model.vocab))
    return replace(training, tokens=total, unique_tokens=max(1, min(available, total)))


def _notes(request: WorkloadRequest, config: RunConfig) -> Iterator[str]:
    source, training = config.data.source, config.training
    if source.startswith("hf:"):
        yield f"data: {source}, streamed from Hugging Face by the machine that trains"
    elif source == "stdlib":
        yield "data: the text of Python's own standard library, which is on every machine"
    else:
        yield f"data: {source}"
    if training.epochs > 1.001:
        total, unique = units.count(training.tokens), units.count(training.unique_tokens)
        yield f"{total} tokens are {training.epochs:.1f} epochs over {unique} unique tokens"
    if request.data is not None and training.epochs > 16:
        yield "beyond about 16 epochs more repetition teaches almost nothing (Muennighoff et al. 2023): more text would"


# --- the user's data -----------------------------------------------------------------------------------------------------


def _data_path(text: str) -> Path | str:
    """Return the absolute path of a data file or folder, or the source itself. Raises DataError for one without text."""
    if text == "stdlib" or text.startswith("hf:"):
        return text
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise DataError(f"no data at {text!r}", _near_path(path) or _KINDS)
    if not any(_holds_text(file) for file in text_files(path)):
        raise DataError(f"{text!r} holds no text", _KINDS)
    return path


def _near_path(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {str(path.parent / near[0])!r}?" if near else ""


def text_files(path: Path) -> Iterator[Path]:
    """Yield the data files of a path in a fixed order; links out of the folder and hidden folders are passed over."""
    if path.is_file():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix.lower() in TEXT_SUFFIXES and file.is_file() and not file.is_symlink():
                yield file


def _holds_text(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            head = handle.read(4096)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}", "make it readable, or leave it out of the folder") from error
    if file.suffix.lower() == ".parquet":
        return head.startswith(b"PAR1")
    # A cut in the middle of a character is no fault of the text.
    return bool(head.strip()) and b"\0" not in head and "�" not in head.decode("utf-8", "replace").rstrip("�")


def estimated_tokens(path: Path, vocab: int) -> int:
    """Return roughly how many tokens the text at `path` holds, from its size.

    Prepared shards say it themselves.

    A byte-level BPE token spans about 1.9 bytes at a vocabulary of 512 and 4.2 at 32,000; in between it grows with the
    logarithm of the vocabulary. Parquet is compressed to about a third. The trainer counts exactly.
    """
    if str(path) == "stdlib" or str(path).startswith("hf:"):
        return 10**18
    prepared = _prepared_tokens(path.expanduser())
    if prepared is not None:
        return prepared
    n_bytes = sum(file.stat().st_size * (3 if file.suffix == ".parquet" else 1) for file in text_files(path.expanduser().absolute()))
    bytes_per_token = min(5.0, max(1.0, 1.9 + (4.2 - 1.9) * math.log2(vocab / 512) / math.log2(32_000 / 512)))
    return max(1, int(n_bytes / bytes_per_token))


def _prepared_tokens(path: Path) -> int | None:
    """Return how many tokens to train on the index of prepared shards lists, None where there are no shards."""
    try:
        listed = json.loads((path / "index.json").read_text(encoding="utf-8"))["train"]
        return max(1, sum(int(shard["tokens"]) for shard in listed))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def parameters(config: RunConfig) -> trainer_config.ParameterCount:
    """Return the parameters of the configuration's model, counted."""
    return trainer_config.count_parameters(config.model)


def settings_from(pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Split `NAME=VALUE` texts. Raises UsageError for one without a name or a value."""
    out = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--set takes NAME=VALUE, not {pair!r}", "e.g. --set seq_len=512")
        out.append((name.strip(), value.strip()))
    return tuple(out)
