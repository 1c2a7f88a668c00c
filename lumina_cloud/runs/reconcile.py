"""What is rented beside what the ledger knows: a pure comparison. Nothing that another ledger may own is ever for us to end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from lumina_cloud.runs import tags
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from lumina_cloud.ledger import RentalRecord, RunRecord
    from providers.contract import Instance

Verdict = Literal["live", "stopped", "ending", "orphan", "forgotten", "unknown", "gone", "unwritten"]

VERDICTS: dict[Verdict, str] = {
    "live": "belongs to a run that goes on",
    "stopped": "belongs to a run that goes on, computes nothing, and is billed for its disk: its run ends it",
    "ending": "was ended a moment ago; the list still shows it",
    "orphan": "its run is over, and it is still rented",
    "forgotten": "carries a tag of this ledger, which has lost its rental",
    "unknown": "carries a tag of another ledger: not touched",
    "gone": "its run goes on, but the machine is gone: the run ends, or goes on elsewhere",
    "unwritten": "was told to end, and is gone since; nobody wrote that down",
}
TO_END: tuple[Verdict, ...] = ("orphan", "forgotten")
"""What reconciling ends by itself."""

LAG = timedelta(seconds=120)
"""How long a list may still show what has ended, or not yet what was made."""


@dataclass(frozen=True)
class Finding:
    """One machine, or one rental without its machine."""

    provider: str
    verdict: Verdict
    tag: str
    instance: Instance | None
    rental: RentalRecord | None


@dataclass(frozen=True)
class Books:
    """What a ledger knows: its runs, and its own name; and when it is asked."""

    run_of: Callable[[str], RunRecord | None]
    ledger_id: str
    now: datetime


def judge(
    provider: str,
    instances: Sequence[Instance],
    rentals: Sequence[RentalRecord],
    books: Books,
) -> list[Finding]:
    """Compare a provider's valid list with its rentals: all of those that are open, and whichever carry a tag of the list."""
    of_tag = {r.tag: r for r in rentals}
    found = []
    for instance in sorted(instances, key=lambda i: (i.tag, i.instance_id)):
        rental = of_tag.get(instance.tag)
        run = None if rental is None else books.run_of(rental.run_id)
        verdict = _of_instance(instance, rental, run, books)
        found.append(Finding(provider, verdict, instance.tag, instance, rental))
    listed = {i.instance_id for i in instances}
    found += [Finding(provider, "gone", r.tag, None, r) for r in rentals if _is_gone(r, listed, books.now)]
    return found + [Finding(provider, "unwritten", r.tag, None, r) for r in rentals if _is_unwritten(r, listed, books)]


def _of_instance(instance: Instance, rental: RentalRecord | None, run: RunRecord | None, books: Books) -> Verdict:
    if rental is None:
        return "forgotten" if tags.is_of(books.ledger_id, instance.tag) else "unknown"
    if run is not None and run.state in ACTIVE and rental.state not in ("ended", "lost"):
        return "stopped" if instance.state == "stopped" else "live"
    if rental.state == "ended" and rental.ended_at is not None and books.now - rental.ended_at < LAG:
        return "ending"
    return "orphan"


def _is_gone(rental: RentalRecord, listed: set[str], now: datetime) -> bool:
    known = rental.state in ("booting", "ready") and rental.instance_id is not None
    return known and rental.instance_id not in listed and now - rental.intended_at > LAG


def _is_unwritten(rental: RentalRecord, listed: set[str], books: Books) -> bool:
    """Whether the end of a rental is nobody's any more: its run is over, and whoever told its machine to end came no further."""
    run = books.run_of(rental.run_id)
    return rental.state == "terminating" and rental.instance_id not in listed and run is not None and run.state not in ACTIVE
