"""When a machine fails its run, when the run goes on by itself on the next one, and on which kind. Pure.

It goes on from the last checkpoint that came home, as a resume would. What failing may cost is bounded in machines, time and money, and
what is left of the cap must pay for a first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.runs import caps, holds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from lumina_cloud.ledger import ChargeRecord, EventRecord, RentalRecord, RunRecord
    from lumina_cloud.runs.states import Reason
    from providers.contract import Offer

MACHINES_FAULT: tuple[Reason, ...] = (
    "no_capacity",
    "price_rose",
    "boot_timeout",
    "bootstrap_failed",
    "machine_unfit",
    "machine_lost",
    "machine_unreachable",
    "interrupted",
    "host_key_changed",
    "supervisor_lost",
)
"""Reasons that speak of the machine, not of the run: another machine may do."""

BLAMED: tuple[Reason, ...] = ("boot_timeout", "bootstrap_failed", "machine_lost", "machine_unreachable", "host_key_changed")
"""After these the machine is remembered as one that failed, as an unfit one is."""

MOST_MACHINES = 6
"""Machines of one launch or resume."""
MOST_SECONDS = 4 * 3600.0
"""Time from the first intent to the last failure of machines in a row on which nothing was trained."""
MOST_OF_CAP = Decimal("0.25")
"""Share of the cap that machines on which nothing was trained may cost."""

LEG_BEGINS = ("run.launched", "run.resumed")
INTERRUPTION_SECONDS = 900.0
"""What one more interruption takes beside the work that is done again: the next machine is found, boots, and is made ready."""
USUAL_RELIABILITY = 0.97
"""Of a host whose reliability nobody states."""
LEAST_RELIABILITY = 0.90


def is_reliable(offer: Offer) -> bool:
    """Whether a host is up most of the time, or nothing is said of it."""
    return offer.reliability is None or offer.reliability >= LEAST_RELIABILITY


@dataclass(frozen=True)
class Leg:
    """What came of the machines since the run was launched or taken up again."""

    rentals: Sequence[RentalRecord]
    spent: Decimal
    """Of the run, in all."""
    lost: Decimal
    """On machines of this leg on which nothing was trained."""
    tried: bool
    """A machine was intended since the last of them failed: without one, there was nothing to be had at all."""


def leg_of(events: Sequence[EventRecord], rentals: Sequence[RentalRecord], charges: Sequence[ChargeRecord]) -> Leg:
    """Return the current leg of a run, from all that is known of it."""
    began = max((e.event_id for e in events if e.kind in LEG_BEGINS), default=0)
    failed = max((e.event_id for e in events if e.kind in (*LEG_BEGINS, "run.next_machine")), default=0)
    intended = {e.rental_id: e.event_id for e in events if e.kind == "rental.intended"}
    mine = [r for r in rentals if intended.get(r.rental_id, 0) > began]
    barren = {r.rental_id for r in mine if r.training_at is None}
    counted = [c for c in charges if c.counted]
    return Leg(
        rentals=mine,
        spent=sum((c.usd for c in counted), Decimal(0)),
        lost=sum((c.usd for c in counted if c.rental_id in barren), Decimal(0)),
        tried=any(at > failed for at in intended.values()),
    )


def why_not(run: RunRecord, reason: Reason, leg: Leg) -> str:
    """Return why a run does not go on on another machine, empty where it does."""
    if reason not in MACHINES_FAULT or run.provider == "local":
        return "another machine would not help"
    if run.stop_requested_at is not None:
        return "it was to stop"
    if not leg.tried:
        return "nothing of that kind is offered"
    if len(leg.rentals) >= MOST_MACHINES:
        return f"{len(leg.rentals)} machines were tried"
    if leg.lost > run.usd_cap * MOST_OF_CAP:
        return "machines on which nothing was trained have cost a quarter of the cap"
    barren = [r for r in leg.rentals if r.training_at is None and r.ended_at is not None]
    if barren and (max(r.ended_at for r in barren if r.ended_at) - barren[0].intended_at).total_seconds() > MOST_SECONDS:
        return f"it was tried for {MOST_SECONDS / 3600:.0f} hours"
    if holds.room(run.usd_cap, run.seconds_cap, leg.spent, run.usd_per_hour, run.provider) is None:
        return "what is left of its cap pays for no first step"
    return ""


def expected_usd(offer: Offer, hours: float, boot_hours: float) -> Decimal:
    """Return what `hours` of work cost on an offer, with what is lost on hosts like it that fail before or within them.

    A machine that never comes up is paid for until its boot deadline, `boot_hours`.
    """
    share = USUAL_RELIABILITY if offer.reliability is None else min(1.0, max(0.5, offer.reliability))
    lost_hours = boot_hours * (1 - share) / share
    return offer.usd_per_hour * Decimal(repr(hours / share + lost_hours))


def choose(offers: Sequence[Offer], hours: float, failed: Collection[str], *, boot_hours: float) -> Offer | None:
    """Return the offer of least expected cost; one that failed this run before only where there is no other."""
    others = [o for o in offers if o.offer_id not in failed]
    return min(others or offers, key=lambda o: (expected_usd(o, hours, boot_hours), o.offer_id), default=None)


@dataclass(frozen=True)
class Standing:
    """How a run on interruptible machines stands to its deadline."""

    ends_by: datetime | None
    """When its time is over, None where it was not interrupted since it was launched or taken up again."""
    rest_seconds: float
    """What its plan says the rest of its work takes, from the last checkpoint that came home."""


def standing(run: RunRecord, events: Sequence[EventRecord], *, steps: int) -> Standing:
    """Return how a run of so many steps stands, from all that happened to it."""
    began = next((e for e in reversed(events) if e.kind in LEG_BEGINS), None)
    interrupted = began is not None and any(
        e.kind == "run.next_machine" and e.data.get("reason") == "interrupted" and e.event_id > began.event_id for e in events
    )
    home = [str(e.data.get("name", "")).removeprefix("step-") for e in events if e.kind == "run.checkpoint_home"]
    done = max((int(name) for name in home if name.isascii() and name.isdecimal()), default=0)
    expected = float(run.planned.get("seconds", {}).get("mid", 0.0))
    ends_by = began.at + timedelta(seconds=run.seconds_cap) if began is not None and interrupted else None
    return Standing(ends_by, expected * max(0.0, 1 - done / max(1, steps)))


def deadline_demands(at: Standing, now: datetime, *, interval_seconds: float) -> bool:
    """Whether another interruption, and the work since a checkpoint that is done again after it, would not fit before the deadline."""
    if at.ends_by is None:
        return False
    return (at.ends_by - now).total_seconds() < at.rest_seconds + interval_seconds + INTERRUPTION_SECONDS


def affordable(left_usd: Decimal, at: Standing, provider: str) -> Decimal:
    """Return the highest price an hour at which what is left of the cap pays for the rest of the work, its start and its end."""
    seconds = at.rest_seconds + INTERRUPTION_SECONDS + caps.grace_seconds(provider)
    return max(Decimal(0), left_usd) * 3600 / Decimal(repr(seconds))
