"""Metering: what each instance has cost, by its provider's rules.

A meter holds lines. A time line costs its rate for every started step (a second at RunPod and Vast.ai, a minute at Lambda) between
its start and its end; a traffic line costs its price per gigabyte of 10^9 bytes. A line's amount is rounded half up to the
micro-dollar, a bill is the sum of its lines, so it adds up to the same figure however it is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from providers.emulator.clock import Moment

MICRO = Decimal("0.000001")
HOURS_PER_MONTH = 720
GIGABYTE = 10**9


def monthly(gigabytes: Decimal, usd_per_gb_month: Decimal) -> Decimal:
    """Return the price of storage in dollars per hour; a month is 30 days of 24 hours."""
    return gigabytes * usd_per_gb_month / HOURS_PER_MONTH


def round_usd(amount: Decimal) -> Decimal:
    """Round half up to the micro-dollar."""
    return amount.quantize(MICRO, ROUND_HALF_UP)


@dataclass
class TimeLine:
    """A rate that runs from `start` until `end`, or still runs."""

    kind: str
    usd_per_hour: Decimal
    start: Moment
    step_seconds: int
    end: Moment | None = None

    def billed_seconds(self, now: Moment) -> int:
        """Return the seconds that are billed by now: whole steps, the last one counted when it has begun."""
        until = now if self.end is None else min(self.end, now)
        step = self.step_seconds * 1_000
        return max(0, -(-(until - self.start) // step)) * self.step_seconds

    def amount(self, now: Moment) -> Decimal:
        """Return dollars so far."""
        return round_usd(self.usd_per_hour * self.billed_seconds(now) / 3_600)


@dataclass
class TrafficLine:
    """Bytes at a price per gigabyte."""

    kind: str
    usd_per_gb: Decimal
    count: int = 0

    def amount(self, now: Moment) -> Decimal:
        """Return dollars so far."""
        return round_usd(self.usd_per_gb * self.count / GIGABYTE)


@dataclass
class Meter:
    """All lines of one instance."""

    step_seconds: int
    times: list[TimeLine] = field(default_factory=list)
    traffic: dict[str, TrafficLine] = field(default_factory=dict)

    def start(self, kind: str, usd_per_hour: Decimal, at: Moment) -> None:
        """Begin a rate, in place of the one of that kind that may run already."""
        self.stop(kind, at)
        self.times.append(TimeLine(kind, usd_per_hour, at, self.step_seconds))

    def stop(self, kind: str, at: Moment) -> None:
        """End the rate of that kind, if one runs."""
        for line in self.times:
            if line.kind == kind and line.end is None:
                line.end = max(at, line.start)

    def stop_all(self, at: Moment) -> None:
        """End everything."""
        for line in self.times:
            self.stop(line.kind, at)

    def rate(self, kind: str) -> Decimal:
        """Return the dollars per hour that a kind costs at present, zero when it does not run."""
        return sum((line.usd_per_hour for line in self.times if line.kind == kind and line.end is None), Decimal(0))

    def count(self, kind: str, usd_per_gb: Decimal, total_bytes: int) -> None:
        """Set the bytes of that kind so far; they never become fewer."""
        line = self.traffic.setdefault(kind, TrafficLine(kind, usd_per_gb))
        line.count = max(line.count, total_bytes)

    def total(self, now: Moment) -> Decimal:
        """Return dollars so far."""
        timed = sum((line.amount(now) for line in self.times), Decimal(0))
        return timed + sum((line.amount(now) for line in self.traffic.values()), Decimal(0))
