"""Brings a machine's results home. Its word is not trusted: names, sizes and links are checked, and nothing is executed.

What comes home: everything in `out/` but the shards (they can be made again), of the checkpoints the newest whole one, and the log.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import DiskError, ProviderError
from lumina_cloud.remote import checkpoints
from lumina_cloud.remote.box import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lumina_cloud.remote.box import Box, Entry

MAX_FILES = 20_000
MAX_BYTES = 1 << 40
MAX_LOG_BYTES = 256 << 20
_SHARDS, _CHECKPOINTS = "out/shards/", "out/checkpoints/"


@dataclass(frozen=True)
class Fetched:
    """A file that came home. `path` is below the run's folder."""

    path: str
    n_bytes: int
    sha256: str


def fetch_all(box: Box, folder: Path) -> list[Fetched]:
    """Fetch a machine's results into `folder` and return them.

    A checkpoint is taken over only when it agrees with its own manifest; the one before it is kept until then. Raises
    ProviderError when the machine offers nonsense or cannot be read, DiskError when this computer cannot keep what it offers.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    offered = [entry for entry in box.listing("out") if _is_wanted(entry.path)]
    if len(offered) > MAX_FILES or sum(e.n_bytes for e in offered) > MAX_BYTES:
        raise ProviderError(f"the machine offers {len(offered):,} files: that is not a training run's output")
    fetched = [_fetch(box, e, folder, e.path.removeprefix("out/")) for e in offered if not e.path.startswith(_CHECKPOINTS)]
    fetched += _fetch_checkpoint(box, offered, folder)
    return [*fetched, *_fetch_log(box, folder)]


def _unwritable(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"cannot write {path}: {error.strerror}",
        "free disk space here, or make it writable; any lumina command tries again for as long as the machine waits",
    )


def _is_wanted(path: str) -> bool:
    name = untrusted.file_name(path)
    return name is not None and not name.startswith(_SHARDS) and not any(part.startswith(".") for part in name.split("/"))


def _fetch(box: Box, entry: Entry, folder: Path, name: str) -> Fetched:
    """Copy one file, hashing it on the way; it appears under its name only when it is whole."""
    target = folder / name
    partial = target.with_name(f".{target.name}.part")
    digest, size = hashlib.sha256(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            for chunk in _chunks(box, entry):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise _unwritable(target, error) from error
    return Fetched(name, size, digest.hexdigest())


def _chunks(box: Box, entry: Entry) -> Iterator[bytes]:
    """Yield a file's content, never more than the machine said it holds."""
    offset = 0
    while offset < entry.n_bytes:
        chunk = box.read(entry.path, offset, min(CHUNK, entry.n_bytes - offset))
        if not chunk:
            return
        yield chunk
        offset += len(chunk)


def _fetch_checkpoint(box: Box, offered: list[Entry], folder: Path) -> list[Fetched]:
    """Fetch the newest checkpoint that proves whole; older ones here are then removed."""
    by_name: dict[str, list[Entry]] = {}
    for entry in offered:
        if entry.path.startswith(_CHECKPOINTS):
            by_name.setdefault(entry.path.split("/")[2], []).append(entry)
    names = sorted((n for n in by_name if checkpoints.NAME.fullmatch(n)), key=lambda n: int(n.removeprefix("step-")), reverse=True)
    for name in names:
        incoming = folder / "checkpoints" / f".incoming-{name}"
        shutil.rmtree(incoming, ignore_errors=True)
        copied = [_fetch(box, e, incoming, e.path.removeprefix(f"{_CHECKPOINTS}{name}/")) for e in by_name[name]]
        if checkpoints.is_whole(incoming):
            _take_over(incoming, folder / "checkpoints" / name)
            return [Fetched(f"checkpoints/{name}/{f.path}", f.n_bytes, f.sha256) for f in copied]
        shutil.rmtree(incoming, ignore_errors=True)
    return []


def _take_over(incoming: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    incoming.rename(target)
    for other in target.parent.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def _fetch_log(box: Box, folder: Path) -> list[Fetched]:
    """Append this machine's log to what earlier rentals of the run left."""
    target = folder / "log.txt"
    kept = target.read_bytes() if target.is_file() else b""
    new, offset = [], 0
    while offset < MAX_LOG_BYTES and (chunk := box.read("log.txt", offset)):
        new.append(chunk)
        offset += len(chunk)
    fresh = b"".join(new)
    # Fetching may be repeated after a crash: the same log is not appended twice.
    content = kept if fresh and kept.endswith(fresh) else kept + fresh
    if not content:
        return []
    partial = target.with_name(".log.txt.part")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    return [Fetched("log.txt", len(content), hashlib.sha256(content).hexdigest())]
