"""Reconcile ledger and providers: what is rented without a run that goes on is ended; what another ledger may own is only shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lumina_cloud.api.documents import of_keeping
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import CredentialsError, ProviderError, UsageError
from lumina_cloud.ledger import aside
from lumina_cloud.runs import billing, conclude
from lumina_cloud.runs.reconcile import TO_END, VERDICTS, Books, Finding, judge
from lumina_cloud.runs.states import next_rental_state
from providers import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.api.session import Session
    from lumina_cloud.runs.context import Context


@dataclass(frozen=True)
class Wanted:
    """What the user wants done beside the usual: instances, by their ids."""

    dry_run: bool = False
    adopt: tuple[str, ...] = ()
    terminate: tuple[str, ...] = ()


@dataclass
class _Outcome:
    findings: list[Finding] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)
    """What was done with an instance, by its id."""
    notes: list[str] = field(default_factory=list)


def reconcile(session: Session, context: Context, wanted: Wanted | None = None) -> of_keeping.ReconcileDocument:
    """Look at every provider from which anything was ever rented, or whose key is here when the user asks; end what nobody needs.

    A provider that cannot be asked is named and passed over. Raises UsageError for an instance that is not there, LedgerError.
    """
    asked = wanted or Wanted()
    outcome = _Outcome()
    for name in registry.NAMES:
        if name != "local" and (wanted is not None or session.ledger.has_rentals(name)):
            _look(session, name, outcome)
    _act(session, context, asked, outcome)
    if not asked.dry_run:
        _settle_late(session, context, outcome)
        for left in aside.settle(context.home, lambda machine: _is_in_the_ledger(session, machine)):
            outcome.notes.append(f"{left.words} was rented at {left.at}, could not be stored then, and is in no rental yet")
    return of_keeping.ReconcileDocument(
        dry_run=asked.dry_run,
        findings=[_row(f, outcome.done.get("" if f.instance is None else f.instance.instance_id, "")) for f in outcome.findings],
        notes=outcome.notes,
    )


def _look(session: Session, name: str, outcome: _Outcome) -> None:
    try:
        instances = session.provider(name).list_owned()
    except CredentialsError as error:
        if session.ledger.has_rentals(name):
            outcome.notes.append(f"{name} could not be asked what is rented there: {error.message}")
        return
    except ProviderError as error:
        outcome.notes.append(f"{name} could not be asked what is rented there: {error.message}")
        return
    ledger = session.ledger
    rentals = {r.rental_id: r for r in ledger.open_rentals() if r.provider == name}
    for instance in instances:
        known = ledger.rental_of_tag(instance.tag)
        if known is not None:
            rentals[known.rental_id] = known
    outcome.findings += judge(name, instances, list(rentals.values()), Books(ledger.run, ledger.ledger_id(), session.clock.now()))


def _is_in_the_ledger(session: Session, machine: aside.Machine) -> bool:
    """Whether a machine that could not be stored is a rental's by now, or its rental is over and proven to be."""
    ledger = session.ledger
    rental = ledger.rental_of_tag(machine.tag)
    if ledger.rental_of_instance(machine.provider, machine.instance) is not None:
        return True
    return rental is not None and rental.state == "ended"


def _settle_late(session: Session, context: Context, outcome: _Outcome) -> None:
    """Ask for bills that were not whole when their machines ended."""
    for name in registry.CLOUDS:
        if session.ledger.has_rentals(name):
            try:
                billing.settle_late(context, name)
            except (CredentialsError, ProviderError) as error:
                outcome.notes.append(f"{name} could not be asked for its bill: {error.message}")


def _act(session: Session, context: Context, wanted: Wanted, outcome: _Outcome) -> None:
    named = {f.instance.instance_id: f for f in outcome.findings if f.instance is not None}
    for option, ids in (("--adopt", wanted.adopt), ("--terminate", wanted.terminate)):
        for instance_id in ids:
            if instance_id not in named:
                raise UsageError(f"{option} {untrusted.line(instance_id, 80)}: no such instance is rented", "lumina reconcile --dry-run")
            if named[instance_id].verdict in ("live", "stopped"):
                run = named[instance_id].rental
                raise UsageError(f"{option} {instance_id}: it belongs to a run that goes on", f"lumina stop {run.run_id if run else ''}")
    if wanted.dry_run:
        return
    _write_ends(context, outcome)
    for finding in outcome.findings:
        instance = finding.instance
        if instance is None:
            continue
        if instance.instance_id in wanted.adopt:
            outcome.done[instance.instance_id] = _adopt(session, finding)
        elif finding.verdict in TO_END or instance.instance_id in wanted.terminate:
            outcome.done[instance.instance_id] = _end(session, context, finding)


def _end(session: Session, context: Context, finding: Finding) -> str:
    """End an instance and account for it; return what came of it."""
    instance, rental = finding.instance, finding.rental
    if instance is None:
        return ""
    if rental is not None and rental.state == "lost":
        with session.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, state=next_rental_state("lost", "found"), instance_id=instance.instance_id, ended_at=None)
            tx.add_event("rental.found", run_id=rental.run_id, rental_id=rental.rental_id, instance=instance.instance_id)
    with session.ledger.transaction() as tx:
        tx.add_event(
            "instance.ended_by_reconcile",
            run_id=None if rental is None else rental.run_id,
            rental_id=None if rental is None else rental.rental_id,
            provider=finding.provider,
            instance=instance.instance_id,
            tag=finding.tag,
            verdict=finding.verdict,
        )
    try:
        if rental is None:
            conclude.until_gone(context, finding.provider, instance.instance_id, untrusted.line(finding.tag, 120))
        else:
            conclude.end_found(context, rental, instance)
    except ProviderError as error:
        return f"does not end yet: {error.message}"
    return "ended"


def _write_ends(context: Context, outcome: _Outcome) -> None:
    """Prove that machines are gone whose end nobody wrote down, and account for them."""
    for rental in [f.rental for f in outcome.findings if f.verdict == "unwritten" and f.rental is not None]:
        try:
            conclude.end_unwritten(context, rental)
        except ProviderError as error:
            outcome.notes.append(f"the end of {rental.tag} is not proven yet: {error.message}")


def _adopt(session: Session, finding: Finding) -> str:
    """Take an instance into the ledger, as a run that is about to be concluded: its results come home, and it ends."""
    from lumina_cloud.api import rebuilding

    if finding.instance is None or finding.rental is not None:
        return "is known already"
    records = rebuilding.placeholder(finding.provider, finding.instance, session.settings, session.clock.now())
    if records is None:
        return "its tag names no run"
    run, rental = records
    with session.ledger.transaction() as tx:
        if tx.run(run.run_id) is not None:
            return f"run {run.run_id} is known already, with other rentals"
        tx.add_run(run)
        tx.add_rental(rental)
        tx.add_event("instance.adopted", run_id=run.run_id, rental_id=rental.rental_id, instance=finding.instance.instance_id)
    return f"adopted: the next command brings home what run {run.run_id} has, and ends it"


def _row(finding: Finding, done: str) -> of_keeping.Reconciled:
    instance = finding.instance
    return of_keeping.Reconciled(
        provider=finding.provider,
        instance=None if instance is None else untrusted.line(instance.instance_id, 80),
        tag=untrusted.line(finding.tag, 120),
        verdict=finding.verdict,
        why=VERDICTS[finding.verdict],
        state=None if instance is None else instance.state,
        usd_per_hour=None if instance is None else money.text(instance.usd_per_hour),
        run=None if finding.rental is None else finding.rental.run_id,
        done=done,
    )


def said(document: of_keeping.ReconcileDocument) -> Sequence[str]:
    """Return what a command says of a reconciliation that it made on its way: what was ended, and what may be somebody's."""
    lines = [f"{r.provider} instance {r.instance} ({r.tag}) {r.why}: {r.done}" for r in document.findings if r.done]
    unknown = [r for r in document.findings if r.verdict == "unknown"]
    if unknown:
        lines.append(f"{len(unknown)} machine(s) here carry the tag of another ledger: lumina reconcile --dry-run shows them")
    return [*lines, *document.notes]
