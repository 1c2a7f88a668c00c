"""A box that is a folder on this computer: commands through the machine's spool, files directly.

Files can be read after the machine has powered off; commands cannot be run any more.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import BadReply, ProviderError
from lumina_cloud.remote.box import CHUNK, Completed, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
"""How much longer than the command's own time-out an answer is waited for."""


class LocalBox:
    """The machine whose work folder is `work`; its spool lies beside it."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._spool = work.parent / "spool"

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """Run a command. Raises ProviderError when the machine does not answer."""
        name = secrets.token_hex(8)
        with edge("box.run"):
            self._write(self._spool / f"{name}.request", json.dumps({"argv": list(argv), "timeout": timeout}).encode())
            sent()
            reply = self._spool / f"{name}.reply"
            give_up = time.monotonic() + timeout + _PATIENCE_SECONDS
            while not reply.exists():
                if time.monotonic() > give_up:
                    raise ProviderError(f"the machine did not answer within {timeout:.0f} s", "it may be gone: lumina status")
                time.sleep(_POLL_SECONDS)
            raw = reply.read_bytes()
            reply.unlink()
        return _completed(untrusted.json_object(raw))

    def put(self, source: Path, target: str) -> None:
        """Send a file."""
        path = self._path(target)
        with edge("box.put"), _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            shutil.copyfile(source, partial)
            partial.replace(path)

    def write(self, target: str, data: bytes) -> None:
        """Write a small file."""
        with edge("box.write"):
            self._write(self._path(target), data)

    def read(self, path: str, offset: int = 0, limit: int = CHUNK) -> bytes | None:
        """Return part of a file, None when it is not there; a link is not there."""
        target = self._path(path)
        with edge("box.read"):
            try:
                handle = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                return None
            try:
                return os.pread(handle, limit, offset)
            except OSError:
                return None
            finally:
                os.close(handle)

    def listing(self, folder: str) -> list[Entry]:
        """Return the plain files below a folder."""
        root = self._path(folder)
        found = []
        with edge("box.listing"):
            for where, _folders, names in os.walk(root):
                for name in names:
                    path = os.path.join(where, name)  # noqa: PTH118  # a machine may hold many files
                    if os.path.isfile(path) and not os.path.islink(path):  # noqa: PTH113, PTH114
                        found.append(Entry(os.path.relpath(path, self._work).replace(os.sep, "/"), os.path.getsize(path)))  # noqa: PTH202
        return sorted(found, key=lambda entry: entry.path)

    def _path(self, path: str) -> Path:
        if untrusted.file_name(path) is None:
            raise BadReply(f"not a path on a machine: {untrusted.line(path, 200)!r}")
        return self._work / path

    def _write(self, path: Path, data: bytes) -> None:
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            partial.write_bytes(data)
            partial.replace(path)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into our error."""
    try:
        yield
    except OSError as error:
        raise ProviderError(f"cannot write {path} on the machine: {error.strerror}", "free disk space there") from error


def _completed(parsed: dict[str, Any] | None) -> Completed:
    code = untrusted.whole((parsed or {}).get("returncode"), -255, 255)
    if parsed is None or code is None:
        raise BadReply("the machine answered a command with something else than a result")
    return Completed(code, str(parsed.get("stdout", "")), str(parsed.get("stderr", "")))
