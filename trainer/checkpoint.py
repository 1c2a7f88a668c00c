"""Checkpoints that are complete or absent.

One is written into a hidden folder: each rank its own pieces and a list of their hashes. When every rank's list is there, rank 0 writes
`manifest.json` over all files, flushes, and only then does the folder get its name `step-000123`. On the way back the newest whose
manifest agrees with every file is taken. Writing happens in a thread beside the training where main memory can hold a copy.

    step-000123/
      manifest.json                  a list of {"path", "bytes", "sha256"}
      state.json                     step, data position, schedule, configuration, versions
      run.json, tokenizer.json ...   so that it can be sampled from and exported
      rank-00000-0000.safetensors    pieces of weights and optimizer state (`trainer.pieces`)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import CHECKPOINTS_IN_TURN, WRITING_APART
from trainer.errors import CannotWrite, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

FORMAT = 2
STATE = "state.json"
_NAME = re.compile(r"step-(\d+)")
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Place:
    """Where a process stands among the others."""

    rank: int
    world: int


class Writer:
    """Writes checkpoints of a run, one at a time.

    `after` is called by rank 0 with each finished checkpoint's folder, in the writing thread: an upload, for one. That it fails does not
    end the training, which has the checkpoint; what went wrong is kept in `unstored` until one succeeds.
    """

    def __init__(self, folder: Path, place: Place, *, keep: int, after: Callable[[Path], None] | None = None) -> None:
        self._folder, self._place, self._keep, self._after = folder, place, keep, after
        self._thread: threading.Thread | None = None
        self._failed: Exception | None = None
        self.unstored: CannotWrite | None = None
        self.seconds = 0.0
        """How long the last one took to be complete."""

    def begin(
        self,
        step: int,
        tensors: Mapping[str, torch.Tensor],
        state: dict[str, Any],
        *,
        background: bool,
        beside: Mapping[str, bytes] | None = None,
    ) -> None:
        """Start to write `tensors`, this rank's, and rank 0's `state` and files `beside` it. All ranks call this at the same step.

        Raises CannotWrite when this one or the one before it cannot be written.
        """
        self.finish()
        partial = self._folder / f".step-{step:06d}.part"
        if self._place.rank == 0:
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            except OSError as error:
                self._failed = error
        barrier()
        self._raise()
        files = {STATE: json.dumps(state).encode(), **(beside or {})}
        if background:
            self._thread = threading.Thread(target=self._write, args=(step, partial, tensors, files), name="checkpoint")
            self._thread.start()
        else:
            self._write(step, partial, tensors, files)
            self._raise()

    def finish(self) -> None:
        """Wait until what was begun is complete. Raises CannotWrite when it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    def _raise(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise CannotWrite(f"a checkpoint cannot be written in {self._folder}: {failed}") from failed

    def _write(self, step: int, partial: Path, tensors: Mapping[str, torch.Tensor], files: Mapping[str, bytes]) -> None:
        from trainer import pieces

        started = time.monotonic()
        try:
            written = pieces.write(dict(tensors), partial, self._place.rank)
            if self._place.rank == 0:
                for name, content in files.items():
                    (partial / name).write_bytes(content)
                    written.append(partial / name)
            _write_whole(partial / f".rank-{self._place.rank:05d}.json", json.dumps([_described(path, partial) for path in written]))
            if self._place.rank == 0:
                target = self._complete(step, partial)
                self.seconds = time.monotonic() - started
                self._store(target)
                prune(self._folder, self._keep)
        except Exception as error:  # noqa: BLE001 (told to the training thread, which raises it)
            self._failed = error
        self.seconds = max(self.seconds, time.monotonic() - started)

    def _store(self, folder: Path) -> None:
        if self._after is None:
            return
        try:
            self._after(folder)
            self.unstored = None
        except CannotWrite as error:
            print(f"{error}; training goes on", flush=True)
            self.unstored = error

    def _complete(self, step: int, partial: Path) -> Path:
        """Wait for every rank's list, write the manifest, and give the folder its name."""
        lists = [partial / f".rank-{rank:05d}.json" for rank in range(self._place.world)]
        while not all(path.is_file() for path in lists):
            time.sleep(_POLL_SECONDS)
        files = [item for path in lists for item in json.loads(path.read_text(encoding="utf-8"))]
        for path in lists:
            path.unlink()
        _write_whole(partial / "manifest.json", json.dumps(files, indent=1))
        _flush(partial)
        target = self._folder / f"step-{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _flush(self._folder)
        return target


def is_in_turn(step: int, steps: int, unsaved: float, writing: float) -> bool:
    """Whether a run of so many steps is to be kept at this one, however short it is, when none is being written.

    `unsaved` and `writing` are the seconds since the last checkpoint was begun and what writing it took: in a run of few and short
    steps one at each would slow down all of them.
    """
    return step % math.ceil(steps / CHECKPOINTS_IN_TURN) == 0 and unsaved >= WRITING_APART * writing


def prune(folder: Path, keep: int) -> None:
    """Remove the oldest checkpoints beyond `keep`, and what writers that died left behind of earlier ones."""
    whole = named(folder)
    for old in whole[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for partial in folder.glob(".step-*.part"):
        if whole and int(partial.name.split(".")[1].removeprefix("step-")) <= step_of(whole[-1]):
            shutil.rmtree(partial, ignore_errors=True)


def newest(folder: Path, say: Callable[[str], None] = print) -> Path | None:
    """Return the newest whole checkpoint; each newer one that is not whole is named with what is wrong."""
    for path in reversed(named(folder)):
        problem = damage(path)
        if not problem:
            return path
        say(f"{path.name} is not used: {problem}")
    return None


def named(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()), key=step_of)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def damage(path: Path) -> str:
    """Return what is wrong with a checkpoint, empty when it is whole: every file listed, with its size and hash."""
    try:
        listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for item in listed:
            file = path / item["path"]
            if not file.is_file():
                return f"{item['path']} is missing"
            if file.stat().st_size != item["bytes"]:
                return f"{item['path']} has {file.stat().st_size:,} of {item['bytes']:,} bytes"
            if sha256(file) != item["sha256"]:
                return f"{item['path']} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its manifest cannot be read: {error}"
    if not any(item["path"] == STATE for item in listed):
        return f"its manifest does not list {STATE}"
    return ""


def state(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state. Raises DataError for one of another format."""
    try:
        read: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        found = read.get("format")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} holds no checkpoint: {error}") from error
    if found != FORMAT:
        raise DataError(f"{path} has checkpoint format {found}, and this trainer reads format {FORMAT}: take the trainer that wrote it")
    return read


def sha256(path: Path) -> str:
    """Return a file's hash."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def barrier() -> None:
    """Wait for the other ranks."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def _described(path: Path, root: Path) -> dict[str, Any]:
    _flush(path)
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    _flush(partial)
    partial.rename(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
