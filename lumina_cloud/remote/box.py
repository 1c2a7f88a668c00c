"""A machine that can be reached. Paths are relative to its work folder, with forward slashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHUNK = 1 << 20


@dataclass(frozen=True)
class Completed:
    """How a command on the machine ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Entry:
    """A file on the machine. Both are the machine's word, not yet trusted."""

    path: str
    n_bytes: int


class Box(Protocol):
    """What can be done on a machine. Each raises ProviderError when the machine cannot be reached or says no."""

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """Run a command in the work folder and wait for it, at most `timeout` seconds."""
        ...

    def put(self, source: Path, target: str) -> None:
        """Send a file; the target is complete or absent."""
        ...

    def write(self, target: str, data: bytes) -> None:
        """Write a small file; complete or absent."""
        ...

    def read(self, path: str, offset: int = 0, limit: int = CHUNK) -> bytes | None:
        """Return up to `limit` bytes of a file from `offset`, None when there is no such file."""
        ...

    def listing(self, folder: str) -> list[Entry]:
        """Return every plain file below a folder, links left out; empty when there is no such folder."""
        ...
