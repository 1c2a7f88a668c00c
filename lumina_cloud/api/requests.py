"""From options as typed to requests, for the command line and for Python callers."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lumina_cloud.core.errors import UsageError
from lumina_cloud.runs import weights_to_start_from, workloads
from lumina_cloud.runs.workloads import WorkloadRequest
from trainer import config as trainer_config

MODELS, ARCHS = trainer_config.MODELS, trainer_config.ARCHS
"""The presets and the architectures, by name."""


@dataclass(frozen=True)
class Options:
    """Options of a workload as they were typed; None where nothing was said."""

    arch: str | None = None
    tokens: str | None = None
    unique_tokens: str | None = None
    epochs: float | None = None
    global_batch: str | None = None
    data: str | None = None
    seed: int | None = None
    settings: list[str] = field(default_factory=list)
    """`NAME=VALUE` texts."""
    config_file: str | None = None
    recipe: str | None = None
    init_from: str | None = None


_TWICE = {"tokens": "tokens", "unique_tokens": "unique_tokens", "global_batch": "global_batch_tokens", "seed": "seed"}
"""Options that a setting of `--set` says too."""


def workload_request(model: str | None, options: Options) -> WorkloadRequest:
    """Return the request that the options mean; with weights to start from, the model may be left to them.

    Raises UsageError for an unknown architecture, a malformed setting, or when nothing says which model; DataError for weights that
    can't be used.
    """
    if options.init_from is None:
        if model is None:
            raise UsageError("nothing says which model", "give debug, debug200m, b1 or b7, or --init-from DIR")
        return narrowed_request(WorkloadRequest(model=model), options)
    arch = workloads.arch_of(options.init_from)
    if options.arch is not None and options.arch != arch:
        raise UsageError(f"the weights in {options.init_from!r} are {arch}, and --arch says {options.arch}", "leave out --arch")
    return narrowed_request(WorkloadRequest(model=model or workloads.FINE_TUNED, archs=(arch,)), options)


def narrowed_request(base: WorkloadRequest, options: Options) -> WorkloadRequest:
    """Return a request with options put over it; what was not said stays. Raises UsageError as above."""
    given: dict[str, Any] = {
        "archs": workloads.expand_archs(options.arch) if options.arch is not None else None,
        "tokens": options.tokens,
        "unique_tokens": options.unique_tokens,
        "epochs": options.epochs,
        "global_batch": options.global_batch,
        "data": None if options.data is None else workloads.absolute_source(options.data),
        "seed": options.seed,
        "recipe": options.recipe,
        "init_from": None if options.init_from is None else str(weights_to_start_from.absolute(options.init_from)),
    }
    said = _settings(options)
    for name, setting in _TWICE.items():
        if given[name] is not None and setting in said and str(given[name]) != said[setting]:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {given[name]} and --set {setting}={said[setting]} say two things", "leave one of them out")
    kept = {name: value for name, value in given.items() if value is not None}
    # What is said now stands over what a plan had said, whichever way either was said.
    settings = {k: v for k, v in base.settings if not any(_TWICE[name] == k for name in kept if name in _TWICE)}
    cleared = {name: None for name, setting in _TWICE.items() if setting in said}
    return replace(base, **{**cleared, **kept, "settings": tuple({**settings, **said}.items())})


def _settings(options: Options) -> dict[str, str]:
    """Return the file's settings with those of `--set` over them."""
    from_file = _read(Path(options.config_file).expanduser()) if options.config_file else {}
    return {**from_file, **dict(workloads.settings_from(options.settings))}


def _read(path: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {error}", "--config takes a TOML file of settings") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "one setting a line, e.g. seq_len = 512") from error
    flat: dict[str, str] = {}
    for name, value in table.items():
        # Sections ([model], [training]) may group settings: names are unique without them.
        inner = value if isinstance(value, dict) else {name: value}
        flat.update({k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in inner.items()})
    return flat
