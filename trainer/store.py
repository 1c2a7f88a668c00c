"""Object storage as a second home of checkpoints and results, by fsspec: `s3://bucket/run`, `gs://...`, `file:///...`.

A checkpoint's manifest is uploaded last and removed first, so one without a manifest is none. What is fetched is verified against it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.errors import CannotWrite, DataError

RESULTS = ("result.json", "metrics.jsonl", "model.safetensors", "tokenizer.json", "run.json")


class Store:
    """A folder in object storage, laid out like `--out`."""

    def __init__(self, url: str, *, keep: int) -> None:
        import fsspec

        self.url, self._keep = url, keep
        try:
            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(url)
            self._fs.makedirs(f"{self._root}/checkpoints", exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise DataError(f"--store {url} cannot be opened: {error} (s3:// needs s3fs, gs:// gcsfs)") from error

    def push(self, folder: Path) -> None:
        """Upload a whole checkpoint, and remove the oldest beyond what is kept. Raises CannotWrite."""
        target = f"{self._root}/checkpoints/{folder.name}"
        try:
            self._fs.makedirs(target, exist_ok=True)
            for path in sorted(folder.iterdir(), key=lambda p: p.name == "manifest.json"):
                self._fs.put_file(str(path), f"{target}/{path.name}")
            for old in self._steps()[: -self._keep]:
                self._remove(old)
        except OSError as error:
            raise CannotWrite(f"{folder.name} cannot be stored in {self.url}: {error}") from error

    def push_results(self, out: Path) -> None:
        """Upload what a finished run leaves. Raises CannotWrite."""
        try:
            for name in RESULTS:
                if (out / name).is_file():
                    self._fs.put_file(str(out / name), f"{self._root}/{name}")
        except OSError as error:
            raise CannotWrite(f"the results cannot be stored in {self.url}: {error}") from error

    def pull(self, out: Path) -> None:
        """Fetch the newest checkpoint that is whole, where it is newer than those in `out`; and what belongs to it."""
        here = checkpoint.named(out / "checkpoints")
        newest_here = checkpoint.step_of(here[-1]) if here else -1
        for step in reversed(self._steps()):
            if step <= newest_here or self._pulled(step, out / "checkpoints"):
                break
        for name in ("metrics.jsonl", "tokenizer.json"):
            if not (out / name).exists() and self._fs.exists(f"{self._root}/{name}"):
                self._fs.get_file(f"{self._root}/{name}", str(out / name))

    def push_file(self, path: Path) -> None:
        """Upload one file beside the checkpoints. Raises CannotWrite."""
        try:
            self._fs.put_file(str(path), f"{self._root}/{path.name}")
        except OSError as error:
            raise CannotWrite(f"{path.name} cannot be stored in {self.url}: {error}") from error

    def _pulled(self, step: int, folder: Path) -> bool:
        name = f"step-{step:06d}"
        partial = folder / f".{name}.pull"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            for path in self._fs.ls(f"{self._root}/checkpoints/{name}", detail=False):
                self._fs.get_file(path, str(partial / Path(path).name))
        except OSError as error:
            print(f"{name} in {self.url} cannot be fetched: {error}", flush=True)
        problem = checkpoint.damage(partial)
        if problem:
            print(f"{name} in {self.url} is not used: {problem}", flush=True)
            shutil.rmtree(partial, ignore_errors=True)
            return False
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        return True

    def _steps(self) -> list[int]:
        """Return the steps of the checkpoints that have a manifest, oldest first."""
        self._fs.invalidate_cache()
        found = self._fs.glob(f"{self._root}/checkpoints/step-*/manifest.json")
        return sorted(int(path.split("/")[-2].removeprefix("step-")) for path in found)

    def _remove(self, step: int) -> None:
        folder = f"{self._root}/checkpoints/step-{step:06d}"
        self._fs.rm(f"{folder}/manifest.json")
        self._fs.rm(folder, recursive=True)
