"""From text to a configuration: `--set NAME=VALUE`, and `run.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from trainer.config.shapes import SECTIONS, ConfigError, PlanConfig, RunConfig, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def field_names() -> tuple[str, ...]:
    """Every name that `--set` takes."""
    return tuple(f.name for section in SECTIONS.values() for f in dataclasses.fields(section) if f.name != "arch")


def override(config: RunConfig, values: Mapping[str, str]) -> RunConfig:
    """Return `config` with fields replaced by parsed text, e.g. `{"seq_len": "512", "tokens": "1.5M"}`.

    The result is checked by `check`. Raises ConfigError for an unknown name or a value that is not of the field's type.
    """
    for name, text in values.items():
        section = next((s for s, cls in SECTIONS.items() if name in {f.name for f in dataclasses.fields(cls)}), None)
        if section is None or name == "arch":
            raise unknown("setting", name, field_names())
        value = _parse(name, text, get_type_hints(SECTIONS[section])[name])
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


def _parse(name: str, text: str, kind: Any) -> object:
    choices = get_args(kind)
    if choices:
        if text not in choices:
            raise unknown(name, text, choices)
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(name, text, f"{name} is true or false, not {text!r}", f"--set {name}=true")
        return text.lower() == "true"
    if kind is str:
        return text
    return parse_count(name, text) if kind is int else _parse_float(name, text)


def _parse_float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(name, text, f"{name} is a number, not {text!r}", f"e.g. --set {name}=0.1") from None
    if not math.isfinite(value):
        raise ConfigError(name, text, f"{name} is a finite number, not {text!r}", f"e.g. --set {name}=0.1")
    return value


def parse_count(name: str, text: str) -> int:
    """Parse a whole number that may carry a suffix: `512`, `1.5M`, `20B`, `8_192`, `1e9`. Raises ConfigError."""
    factors = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
    cleaned = text.strip().replace("_", "").replace(",", "")
    factor = factors.get(cleaned[-1:].lower(), 1.0)
    try:
        value = float(cleaned[:-1] if factor > 1 else cleaned) * factor
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value - round(value)) > 1e-6 * max(1.0, abs(value)) or abs(value) > 1e18:
        raise ConfigError(name, text, f"{name} is a whole number up to 10^18, not {text!r}", "e.g. 8192, 1.5M, 20B")
    return round(value)


def from_json(text: str) -> RunConfig:
    """Read what `RunConfig.to_json` wrote. Raises ConfigError for text that is no such document."""
    try:
        raw = json.loads(text)
        sections = {name: cls(**raw[name]) for name, cls in SECTIONS.items()}
        plan, init_from = PlanConfig(**raw.get("plan", {})), raw.get("init_from")
        return RunConfig(preset=str(raw["preset"]), device=raw["device"], init_from=init_from, plan=plan, **sections)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            "config", "run.json", f"not a run configuration: {error}", "write it with `lumina launch --dry-run --json`"
        ) from error


def load(path: Path) -> RunConfig:
    """Read a `run.json`. Raises ConfigError for one that is missing or malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("config", str(path), f"cannot read {path}: {error.strerror}", "give the path of a run.json") from error
    return from_json(text)
