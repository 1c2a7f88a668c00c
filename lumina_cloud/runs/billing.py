"""What a rental cost by its provider's own bill, in place of our own reading of the clock."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import ProviderError
from lumina_cloud.ledger import ChargeRecord
from lumina_cloud.runs import unheard
from providers.contract import HasCharges, HasClock, HasLifetimes

if TYPE_CHECKING:
    from lumina_cloud.ledger import EventRecord, RentalRecord, RunRecord
    from lumina_cloud.runs.context import Context
    from providers.contract import Charge

WAIT_SECONDS = 30.0
"""How long the bill of an ended rental is waited for: providers write theirs some seconds to minutes later."""
ASK_EVERY_SECONDS = 3.0
LAG = {"runpod": timedelta(hours=1), "vastai": timedelta(minutes=15), "lambda": timedelta(minutes=5)}
"""How long after a machine's end its bill may be incomplete."""
LOOK_BACK = timedelta(days=14)
"""How long ago a rental may have ended whose bill is still asked for."""
_MICRO = Decimal("0.000001")

STEPS = {"lambda": timedelta(minutes=1)}
"""By what step a provider counts time. Lambda has no bill to ask for: started minutes are counted by its rule."""


def billed_time(provider: str, duration: timedelta) -> timedelta:
    """Return a time as the provider bills it: the step that has begun counts."""
    step = STEPS.get(provider)
    return duration if step is None else -(-max(duration, timedelta(0)) // step) * step


ABOUT = Decimal("0.98")
"""Share of our own reading from which on a bill is taken for whole at once: it rounds, and begins and ends by its own clock."""
BY_THE_HOUR = ("runpod",)
"""Whose bills say of what hour a line is, and not until when within it."""
EDGE = timedelta(seconds=60)
"""By how much a bill may end before our reading does: that goes on until the machine is proven to be gone."""
LAST_SECONDS = timedelta(seconds=10)
"""How much longer our reading may be for that reason alone."""
A_MOMENTS_USD = Decimal("0.01")
ZERO = timedelta(0)
BILLED = "rental.billed"
ENDED_LATE = "instance.ended_by_reconcile"

TWIN = unheard.TWIN


def twins(context: Context, rental: RentalRecord) -> set[str]:
    """Return the other instances that carried the rental's tag: they are billed to it as well."""
    events = context.ledger.events(rental.run_id)
    return {str(e.data["instance"]) for e in events if e.kind == TWIN and e.rental_id == rental.rental_id}


def settle(context: Context, run: RunRecord, rental: RentalRecord) -> bool:
    """Replace our reading of an ended rental by its provider's bill; return whether that bill was there.

    A bill that still grows is asked for again. Without one in time our reading stays, as `metered`; so it does while the bill is
    smaller and may be incomplete: `settle_late` asks again.
    """
    provider = context.connect(rental.provider)
    if isinstance(provider, HasLifetimes) and rental.instance_id is not None:
        _by_the_log(context, rental, provider)
    if not isinstance(provider, HasCharges) or rental.instance_id is None:
        return False
    since = _since(context, rental)
    give_up = context.clock.monotonic() + WAIT_SECONDS
    last: list[Charge] | None = None
    while True:
        with suppress(ProviderError):
            rows = list(provider.charges(since))
            if rental.provider not in BY_THE_HOUR:
                _name_the_unheard(context, rental.provider, [rental], rows)
            ids = {rental.instance_id, *twins(context, rental)}
            charges = [c for c in rows if c.instance_id in ids]
            if charges and charges == last:
                break
            last = charges or None
        if context.clock.monotonic() >= give_up:
            break
        context.clock.sleep(ASK_EVERY_SECONDS)
    return _put(context, rental, last or [], whole=False)


def settle_late(context: Context, name: str) -> None:
    """Ask a provider once for the bills of rentals that ended a while ago, which may have been incomplete then, and take them for whole.

    Raises ProviderError, LedgerError.
    """
    ledger, now = context.ledger, context.clock.now()
    # By the last of them: one that was lost sight of may be found, and end, much later.
    ended: dict[str, EventRecord] = {}
    for kind in (unheard.GONE, ENDED_LATE, unheard.UNSEEN):
        for e in ledger.events_of(kind, now - LOOK_BACK):
            if e.rental_id is not None and (e.rental_id not in ended or ended[e.rental_id].at < e.at):
                ended[e.rental_id] = e
    whole = {e.rental_id: e.at for e in ledger.events_of(BILLED, now - LOOK_BACK) if e.data.get("whole")}
    due = {i for i, e in ended.items() if now - e.at > LAG.get(name, ZERO) and whole.get(i, e.at) <= e.at}
    # By their runs, and not by when they began: a machine may have worked for months.
    runs = sorted({str(ended[i].run_id) for i in due})
    rentals = [r for run_id in runs for r in ledger.rentals(run_id) if r.rental_id in due and r.provider == name]
    provider = context.connect(name) if rentals else None
    if isinstance(provider, HasLifetimes):
        for rental in rentals:
            if _meter_by_the_log(context, rental, provider):
                with ledger.transaction() as tx:
                    tx.add_event(BILLED, run_id=rental.run_id, rental_id=rental.rental_id, lines=0, whole=True)
    if isinstance(provider, HasCharges):
        # A machine of somebody else that was there before is known by its earlier lines.
        charges = provider.charges(min(_since(context, r) for r in rentals) - (timedelta(hours=1) if name in BY_THE_HOUR else ZERO))
        _name_the_unheard(context, name, rentals, charges)
        for rental in rentals:
            ids = {rental.instance_id, *twins(context, rental)}
            _put(context, rental, [c for c in charges if c.instance_id in ids], whole=True)


def _name_the_unheard(context: Context, name: str, rentals: list[RentalRecord], charges: list[Charge]) -> None:
    """Name the instances on a bill that nobody knows and that are a rental's: from then on they are twins of its machine.

    A line that says its instance's label needs no presumption, and is no other's.
    """
    _name_the_labelled(context, rentals, charges)
    ledger, now = context.ledger, context.clock.now()
    charges = [c for c in charges if not c.tag or any(c.instance_id == r.instance_id for r in rentals)]
    if not any(_window(context, rental, charges) for rental in rentals):
        return
    # Whatever else may have made a machine of which nobody heard could have made one of these.
    recent = ledger.rentals_since(name, now - 2 * LOOK_BACK)
    asking = {r.rental_id: r for r in (*recent, *rentals)}
    windows = {rental_id: of for rental_id, r in asking.items() if (of := _window(context, r, charges)) is not None}
    known = {r.instance_id for r in recent if r.instance_id}
    known |= {str(e.data["instance"]) for e in ledger.events_of(TWIN, now - 2 * LOOK_BACK)}
    found = unheard.presumed(windows, charges, known, timedelta(hours=1) if name in BY_THE_HOUR else ZERO)
    with ledger.transaction() as tx:
        for rental in rentals:
            for instance_id in sorted(found.get(rental.rental_id, ())):
                tx.add_event(TWIN, run_id=rental.run_id, rental_id=rental.rental_id, instance=instance_id, presumed=True)


def _name_the_labelled(context: Context, rentals: list[RentalRecord], charges: list[Charge]) -> None:
    for rental in rentals:
        known = {rental.instance_id, *twins(context, rental)}
        named = {c.instance_id for c in charges if c.tag == rental.tag} - known
        if named:
            with context.ledger.transaction() as tx:
                for instance_id in sorted(named):
                    tx.add_event(TWIN, run_id=rental.run_id, rental_id=rental.rental_id, instance=instance_id)


def _window(context: Context, rental: RentalRecord, charges: list[Charge]) -> unheard.Window | None:
    """Return when a rental may have made machines of which nobody heard, None where it did not."""
    ahead = timedelta(seconds=skew(context, rental) or 0.0)
    own = sum((c.usd for c in charges if c.instance_id == rental.instance_id), Decimal(0))
    until = context.clock.now() if rental.state == "creating" else None
    return unheard.window(context.ledger.events(rental.run_id), rental.rental_id, rental.usd_per_hour, ahead, own, now=until)


def skew(context: Context, rental: RentalRecord) -> float | None:
    """Return by how many seconds this computer's clock is ahead of the provider's, None where that is not known."""
    provider = context.connect(rental.provider)
    return provider.clock_skew() if isinstance(provider, HasClock) else None


def _since(context: Context, rental: RentalRecord) -> datetime:
    """Return a moment before all that a rental was billed for, by its provider's clock."""
    ours = rental.intended_at - timedelta(seconds=skew(context, rental) or 0.0)
    return min([ours, *(c.since for c in context.ledger.charges_of_rental(rental.rental_id))]) - timedelta(minutes=10)


def _by_the_log(context: Context, rental: RentalRecord, provider: HasLifetimes) -> None:
    """Meter an ended rental anew from its provider's own log, and wait for it."""
    give_up = context.clock.monotonic() + WAIT_SECONDS
    while True:
        with suppress(ProviderError):
            if _meter_by_the_log(context, rental, provider):
                return
        if context.clock.monotonic() >= give_up:
            return
        context.clock.sleep(ASK_EVERY_SECONDS)


def _meter_by_the_log(context: Context, rental: RentalRecord, provider: HasLifetimes) -> bool:
    """Meter an ended rental by its provider's log of when it began and ended, and any twin of it; return whether all that was there.

    Price and steps are known. Raises ProviderError.
    """
    charge_id = f"{rental.rental_id}-time"
    known = next((c for c in context.ledger.charges(rental.run_id) if c.charge_id == charge_id), None)
    price = rental.usd_per_hour if known is None else known.usd_per_hour
    since = _since(context, rental)
    lives = {charge_id: provider.lifetime(rental.instance_id or "", since)}
    lives |= {f"{charge_id}-{_short(twin)}": provider.lifetime(twin, since) for twin in sorted(twins(context, rental))}
    found = {name: lived for name, lived in lives.items() if lived is not None}
    with context.ledger.transaction() as tx:
        for name, (began, ended) in found.items():
            charge = ChargeRecord(
                charge_id=name,
                run_id=rental.run_id,
                rental_id=rental.rental_id,
                provider=rental.provider,
                usd=_invoiced(price, billed_time(rental.provider, ended - began)),
                usd_per_hour=price,
                since=began,
                until=max(began, ended),
                basis="metered",
            )
            tx.put_charge(charge)
    return len(found) == len(lives)


def _put(context: Context, rental: RentalRecord, charges: list[Charge], *, whole: bool) -> bool:
    """Write a bill down in the place of our own reading, which is kept and counts no more; return whether it was taken.

    One that may be incomplete, and is smaller than our reading, is not. That a whole one leaves a machine out is believed of one that was
    seen for a moment only, or that never came up: any other's reading stays, and `lumina costs --check` tells of it.
    """
    known = context.ledger.charges_of_rental(rental.rental_id)
    metered = [c for c in known if c.basis == "metered"]
    reading = sum((c.usd for c in metered), Decimal(0))
    bounds = [e.data for e in context.ledger.events(rental.run_id) if e.kind == unheard.END_UNSEEN and e.rental_id == rental.rental_id]
    seen_until = _seen_until(metered, bounds)
    # What it says of a twin is no word on the machine that we metered.
    own = [c for c in charges if c.instance_id == rental.instance_id]
    if not whole and not (
        own and (_is_old(context, rental, own, seen_until) or _covers(rental, own, metered) or _is_about(rental, own, reading))
    ):
        return False
    span = (min(c.since for c in metered), max(c.until for c in metered)) if metered else None
    believed = (Decimal(str(bounds[0]["usd_seen"])) if bounds else reading) < A_MOMENTS_USD or rental.ready_at is None
    lines = [billed_charge(rental, charge, span) for charge in charges]
    kept = {line.charge_id for line in lines}
    with context.ledger.transaction() as tx:
        for line in lines:
            tx.put_charge(line)
        # A line that an earlier answer had is in another one's sum by now: a growing bill divides itself anew.
        for earlier in known if lines else ():
            if earlier.basis == "billed" and earlier.counted and earlier.charge_id not in kept:
                tx.put_charge(replace(earlier, counted=False))
        for ours in metered if own or believed else ():
            tx.put_charge(replace(ours, counted=False))
        tx.add_event(BILLED, run_id=rental.run_id, rental_id=rental.rental_id, lines=len(charges), whole=whole)
    return bool(charges)


def _invoiced(usd_per_hour: Decimal, duration: timedelta) -> Decimal:
    """Return what an invoice says of whole steps: rounded half up, where our own reading of a running machine rounds up."""
    return (usd_per_hour * (duration // timedelta(seconds=1)) / 3600).quantize(_MICRO, ROUND_HALF_UP)


def _seen_until(metered: list[ChargeRecord], bounds: list[dict[str, Any]]) -> datetime | None:
    """Return until when a machine was seen to be there, by its provider's clock; None where it was not metered."""
    if bounds and "seen_until" in bounds[0]:
        return datetime.fromisoformat(bounds[0]["seen_until"])
    return max((c.until for c in metered), default=None)


def _is_old(context: Context, rental: RentalRecord, charges: list[Charge], seen_until: datetime | None) -> bool:
    """Whether a bill's last line, and the machine's last sign, are of so long ago that its provider has had its time to complete it."""
    now = context.clock.now() - timedelta(seconds=skew(context, rental) or 0.0)
    last = max(c.until for c in charges)
    return now - (last if seen_until is None else max(last, seen_until)) > LAG.get(rental.provider, ZERO)


def _covers(rental: RentalRecord, charges: list[Charge], metered: list[ChargeRecord]) -> bool:
    """Whether a bill reaches to the end of what we metered: nothing of it is still to come."""
    if rental.provider in BY_THE_HOUR or not metered:
        return False
    return max(c.until for c in charges) >= max(c.until for c in metered) - EDGE


def _is_about(rental: RentalRecord, charges: list[Charge], reading: Decimal) -> bool:
    """Whether a bill says about what we metered; of a machine that was there for a moment, the last seconds are much of it.

    Of one that was there for days, a share may be hours that are still to come: more than the edge of a bill is never missing.
    """
    missing = reading - sum((c.usd for c in charges), Decimal(0))
    last = money.for_time(rental.usd_per_hour, LAST_SECONDS) if reading < A_MOMENTS_USD else Decimal(0)
    return missing <= min(max(reading * (1 - ABOUT), last), money.for_time(rental.usd_per_hour, EDGE))


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
