"""The end of a run: results come home, the rental ends, the books are closed. May be repeated from any point."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import NotFound, ProviderError, StillTerminating, Unreachable
from lumina_cloud.ledger import ArtifactRecord, ChargeRecord
from lumina_cloud.remote import bootstrap, results
from lumina_cloud.runs import billing, caps, failover, holds, ingest, metering, remembered, unheard
from lumina_cloud.runs.decide import LEAST_UNREACHABLE_SECONDS
from lumina_cloud.runs.observing import allowed_seconds
from lumina_cloud.runs.states import REASONS, WAITED_FOR, next_rental_state, next_run_state

if TYPE_CHECKING:
    from datetime import datetime

    from lumina_cloud.ledger import Ledger, RentalRecord, RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.states import Reason
    from providers.contract import Instance

TERMINATE_SECONDS = 120.0
METER_EVERY = timedelta(seconds=5)


def conclude(context: Context, run: RunRecord, rental: RentalRecord | None, instance: Instance | None, box: Box | None) -> None:
    """Fetch, terminate, charge, and set the final state.

    Raises Unreachable when the machine breaks off while it is fetched from, ProviderError when it would not end, and DiskError when this
    computer cannot keep the results: the machine then lives on, as long as its own supervisor waits, and the next try may find room.
    """
    context.reporter.said(run.run_id, "bringing results home" if box is not None else "closing the books")
    if box is not None and rental is not None and rental.state != "terminating":
        _fetch(context, run, rental, box)
    if rental is not None and rental.state in ("booting", "ready", "terminating"):
        _terminate(context, run, rental, instance)
    _close(context, run)


def meter(context: Context, run: RunRecord, rental: RentalRecord | None, instance: Instance | None, *, final: bool = False) -> None:
    """Charge the rental for its time so far; the one charge of a rental grows until it ends."""
    if rental is None or instance is None:
        return
    known = next((c for c in context.ledger.charges_of_rental(rental.rental_id) if c.charge_id == f"{rental.rental_id}-time"), None)
    if known is not None and not known.counted:
        # A bill took its place, for a controller that came no further: it is not added to that.
        return
    until = metering.charged_until(
        created_at=instance.created_at,
        ended_at=instance.ended_at,
        known_until=None if known is None else known.until,
        skew=billing.skew(context, rental),
        adopted=_adopted(context, rental),
        now=metering.Reading.of(context.clock),
    )
    if known is not None and (until <= known.until or (not final and until - known.until < METER_EVERY)):
        return
    usd = money.for_time(instance.usd_per_hour, billing.billed_time(rental.provider, until - instance.created_at))
    charge = ChargeRecord(
        charge_id=f"{rental.rental_id}-time",
        run_id=run.run_id,
        rental_id=rental.rental_id,
        provider=rental.provider,
        # A price that falls, as that of a machine that was stopped, takes nothing back of what it cost before.
        usd=usd if known is None else max(usd, known.usd),
        usd_per_hour=instance.usd_per_hour,
        since=instance.created_at,
        until=until,
        basis="metered",
    )
    with context.ledger.transaction() as tx:
        tx.put_charge(charge)


def meter_unseen(context: Context, run: RunRecord, rental: RentalRecord) -> None:
    """Charge a machine that was found gone for the longest that it can have been there, until its bill says how long it was.

    Nobody saw its end. Less would leave a run that goes on with more of its cap than it has.
    """
    if rental.provider == "local" or rental.instance_id is None:
        return
    charges = context.ledger.charges(run.run_id)
    if any(c.basis == "billed" and c.rental_id == rental.rental_id for c in charges):
        # Asked for before, by a controller that came no further.
        return
    known = next((c for c in charges if c.charge_id == f"{rental.rental_id}-time"), None)
    ahead = timedelta(seconds=billing.skew(context, rental) or 0.0)
    since = _created_at(context, rental) - ahead if known is None else known.since
    allowed = allowed_seconds(context, run, rental)
    until = max(min(context.clock.now() - ahead, since + timedelta(seconds=allowed)), since if known is None else known.until)
    charge = ChargeRecord(
        charge_id=f"{rental.rental_id}-time",
        run_id=run.run_id,
        rental_id=rental.rental_id,
        provider=rental.provider,
        usd=money.for_time(rental.usd_per_hour, billing.billed_time(rental.provider, until - since)),
        usd_per_hour=rental.usd_per_hour,
        since=since,
        until=until,
        basis="metered",
    )
    with context.ledger.transaction() as tx:
        tx.put_charge(charge)
        seen = money.text(caps.ZERO if known is None else known.usd)
        last = (since if known is None else known.until).isoformat()
        tx.add_event(unheard.END_UNSEEN, run_id=run.run_id, rental_id=rental.rental_id, usd_seen=seen, seen_until=last)


def _created_at(context: Context, rental: RentalRecord) -> datetime:
    """Return since when a rental's machine may have been there, by this computer's clock: its first create, or its intent."""
    creates = [e.at for e in context.ledger.events(rental.run_id) if e.kind == unheard.CREATE and e.rental_id == rental.rental_id]
    return min(creates, default=rental.intended_at)


def _adopted(context: Context, rental: RentalRecord) -> metering.Reading | None:
    """Return this computer's clocks when the rental's machine became known."""
    events = context.ledger.events(rental.run_id)
    created = next((e for e in events if e.kind == "rental.created" and e.rental_id == rental.rental_id), None)
    return None if created is None else metering.reading_of(created.data.get("clocks", {}))


def _fetch(context: Context, run: RunRecord, rental: RentalRecord, box: Box) -> None:
    folder = Path(run.folder)
    try:
        fetched = results.fetch_all(box, folder, python=() if run.provider == "local" else bootstrap.FIND_PYTHON)
    except ProviderError as error:
        if isinstance(error, Unreachable) and _may_come_back(context, run, rental):
            raise
        context.reporter.said(run.run_id, f"not everything came home: {error.message}")
        with context.ledger.transaction() as tx:
            tx.add_event("run.fetch_failed", run_id=run.run_id, message=error.message)
        return
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n") if (folder / "metrics.jsonl").is_file() else []
    with context.ledger.transaction() as tx:
        tx.put_artifacts(run.run_id, [ArtifactRecord(run.run_id, f.path, f.n_bytes, f.sha256) for f in fetched])
        tx.put_metrics(run.run_id, ingest.metrics(run.run_id, lines))
        tx.add_event("run.fetched", run_id=run.run_id, files=len(fetched))
    with suppress(ProviderError):
        # A machine that takes no more writes is ended all the same.
        box.write("fetched", b"")


def _may_come_back(context: Context, run: RunRecord, rental: RentalRecord) -> bool:
    """Whether a connection that broke off is made again: what the user wants is on the machine, and it ended a moment ago."""
    if run.reason not in WAITED_FOR or rental.provider == "local" or rental.work_ended_at is None:
        return False
    return (context.clock.now() - rental.work_ended_at).total_seconds() < LEAST_UNREACHABLE_SECONDS


def _terminate(context: Context, run: RunRecord, rental: RentalRecord, instance: Instance | None) -> None:
    """Terminate until the provider itself says that the instance is gone, then charge for what it says was used."""
    if rental.state != "terminating":
        with context.ledger.transaction() as tx:
            state = next_rental_state(rental.state, "terminate")
            tx.update_rental(rental.rental_id, state=state)
            tx.add_event("rental.terminate", run_id=run.run_id, rental_id=rental.rental_id)
    try:
        end_twins(context, rental)
    except ProviderError:
        # What is known by its id is ended all the same: a list that cannot be read keeps nothing alive.
        gone, _asked_at = until_gone(context, rental.provider, rental.instance_id or "", rental.run_id)
        meter(context, run, rental, gone or instance, final=True)
        raise
    gone, asked_at = until_gone(context, rental.provider, rental.instance_id or "", rental.run_id)
    if gone is None and instance is None:
        meter_unseen(context, run, rental)
    meter(context, run, rental, gone or instance, final=True)
    billing.settle(context, run, rental)
    # The provider tells by its own clock when it ended; a rental's other times are by ours.
    told = None if gone is None or gone.ended_at is None else gone.ended_at + timedelta(seconds=billing.skew(context, rental) or 0.0)
    ended_at = told or asked_at
    with context.ledger.transaction() as tx:
        tx.update_rental(rental.rental_id, state=next_rental_state("terminating", "gone"), ended_at=ended_at)
        holds.settle(tx, rental, context.clock.now())
        tx.add_event("rental.gone", run_id=run.run_id, rental_id=rental.rental_id)


def end_found(context: Context, found: RentalRecord, instance: Instance) -> None:
    """End an instance of a rental whose run is over, and charge for it as for any other. Raises ProviderError."""
    run_id, rental_id = found.run_id, found.rental_id
    rental = next(r for r in context.ledger.rentals(run_id) if r.rental_id == rental_id)
    run = context.ledger.run(run_id)
    if run is None:
        return
    if rental.state == "terminating":
        _terminate(context, run, rental, instance)
        return
    # The ledger had it ended: it is told again, and its bill is asked for again.
    if instance.instance_id != rental.instance_id and instance.instance_id not in billing.twins(context, rental):
        with context.ledger.transaction() as tx:
            tx.add_event(billing.TWIN, run_id=run_id, rental_id=rental_id, instance=instance.instance_id)
    until_gone(context, rental.provider, instance.instance_id, run_id)
    billing.settle(context, run, rental)


def end_unwritten(context: Context, rental: RentalRecord) -> None:
    """Bring a rental whose run is over to its end: whoever told its machine to end came no further. Raises ProviderError."""
    run = context.ledger.run(rental.run_id)
    if run is not None:
        _terminate(context, run, rental, None)


def end_twins(context: Context, rental: RentalRecord) -> bool:
    """End every other instance of the rental's tag: a provider may make two of one create. Return whether none is left to end.

    Raises ProviderError.
    """
    over = True
    provider = context.connect(rental.provider)
    for twin in provider.find(rental.tag):
        if twin.state == "ended" or twin.instance_id == rental.instance_id:
            continue
        if twin.instance_id not in billing.twins(context, rental):
            with context.ledger.transaction() as tx:
                tx.add_event(billing.TWIN, run_id=rental.run_id, rental_id=rental.rental_id, instance=twin.instance_id)
            context.reporter.said(rental.run_id, f"a second instance of {rental.tag} is ended: {untrusted.line(twin.instance_id, 80)}")
        try:
            provider.terminate(twin.instance_id)
        except StillTerminating:
            over = False
    return over


def until_gone(context: Context, name: str, instance_id: str, about: str) -> tuple[Instance | None, datetime]:
    """Terminate an instance of a provider until that says that it is gone; `about` is the run, or the tag, that waits for it.

    Return the ended instance as its provider remembers it, None when it knows it no more, and when its end was first accepted. Raises
    StillTerminating.
    """
    asked_at: datetime | None = None
    provider = context.connect(name)
    give_up = context.clock.monotonic() + TERMINATE_SECONDS
    told = False
    while True:
        instance = None
        try:
            provider.terminate(instance_id)
            asked_at = asked_at or context.clock.now()
            instance = provider.get(instance_id)
        except NotFound:
            return None, asked_at or context.clock.now()
        except StillTerminating:
            asked_at = asked_at or context.clock.now()
        if instance is not None and instance.state == "ended":
            return instance, asked_at
        if instance is None and name != "local" and not told:
            told = True
            context.reporter.said(about, f"waiting until {name} says that it is gone")
        if context.clock.monotonic() > give_up:
            raise StillTerminating(
                f"{name} instance {instance_id} does not end: it may still be billed",
                "any lumina command tries again; end it in the provider's console if it stays",
            )
        context.clock.sleep(1.0)


def _close(context: Context, run: RunRecord) -> None:
    result, reason = verdict(context.ledger, run)
    if _goes_on(context, run, reason):
        return
    event, _words = REASONS[reason]
    with context.ledger.transaction() as tx:
        tx.update_run(
            run.run_id,
            state=next_run_state(run.state, event),
            reason=reason,
            result=result,
            ended_at=context.clock.now(),
            stop_requested_at=None,
        )
        tx.add_event("run.concluded", run_id=run.run_id, reason=reason)


def _goes_on(context: Context, run: RunRecord, reason: Reason) -> bool:
    """Let a run whose machine failed it go on on another, where that may help; return whether it does."""
    ledger = context.ledger
    rentals = ledger.rentals(run.run_id)
    leg = failover.leg_of(ledger.events(run.run_id), rentals, ledger.charges(run.run_id))
    # Asked for anew: a stop may have come while the machine was ended.
    now = ledger.run(run.run_id) or run
    why_not = failover.why_not(now, reason, leg)
    if why_not:
        return False
    # One whose results were late coming home ended as its guard was told.
    if reason in failover.BLAMED and reason == run.reason and rentals:
        remembered.remember(ledger, rentals[-1], None, REASONS[reason][1])
    with ledger.transaction() as tx:
        tx.update_run(run.run_id, state=next_run_state(run.state, "next_machine"), reason="", progress={})
        tx.add_event("run.next_machine", run_id=run.run_id, reason=reason, usd_lost=money.text(leg.lost), machines=len(leg.rentals))
    since = (
        "from the last checkpoint that came home"
        if (Path(run.folder) / "checkpoints").is_dir()
        else "from its beginning: no checkpoint came home"
    )
    context.reporter.said(run.run_id, f"{REASONS[reason][1]}: it goes on on another machine, {since}")
    return True


def verdict(ledger: Ledger, run: RunRecord) -> tuple[dict[str, Any], Reason]:
    """Return the cleaned result and the reason that stands: a run has not finished before all that it made is here."""
    reason: Reason = run.reason  # type: ignore[assignment]  # the column is a string, its values are of the closed list
    path = Path(run.folder) / "result.json"
    result = ingest.result(path.read_bytes()) if path.is_file() else None
    if reason != "finished":
        return result or {}, reason
    told = [e.kind for e in ledger.events(run.run_id) if e.kind in ("run.work_ended", "run.fetched", "run.fetch_failed")]
    if told[-1:] == ["run.work_ended"]:
        # The machine was gone before anything was fetched whole: the next one goes on from the last checkpoint.
        return result or {}, "machine_lost"
    if result is None or told[-1:] == ["run.fetch_failed"]:
        return result or {}, "result_missing"
    return result, reason


def spent(charges: list[ChargeRecord]) -> Decimal:
    """Return the sum of charges in dollars."""
    return sum((c.usd for c in charges), Decimal(0))
