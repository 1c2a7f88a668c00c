"""Where a program can be killed: found by counting what clean runs of it pass, never written by hand.

A site is a name of `edge()`; a call site is a site as it is reached from one place in the code, by the lines of all its callers. A
crash point is a call site, the how-manieth passage of it, and before, during or after.
"""

from collections import Counter
from dataclasses import dataclass

WHENS = ("before", "during", "after")


@dataclass(frozen=True, order=True)
class Point:
    """A moment at which a process can be killed. `setting` says in which scenario it was met."""

    setting: str
    site: str
    place: str
    nth: int
    when: str
    lines: str = ""

    @property
    def crash_at(self):
        """What LUMINA_CRASH_AT takes."""
        return f"{self.site}@{self.place}:{self.nth}:{self.when}"

    @property
    def call_site(self):
        """What it is a moment of."""
        return f"{self.setting} {self.site}@{self.place}"

    def __str__(self):
        return f"{self.setting} {self.crash_at}"


def read(log, setting, passages=2):
    """Return the points of a log of edges: of each call site its first passages, before, during and after."""
    points = {}
    for line in log.read_text().splitlines():
        name, lines = line.split("\t")
        where, nth, when = name.split(":")
        site, place = where.split("@")
        if int(nth) <= passages:
            points[where, int(nth), when] = Point(setting, site, place, int(nth), when, lines)
    return sorted(points.values())


def sampled(points, count, chance):
    """Return `count` points, so that each provider and each site has its turn before any of them has another."""
    if count is None or count >= len(points):
        return list(points)
    shuffled = chance.sample(points, len(points))
    turns = Counter()

    def turn(point):
        key = (point.setting.split()[0], point.site)
        turns[key] += 1
        return turns[key]

    return sorted(shuffled, key=turn)[:count]
