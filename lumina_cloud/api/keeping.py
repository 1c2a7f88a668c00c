"""Keeping the ledger: backup, restore, verify, export, import."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import settings
from lumina_cloud.api.documents import of_keeping
from lumina_cloud.core.errors import LedgerError, UsageError
from lumina_cloud.ledger import Ledger, backups, sqlite_file
from lumina_cloud.ledger.database import way_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lumina_cloud.api.settings import Settings
    from lumina_cloud.core.clock import Clock


def ledger_file(chosen: Settings) -> Path:
    """Return the file of a ledger in SQLite. Raises UsageError when it is in PostgreSQL."""
    import os

    url = os.environ.get("LUMINA_LEDGER_URL", "")
    if url and not url.startswith("sqlite:///"):
        raise UsageError(
            "this ledger is in PostgreSQL: its server keeps and restores it",
            "pg_dump and pg_restore, or lumina ledger export FILE and, into an empty database, lumina ledger import FILE",
        )
    return Path(url.removeprefix("sqlite:///")) if url else chosen.home / "ledger.db"


# --- backup, restore, verify ---------------------------------------------------------------------------------------------


def backup(ledger: Ledger, target: Path | None, clock: Clock) -> of_keeping.BackupDocument:
    """Copy the ledger as of this moment, and look the copy through. Raises LedgerError, UsageError for a target that is there."""
    database = ledger.database
    if database.path is None:
        raise UsageError("this ledger is in PostgreSQL: its server keeps it", "pg_dump, or: lumina ledger export FILE")
    made = backups.backup_name(database) if target is None else target.expanduser().absolute()
    if made.exists():
        raise UsageError(f"{made} is there already", "give another name")
    with _writing(made):
        made.parent.mkdir(parents=True, exist_ok=True)
        backups.copy(database.path, made)
    try:
        backups.look_through_copy(made, clock)
    except LedgerError:
        made.unlink()
        raise
    return of_keeping.BackupDocument(path=str(made), bytes=made.stat().st_size)


def restore(source: Path | None, clock: Clock) -> of_keeping.RestoreDocument:
    """Put a backup, by default the newest, in the ledger's place; the one that was there is kept beside it."""
    chosen = settings.load()
    path = ledger_file(chosen)
    found = source.expanduser() if source is not None else sqlite_file.newest_backup(path)
    if found is None:
        raise LedgerError(f"there is no backup beside {path}", "lumina doctor --rebuild   does without one")
    kept = backups.restore(path, found, clock)
    return of_keeping.RestoreDocument(
        path=str(path),
        backup=str(found),
        kept=None if kept is None else str(kept),
        next="machines that were rented after that backup are found by: lumina doctor --rebuild",
    )


def verify(clock: Clock, *, files: bool = False, accept: bool = False) -> of_keeping.VerifyDocument:
    """Look through all of the ledger, and with `files` through what came home of each run.

    With `accept` a ledger that has lost its newest transactions, and is whole otherwise, is gone on with.
    """
    from lumina_cloud.ledger import mark
    from lumina_cloud.ledger.verifying import verify as look_through

    chosen = settings.load()
    if accept:
        mark.path_of(ledger_file(chosen)).unlink(missing_ok=True)
    try:
        ledger = Ledger.open(chosen.home, clock)
    except LedgerError as error:
        where = str(ledger_file(chosen))
        return of_keeping.VerifyDocument(ledger=where, ok=False, rows={}, problems=[error.message], way_back=error.hint)
    try:
        found = look_through(ledger.database)
        if files and not found.problems:
            for problem in _wrong_files(ledger):
                found.add(problem)
        if accept and not found.problems:
            with ledger.transaction() as tx:
                tx.add_event("ledger.accepted")
        return of_keeping.VerifyDocument(
            ledger=ledger.database.where,
            ok=not found.problems,
            rows=found.rows,
            problems=found.problems,
            way_back=way_back(ledger.database.path) if found.problems else "",
        )
    finally:
        ledger.close()


def _wrong_files(ledger: Ledger) -> list[str]:
    """Return what came home and is not any more what it was."""
    wrong = []
    for run in ledger.runs():
        folder = Path(run.folder)
        if not folder.is_dir():
            continue
        for artifact in ledger.artifacts(run.run_id):
            path = folder / artifact.path
            try:
                with path.open("rb") as handle:
                    same = hashlib.file_digest(handle, "sha256").hexdigest() == artifact.sha256
            except OSError:
                wrong.append(f"{path} is missing")
                continue
            if not same:
                wrong.append(f"{path} is not what came home")
    return wrong


# --- export, import ------------------------------------------------------------------------------------------------------


def export(ledger: Ledger, target: Path | None, write: Callable[[str], Any]) -> int:
    """Write the ledger as lines to a file, or hand them to `write`; return how many rows. A file appears only when it is whole."""
    from lumina_cloud.ledger import portable

    if target is None:
        written = [write(f"{line}\n") for line in portable.lines(ledger.database)]
        return len(written) - 2
    partial = target.with_name(f".{target.name}.part")
    count = 0
    with _writing(target), partial.open("w", encoding="utf-8") as out:
        partial.chmod(0o600)
        for line in portable.lines(ledger.database):
            out.write(f"{line}\n")
            count += 1
    partial.replace(target)
    return count - 2


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn a file that cannot be made into an error of whoever named it. Raises UsageError."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"cannot write {target}: {said}", "name a file in a folder that can be written") from error


def import_(ledger: Ledger, source: Path) -> of_keeping.ImportDocument:
    """Add an export's rows to the ledger: all, or none. Raises LedgerError, UsageError for a file that cannot be read."""
    from lumina_cloud.ledger import portable

    try:
        with source.open(encoding="utf-8") as lines:
            records = portable.read(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {source}: {error}", "lumina ledger export FILE makes one") from error
    return of_keeping.ImportDocument(added=portable.put(ledger.database, records), rows=len(records))
