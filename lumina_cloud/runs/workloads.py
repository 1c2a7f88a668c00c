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
from lumina_cloud.runs import weights_to_start_from
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

FINE_TUNED = trainer_config.FINE_TUNED

FINE_TUNING_EPOCHS = 2
"""How often a finished model sees new text unless said otherwise: Touvron et al. 2023 (arXiv 2307.09288, section 3.1)."""

MAX_LINE = 4 << 20
"""A first line is looked at up to this many bytes."""

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
    recipe: str = "paper"
    """How blocks are routed over depth (mod, hybrid)."""
    init_from: str | None = None
    """A folder whose weights are trained further."""
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


def arch_of(init_from: str) -> str:
    """Return the architecture of weights to start from. Raises UsageError or DataError."""
    try:
        return weights_to_start_from.arch_of(init_from)
    except trainer_config.ConfigError as error:
        raise usage(error) from error


def usage(error: trainer_config.ConfigError) -> UsageError:
    """Return a configuration's refusal as a user's error."""
    return UsageError(error.message, error.hint)


def build(request: WorkloadRequest) -> Workloads:
    """Return the configurations that a request means. Raises UsageError or DataError."""
    try:
        configs = tuple(_config(request, arch) for arch in request.archs)
    except trainer_config.ConfigError as error:
        raise usage(error) from error
    fixed = frozenset(name for name, _ in request.settings if name in (*_LAYOUT_FIELDS, "precision"))
    return Workloads(configs, fixed, tuple(_notes(request, configs[0])))


def _config(request: WorkloadRequest, arch: str) -> RunConfig:
    if request.init_from is None:
        config = trainer_config.preset(request.model, arch)
    else:
        config = weights_to_start_from.config(request.init_from, request.model, arch)
    if request.recipe not in trainer_config.RECIPES:
        raise usage(trainer_config.unknown("recipe", request.recipe, trainer_config.RECIPES))
    if request.init_from is None:
        config = trainer_config.with_recipe(config, "published" if request.recipe == "published" else "paper")
    if request.data is not None:
        config = replace(config, data=replace(config.data, source=str(_data_path(request.data))))
    settings = dict(request.settings)
    if request.global_batch is not None:
        settings["global_batch_tokens"] = request.global_batch
    if request.seed is not None:
        settings["seed"] = str(request.seed)
    if "source" in settings:
        raise UsageError("the text is chosen by --data, not by --set source", f"--data {settings['source']}")
    config = trainer_config.override(config, {k: v for k, v in settings.items() if k not in ("tokens", "unique_tokens")})
    config = replace(config, training=_amounts(request, settings, config))
    explicit = {name: getattr(config.layout, name) for name in settings if name in _LAYOUT_FIELDS}
    if "grad_accum" not in explicit:
        config = trainer_config.with_layout(config, config.layout)
    # Whether a machine's own device can do it is asked for each machine, by the layout search.
    trainer_config.check(replace(config, device="cuda"))
    if request.data is not None:
        _require_enough(Path(request.data), config)
    return config


def _amounts(request: WorkloadRequest, settings: dict[str, str], config: RunConfig) -> TrainingConfig:
    """Return the training configuration with tokens, unique tokens and epochs made to agree."""
    training = config.training
    total_text = request.tokens or settings.get("tokens")
    unique_text = request.unique_tokens or settings.get("unique_tokens")
    unique = trainer_config.parse_count("unique_tokens", unique_text) if unique_text else None
    if unique is not None and unique < 1:
        raise UsageError(f"--unique-tokens is {unique}, but must be above 0", "e.g. --unique-tokens 10M")
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
    if request.init_from is not None and total_text is None and request.epochs is None:
        total = max(1, FINE_TUNING_EPOCHS * available)
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
    if not text.strip():
        raise DataError("--data is empty", _KINDS)
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise DataError(f"no data at {text!r}", _near_path(path) or _KINDS)
    if not any(_holds_text(file) for file in text_files(path)):
        raise DataError(f"{text!r} holds no text", _KINDS)
    return path


def absolute_source(text: str) -> str:
    """Return a data source that means the same from any folder."""
    return text if text == "stdlib" or text.startswith("hf:") or not text.strip() else str(Path(text).expanduser().absolute())


def _require_enough(source: Path, config: RunConfig) -> None:
    """Refuse text that cannot fill one training and one validation sequence, whatever the tokenizer: no token is shorter than a byte."""
    if str(source) == "stdlib" or str(source).startswith("hf:") or any(file.suffix == ".parquet" for file in text_files(source)):
        return
    n_bytes, needed = sum(file.stat().st_size for file in text_files(source)), 2 * (config.training.seq_len + 1)
    if n_bytes < needed:
        raise DataError(
            f"{str(source)!r} holds {n_bytes:,} bytes of text, and one sequence to train on and one to validate take {needed:,} tokens",
            "give more text, or a smaller --set seq_len",
        )


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
        return head.startswith(b"PAR1") and _has_text_column(file)
    if file.suffix.lower() == ".jsonl":
        return _first_line_has_text(file)
    # A cut in the middle of a character is no fault of the text.
    return bool(head.strip()) and b"\0" not in head and "�" not in head.decode("utf-8", "replace").rstrip("�")


def _first_line_has_text(file: Path) -> bool:
    """Whether the first object of a .jsonl file has text. Raises DataError for one that has not: the trainer would refuse it too."""
    with file.open("rb") as handle:
        first = next((line for line in iter(lambda: handle.readline(MAX_LINE), b"") if line.strip()), b"")
    if not first:
        return False
    try:
        has_text = isinstance(json.loads(first)["text"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        has_text = len(first) == MAX_LINE and b'"text"' in first
    if not has_text:
        raise DataError(f"the first line of {file} is no JSON object with a field 'text'", 'one object a line: {"text": "..."}')
    return True


def _has_text_column(file: Path) -> bool:
    """Whether a Parquet file has a column `text`. Raises DataError for one that has not; without pyarrow only the trainer can tell."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return True
    try:
        names = parquet.read_schema(file).names
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} is no readable Parquet file: {error}", "write it again, or leave it out") from error
    if "text" not in names:
        raise DataError(f"{file} has no column 'text', but {', '.join(names[:8])}", "name the column of the text 'text'")
    return True


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
