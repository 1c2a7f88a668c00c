"""The market's documents as tables for people."""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from lumina_cloud.cli.tables import WIDE, moment, next_step, table
from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_markets

ROWS = 40
"""Offers that a person is shown; `--json` has all."""


def offers(document: of_markets.OffersDocument, *, width: int) -> list[RenderableType]:
    """Return what can be rented, cheapest first, and a footnote for each provider that gave nothing."""
    names = ["GPU", "from", "$/h", "kind", "GiB a GPU", "region", "reliability", "age"]
    if width < WIDE:
        names.remove("GiB a GPU")
    figures = ("$/h", "GiB a GPU", "reliability", "age")
    made = table("what can be rented now", *names, right=figures, whole=("GPU", "from"))
    for offer in document.offers[:ROWS]:
        cells = _offer_cells(offer)
        made.add_row(*(cells[name] for name in names))
    if len(document.offers) > ROWS:
        made.caption = f"and {len(document.offers) - ROWS} more: --json shows all"
    parts: list[RenderableType] = [made if document.offers else Text(_none(document), style="yellow")]
    if document.offers:
        parts.append(Text("the whole machine, with its disk and the traffic that a run is expected to have", style="dim"))
    for failed in document.failed:
        parts.append(Text(f"* {failed.provider}: {failed.message}", style="yellow"))
        parts += [Text(f"  {line}", style="dim") for line in failed.hint.splitlines()]
    elsewhere = "lumina doctor" if document.failed else "lumina offers    without options shows all that there is"
    return [*parts, next_step("lumina plan MODEL --live" if document.offers else elsewhere)]


def _none(document: of_markets.OffersDocument) -> str:
    """Say that no offer was seen: a market that did not answer is no empty one."""
    if document.failed:
        silent = ", ".join(failed.provider for failed in document.failed)
        return f"no offer was seen, and not everybody answered: {silent} may have some"
    return "nothing of that kind is offered now"


def _offer_cells(o: of_markets.OfferRow) -> dict[str, RenderableType]:
    return {
        "GPU": Text(f"{o.count} x {o.gpu}", style="" if o.gpu_known else "dim"),
        "from": o.provider,
        "$/h": price(o.usd_per_hour),
        "kind": kind(o.interruptible) + (", secure" if o.secure else ""),
        "GiB a GPU": "-" if o.vram_gib is None else f"{o.vram_gib:.0f}",
        "region": Text(o.region or "-"),
        "reliability": "-" if o.reliability is None else f"{o.reliability:.1%}",
        "age": units.duration(o.age_seconds),
    }


def prices(document: of_markets.PricesDocument) -> list[RenderableType]:
    """Return the price book, and per kind of machine what was asked last, least and most."""
    parts: list[RenderableType] = []
    book = table("price book", "GPU", "from", "$/h", "kind", "seen", "source", right=("$/h",))
    for b in document.book:
        book.add_row(f"{b.count} x {b.gpu}", b.provider, price(b.usd_per_hour), kind(b.interruptible), b.date or "undated", b.source)
    parts.append(book if document.book else Text("the price book has no price for it", style="yellow"))
    if not document.seen:
        return [*parts, Text("no market price was seen yet"), next_step("lumina offers")]
    made = table(
        "seen on the market",
        "GPU",
        "from",
        "kind",
        "last",
        "at",
        "lowest",
        "highest",
        "times",
        right=("last", "lowest", "highest", "times"),
    )

    def key(p: of_markets.PriceSeen) -> tuple[str, int, str, bool]:
        return (p.gpu, p.count, p.provider, p.interruptible)

    for (gpu, count, provider, interruptible), rows in groupby(sorted(document.seen, key=key), key=key):
        seen = sorted(rows, key=lambda p: p.seen_at)
        amounts = [Decimal(p.usd_per_hour) for p in seen]
        made.add_row(
            f"{count} x {gpu}",
            provider,
            kind(interruptible),
            price(str(amounts[-1])),
            moment(seen[-1].seen_at),
            price(str(min(amounts))),
            price(str(max(amounts))),
            str(len(seen)),
        )
    return [*parts, made, next_step("lumina offers    looks again")]


_MARKS = {"ok": ("ok", "green"), "missing": ("missing", "yellow"), "warning": ("warning", "yellow"), "failed": ("failed", "bold red")}


def doctor(document: of_markets.DoctorDocument) -> list[RenderableType]:
    """Return every check, and what to do about it."""
    made = table("doctor", "what", "state", "found", "what to do")
    for check in document.checks:
        word, style = _MARKS[check.state]
        made.add_row(check.name, Text(word, style=style), Text(check.message), Text(check.hint or "-"))
    verdict = Text("nothing is broken", style="green") if document.ok else Text("something is broken: see above", style="bold red")
    asking = any(check.state == "missing" and check.provider is not None for check in document.checks)
    if any(check.name == "sandbox" for check in document.checks):
        return [made, verdict, next_step("lumina sandbox up")]
    return [made, verdict, next_step("lumina init    says where a key is put" if asking else "lumina plan debug --live")]


def kind(interruptible: bool) -> str:
    """Return a kind of rental in a word."""
    return "interruptible" if interruptible else "on-demand"


def price(text: str) -> str:
    """Return a price per hour: to the tenth of a cent below a dollar."""
    amount = Decimal(text)
    return f"${amount:.3f}" if amount < 1 else money.show(amount)
