"""What a processor sustains in training: what `python -m trainer.calibrate` prints, checked and typed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lumina_cloud.core.errors import DataError


@dataclass(frozen=True)
class CpuRates:
    """Seconds of forward and backward together, measured at a narrow and a wide width, in one precision."""

    precision: str
    threads: int
    seq_len: int
    widths: tuple[float, float]
    dense: tuple[float, float]
    """Per token of a plain block."""
    moe: tuple[float, float]
    """Per token of a block of experts."""
    tokens: tuple[float, float]
    """How many tokens those blocks had at once."""
    moe_few: tuple[float, float]
    """Tokens, few of them, and the seconds that a narrow block of experts takes for all of them."""
    routed: tuple[float, float]
    """Per token of the sequence: what a depth-routed block takes beyond the tokens that enter."""
    attention: tuple[float, float]
    """Per token and head of 64, at `seq_len` and four times that."""
    head: tuple[float, float]
    """Per logit."""
    step_parameters: tuple[float, float]
    step_seconds: tuple[float, float]
    """Of an engine's step on next to no tokens."""
    base_gib: float
    """Resident memory of the process before any model."""


_PAIRS = ("widths", "tokens", "dense", "moe", "routed", "attention", "head")


def from_document(raw: Any) -> CpuRates:
    """Return the rates in a document of `trainer.calibrate`. Raises DataError for one that is not of that form."""
    try:
        pairs = {name: _pair(raw[name]) for name in _PAIRS}
        steps = raw["step"]
        found = CpuRates(
            precision=str(raw["precision"]),
            threads=int(raw["threads"]),
            seq_len=int(raw["seq_len"]),
            moe_few=_pair([raw["moe_few_tokens"], raw["moe_few_seconds"]]),
            step_parameters=_pair([s["parameters"] for s in steps]),
            step_seconds=_pair([s["seconds"] for s in steps]),
            base_gib=_pair([raw["base_gib"], 1])[0],
            **pairs,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a measurement of a processor: {error!r}", "remove the file: it is measured again") from error
    return found


def _pair(raw: Any) -> tuple[float, float]:
    first, second = (float(value) for value in raw)
    if not (math.isfinite(first) and math.isfinite(second) and first >= 0 and second >= 0):
        raise ValueError(f"not two figures: {raw!r}")
    return first, second
