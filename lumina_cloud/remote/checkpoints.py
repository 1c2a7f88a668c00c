"""Checkpoints as they lie in a folder: which are whole, and which is the newest. Nothing in them is loaded here.

A checkpoint is a folder `step-000123` with a `manifest.json`: a list of {"path", "bytes", "sha256"}. Without a manifest that every
file agrees with, it does not exist.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted

if TYPE_CHECKING:
    from pathlib import Path

NAME = re.compile(r"step-(\d{1,12})")
MAX_FILES = 10_000


def newest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below `folder`, None when there is none."""
    if not folder.is_dir():
        return None
    named = sorted((int(m[1]), p) for p in folder.iterdir() if (m := NAME.fullmatch(p.name)) and p.is_dir() and not p.is_symlink())
    return next((path for _step, path in reversed(named) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that the manifest lists is there, with its size and hash."""
    try:
        listed = manifest((checkpoint / "manifest.json").read_bytes())
    except OSError:
        return False
    return listed is not None and all(_matches(checkpoint / path, n_bytes, sha256) for path, n_bytes, sha256 in listed)


def manifest(raw: bytes) -> list[tuple[str, int, str]] | None:
    """Return a manifest's (path, bytes, sha256), or None for anything that is not one."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if isinstance(parsed, dict):
        parsed = parsed.get("files")
    if not isinstance(parsed, list) or not 0 < len(parsed) <= MAX_FILES:
        return None
    rows = [_row(item) for item in parsed]
    return None if None in rows else [row for row in rows if row is not None]


def _row(item: object) -> tuple[str, int, str] | None:
    if not isinstance(item, dict):
        return None
    path, sha256 = item.get("path"), item.get("sha256")
    size = untrusted.whole(item.get("bytes"), 0, 1 << 50)
    if not isinstance(path, str) or untrusted.file_name(path) is None or size is None:
        return None
    return (path, size, sha256) if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None


def _matches(path: Path, n_bytes: int, sha256: str) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size != n_bytes:
            return False
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == sha256
    except OSError:
        return False
