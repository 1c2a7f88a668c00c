"""One driver per run: a file lock that its holder's death releases."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def driving(home: Path, run_id: str) -> Iterator[bool]:
    """Yield whether this process may drive the run now: False when another one does.

    Raises LedgerError when the lock file cannot be made (folder read-only, disk full).
    """
    folder = home / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{run_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(
            f"cannot lock run {run_id} in {folder}: {error.strerror}", "make the folder writable, or free disk space"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
