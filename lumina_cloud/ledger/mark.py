"""How far a SQLite ledger has come, noted beside it after each commit.

SQLite takes a write-ahead log that is missing, cut off or damaged for one that ends earlier, and says nothing: transactions that were
committed would be gone unseen. The mark says how many there were. It is written after the commit and never waits for the disk, so it
may be behind the ledger, after a kill or a power cut, but never ahead of it.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ACCEPT = "lumina ledger verify --accept   goes on with the ledger as it is"


@dataclass(frozen=True)
class Mark:
    """Which ledger, and how many transactions were committed to it."""

    ledger_id: str
    commits: int


def path_of(ledger: Path) -> Path:
    """Return where a ledger's mark is kept."""
    return ledger.with_name(f"{ledger.name}-mark")


def write(ledger: Path, noted: Mark) -> None:
    """Note how far the ledger has come. The line has one length, so one write replaces it whole."""
    line = f"{noted.ledger_id} {noted.commits:020d}"
    content = f"{line} {zlib.crc32(line.encode()):08x}\n".encode()
    handle = os.open(path_of(ledger), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(handle, content, 0)
    finally:
        os.close(handle)


def read(ledger: Path) -> Mark | None:
    """Return a ledger's mark, None when there is none. Raises LedgerError for a damaged one."""
    path = path_of(ledger)
    for _attempt in range(20):
        # Two writers at once may show a reader half of each.
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        line, _, checksum = content.decode("ascii", "replace").rstrip("\n").rpartition(" ")
        name, _, commits = line.partition(" ")
        if checksum == f"{zlib.crc32(line.encode()):08x}" and commits.isdigit() and content.endswith(b"\n"):
            return Mark(name, int(commits))
    raise LedgerError(f"{path} is damaged: it does not hold what was written", f"lumina ledger verify   looks through the ledger\n{ACCEPT}")


def refuse_older(ledger: Path, noted: Mark, facts: Mapping[str, str]) -> None:
    """Raise LedgerError when the ledger holds less than its mark says."""
    from lumina_cloud.ledger.database import way_back

    has = int(facts.get("commits", "0"))
    if facts.get("ledger") != noted.ledger_id:
        raise LedgerError(f"{ledger} is another ledger than the one that was here", f"{ACCEPT}\n{way_back(ledger)}")
    if has < noted.commits:
        raise LedgerError(
            f"{ledger} has lost its last {noted.commits - has} of {noted.commits} transactions: "
            f"{ledger.name}-wal is missing or damaged, or an older copy was put in its place",
            f"{ACCEPT}\n{way_back(ledger)}",
        )
