"""What a ledger could not take: written beside it, so that no machine is known to a dead process alone.

Its tag finds a machine again without that. The file is for the moment in which nobody can look: a full disk, a locked ledger and a
provider that does not answer at once. One JSON object a line; a line goes when its instance is in the ledger.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "not-stored.jsonl"
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Machine:
    """A machine that is rented and was not written down."""

    at: str
    provider: str
    instance: str
    rental: str
    tag: str

    @property
    def words(self) -> str:
        """Say which it is."""
        return f"{self.provider} {untrusted.line(self.instance, 80)} ({self.tag})"


def keep(folder: Path, machine: Machine, error: LedgerError) -> LedgerError:
    """Write a machine down beside the ledger; return the error with where, or with all of it where even that cannot be written."""
    path = folder / NAME
    try:
        with _held(path, os.O_CREAT) as handle:
            _write_whole(handle, (json.dumps(asdict(machine)) + "\n").encode())
            os.fsync(handle)
    except OSError:
        where = "and could not be written anywhere: note it"
    else:
        where = f"and is written down in {path}"
    return LedgerError(
        f"{error.message}; {machine.words} is rented, is not in the ledger, {where}",
        f"{error.hint}\nlumina reconcile finds it by its tag, drives it on or ends it".strip(),
    )


def pending(folder: Path) -> list[Machine]:
    """Return the machines that are written down; lines that make no sense are passed over."""
    try:
        with (folder / NAME).open("rb") as lines:
            text = lines.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(Machine(**{name: str(json.loads(line)[name]) for name in Machine.__dataclass_fields__}))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def settle(folder: Path, is_known: Callable[[Machine], bool]) -> list[Machine]:
    """Drop the machines that the ledger knows by now; return the others. Raises LedgerError."""
    path = folder / NAME
    if not pending(folder):
        return []
    try:
        with _held(path) as _handle:
            # Read anew: nobody adds a line until the file is as it will be.
            left = [machine for machine in pending(folder) if not is_known(machine)]
            if left:
                partial = folder / f".{NAME}.part"
                partial.write_text("".join(json.dumps(asdict(machine)) + "\n" for machine in left), encoding="utf-8")
                partial.replace(path)
            else:
                path.unlink()
    except FileNotFoundError:
        # Another command has dropped the last of them.
        return []
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror or error}", "free some space") from error
    return left


@contextmanager
def _held(path: Path, flags: int = 0) -> Iterator[int]:
    """Give the file, open for appending, and keep everybody else out of it. Raises OSError."""
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(path, handle):
                yield handle
                return
        finally:
            os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file is the one that is there: while its lock was waited for, another may have taken its place."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _write_whole(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
