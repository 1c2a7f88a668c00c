"""For how long a rental is charged, whatever the clocks do.

A provider's times come from its own clock, ours from this computer's, which may be a day off, step back, or be set while a run goes on.
So an interval is never the difference of times of two clocks:

- a rental that has ended at a provider with a clock of its own: from its creation to its end, both by the provider;
- one that goes on there: from its creation to now by the provider's clock, which its dated answers tell (`clock_skew`);
- anywhere else: from its creation, for as long as this computer has counted since then. The count is that of seconds since the
  computer was started: it does not step when the clock is set, and goes on while the computer sleeps.

Whatever comes out, a charge never shrinks and never has a negative length.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lumina_cloud.core.clock import boot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.core.clock import Clock

ZERO = timedelta(0)


@dataclass(frozen=True)
class Reading:
    """This computer's clocks at one moment. `counted` is in seconds since the start that `boot` names; empty where it has no name."""

    wall: datetime
    boot: str
    counted: float

    @classmethod
    def of(cls, clock: Clock) -> Reading:
        """Read the clocks."""
        return cls(clock.now(), boot_of(clock), clock.monotonic())

    def as_data(self) -> dict[str, Any]:
        """Return it as an event keeps it."""
        return {"boot": self.boot, "counted": self.counted, "wall": self.wall.isoformat()}


def reading_of(data: Mapping[str, Any]) -> Reading | None:
    """Return the reading that an event keeps, None when it keeps none."""
    try:
        return Reading(datetime.fromisoformat(data["wall"]), str(data["boot"]), float(data["counted"]))
    except (KeyError, TypeError, ValueError):
        return None


def elapsed(since: Reading, now: Reading) -> timedelta:
    """Return the time between two readings: as counted within one start of the computer, else by its clock; never negative."""
    if since.boot and since.boot == now.boot:
        return max(ZERO, timedelta(seconds=now.counted - since.counted))
    return max(ZERO, now.wall - since.wall)


def charged_until(
    *,
    created_at: datetime,
    ended_at: datetime | None,
    known_until: datetime | None,
    skew: float | None,
    adopted: Reading | None,
    now: Reading,
) -> datetime:
    """Return until when a rental is charged, on the clock by which it was created.

    `skew` is by how many seconds this computer's clock is ahead of the provider's, None where the provider has no clock or was not heard
    yet. `adopted` are this computer's clocks when the rental became known.
    """
    low = max(created_at, known_until or created_at)
    if skew is not None:
        return max(low, ended_at or now.wall - timedelta(seconds=skew))
    if adopted is None:
        return max(low, ended_at or now.wall)
    # Between creation and adoption lie seconds; where they seem more, or less than none, the clock was set in between.
    before = adopted.wall - created_at
    before = before if ZERO <= before <= timedelta(minutes=10) else ZERO
    high = created_at + before + elapsed(adopted, now)
    if ended_at is None or ended_at <= created_at:
        return max(low, high)
    return max(low, min(ended_at, high))
