"""What a rental cost by its provider's own bill, in place of our own reading of the clock."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING

from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import ProviderError
from lumina_cloud.ledger import ChargeRecord
from providers.contract import HasCharges, HasLifetimes

if TYPE_CHECKING:
    from datetime import datetime

    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.runs.context import Context
    from providers.contract import Charge

WAIT_SECONDS = 30.0
"""How long the bill of an ended rental is waited for: providers write theirs some seconds to minutes later."""
ASK_EVERY_SECONDS = 3.0
_MICRO = Decimal("0.000001")

STEPS = {"lambda": timedelta(minutes=1)}
"""By what step a provider counts time. Lambda has no bill to ask for: started minutes are counted by its rule."""


def billed_time(provider: str, duration: timedelta) -> timedelta:
    """Return a time as the provider bills it: the step that has begun counts."""
    step = STEPS.get(provider)
    return duration if step is None else -(-max(duration, timedelta(0)) // step) * step


TWIN = "rental.twin"
"""Kind of the events that name other instances which one create of ours made."""


def twins(context: Context, rental: RentalRecord) -> set[str]:
    """Return the other instances that carried the rental's tag: they are billed to it as well."""
    events = context.ledger.events(rental.run_id)
    return {str(e.data["instance"]) for e in events if e.kind == TWIN and e.rental_id == rental.rental_id}


def settle(context: Context, run: RunRecord, rental: RentalRecord) -> bool:
    """Replace our reading of an ended rental by its provider's bill; return whether that bill was there.

    A bill that still grows is asked for again. Without one in time our reading stays, as `metered`.
    """
    provider = context.connect(rental.provider)
    if isinstance(provider, HasLifetimes) and rental.instance_id is not None:
        _by_the_log(context, rental, provider)
    if not isinstance(provider, HasCharges) or rental.instance_id is None:
        return False
    ids = {rental.instance_id, *twins(context, rental)}
    since = rental.intended_at - timedelta(minutes=10)
    give_up = context.clock.monotonic() + WAIT_SECONDS
    last: list[Charge] | None = None
    while True:
        with suppress(ProviderError):
            charges = [c for c in provider.charges(since) if c.instance_id in ids]
            if charges and charges == last:
                _put(context, run, rental, charges)
                return True
            last = charges or None
        if context.clock.monotonic() >= give_up:
            if last:
                _put(context, run, rental, last)
            return bool(last)
        context.clock.sleep(ASK_EVERY_SECONDS)


def _by_the_log(context: Context, rental: RentalRecord, provider: HasLifetimes) -> None:
    """Meter an ended rental anew from its provider's own log of when it began and ended; its price and steps are known."""
    known = next((c for c in context.ledger.charges(rental.run_id) if c.charge_id == f"{rental.rental_id}-time"), None)
    give_up = context.clock.monotonic() + WAIT_SECONDS
    while known is not None:
        with suppress(ProviderError):
            lived = provider.lifetime(rental.instance_id or "", rental.intended_at - timedelta(minutes=10))
            if lived is not None:
                began, ended = lived
                usd = money.for_time(known.usd_per_hour, billed_time(rental.provider, ended - began))
                with context.ledger.transaction() as tx:
                    tx.put_charge(replace(known, usd=usd, since=began, until=max(began, ended)))
                return
        if context.clock.monotonic() >= give_up:
            return
        context.clock.sleep(ASK_EVERY_SECONDS)


def _put(context: Context, run: RunRecord, rental: RentalRecord, charges: list[Charge]) -> None:
    """Write a bill down in the place of our own reading, which is kept and counts no more."""
    metered = [c for c in context.ledger.charges_of_rental(rental.rental_id) if c.basis == "metered"]
    span = (min(c.since for c in metered), max(c.until for c in metered)) if metered else None
    with context.ledger.transaction() as tx:
        for charge in charges:
            tx.put_charge(billed_charge(rental, charge, span))
        for reading in metered:
            tx.put_charge(replace(reading, counted=False))
        tx.add_event("rental.billed", run_id=run.run_id, rental_id=rental.rental_id, lines=len(charges))


def billed_charge(rental: RentalRecord, charge: Charge, span: tuple[datetime, datetime] | None) -> ChargeRecord:
    """Return a line of a bill as a charge. Of a bucket of the clock only the part counts in which the machine was there (`span`)."""
    since, until = charge.since, max(charge.since, charge.until)
    if span is not None and max(since, span[0]) < min(until, span[1]):
        since, until = max(since, span[0]), min(until, span[1])
    return ChargeRecord(
        charge_id=f"{rental.rental_id}-{charge.kind}-{_short(charge.charge_id)}",
        run_id=rental.run_id,
        rental_id=rental.rental_id,
        provider=rental.provider,
        usd=charge.usd.quantize(_MICRO),
        usd_per_hour=rental.usd_per_hour,
        since=since,
        until=until,
        basis="billed",
        kind=charge.kind,
        source=untrusted.line(charge.charge_id, 150),
    )


def _short(text: str) -> str:
    return blake2b(text.encode(), digest_size=6).hexdigest()
