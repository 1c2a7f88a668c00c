"""`lumina rm` and `lumina prune` free disk. What was spent is never forgotten: the ledger keeps what the files were."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.api.documents import of_keeping
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lumina_cloud.api.session import Session
    from lumina_cloud.ledger import RunRecord


@dataclass(frozen=True)
class Removable:
    """A run's files."""

    run: RunRecord
    folder: Path
    n_bytes: int


def removable(session: Session, run: RunRecord) -> Removable:
    """Return what `rm` would remove. Raises RefusedError for a run that goes on, UsageError when there is nothing."""
    if run.state in ACTIVE:
        raise RefusedError(f"run {run.run_id} is {run.state}", f"lumina stop {run.run_id}   ends it first")
    folder = Path(run.folder)
    if session.settings.runs_folder.resolve() not in folder.resolve().parents:
        raise RefusedError(f"the files of {run.run_id} are not below {session.settings.runs_folder}: {folder}", "remove them by hand")
    if not folder.is_dir():
        raise UsageError(f"run {run.run_id} has no files here", f"lumina results {run.run_id}   shows what it was")
    return Removable(run, folder, _size(folder))


def older_than(session: Session, days: float, now: datetime) -> list[Removable]:
    """Return the files of runs that ended before then, newest first."""
    if not 0 <= days < 1e6:
        raise UsageError(f"--older-than is {days:g} days, but must be at least 0", "lumina prune --older-than 30")
    folders = session.settings.runs_folder
    names = sorted(p.name for p in folders.iterdir() if p.is_dir()) if folders.is_dir() else []
    found = []
    for name in names:
        run = session.ledger.run(name)
        if run is not None and run.state not in ACTIVE and (run.ended_at or run.created_at) <= now - timedelta(days=days):
            found.append(removable(session, run))
    return sorted(found, key=lambda r: r.run.created_at, reverse=True)


def remove(session: Session, what: Sequence[Removable]) -> of_keeping.RemovedDocument:
    """Remove runs' files. Their history stays: charges, events, curves, and the list of what the files were."""
    freed = 0
    for one in what:
        with session.ledger.transaction() as tx:
            tx.add_event("run.files_removed", run_id=one.run.run_id, bytes=one.n_bytes, folder=str(one.folder))
        # Renamed first: a kill half way leaves no folder that looks whole.
        doomed = one.folder.with_name(f".{one.folder.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        one.folder.rename(doomed)
        shutil.rmtree(doomed)
        freed += one.n_bytes
    return of_keeping.RemovedDocument(runs=[one.run.run_id for one in what], bytes=freed)


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
