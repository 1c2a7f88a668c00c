"""The border for text and numbers that come from a rented machine, a provider or a market.

Nothing from outside reaches a terminal, a page, a path or the planner except through here.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

MAX_LINE = 4_000
MAX_DEPTH_TEXT = 1_000_000

# ESC sequences: CSI, OSC up to its terminator, two-byte escapes (ECMA-48).
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]|.)", re.DOTALL)
# Bidirectional overrides and invisible formatting characters that let text pose as other text.
_FORMAT_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def line(value: object, limit: int = MAX_LINE) -> str:
    """Return one printable line: no escapes, control or bidirectional characters, at most `limit` characters."""
    raw = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    # Bounded first: a hostile machine may send a line of a hundred megabytes.
    cut = raw[: 4 * limit]
    plain = _ESCAPE.sub("", cut).replace("\t", "    ")
    shown = "".join(c for c in plain if unicodedata.category(c) not in _FORMAT_CATEGORIES)
    return shown if len(shown) <= limit and len(cut) == len(raw) else shown[:limit] + "…"


def block(value: object, max_lines: int = 200, limit: int = MAX_LINE) -> str:
    """Return several printable lines, the last `max_lines` of them."""
    raw = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    # A carriage return overwrites a terminal line: keep what would stay visible.
    lines = [part.rsplit("\r", 1)[-1] for part in raw.replace("\r\n", "\n").split("\n")]
    return "\n".join(line(part, limit) for part in lines[-max_lines:])


def number(value: object, low: float, high: float) -> float | None:
    """Return a finite number within [low, high], else None: a lying machine's figures are dropped, never clamped."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) and low <= as_float <= high else None


def whole(value: object, low: int, high: int) -> int | None:
    """Return a whole number within [low, high], else None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if low <= value <= high else None


def json_object(value: str | bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else: another type, broken, too deep or too large."""
    if len(value) > MAX_DEPTH_TEXT:
        return None
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def file_name(value: str) -> str | None:
    """Return a relative path with forward slashes that stays inside its folder, else None."""
    if not value or len(value) > 400 or value != line(value) or "\\" in value or ":" in value:
        return None
    parts = value.split("/")
    return value if all(part not in ("", ".", "..") for part in parts) else None
