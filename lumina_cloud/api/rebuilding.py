"""The way back when a ledger is damaged or lost: a new one of what can still be read, the backups, and the providers' lists."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import settings
from lumina_cloud.api.documents import of_keeping
from lumina_cloud.api.keeping import ledger_file
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import CredentialsError, LedgerError, ProviderError, RefusedError
from lumina_cloud.ledger import Ledger, RentalRecord, RunRecord, backups, mark, salvage, sqlite_file
from lumina_cloud.runs.states import ACTIVE
from lumina_cloud.runs.tags import is_of
from lumina_cloud.runs.tags import read as read_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from lumina_cloud.api.settings import Settings
    from lumina_cloud.core.clock import Clock
    from providers.contract import Instance, Provider

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
"""A label may be anybody's, and the run that it names becomes a folder."""


def rebuild(clock: Clock, connect: Callable[[str], Provider], names: Sequence[str]) -> of_keeping.RebuildDocument:
    """Make a ledger anew of what can still be read: the damaged file, its backups, and the providers' lists.

    What is read is what matches its seal. An instance with a tag of ours whose rental is not known becomes one, of a run that is
    about to be concluded: the next command brings its results home and ends it. One that another ledger made is left alone. The old
    file is kept.
    """
    chosen = settings.load()
    path = ledger_file(chosen)
    records: dict[Any, Any] = {}
    sources = [p for p in (*backups_of(path), path) if p.is_file()]
    for source in sources:
        # The ledger itself comes last: where both can be read, its rows are the newer ones.
        records |= _read_all(source, clock)
    notes = [] if records else ["nothing could be read of the ledger or of a backup"]
    instances = _not_anothers(_instances(connect, names, notes), path, notes)
    added = _placeholders(records, instances, chosen, clock.now())
    incoming = path.with_name(f".{path.name}.incoming")
    path.parent.mkdir(parents=True, exist_ok=True)
    backups.discard(incoming)
    try:
        _write_new(incoming, clock, records)
        kept = backups.swap_in(incoming, path, clock)
    finally:
        backups.discard(incoming)
    counts: dict[str, int] = {}
    for cls, _key in records:
        counts[cls.__name__] = counts.get(cls.__name__, 0) + 1
    return of_keeping.RebuildDocument(
        path=str(path),
        sources=[str(s) for s in sources],
        kept=None if kept is None else str(kept),
        rows={name.removesuffix("Record").lower(): n for name, n in counts.items()},
        adopted=added,
        notes=notes,
    )


def rebuild_here() -> of_keeping.RebuildDocument:
    """Rebuild the ledger of this home, asking every provider whose key is here."""
    import os

    from lumina_cloud.core.clock import SystemClock
    from providers import registry

    chosen, clock = settings.load(), SystemClock()

    def connect(name: str) -> Provider:
        return registry.connect(
            name, home=chosen.home, local_usd_per_hour=chosen.local_usd_per_hour, clock=clock, env=os.environ, urls=chosen.urls
        )

    return rebuild(clock, connect, registry.NAMES)


def backups_of(path: Path) -> list[Path]:
    """Return the backups of a ledger, oldest first."""
    return sqlite_file.backups(path) if path.parent.is_dir() else []


def _read_all(source: Path, clock: Clock) -> dict[Any, Any]:
    """Return what can be read of a file; one of an older schema is migrated in a copy first."""
    found = salvage.readable(source)
    if found:
        return found
    copied = source.with_name(f".{source.name}.looked-at")
    backups.discard(copied)
    try:
        shutil.copyfile(source, copied)
        Ledger.open(copied.parent, clock, f"sqlite:///{copied}").close()
        return salvage.readable(copied)
    except (LedgerError, OSError):
        return {}
    finally:
        backups.discard(copied)


def _instances(connect: Callable[[str], Provider], names: Sequence[str], notes: list[str]) -> list[tuple[str, Instance]]:
    found: list[tuple[str, Instance]] = []
    for name in names:
        try:
            found += [(name, instance) for instance in connect(name).list_owned()]
        except (CredentialsError, RefusedError):
            continue
        except ProviderError as error:
            notes.append(f"{name} could not be asked what runs there: {error.message}")
    return found


def _not_anothers(instances: list[tuple[str, Instance]], path: Path, notes: list[str]) -> list[tuple[str, Instance]]:
    """Return the instances without those whose tag another ledger made, as far as the mark beside the old file tells which it was."""
    try:
        noted = mark.read(path)
    except LedgerError:
        noted = None
    if noted is None:
        return instances
    kept = []
    for name, instance in instances:
        tag = read_tag(instance.tag)
        if tag is None or not tag.code or is_of(noted.ledger_id, instance.tag):
            kept.append((name, instance))
        else:
            notes.append(f"{name} instance {untrusted.line(instance.instance_id, 80)} carries the tag of another ledger: it is left alone")
    return kept


def _placeholders(records: dict[Any, Any], instances: Sequence[tuple[str, Instance]], chosen: Settings, now: datetime) -> list[str]:
    """Add a run for each rental without one, and a rental for each instance without one. Return the instances."""
    for record in [r for (cls, _key), r in records.items() if cls is RentalRecord]:
        if (RunRecord, (record.run_id,)) not in records:
            records[RunRecord, (record.run_id,)] = _run_of(record.run_id, record, chosen, now, live=False)
    tags = {r.tag for (cls, _key), r in records.items() if cls is RentalRecord}
    added = []
    for name, instance in instances:
        made = None if instance.tag in tags else placeholder(name, instance, chosen, now)
        if made is None:
            continue
        fresh, rental = made
        run_id = fresh.run_id
        run = records.get((RunRecord, (run_id,))) or fresh
        if run.state not in ACTIVE:
            run = replace(run, state="finishing", reason="machine_lost")
        records[RunRecord, (run_id,)] = run
        records[RentalRecord, (rental.rental_id,)] = rental
        added.append(instance.tag)
    return added


def placeholder(name: str, instance: Instance, chosen: Settings, now: datetime) -> tuple[RunRecord, RentalRecord] | None:
    """Return the run and the rental that an instance's tag speaks of, about to be concluded; None where it speaks of none."""
    tag = read_tag(instance.tag)
    if tag is None or not _RUN_ID.fullmatch(tag.run_id):
        return None
    run_id = tag.run_id
    rental = RentalRecord(
        rental_id=f"{run_id}-{tag.attempt}",
        run_id=run_id,
        attempt=tag.attempt,
        tag=instance.tag,
        provider=name,
        gpu=instance.gpu or "unknown",
        count=instance.count or 1,
        usd_per_hour=instance.usd_per_hour,
        offer_id="",
        instance_id=instance.instance_id,
        state="ready",
        intended_at=instance.created_at,
        ready_at=instance.created_at,
        ended_at=None,
    )
    return _run_of(run_id, rental, chosen, now, live=True), rental


def _run_of(run_id: str, rental: RentalRecord, chosen: Settings, now: datetime, *, live: bool) -> RunRecord:
    """Return a run of which nothing is known but that it had a rental."""
    model, _, rest = run_id.partition("-")
    return RunRecord(
        run_id=run_id,
        created_at=rental.intended_at,
        model=model[:40] or "unknown",
        arch=rest.partition("-")[0][:20] or "unknown",
        state="finishing" if live else "failed",
        reason="machine_lost",
        config_json="{}",
        plan_id=None,
        provider=rental.provider,
        gpu=rental.gpu,
        count=rental.count,
        usd_per_hour=rental.usd_per_hour,
        planned={},
        usd_cap=money.usd(0),
        seconds_cap=0.0,
        data_path=None,
        folder=str(chosen.runs_folder / run_id),
        started_at=None,
        ended_at=None if live else rental.ended_at or now,
        stop_requested_at=None,
        progress={},
        result={},
    )


def _write_new(incoming: Path, clock: Clock, records: dict[Any, Any]) -> None:
    from lumina_cloud.ledger import portable
    from lumina_cloud.ledger.rows import TABLES

    order = list(TABLES)
    whole = _with_all_they_name(records)
    fresh = Ledger.open(incoming.parent, clock, f"sqlite:///{incoming}")
    try:
        ordered = sorted(whole, key=lambda r: (order.index(type(r)), getattr(r, "event_id", 0)))
        portable.put(fresh.database, ordered, event="ledger.rebuilt")
    finally:
        fresh.close()


def _with_all_they_name(records: dict[Any, Any]) -> list[Any]:
    """Return the records whose run, rental and plan are among them; a run whose plan is gone has none."""
    from lumina_cloud.ledger import PlanRecord

    def known(record: Any) -> bool:
        run, rental = getattr(record, "run_id", None), getattr(record, "rental_id", None)
        return (run is None or isinstance(record, RunRecord) or (RunRecord, (run,)) in records) and (
            rental is None or isinstance(record, RentalRecord) or (RentalRecord, (rental,)) in records
        )

    kept = []
    for record in records.values():
        if isinstance(record, RunRecord) and record.plan_id is not None and (PlanRecord, (record.plan_id,)) not in records:
            kept.append(replace(record, plan_id=None))
        elif known(record):
            kept.append(record)
    return kept
