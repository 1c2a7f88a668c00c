"""`lumina costs --check`: what we metered beside what a provider has billed, line by line, with a reason for each difference.

`compare` is a pure function of a rental, its metered charges and its bill. A difference is explained when arithmetic explains it: the
provider rounds to its own granularity, it began or ended to bill some moments before or after the moments that we saw, or it bills
storage and traffic beside the machine's time. Anything else is unexplained, and loud.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from lumina_cloud.api.documents import of_money
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.clock import iso
from lumina_cloud.core.errors import CredentialsError, ProviderError, RefusedError, UsageError
from lumina_cloud.runs.billing import LAG, TWIN, billed_charge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lumina_cloud.api.session import Session
    from lumina_cloud.ledger import RentalRecord
    from providers.contract import Charge, Provider

Verdict = Literal["equal", "explained", "waiting", "unexplained"]

DAYS = 60
"""How far back a check looks when nobody says."""

SECOND = timedelta(seconds=1)
GRANULARITY = {"lambda": timedelta(minutes=1)}
"""What a provider rounds a machine's time to, where it is not the second."""

BILLS_WHILE_RUNNING = ("vastai",)
"""Who bills a GPU only while the instance runs, not while it boots or is stopped."""

EDGES = timedelta(minutes=3)
"""How far a provider's first and last billed moment may lie from what its list of instances said."""

_MICRO = Decimal("0.000001")


@dataclass(frozen=True)
class Line:
    """One line of the comparison. Amounts in dollars."""

    kind: str
    metered: Decimal | None
    billed: Decimal | None
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Metered:
    """What we charged a rental for its time."""

    usd: Decimal
    usd_per_hour: Decimal
    since: datetime
    until: datetime


def first_day(text: str | None, now: datetime) -> datetime:
    """Return where a check begins. Raises UsageError for text that is no day."""
    if text is None:
        return now - timedelta(days=DAYS)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since is {text!r}, but must be a day such as 2026-03-01", "lumina costs --check --since 2026-03-01") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


# --- one rental ----------------------------------------------------------------------------------------------------------


def compare(
    rental: RentalRecord, metered: Metered | None, bill: Sequence[Charge], now: datetime, disk_usd_per_hour: Decimal | None = None
) -> list[Line]:
    """Return the lines of one rental: its machine's time, then what the provider bills beside it.

    `disk_usd_per_hour` is the most that the offer said its disk costs, None where it said nothing.
    """
    time_lines = [c for c in bill if c.kind == "gpu"]
    lines = [_time_line(rental, metered, time_lines, bill, now)] if metered is not None or time_lines else []
    beside = sorted((c for c in bill if c.kind != "gpu"), key=lambda c: c.kind)
    for kind, charges in groupby(beside, key=lambda c: c.kind):
        lines.append(_beside(rental, metered, kind, list(charges), disk_usd_per_hour))
    return lines


def _time_line(rental: RentalRecord, metered: Metered | None, time_lines: Sequence[Charge], bill: Sequence[Charge], now: datetime) -> Line:
    billed = sum((c.usd for c in time_lines), Decimal(0))
    if metered is None:
        return Line("gpu", None, billed, "unexplained", "billed for a machine that this ledger never metered")
    if not bill:
        return _nothing_billed(rental, metered, now)
    difference = billed - metered.usd
    if abs(difference) < _MICRO:
        return Line("gpu", metered.usd, billed, "equal", "")
    return Line("gpu", metered.usd, billed, *_explained(rental, metered, time_lines, bill, now))


def _nothing_billed(rental: RentalRecord, metered: Metered, now: datetime) -> Line:
    lag = LAG.get(rental.provider, timedelta(minutes=5))
    if metered.usd < _MICRO:
        return Line("gpu", metered.usd, None, "equal", "")
    if rental.ended_at is None or now - rental.ended_at <= lag:
        return Line("gpu", metered.usd, None, "waiting", f"not billed yet: {rental.provider} may take {_span(lag)} after the end")
    if rental.provider == "local":
        return Line("gpu", metered.usd, None, "explained", "its folder is gone, and with it this computer's own record of the machine")
    return Line("gpu", metered.usd, None, "unexplained", f"metered, but not billed {_span(now - rental.ended_at)} after its end")


def _explained(
    rental: RentalRecord, metered: Metered, time_lines: Sequence[Charge], bill: Sequence[Charge], now: datetime
) -> tuple[Verdict, str]:
    """Explain a difference: the time alone, or together with the disk where the price of an hour holds it."""
    disk = sum((c.usd for c in bill if c.kind == "storage"), Decimal(0))
    alone = _Difference(rental, metered, time_lines, Decimal(0))
    together = _Difference(rental, metered, time_lines, disk)
    why = alone.reason() or (disk and together.reason())
    if why:
        return "explained", why
    if rental.ended_at is None and alone.at_our_price():
        return "waiting", "it goes on: the meter and the bill were read at different moments"
    lag = LAG.get(rental.provider, timedelta(minutes=5))
    last = max((c.until for c in time_lines), default=metered.since)
    behind = min(rental.ended_at or now, metered.until) - last
    if alone.usd < 0 and behind > EDGES and (rental.ended_at is None or now - rental.ended_at <= lag):
        return "waiting", f"billed until {iso(last)}; the rest is to come"
    return "unexplained", (together if disk and abs(together.usd) < abs(alone.usd) else alone).in_words()


@dataclass(frozen=True)
class _Difference:
    """What was billed for a rental's time, with `disk` dollars for its disk, less what was metered."""

    rental: RentalRecord
    metered: Metered
    lines: Sequence[Charge]
    disk: Decimal

    @property
    def usd(self) -> Decimal:
        return sum((c.usd for c in self.lines), self.disk) - self.metered.usd

    @property
    def second(self) -> Decimal:
        return self.metered.usd_per_hour / 3600

    @property
    def rounding(self) -> Decimal:
        grain = GRANULARITY.get(self.rental.provider, SECOND)
        return self.second * _seconds(grain) + _MICRO * (2 * len(self.lines) + 2)

    def reason(self) -> str:
        """Return what explains it, empty when nothing does."""
        why = self._of_rounding() or self._of_edges() or self._of_whole_hours() or self._of_pauses()
        if why and self.disk:
            return f"the price of an hour holds the disk, which {self.rental.provider} bills apart ({money.show(self.disk)}); {why}"
        return why

    def at_our_price(self) -> bool:
        """Whether an hour was billed at no more than a tenth above what we thought it costs."""
        billed = sum((c.until - c.since for c in self.lines), timedelta(0))
        return sum((c.usd for c in self.lines), Decimal(0)) <= self.second * _seconds(billed + EDGES) * Decimal("1.1")

    def in_words(self) -> str:
        """Return how much more or less it is than our price comes to."""
        worth = _span(timedelta(seconds=float(abs(self.usd) / self.second))) if self.second else "any time"
        more = "more" if self.usd > 0 else "less"
        return f"{money.show(abs(self.usd))} {more} than {money.text(self.metered.usd_per_hour)} an hour comes to: worth {worth}"

    def _of_rounding(self) -> str:
        if abs(self.usd) > self.rounding:
            return ""
        return f"{self.rental.provider} rounds to {_span(GRANULARITY.get(self.rental.provider, SECOND))} and each line to the micro-dollar"

    def _of_edges(self) -> str:
        """The same price over an interval with other edges."""
        if not self.lines:
            return ""
        earlier = self.metered.since - min(c.since for c in self.lines)
        later = max(c.until for c in self.lines) - self.metered.until
        near = abs(earlier) <= EDGES and abs(later) <= EDGES
        worth = self.second * (_seconds(earlier) + _seconds(later))
        if not near or abs(self.usd - worth) > self.rounding:
            return ""
        return f"at the same price, from {_offset(-earlier)} to {_offset(later)} the moments that we saw"

    def _of_whole_hours(self) -> str:
        """Buckets of the clock say nothing of seconds; what they differ by must be worth no more than start and end are seen late."""
        on_the_hour = bool(self.lines) and all(_is_whole_hour(m) for c in self.lines for m in (c.since, c.until))
        if not on_the_hour or abs(self.usd) > self.second * _seconds(EDGES):
            return ""
        late = timedelta(seconds=float(abs(self.usd) / self.second))
        return f"billed by whole hours of the clock; worth {_span(late)}, by which start and end are seen late"

    def _of_pauses(self) -> str:
        """A provider that bills the GPU while it runs only: the same price, over less time than the machine was ours."""
        if self.rental.provider not in BILLS_WHILE_RUNNING or not self.lines:
            return ""
        billed = sum((c.until - c.since for c in self.lines), timedelta(0))
        ours = self.metered.until - self.metered.since
        pause = ours - billed
        within = (
            min(c.since for c in self.lines) >= self.metered.since - EDGES
            and max(c.until for c in self.lines) <= self.metered.until + EDGES
        )
        # The disk is billed all the time, so what a pause saves is the price without it.
        gpu_second = max(Decimal(0), self.second - (self.disk / _seconds(ours) if ours else Decimal(0)))
        if pause < -EDGES or not within or abs(self.usd + gpu_second * _seconds(pause)) > self.rounding * 2 + self.metered.usd / 1000:
            return ""
        return f"not billed for {_span(pause)} in which the machine booted or was stopped"


def _beside(rental: RentalRecord, metered: Metered | None, kind: str, charges: Sequence[Charge], disk_usd_per_hour: Decimal | None) -> Line:
    usd = sum((c.usd for c in charges), Decimal(0))
    since, until = min(c.since for c in charges), max(c.until for c in charges)
    interval = f"{iso(since)} to {iso(until)}"
    if kind == "traffic":
        return Line(kind, None, usd, "explained", f"data in and out, billed beside the machine's time, {interval}")
    if kind != "storage":
        tiny = abs(usd) <= _MICRO * len(charges)
        why = "what the provider's own rounding leaves" if tiny else f"{rental.provider} says not what it is for"
        return Line(kind, None, usd, "explained" if tiny else "unexplained", f"{why}, {interval}")
    # A disk of its own price is part of the whole machine's price, and lives no longer than the machine was ours.
    ours = None if metered is None else (rental.ended_at or until) - metered.since + 2 * EDGES
    whole = rental.usd_per_hour if metered is None else metered.usd_per_hour
    price = whole if disk_usd_per_hour is None else disk_usd_per_hour
    most = price / 3600 * _seconds(max(ours or until - since, SECOND)) + _MICRO * (len(charges) + 1)
    if abs(usd) <= most:
        return Line(kind, None, usd, "explained", f"the disk, billed beside the machine's time, {interval}")
    of_what = "the whole machine" if disk_usd_per_hour is None else "the disk"
    why = f"the disk costs more than {of_what} at {money.text(price)} an hour comes to ({money.show(most)}), {interval}"
    return Line(kind, None, usd, "unexplained", why)


# --- all of them ---------------------------------------------------------------------------------------------------------


def check(session: Session, since: datetime) -> of_money.CheckDocument:
    """Compare every rental since a moment with its provider's bill; what is billed for good takes the place of what was metered."""
    lines: list[of_money.CheckLine] = []
    notes: list[str] = []
    for name in providers_of(session):
        try:
            lines += _check_provider(session, name, since, notes)
        except (CredentialsError, RefusedError, ProviderError) as error:
            notes.append(f"{name} could not be asked: {error.message}")
            lines += _unasked(session, name, since, error.message)
    return _document(since, lines, notes)


def _unasked(session: Session, name: str, since: datetime, why: str) -> list[of_money.CheckLine]:
    """Return a line for each rental whose provider did not answer: what was not compared is not called equal."""
    lines = []
    for rental in session.ledger.rentals_since(name, since):
        metered = _metered(session, rental)
        line = Line("gpu", None if metered is None else metered.usd, None, "waiting", f"{name} could not be asked: {why}")
        lines.append(_check_line(name, rental, rental.instance_id, line))
    return lines


def providers_of(session: Session) -> list[str]:
    """Return the providers that this ledger has rentals at."""
    from providers import registry

    return [name for name in registry.NAMES if session.ledger.has_rentals(name)]


def _check_provider(session: Session, name: str, since: datetime, notes: list[str]) -> Iterable[of_money.CheckLine]:
    rentals = session.ledger.rentals_since(name, since)
    provider = session.provider(name)
    charges = _billing_of(provider)
    if charges is None:
        notes.append(f"{name} has no billing interface: what was metered is held against its price list")
        return [_witnessed(session, rental) for rental in rentals if rental.instance_id is not None]
    bill = [c for c in charges(since) if c.until > since]
    lines = []
    by_instance = {r.instance_id: r for r in rentals if r.instance_id is not None}
    twin_of = {str(e.data["instance"]): e.rental_id for e in session.ledger.events_of(TWIN, since)}
    now, known = session.clock.now(), set[str]()
    for instance_id, rental in by_instance.items():
        mine = [c for c in bill if c.instance_id == instance_id]
        twins = [c for c in bill if twin_of.get(c.instance_id) == rental.rental_id]
        known.update(c.instance_id for c in (*mine, *twins))
        disk = _disk_price(session, rental) if any(c.kind == "storage" for c in mine) else None
        compared = compare(rental, _metered(session, rental), mine, now, disk)
        lines += [_check_line(name, rental, instance_id, line) for line in compared]
        lines += _of_twins(name, rental, twins)
        _record(session, rental, [*mine, *twins], compared, now)
    lines += _strangers(session, name, [c for c in bill if c.instance_id not in known])
    return lines


def _disk_price(session: Session, rental: RentalRecord) -> Decimal | None:
    """Return the most that a rental's disk costs an hour by the offer that was taken, None where it said nothing."""
    for event in session.ledger.events(rental.run_id):
        if event.kind == "rental.intended" and event.rental_id == rental.rental_id:
            text = event.data.get("disk_usd_per_hour")
            return None if text is None else Decimal(str(text))
    return None


def _of_twins(name: str, rental: RentalRecord, bill: Sequence[Charge]) -> list[of_money.CheckLine]:
    """Return a line for each other machine that one create of ours made: it is known, and the rental pays for it."""
    lines = []
    for instance_id, charges in groupby(sorted(bill, key=lambda c: c.instance_id), key=lambda c: c.instance_id):
        usd = sum((c.usd for c in charges), Decimal(0))
        why = "a second machine that one create made; it was ended when it was seen, and this rental pays for it"
        lines.append(_check_line(name, rental, instance_id, Line("gpu", None, usd, "explained", why)))
    return lines


def _billing_of(provider: Provider) -> Callable[[datetime], Sequence[Charge]] | None:
    """Return how a provider is asked for its bill, None where it has no such interface."""
    from providers.contract import HasCharges

    return provider.charges if isinstance(provider, HasCharges) else None


def _strangers(session: Session, name: str, bill: Sequence[Charge]) -> list[of_money.CheckLine]:
    """Return a line for each instance that is billed and that this ledger does not know."""
    lines = []
    for instance_id, charges in groupby(sorted(bill, key=lambda c: c.instance_id), key=lambda c: c.instance_id):
        known = session.ledger.rental_of_instance(name, instance_id)
        if known is not None:
            # Rented before the first day of the check.
            continue
        usd = sum((c.usd for c in charges), Decimal(0))
        why = "billed for an instance that is not in this ledger: rented by other means, or left running"
        lines.append(_check_line(name, None, instance_id, Line("gpu", None, usd, "unexplained", why)))
    return lines


def _metered(session: Session, rental: RentalRecord) -> Metered | None:
    found = [c for c in session.ledger.charges_of_rental(rental.rental_id) if c.basis == "metered"]
    if not found:
        return None
    return Metered(
        usd=sum((c.usd for c in found), Decimal(0)),
        usd_per_hour=found[-1].usd_per_hour,
        since=min(c.since for c in found),
        until=max(c.until for c in found),
    )


def _record(session: Session, rental: RentalRecord, bill: Sequence[Charge], lines: Sequence[Line], now: datetime) -> None:
    """Take a bill that is complete into the ledger in the place of what was metered. One that is not explained waits for a person."""
    over = rental.ended_at is not None and now - rental.ended_at > LAG.get(rental.provider, timedelta(minutes=5))
    if not bill or not over or any(line.verdict in ("waiting", "unexplained") for line in lines):
        return
    known = {c.charge_id: c for c in session.ledger.charges_of_rental(rental.rental_id)}
    metered_time = _metered(session, rental)
    span = None if metered_time is None else (metered_time.since, metered_time.until)
    made = [billed_charge(rental, charge, span) for charge in bill]
    ids = {c.charge_id for c in made}
    # A reading of ours, and a line that the bill once had and has no more under that name.
    replaced = [c for c in known.values() if c.counted and c.charge_id not in ids]
    if not replaced and all(known.get(c.charge_id) == c for c in made):
        return
    from dataclasses import replace

    with session.ledger.transaction() as tx:
        for charge in made:
            tx.put_charge(charge)
        for charge in replaced:
            tx.put_charge(replace(charge, counted=False))
        usd = money.text(sum((c.usd for c in made), Decimal(0)))
        tx.add_event("rental.billed", run_id=rental.run_id, rental_id=rental.rental_id, usd=usd)


# --- providers without a bill ---------------------------------------------------------------------------------------------


def _witnessed(session: Session, rental: RentalRecord) -> of_money.CheckLine:
    """Return the line of a rental at a provider that has no billing interface."""
    metered = _metered(session, rental)
    if metered is None:
        return _check_line(rental.provider, rental, rental.instance_id, Line("gpu", None, None, "equal", "no time was metered"))
    return _check_line(rental.provider, rental, rental.instance_id, _listed(session, rental, metered))


def _listed(session: Session, rental: RentalRecord, metered: Metered) -> Line:
    """Hold a rental's price against the price list, and its amount against its time."""
    from lumina_cloud.catalog import prices

    listed = next(
        (
            p.usd_per_hour
            for p in prices.load(session.settings.config_file).prices
            if (p.provider, p.gpu, p.count, p.interruptible) == (rental.provider, rental.gpu, rental.count, rental.interruptible)
        ),
        None,
    )
    grain = GRANULARITY.get(rental.provider, SECOND)
    price = listed if listed is not None else rental.usd_per_hour
    worth = money.for_time(price, metered.until - metered.since)
    tolerance = price / 3600 * _seconds(grain)
    of_list = f"{money.text(price)} an hour" + ("" if listed is not None else ", the price at which it was rented (the list has none)")
    if abs(worth - metered.usd) < _MICRO:
        return Line("gpu", metered.usd, worth, "equal", f"{_span(metered.until - metered.since)} at {of_list}")
    if abs(worth - metered.usd) <= tolerance:
        return Line("gpu", metered.usd, worth, "explained", f"{of_list}, rounded to {_span(grain)}")
    if listed is not None and listed != rental.usd_per_hour:
        again = money.for_time(rental.usd_per_hour, metered.until - metered.since)
        if abs(again - metered.usd) <= tolerance:
            return Line(
                "gpu",
                metered.usd,
                worth,
                "explained",
                f"rented at {money.text(rental.usd_per_hour)} an hour by the provider's own word; the list says {money.text(listed)}",
            )
    return Line("gpu", metered.usd, worth, "unexplained", f"its time at {of_list} comes to {money.show(worth)}")


# --- documents -----------------------------------------------------------------------------------------------------------


def _check_line(provider: str, rental: RentalRecord | None, instance_id: str | None, line: Line) -> of_money.CheckLine:
    return of_money.CheckLine(
        provider=provider,
        rental=None if rental is None else rental.rental_id,
        run=None if rental is None else rental.run_id,
        instance=None if instance_id is None else untrusted.line(instance_id, 120),
        kind=line.kind,
        metered_usd=None if line.metered is None else money.text(line.metered),
        billed_usd=None if line.billed is None else money.text(line.billed),
        difference_usd=money.text((line.billed or Decimal(0)) - (line.metered or Decimal(0))),
        verdict=line.verdict,
        why=line.why,
    )


def _document(since: datetime, lines: list[of_money.CheckLine], notes: list[str]) -> of_money.CheckDocument:
    metered = sum((Decimal(line.metered_usd) for line in lines if line.metered_usd is not None), Decimal(0))
    billed = sum((Decimal(line.billed_usd) for line in lines if line.billed_usd is not None), Decimal(0))
    return of_money.CheckDocument(
        since=iso(since),
        lines=lines,
        metered_usd=money.text(metered),
        billed_usd=money.text(billed),
        difference_usd=money.text(billed - metered),
        unexplained=sum(line.verdict == "unexplained" for line in lines),
        notes=notes,
    )


def _is_whole_hour(moment: datetime) -> bool:
    return (moment.minute, moment.second, moment.microsecond) == (0, 0, 0)


def _seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000


def _span(span: timedelta) -> str:
    from lumina_cloud.core import units

    seconds = abs(span.total_seconds())
    return f"{seconds:.1f} s" if seconds < 10 else units.duration(seconds)


def _offset(span: timedelta) -> str:
    return f"{_span(span)} {'after' if span >= timedelta(0) else 'before'}"
