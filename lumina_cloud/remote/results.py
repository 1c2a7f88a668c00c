"""Brings a machine's results home. Its word is not trusted: names, sizes and links are checked, and nothing is executed.

What comes home: everything in `out/` but the shards (they can be made again), of the checkpoints the newest whole one, and the log.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import DiskError, ProviderError
from lumina_cloud.remote import checkpoints
from lumina_cloud.remote.box import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lumina_cloud.remote.box import Box, Entry

MAX_FILES = 20_000
MAX_BYTES = 1 << 40
MAX_LOG_BYTES = 256 << 20
_CHUNK = 8 << 20
_HASH_SECONDS = 900.0
_SHARDS, _CHECKPOINTS = "out/shards/", "out/checkpoints/"


@dataclass(frozen=True)
class Fetched:
    """A file that came home. `path` is below the run's folder."""

    path: str
    n_bytes: int
    sha256: str


def fetch_all(box: Box, folder: Path, *, python: Sequence[str] = ()) -> list[Fetched]:
    """Fetch a machine's results into `folder` and return them.

    With `python`, how the machine's interpreter is called, each file is hashed there too and a transfer that broke off goes on
    where it did. A checkpoint is taken over only when it agrees with its own manifest; the one before it is kept until then.
    Raises ProviderError when the machine offers nonsense, cannot be read, or what arrived is not what it hashed; DiskError when this
    computer cannot keep what it offers.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    offered = _offered(box)
    hashes = _hashes(box, python)
    plain = [e for e in offered if not e.path.startswith(_CHECKPOINTS)]
    fetched = [_fetch(box, e, folder, e.path.removeprefix("out/"), hashes.get(e.path)) for e in plain]
    fetched += _fetch_checkpoint(box, offered, folder, hashes)
    return [*fetched, *_fetch_log(box, folder)]


def fetch_checkpoint(box: Box, folder: Path) -> str | None:
    """Bring a running machine's newest whole checkpoint home, unless it is here already; return its name, None for none."""
    fetched = _fetch_checkpoint(box, _offered(box), folder, {})
    return fetched[0].path.split("/")[1] if fetched else None


def newest_offered(box: Box) -> tuple[str, int] | None:
    """Return name and size in bytes of the newest checkpoint on the machine, None when there is none."""
    sizes: dict[str, int] = {}
    for entry in box.listing("out/checkpoints"):
        name = entry.path.split("/")[2]
        if checkpoints.NAME.fullmatch(name):
            sizes[name] = sizes.get(name, 0) + entry.n_bytes
    newest = max(sizes, key=lambda n: int(n.removeprefix("step-")), default=None)
    return None if newest is None else (newest, sizes[newest])


def _offered(box: Box) -> list[Entry]:
    """Return what a machine offers that may come home: nothing that clashes with another name on any file system."""
    offered = [entry for entry in box.listing("out") if _is_wanted(entry.path)]
    if len(offered) > MAX_FILES or sum(e.n_bytes for e in offered) > MAX_BYTES or any(e.n_bytes < 0 for e in offered):
        raise ProviderError(f"the machine offers {len(offered):,} files: that is not a training run's output")
    seen: set[str] = set()
    for entry in offered:
        plain = unicodedata.normalize("NFC", entry.path).casefold()
        # Twice one name, a file where a folder has to be, or names that differ in case only: some file system takes them for one.
        folders = {plain[:at] for at, letter in enumerate(plain) if letter == "/"}
        if plain in seen or f"{plain}/" in seen or folders & seen:
            raise ProviderError(f"the machine offers clashing names: {untrusted.line(entry.path, 100)}")
        seen.add(plain)
        seen.update(f"{folder}/" for folder in folders)
    return offered


def _hashes(box: Box, python: Sequence[str]) -> dict[str, str]:
    """Return what the machine says its files hash to; empty where it cannot say."""
    if not python:
        return {}
    box.write("bundle/hashes.py", _HASHES.encode())
    try:
        done = box.run([*python, "bundle/hashes.py", "out"], timeout=_HASH_SECONDS)
    except ProviderError:
        return {}
    rows = [untrusted.json_object(row) for row in done.stdout.splitlines()[:MAX_FILES]]
    return {r["path"]: r["sha256"] for r in rows if r and isinstance(r.get("path"), str) and isinstance(r.get("sha256"), str)}


_HASHES = """\
import hashlib, json, os, sys
for folder, folders, names in os.walk(sys.argv[1]):
    folders[:] = [f for f in folders if f != "shards" and not f.startswith(".")]
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            digest = hashlib.sha256()
            with open(path, "rb") as handle:
                for chunk in iter(lambda: handle.read(1 << 20), b""):
                    digest.update(chunk)
            print(json.dumps({"path": path, "sha256": digest.hexdigest()}))
"""


def _unwritable(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"cannot write {path}: {error.strerror}",
        "free disk space here, or make it writable; any lumina command tries again for as long as the machine waits",
    )


def _is_wanted(path: str) -> bool:
    name = untrusted.file_name(path)
    return name is not None and not name.startswith(_SHARDS) and not any(part.startswith(".") for part in name.split("/"))


def _fetch(box: Box, entry: Entry, folder: Path, name: str, expected: str | None = None) -> Fetched:
    """Copy one file, hashing it on the way; it appears under its name only when it is whole.

    What broke off is kept for the next attempt where its hash is known. Raises ProviderError.
    """
    target = folder / name
    partial = target.with_name(f".{target.name}.{expected[:12]}.part" if expected else f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        size, sha256 = _copy(box, entry, partial, resume=expected is not None)
        if expected is not None and sha256 != expected:
            # The beginning that was here was another file's, or the file changed meanwhile.
            size, sha256 = _copy(box, entry, partial, resume=False)
        if expected is not None and sha256 != expected and not _grows(name):
            partial.unlink(missing_ok=True)
            raise ProviderError(f"{name} did not arrive as the machine hashed it", "lumina resume goes on from the last whole checkpoint")
        with edge("home.keep"):
            partial.replace(target)
            sent()
    except OSError as error:
        if expected is None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise _unwritable(target, error) from error
    return Fetched(name, size, sha256)


def _grows(name: str) -> bool:
    """Whether a file is written to while the trainer lives."""
    return name in ("metrics.jsonl", "heartbeat.json")


def _copy(box: Box, entry: Entry, partial: Path, *, resume: bool) -> tuple[int, str]:
    """Copy a machine's file to `partial`, and return its size and hash. Raises OSError, ProviderError."""
    digest, size = hashlib.sha256(), 0
    if resume and partial.is_file() and not partial.is_symlink():
        with partial.open("rb") as kept:
            while chunk := kept.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    if size > entry.n_bytes:
        digest, size = hashlib.sha256(), 0
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if size else os.O_TRUNC), 0o600)
    with os.fdopen(handle, "wb") as out:
        out.seek(size)
        for chunk in _chunks(box, entry, size):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return size, digest.hexdigest()


def _chunks(box: Box, entry: Entry, offset: int) -> Iterator[bytes]:
    """Yield a file's content from `offset`, never more than the machine said it holds."""
    while offset < entry.n_bytes:
        chunk = box.read(entry.path, offset, min(_CHUNK, entry.n_bytes - offset))
        if not chunk:
            return
        chunk = chunk[: entry.n_bytes - offset]
        yield chunk
        offset += len(chunk)


def _fetch_checkpoint(box: Box, offered: list[Entry], folder: Path, hashes: dict[str, str]) -> list[Fetched]:
    """Fetch the newest checkpoint that proves whole; older ones here are then removed."""
    by_name: dict[str, list[Entry]] = {}
    for entry in offered:
        if entry.path.startswith(_CHECKPOINTS):
            by_name.setdefault(entry.path.split("/")[2], []).append(entry)
    names = sorted((n for n in by_name if checkpoints.NAME.fullmatch(n)), key=lambda n: int(n.removeprefix("step-")), reverse=True)
    for name in names:
        here = folder / "checkpoints" / name
        if checkpoints.is_whole(here):
            return [_kept(path, folder) for path in sorted(here.rglob("*")) if path.is_file()]
        incoming = folder / "checkpoints" / f".incoming-{name}"
        copied = [_fetch(box, e, incoming, e.path.removeprefix(f"{_CHECKPOINTS}{name}/"), hashes.get(e.path)) for e in by_name[name]]
        if checkpoints.is_whole(incoming):
            _take_over(incoming, folder / "checkpoints" / name)
            return [Fetched(f"checkpoints/{name}/{f.path}", f.n_bytes, f.sha256) for f in copied]
        shutil.rmtree(incoming, ignore_errors=True)
    return []


def _kept(path: Path, folder: Path) -> Fetched:
    with path.open("rb") as handle:
        return Fetched(path.relative_to(folder).as_posix(), path.stat().st_size, hashlib.file_digest(handle, "sha256").hexdigest())


def _take_over(incoming: Path, target: Path) -> None:
    """Let a whole checkpoint take its place; what its manifest does not list does not come along."""
    listed = {path for path, _size, _hash in checkpoints.manifest((incoming / "manifest.json").read_bytes()) or []}
    for path in sorted(incoming.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(incoming).as_posix() not in {*listed, "manifest.json"}:
            path.unlink()
    with edge("home.checkpoint"):
        shutil.rmtree(target, ignore_errors=True)
        incoming.rename(target)
        sent()
        for other in target.parent.iterdir():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)


def _begins(kept: bytes, fresh: bytes) -> int:
    """Return where in what is kept a log begins that goes on as `fresh` does; the end where none does."""
    head = fresh.partition(b"\n")[0]
    at = kept.find(head) if head else -1
    while at >= 0:
        if fresh.startswith(kept[at:]):
            return at
        at = kept.find(head, at + 1)
    return len(kept)


def _fetch_log(box: Box, folder: Path) -> list[Fetched]:
    """Append this machine's log to what earlier rentals of the run left."""
    target = folder / "log.txt"
    kept = target.read_bytes() if target.is_file() else b""
    new, offset = [], 0
    while offset < MAX_LOG_BYTES and (chunk := box.read("log.txt", offset)):
        new.append(chunk)
        offset += len(chunk)
    fresh = b"".join(new)
    # Fetching may be repeated after a crash: what is here of this log already, which may have grown since, is not appended twice.
    content = kept[: _begins(kept, fresh)] + fresh
    if not content:
        return []
    partial = target.with_name(".log.txt.part")
    try:
        partial.write_bytes(content)
        with edge("home.keep"):
            partial.replace(target)
            sent()
    except OSError as error:
        raise _unwritable(target, error) from error
    return [Fetched("log.txt", len(content), hashlib.sha256(content).hexdigest())]
