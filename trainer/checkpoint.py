"""Checkpoints that are complete or absent.

One is written into a hidden folder by DeepSpeed, every file is hashed into `manifest.json`, flushed to disk, and only then does
the folder get its name `step-000123`. On the way back the newest whose manifest agrees with every file is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TAG = "state"
_NAME = re.compile(r"step-(\d+)")


def save(
    engine: Any, folder: Path, step: int, state: dict[str, Any], *, keep: int, rank: int, beside: Callable[[Path], None] | None = None
) -> None:
    """Write a checkpoint of `step`, with `state` beside the weights and optimizer, and drop the oldest beyond `keep`.

    `beside` is called on every rank with the folder being written, to add files of its own.
    """
    target, partial = folder / f"step-{step:06d}", folder / f".step-{step:06d}.part"
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _barrier()
    engine.save_checkpoint(str(partial), tag=TAG, client_state={"lumina": state})
    if beside is not None:
        beside(partial)
    _barrier()
    if rank != 0:
        return
    for script in partial.glob("*.py"):
        # DeepSpeed leaves a conversion script beside the weights; a checkpoint holds data only.
        script.unlink()
    files = [_described(path, partial) for path in sorted(partial.rglob("*")) if path.is_file()]
    (partial / "manifest.json").write_text(json.dumps(files, indent=1), encoding="utf-8")
    _flush(partial / "manifest.json")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in named(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(engine: Any, folder: Path) -> dict[str, Any] | None:
    """Restore weights and optimizer from the newest whole checkpoint and return its state, None when there is none."""
    for path in reversed(named(folder)):
        problem = damage(path)
        if problem:
            print(f"{path.name} is not used: {problem}", flush=True)
            continue
        _, client = engine.load_checkpoint(str(path), tag=TAG)
        state: dict[str, Any] = client["lumina"]
        return state
    return None


def named(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.name.removeprefix("step-")))


def damage(path: Path) -> str:
    """Return what is wrong with a checkpoint, empty when it is whole."""
    try:
        listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for item in listed:
            file = path / item["path"]
            if file.stat().st_size != item["bytes"]:
                return f"{item['path']} has {file.stat().st_size:,} of {item['bytes']:,} bytes"
            if _sha256(file) != item["sha256"]:
                return f"{item['path']} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read: {error}"
    return "" if listed else "its manifest is empty"


def _described(path: Path, root: Path) -> dict[str, Any]:
    _flush(path)
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _barrier() -> None:
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
