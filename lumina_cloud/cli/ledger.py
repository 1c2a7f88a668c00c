"""`lumina ledger …`, `lumina rm`, `lumina prune`: keeping the ledger, and the disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import completing, options, output
from lumina_cloud.core.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.disk import Removable
    from lumina_cloud.api.session import Session

app = typer.Typer(name="ledger", help="Keep the ledger: backup, restore, verify, export, import.", no_args_is_help=True)


@app.command()
def backup(
    path: Annotated[str | None, typer.Argument(help="Where to; by default beside the ledger.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Copy the ledger as of this moment, whoever writes to it, and look the copy through."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import keeping
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            document = keeping.backup(lumina.ledger, None if path is None else Path(path), lumina.clock)
        if json:
            output.emit(document)
        else:
            output.console().print(document.path, markup=False, soft_wrap=True)
            output.tell(f"next: keep a copy elsewhere; lumina ledger restore {document.path}    puts it back")


@app.command()
def restore(
    backup: Annotated[str | None, typer.Argument(help="The backup; by default the newest beside the ledger.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Without asking.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Put a backup in the ledger's place; the one that was there is kept."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import keeping
        from lumina_cloud.core.clock import SystemClock

        confirm("put the backup in the ledger's place?", yes=yes)
        document = keeping.restore(None if backup is None else Path(backup), SystemClock())
        if json:
            output.emit(document)
            return
        output.console().print(f"{document.path} is now what {document.backup} was", markup=False, soft_wrap=True)
        if document.kept is not None:
            output.tell(f"the ledger that was there: {document.kept}")
        output.tell(f"next: {document.next}")


@app.command()
def verify(
    files: Annotated[bool, typer.Option("--files", help="Look through what came home of each run, too.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Go on with a ledger that has lost its newest transactions.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Look through the whole ledger: pages, references, each row's seal, the chain of events, the sums."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import keeping
        from lumina_cloud.core.clock import SystemClock

        document = keeping.verify(SystemClock(), files=files, accept=accept)
        if json:
            output.emit(document)
            if not document.ok:
                raise typer.Exit(LedgerError.exit_code)
            return
        if not document.ok:
            raise LedgerError(f"{document.ledger}: " + "\n".join(document.problems), document.way_back)
        said = ", ".join(f"{count:,} {name}" for name, count in document.rows.items() if count)
        output.console().print(f"{document.ledger} is whole: {said or 'nothing in it yet'}", markup=False, soft_wrap=True)
        output.tell("next: lumina ledger backup")


@app.command("export")
def export_(
    path: Annotated[str, typer.Argument(help="A file, or - for the standard output.")] = "-",
    debug: options.Debug = False,
) -> None:
    """Write the ledger as text, one JSON object a line."""
    with output.errors_shown(as_json=False):
        from lumina_cloud.api import keeping
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            count = keeping.export(lumina.ledger, None if path == "-" else Path(path), sys.stdout.write)
        if path != "-":
            output.tell(f"{count:,} rows in {path}")
            output.tell(f"next: lumina ledger import {path}    where it is to go")


@app.command("import")
def import_(
    path: Annotated[str, typer.Argument(help="A file that lumina ledger export wrote.")],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Add an exported ledger to this one: all of it, or nothing when something contradicts."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import keeping
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            document = keeping.import_(lumina.ledger, Path(path))
        if json:
            output.emit(document)
        else:
            said = ", ".join(f"{count:,} {name}" for name, count in document.added.items())
            output.console().print(f"added {said or 'nothing: all of it was here'}", markup=False, soft_wrap=True)
            output.tell("next: lumina ledger verify")


def rebuild_ledger(*, yes: bool, as_json: bool) -> None:
    """Do what `lumina doctor --rebuild` says."""
    from lumina_cloud.api import rebuilding

    confirm("make the ledger anew of what can still be read? The file that is there is kept.", yes=yes)
    document = rebuilding.rebuild_here()
    if as_json:
        output.emit(document)
        return
    said = ", ".join(f"{count:,} {name}s" for name, count in document.rows.items())
    output.console().print(f"{document.path} holds again: {said or 'nothing'}", markup=False, soft_wrap=True)
    for tag in document.adopted:
        output.tell(f"found running, and taken over to be ended: {tag}")
    for note in document.notes:
        output.tell(f"· {note}")
    if document.kept is not None:
        output.tell(f"the file that was there: {document.kept}")
    output.tell("next: lumina status, then lumina costs --check")


def rm(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Names of runs, their beginnings, or last.", autocompletion=completing.run)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Without asking.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Remove the files of runs that have ended. What they cost and did stays in the ledger."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import disk
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            found = [disk.removable(lumina.session, record) for record in {r.run_id: r for r in map(lumina.find, run)}.values()]
            _remove(lumina.session, found, yes=yes, as_json=json)


def prune(
    older_than: Annotated[float, typer.Option("--older-than", metavar="DAYS", help="Only of runs that ended so many days ago.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Without asking.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Remove the files of all runs that ended long ago. What they cost and did stays in the ledger."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import disk
        from lumina_cloud.api.documents import of_keeping
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            found = disk.older_than(lumina.session, older_than, lumina.clock.now())
            if dry_run or not found:
                document = of_keeping.RemovedDocument(runs=[f.run.run_id for f in found], bytes=sum(f.n_bytes for f in found))
                if json:
                    output.emit(document)
                else:
                    _say_found(found)
                    output.tell("next: the same without --dry-run" if found else "next: lumina status")
                return
            _remove(lumina.session, found, yes=yes, as_json=json)


def _remove(session: Session, found: list[Removable], *, yes: bool, as_json: bool) -> None:
    from lumina_cloud.api import disk
    from lumina_cloud.core import units

    _say_found(found)
    confirm("remove these files?", yes=yes)
    document = disk.remove(session, found)
    if as_json:
        output.emit(document)
    else:
        output.console().print(f"{units.n_bytes(document.bytes)} freed; the ledger keeps what the runs were", markup=False)
        output.tell("next: lumina status")


def _say_found(found: list[Removable]) -> None:
    from lumina_cloud.core import units

    for one in found:
        output.tell(f"{one.folder}  {units.n_bytes(one.n_bytes)}")
    if not found:
        output.tell("nothing to remove")


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal. Raises UsageError where nobody can answer, and when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this changes what is on disk, and nobody is there to ask", "add --yes to go on without asking")
    if not typer.confirm(question, err=True):
        raise UsageError("not confirmed: nothing was changed", "")
