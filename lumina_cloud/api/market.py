"""The live market: every cloud asked at once; one that does not answer is a footnote. What was seen goes into the price history."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from lumina_cloud.api.documents import of_markets
from lumina_cloud.catalog import gpus, prices
from lumina_cloud.core import money
from lumina_cloud.core.clock import iso
from lumina_cloud.core.errors import LuminaError, ProviderDown, UsageError
from lumina_cloud.ledger import PriceRecord
from lumina_cloud.runs import failover
from providers import registry
from providers.contract import OfferQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from decimal import Decimal

    from lumina_cloud.api.session import Session
    from lumina_cloud.api.settings import Settings
    from lumina_cloud.ledger import Ledger
    from providers.contract import Offer, Provider

PATIENCE_SECONDS = 60.0
"""A cloud that has not answered by then is a footnote, whatever it still does."""

SAME_PRICE = timedelta(minutes=10)
"""A price that stays is written down again after that long."""


@dataclass(frozen=True)
class Silence:
    """A cloud that gave no offers, and why."""

    provider: str
    error: LuminaError


@dataclass(frozen=True)
class Market:
    """What was offered when all clouds were asked, cheapest first."""

    asked_at: datetime
    asked: tuple[str, ...]
    query: OfferQuery
    offers: tuple[Offer, ...]
    silent: tuple[Silence, ...]


def query(
    *,
    gpu: str | None = None,
    count: int | None = None,
    max_usd: Decimal | None = None,
    region: str | None = None,
    secure: bool = False,
    min_reliability: float | None = None,
    interruptible: bool | None = None,
) -> OfferQuery:
    """Return a query as it was typed. Raises UsageError for an unknown GPU or a figure out of range."""
    if min_reliability is not None and not 0 <= min_reliability <= 1:
        raise UsageError(f"--min-reliability is {min_reliability:g}, but is a share of time, 0 to 1", "e.g. --min-reliability 0.98")
    if max_usd is not None and max_usd <= 0:
        raise UsageError(f"--max-usd is {money.text(max_usd)}, but must be above 0", "e.g. --max-usd 0.50")
    if count is not None and not 1 <= count <= 64:
        raise UsageError(f"--count is {count}, but a machine has 1 to 64 GPUs", "e.g. --count 8")
    if region is not None and not region.strip():
        raise UsageError("--region is empty", "e.g. --region US")
    return OfferQuery(
        gpu=None if gpu is None else gpus.resolve(gpu).name,
        count=count,
        max_usd_per_hour=max_usd,
        region=None if region is None else region.strip(),
        secure=secure,
        min_reliability=min_reliability,
        interruptible=interruptible,
    )


def ask(connect: Callable[[str], Provider], names: Sequence[str], wanted: OfferQuery, now: datetime) -> Market:
    """Ask several clouds at once. Each error of one is kept beside what the others offer."""
    offers: list[Offer] = []
    silent: dict[str, LuminaError] = {
        name: ProviderDown(f"{name} did not answer within {PATIENCE_SECONDS:.0f} s", "ask again later") for name in names
    }
    answers: dict[str, list[Offer] | LuminaError] = {}

    def one(name: str) -> None:
        try:
            answers[name] = list(connect(name).offers(wanted))
        except LuminaError as error:
            answers[name] = error

    # Threads that nobody waits for at exit: a cloud that hangs holds nothing up.
    threads = [threading.Thread(target=one, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    for name, answer in dict(answers).items():
        if isinstance(answer, LuminaError):
            silent[name] = answer
        else:
            offers.extend(answer)
            del silent[name]
    ordered = sorted(offers, key=lambda o: (o.usd_per_hour, o.provider, o.offer_id))
    return Market(now, tuple(names), wanted, tuple(ordered), tuple(Silence(name, error) for name, error in silent.items()))


def names_for(provider: str | None) -> tuple[str, ...]:
    """Return the providers to ask: one, or every cloud. Raises UsageError for an unknown name."""
    if provider is None:
        return registry.CLOUDS
    registry.check_name(provider)
    return (provider,)


def silence(market: Market) -> LuminaError | None:
    """Return what went wrong when no provider at all answered: a failure before a missing key."""
    if not market.asked or len(market.silent) < len(market.asked):
        return None
    return max((s.error for s in market.silent), key=lambda error: error.exit_code)


# --- the plan's machines --------------------------------------------------------------------------------------------------


def cheapest(market: Market) -> list[Offer]:
    """Return the cheapest offer of each kind of machine that can be planned on: its GPU is known, its host reliable enough."""
    best: dict[tuple[str, str, int, bool], Offer] = {}
    for offer in market.offers:
        if offer.gpu_known and failover.is_reliable(offer):
            best.setdefault((offer.provider, offer.gpu, offer.count, offer.interruptible), offer)
    return list(best.values())


def disk_gb(parameters: int) -> int:
    """Return the disk that training that many parameters needs: two full checkpoints of 14 bytes a parameter, and room for the rest."""
    return max(50, math.ceil(2 * 14 * parameters / 1e9) + 30)


# --- the history ----------------------------------------------------------------------------------------------------------


def remember(ledger: Ledger, market: Market) -> None:
    """Write the lowest price of each kind of machine into the history, unless the query left cheaper ones out or asked for more disk."""
    q = market.query
    if q != OfferQuery(gpu=q.gpu, count=q.count, interruptible=q.interruptible) or not market.offers:
        return
    known = {_key(p): p for p in ledger.prices(market.asked_at - SAME_PRICE)}
    seen = [p for p in _lowest(market) if (last := known.get(_key(p))) is None or last.usd_per_hour != p.usd_per_hour]
    if seen:
        with ledger.transaction() as tx:
            tx.put_prices(seen)


def _lowest(market: Market) -> Iterator[PriceRecord]:
    groups: dict[tuple[str, str, int, bool], list[Offer]] = {}
    for offer in market.offers:
        if offer.gpu_known and offer.provider in registry.CLOUDS:
            groups.setdefault((offer.provider, offer.gpu, offer.count, offer.interruptible), []).append(offer)
    for (provider, gpu, count, interruptible), offers in groups.items():
        yield PriceRecord(market.asked_at, provider, gpu, count, interruptible, min(o.usd_per_hour for o in offers), len(offers))


def _key(price: PriceRecord) -> tuple[str, str, int, bool]:
    return (price.provider, price.gpu, price.count, price.interruptible)


def history(session: Session, gpu: str | None, provider: str | None, days: float) -> of_markets.PricesDocument:
    """Return the price book beside what was seen. Raises UsageError for unknown names."""
    if provider is not None:
        registry.check_name(provider)
    if not 0 < days <= 36_500:
        raise UsageError(f"--days is {days:g}, but must be above 0", "e.g. --days 30")
    name = None if gpu is None else gpus.resolve(gpu).name
    seen = session.ledger.prices(session.clock.now() - timedelta(days=days), name, provider)
    return of_markets.PricesDocument(
        gpu=name,
        book=[_book_row(p) for p in _book(session.settings, name, provider)],
        seen=[
            of_markets.PriceSeen(
                seen_at=iso(p.seen_at),
                provider=p.provider,
                gpu=p.gpu,
                count=p.count,
                interruptible=p.interruptible,
                usd_per_hour=money.text(p.usd_per_hour),
                offers=p.offers,
            )
            for p in seen
        ],
    )


def _book(settings: Settings, gpu: str | None, provider: str | None) -> Iterable[prices.Price]:
    book = prices.load(settings.config_file).prices
    return [p for p in book if gpu in (None, p.gpu) and provider in (None, p.provider)]


def _book_row(price: prices.Price) -> of_markets.BookPrice:
    return of_markets.BookPrice(
        provider=price.provider,
        gpu=price.gpu,
        count=price.count,
        interruptible=price.interruptible,
        usd_per_hour=money.text(price.usd_per_hour),
        date=None if price.date is None else price.date.isoformat(),
        source=price.source,
    )


# --- documents ------------------------------------------------------------------------------------------------------------


def document(market: Market, now: datetime) -> of_markets.OffersDocument:
    """Return the market as scripts read it."""
    return of_markets.OffersDocument(
        asked_at=iso(market.asked_at),
        offers=[_row(offer, market.asked_at, now) for offer in market.offers],
        failed=[
            of_markets.ProviderFailure(provider=s.provider, kind=s.error.kind, message=s.error.message, hint=s.error.hint)
            for s in market.silent
        ],
    )


def _row(offer: Offer, asked_at: datetime, now: datetime) -> of_markets.OfferRow:
    seen_at = offer.seen_at or asked_at
    return of_markets.OfferRow(
        provider=offer.provider,
        offer=offer.offer_id,
        gpu=offer.gpu,
        gpu_known=offer.gpu_known,
        count=offer.count,
        usd_per_hour=money.text(offer.usd_per_hour),
        usd_per_gpu_hour=money.text(offer.usd_per_hour / offer.count),
        bid_usd_per_hour=None if offer.bid_usd_per_hour is None else money.text(offer.bid_usd_per_hour),
        interruptible=offer.interruptible,
        region=offer.region,
        reliability=offer.reliability,
        secure=offer.secure,
        vram_gib=None if offer.vram_gib is None else round(offer.vram_gib, 2),
        cpu_cores=offer.cpu_cores,
        memory_gib=None if offer.memory_gib is None else round(offer.memory_gib, 2),
        disk_gb=offer.disk_gb,
        download_mbit=offer.download_mbit,
        cuda=offer.cuda,
        architecture=offer.architecture,
        machine=offer.machine_id,
        ends_at=None if offer.ends_at is None else iso(offer.ends_at),
        seen_at=iso(seen_at),
        age_seconds=round(max(0.0, (now - seen_at).total_seconds()), 1),
    )
