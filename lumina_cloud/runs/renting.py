"""From the intent to a machine that is there: an offer, money that is kept back, a create that is sent once, and what came of it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import (
    CredentialsError,
    InsufficientBalance,
    InvalidRequest,
    LedgerError,
    LuminaError,
    NoCapacity,
    NotFound,
    OutcomeUnknown,
)
from lumina_cloud.ledger import RentalRecord, aside
from lumina_cloud.runs import conclude, holds, metering, moves, offers, tags
from lumina_cloud.runs.observing import allowed_seconds
from lumina_cloud.runs.states import next_rental_state, next_run_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.ledger import EventRecord, RunRecord
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.observing import Seen
    from lumina_cloud.runs.states import Reason
    from providers.contract import Instance, Provider

PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 20.0
"""Between a machine that came to nothing and the next."""
TWINS_SECONDS = 20.0
"""How often a new machine's tag is looked up for others that carry it, until lists cannot lag any more."""
LISTING_LAG_SECONDS = 100.0
"""How long a list may not show yet what a create that nobody heard of has made."""

_REFUSALS: dict[type[LuminaError], Reason] = {NoCapacity: "no_capacity", InsufficientBalance: "no_balance"}


def intend(context: Context, seen: Seen) -> None:
    """Choose an offer, keep back what it may cost, and write the intent down; end a run for which there is none or no money."""
    run = seen.run
    barren = _barren(context.ledger.rentals(run.run_id))
    if barren:
        # What could not be had a moment ago is not there yet.
        context.clock.sleep(min(MOST_PAUSE_SECONDS, 2.0 * barren))
    offer = offers.choose(context, run, seen.terms)
    if offer is None:
        moves.end_work(context, run, "no_capacity")
        return
    attempt = max((r.attempt for r in context.ledger.rentals(run.run_id)), default=0) + 1
    rental = RentalRecord(
        rental_id=f"{run.run_id}-{attempt}",
        run_id=run.run_id,
        attempt=attempt,
        tag=tags.make(context.ledger.ledger_id(), run.run_id, attempt),
        provider=run.provider,
        gpu=run.gpu,
        count=run.count,
        usd_per_hour=offer.usd_per_hour,
        offer_id=offer.offer_id,
        instance_id=None,
        state="intended",
        intended_at=context.clock.now(),
        ready_at=None,
        ended_at=None,
        interruptible=offer.interruptible,
    )
    disk = offer.usd_per_hour_stopped
    with context.ledger.transaction() as tx:
        room = holds.reserve(tx, tx.run(run.run_id) or run, rental, context.clock.now())
        if room is not None:
            tx.add_event(
                "rental.intended",
                run_id=run.run_id,
                rental_id=rental.rental_id,
                tag=rental.tag,
                machine=offer.machine_id,
                gpu=offer.gpu,
                disk_usd_per_hour=None if disk is None else money.text(disk),
                usd_held=money.text(room.usd),
            )
    if room is None:
        moves.end_work(
            context,
            run,
            "cap_reached",
            f"what is left of {money.show(run.usd_cap)} pays for no first step at {money.show(offer.usd_per_hour)}/h",
        )


def create(context: Context, seen: Seen, rental: RentalRecord) -> None:
    """Rent, unless the tag shows that an earlier attempt already did."""
    run, provider = seen.run, context.connect(rental.provider)
    found = _found(context, provider, rental)
    if not found:
        if _may_still_appear(context, rental):
            context.clock.sleep(PAUSE_SECONDS)
            return
        offer = offers.again(context, run, seen.terms, rental)
        if offer is None:
            _give_up(context, run, rental, "no_capacity", "its offer is gone, and no other is as cheap", refused=0)
            return
        # Last before the create: from here on there may be a machine of which nobody heard.
        moves.move_rental(context, rental, "create")
        seconds = allowed_seconds(context, run, rental)
        try:
            found = [context.machines.create(provider, offer, rental, seen.terms, seconds)]
        except (NoCapacity, InsufficientBalance, InvalidRequest, CredentialsError) as error:
            _give_up(context, run, rental, _REFUSALS.get(type(error), "create_failed"), error.message)
            return
        except OutcomeUnknown as error:
            # It may exist: the next step looks its tag up before anything is repeated.
            context.reporter.said(run.run_id, error.message)
            with context.ledger.transaction() as tx:
                tx.add_event("rental.outcome_unknown", run_id=run.run_id, rental_id=rental.rental_id, instance=error.created_id)
            return
    try:
        _adopt(context, moves.fresh(context, rental), found[0])
    except LedgerError as error:
        at = context.clock.now().isoformat()
        machine = aside.Machine(at, rental.provider, found[0].instance_id, rental.rental_id, rental.tag)
        raise aside.keep(context.home, machine, error) from error


def _found(context: Context, provider: Provider, rental: RentalRecord) -> list[Instance]:
    """Return what carries the rental's tag, or what a failed create named, without those that ended: one of them.

    Of several, which one create may have made, the others are ended when this one is ready.
    """
    found = {i.instance_id: i for i in provider.find(rental.tag) if i.state != "ended" or provider.name == "local"}
    for event in _events(context, rental, "rental.outcome_unknown"):
        named = event.data.get("instance")
        if isinstance(named, str) and named not in found:
            with suppress(NotFound):
                found[named] = provider.get(named)
    live = sorted(found.values(), key=lambda i: (i.state != "running", i.created_at, i.instance_id))
    return live[:1]


def _may_still_appear(context: Context, rental: RentalRecord) -> bool:
    """Whether a create that may have happened is not yet to be repeated: lists lag."""
    unknown = _events(context, rental, "rental.outcome_unknown")
    creates = _events(context, rental, "rental.create")
    # A create whose controller died has neither reply nor error in the ledger.
    last = max((e.at for e in (*unknown, *creates)), default=None)
    if last is None or rental.provider == "local":
        return False
    return (context.clock.now() - last).total_seconds() < LISTING_LAG_SECONDS


def _events(context: Context, rental: RentalRecord, kind: str) -> list[EventRecord]:
    return [e for e in context.ledger.events(rental.run_id) if e.kind == kind and e.rental_id == rental.rental_id]


def _give_up(context: Context, run: RunRecord, rental: RentalRecord, reason: Reason, detail: str, *, refused: int = 1) -> None:
    # The last create was refused, if there was one; one before it, of which nobody heard, may yet have made something.
    unheard = len(_events(context, rental, "rental.create")) > refused
    moves.move_rental(context, moves.fresh(context, rental), "lost_sight" if unheard else "abandoned")
    moves.end_work(context, run, reason, detail)


def _adopt(context: Context, rental: RentalRecord, instance: Instance) -> None:
    if rental.state == "intended":
        moves.move_rental(context, rental, "create")
        rental = moves.fresh(context, rental)
    with context.ledger.transaction() as tx:
        # Asked for within: who lost the run meanwhile is told so first, and not that its machine is in another state.
        state = next_rental_state(rental.state, "created")
        # Prices move between an offer and a create: what is told to the machine, and how long it may live, go by what it really costs.
        # One that costs more than may be is given back at the next look, which compares it with its offer.
        dearer = offers.is_dearer(rental, instance.usd_per_hour)
        price = rental.usd_per_hour if dearer else max(rental.usd_per_hour, instance.usd_per_hour)
        tx.update_rental(rental.rental_id, state=state, instance_id=instance.instance_id, usd_per_hour=price.quantize(1 / money.MICROS))
        clocks = metering.Reading.of(context.clock).as_data()
        tx.add_event("rental.created", run_id=rental.run_id, rental_id=rental.rental_id, instance=instance.instance_id, clocks=clocks)
    context.reporter.said(rental.run_id, f"rented {untrusted.line(instance.instance_id, 80)} from {rental.provider}")


def abandon(context: Context, run: RunRecord, rental: RentalRecord) -> None:
    """Give up a rental that may or may not exist; one that does is taken over, so that it can be ended.

    One that may yet turn up in its provider's list stays on record as lost: reconciling looks for it again.
    """
    found = _found(context, context.connect(rental.provider), rental)
    if found:
        _adopt(context, rental, found[0])
    elif _may_still_appear(context, rental):
        context.clock.sleep(PAUSE_SECONDS)
        return
    elif rental.state == "creating" and rental.provider != "local":
        moves.move_rental(context, rental, "lost_sight")
    else:
        moves.move_rental(context, rental, "abandoned")
    moves.end_work(context, run, "stopped_by_user")


def mark_ready(context: Context, seen: Seen, rental: RentalRecord) -> None:
    """Take a machine that came up."""
    run = seen.run
    if rental.provider != "local":
        conclude.end_twins(context, rental)
    known = context.machines.known_before_contact(rental)
    with context.ledger.transaction() as tx:
        run_state = next_run_state(run.state, "machine_ready")
        rental_state = next_rental_state(rental.state, "ready")
        tx.update_rental(rental.rental_id, state=rental_state, ready_at=context.clock.now())
        tx.update_run(run.run_id, state=run_state)
        tx.add_event("rental.ready", run_id=run.run_id, rental_id=rental.rental_id, host_key_known_before=known)
    if not known:
        context.reporter.said(run.run_id, "nobody told its host key beforehand: the first contact was trusted, and is pinned")


class Twins:
    """Looks for other machines of a new one's tag from time to time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tried_at: dict[str, float] = {}
        self._looked_at: dict[str, float] = {}

    def end_in_time(self, rental: RentalRecord) -> None:
        """End others of a new machine's tag, some of which a list shows late: they are billed all the while."""
        lived = (self._context.clock.now() - rental.intended_at).total_seconds()
        tried, looked = (at.get(rental.tag, -TWINS_SECONDS) for at in (self._tried_at, self._looked_at))
        # A create may have been a repeated one: its machine is younger than its intent, and while it boots is looked for longer.
        late = looked < 2 * LISTING_LAG_SECONDS or rental.state == "booting"
        if rental.state in ("booting", "ready") and late and lived - tried >= TWINS_SECONDS:
            self._tried_at[rental.tag] = lived
            # A look that failed, or whose find does not end yet, is not the last one.
            if conclude.end_twins(self._context, rental):
                self._looked_at[rental.tag] = lived


def _barren(rentals: Sequence[RentalRecord]) -> int:
    """Return how many of the last rentals in a row came to nothing."""
    return next((n for n, r in enumerate(reversed(rentals)) if r.training_at is not None), len(rentals))
