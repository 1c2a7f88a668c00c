"""Machines of which nobody heard, and that ended by themselves before anyone looked. Pure.

A create whose reply was lost made one, or a provider made two of one create and nobody was there to see the second.

No list shows them any more. On the bill they are instances that no rental knows. Such a line is taken for a rental's where the time, the
price and the number of its unanswered creates leave no other reading; otherwise it stays with nobody, and is told as not ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from lumina_cloud.ledger import EventRecord
    from providers.contract import Charge

CREATE, HEARD, UNSEEN, GONE = "rental.create", "rental.created", "rental.lost_sight", "rental.gone"
TWIN = "rental.twin"
"""Kind of the events that name other instances which one create of ours made."""
END_UNSEEN = "rental.end_unseen"
"""Kind of the event that says that a rental's reading is a bound, and what was seen of it: nobody saw its machine's end."""
SLACK = timedelta(seconds=30)
"""By how much clocks and replies may be off."""
PRICE_SLACK = Decimal("1.02")


@dataclass(frozen=True)
class Window:
    """When the unanswered creates of one rental were sent, until it was seen what they had made."""

    since: datetime
    until: datetime
    most: int
    """How many machines may have come of them that are not named yet."""
    usd_per_hour: Decimal
    asked: tuple[datetime, ...] = ()
    """When each create was sent."""
    twin_of_usd: Decimal | None = None
    """What a machine was billed that may have been made together with another."""


def window(
    events: Sequence[EventRecord], rental_id: str, usd_per_hour: Decimal, ahead: timedelta, own_usd: Decimal, *, now: datetime | None = None
) -> Window | None:
    """Return it by the provider's clock, which ours is `ahead` of; None where every create was answered, and was seen to make one machine.

    `own_usd` is what the rental's known machine was billed: one that was made with it, and ended as it was told, cost about the same.
    With `now` the window of a rental of which it is not known yet what came is still open; without it there is none.
    """
    mine = [e for e in events if e.rental_id == rental_id]
    creates = [e.at for e in mine if e.kind == CREATE]
    heard = [e.at for e in mine if e.kind == HEARD]
    unanswered = len(creates) - len(heard[:1])
    twin = not unanswered and any(e.kind == END_UNSEEN for e in mine)
    ends = [*heard[:1], *(e.at for e in mine if e.kind == UNSEEN or (twin and e.kind == GONE))] or ([] if now is None else [now])
    most = (unanswered or twin) - len({e.data.get("instance") for e in mine if e.kind == TWIN})
    if not creates or not ends or most <= 0:
        return None
    asked = tuple(at - ahead for at in creates)
    return Window(asked[0], max(ends) - ahead, most, usd_per_hour, asked, own_usd if twin else None)


def presumed(windows: Mapping[str, Window], charges: Sequence[Charge], known: Collection[str], bucket: timedelta) -> dict[str, set[str]]:
    """Return for rentals the unknown instances on a bill that are theirs. One that could be of two rentals is of none.

    So are all of a rental that could have more of them than it made creates. `bucket` is the span to which the bill's times are rounded.
    """
    lines: dict[str, list[Charge]] = {}
    for charge in charges:
        if charge.instance_id not in known:
            lines.setdefault(charge.instance_id, []).append(charge)
    could = {rental_id: {i for i, its in lines.items() if _may_be(of, its, bucket)} for rental_id, of in windows.items()}
    claimed = Counter(i for found in could.values() for i in found)
    return {
        rental_id: found
        for rental_id, found in could.items()
        if found and len(found) <= windows[rental_id].most and all(claimed[i] == 1 for i in found)
    }


def _may_be(of: Window, its: Sequence[Charge], bucket: timedelta) -> bool:
    began = min(c.since for c in its)
    if not bucket and of.asked and not any(abs(began - at) <= SLACK for at in of.asked):
        return False
    usd = sum((c.usd for c in its), Decimal(0))
    slack_usd = of.usd_per_hour * PRICE_SLACK * Decimal(repr(SLACK.total_seconds())) / 3600
    if bucket and of.twin_of_usd is not None and abs(usd - of.twin_of_usd) > slack_usd:
        return False
    most_usd = of.usd_per_hour * PRICE_SLACK * Decimal(repr((of.until - of.since + SLACK).total_seconds())) / 3600
    return began >= of.since - bucket - SLACK and max(c.until for c in its) <= of.until + bucket + SLACK and usd <= most_usd
