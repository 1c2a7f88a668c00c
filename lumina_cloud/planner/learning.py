"""What finished runs teach: by how much reality differs from the model, for a GPU, a provider there, and a family of models there.

A run gives the logarithm of measured over modelled for each figure. Three levels are learned one after another, each from what the
level above it leaves: the GPU, the provider's machines with it, the architecture on those. On each level the estimate is shrunk towards
nothing learned:

    shift = sum of the kept logarithms / (PRIOR_RUNS + number kept)

Kept is what lies near the median of the level's runs; below three runs there is no median to trust, and kept is what lies in reach
of the model's own error. So one run far off teaches nothing until others agree, and with many runs the shift is their bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, get_args

from lumina_cloud.planner.estimate import Interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Figure = Literal["tokens_per_second", "memory", "overhead", "start", "loss"]
FIGURES: tuple[Figure, ...] = get_args(Figure)

PRIOR_RUNS = 1.0
"""Runs that the model itself is worth on each level."""
WITHIN = {"tokens_per_second": 0.6, "memory": 0.4, "overhead": 1.2, "start": 1.2, "loss": 0.25}
"""Logarithms: how far the model may be off before a single run is no longer believed."""
LEAST_WIDTH = {"tokens_per_second": 0.08, "memory": 0.05, "overhead": 0.3, "start": 0.3, "loss": 0.04}
"""Logarithms to either side that runs alike differ by: within twice that of the median a run is kept; intervals do not narrow below."""
SUSPECT = math.log(20)
"""A figure further from the model than this factor is a fault of the measurement, not of the model: it never counts."""
DEVIATIONS = 3.0
"""Scaled median deviations from the median that a run may be off: 1.4826 x the median deviation estimates a standard deviation."""


def family_of(model: str, arch: str) -> str:
    """Return what runs of a model in an architecture are called where they teach."""
    return f"{model} {arch}"


@dataclass(frozen=True)
class Kind:
    """What estimates are learned for: a machine of so many GPUs at a provider, and a family of models on it."""

    gpu: str
    provider: str
    count: int
    family: str


@dataclass(frozen=True)
class Experience:
    """One finished run: for each figure ln(measured / modelled), where both are known."""

    gpu: str
    provider: str
    family: str
    ratios: tuple[tuple[Figure, float], ...]


@dataclass(frozen=True)
class Shift:
    """What one level teaches of one figure: a logarithm, from how many of how many runs, and how far those lie apart."""

    log: float = 0.0
    kept: int = 0
    seen: int = 0
    spread: float = 0.0

    @property
    def factor(self) -> float:
        """On the modelled figure."""
        return math.exp(self.log)


NOTHING = Shift()


@dataclass(frozen=True)
class Lesson:
    """What is learned of one figure on one kind of machine for one family: the three levels in turn."""

    levels: tuple[tuple[str, Shift], ...] = ()
    probe: str = ""
    """What a probe of this very workload measured, in words: it is the one level then, and no run's."""

    @property
    def factor(self) -> float:
        """On the modelled figure, all levels together."""
        return math.exp(sum(shift.log for _, shift in self.levels))

    @property
    def runs(self) -> int:
        """Runs that it rests on."""
        return max((shift.kept for _, shift in self.levels), default=0)

    @property
    def spread(self) -> float:
        """Of the most particular level that has runs."""
        return next((shift.spread for _, shift in reversed(self.levels) if shift.kept), 0.0)


def shrunk(ratios: Sequence[float], figure: Figure) -> Shift:
    """Return what runs teach on one level."""
    kept = believed(ratios, figure)
    if not kept:
        return Shift(seen=len(ratios))
    mean = sum(kept) / len(kept)
    spread = math.sqrt(sum((r - mean) ** 2 for r in kept) / len(kept))
    return Shift(sum(kept) / (PRIOR_RUNS + len(kept)), len(kept), len(ratios), spread)


def believed(ratios: Sequence[float], figure: Figure) -> list[float]:
    """Return the logarithms that count: those near their median, of fewer than three those that the model's own error explains."""
    finite = [r for r in ratios if math.isfinite(r)]
    if len(finite) < 3:
        return [r for r in finite if abs(r) <= WITHIN[figure]]
    middle = median(finite)
    apart = 1.4826 * median(abs(r - middle) for r in finite)
    reach = max(DEVIATIONS * apart, 2 * LEAST_WIDTH[figure])
    return [r for r in finite if abs(r - middle) <= reach]


class Lessons:
    """What all finished runs teach. Without runs nothing changes."""

    def __init__(self, experiences: Iterable[Experience] = ()) -> None:
        self._all = tuple(experiences)
        self._known: dict[tuple[Figure, Kind], Lesson] = {}

    def __len__(self) -> int:
        return len(self._all)

    def of_runs(self) -> Lessons:
        """Return what finished runs teach, without what was measured of one workload alone."""
        return self

    def of(self, figure: Figure, kind: Kind) -> Lesson:
        """Return what is learned of a figure."""
        key = (figure, kind)
        if key not in self._known:
            self._known[key] = self._learn(figure, kind)
        return self._known[key]

    def _learn(self, figure: Figure, kind: Kind) -> Lesson:
        # How many GPUs a machine has changes nothing of how far the model is off. A loss does not depend on the machine: its one level
        # is the family.
        gpu, provider, family = kind.gpu, kind.provider, kind.family
        rows = [(e, r) for e in self._all for name, r in e.ratios if name == figure and (figure == "loss" or e.gpu == gpu)]
        if not rows:
            return Lesson()
        there = [(e, r) for e, r in rows if e.provider == provider]
        wanted = [(f"GPU {gpu}", rows), (f"provider {provider}", there)] if figure != "loss" else []
        wanted.append((f"family {family}", [(e, r) for e, r in (there if figure != "loss" else rows) if e.family == family]))
        levels, learned = [], 0.0
        for name, runs in wanted:
            shift = shrunk([r - learned for _, r in runs], figure)
            levels.append((name, shift))
            learned += shift.log
        return Lesson(tuple(levels))


def learned(value: Interval, lesson: Lesson, figure: Figure) -> Interval:
    """Return an interval moved by what was learned, and narrowed towards what runs really differ by.

    Each side's width, as a logarithm, is the mean of the model's and the runs' own, the model counting as `PRIOR_RUNS` runs; it never
    grows, and never falls below what runs alike differ by.
    """
    if not lesson.runs or value.mid <= 0:
        return value
    mid = value.mid * lesson.factor
    own = max(LEAST_WIDTH[figure], 1.28 * lesson.spread)

    def width(modelled: float) -> float:
        return min(modelled, (PRIOR_RUNS * modelled + lesson.runs * own) / (PRIOR_RUNS + lesson.runs))

    low = math.log(value.mid / value.low) if value.low > 0 else 0.5
    high = math.log(value.high / value.mid)
    return Interval(mid * math.exp(-width(low)), mid, mid * math.exp(width(high)))


def lines(lessons: Lessons, kind: Kind) -> list[str]:
    """Return how the ledger's runs moved each figure, with the numbers, line by line."""
    out = []
    for figure in FIGURES:
        lesson = lessons.of(figure, kind)
        if not any(shift.seen for _, shift in lesson.levels):
            continue
        what = figure.replace("_", " ")
        if lesson.probe:
            out.append(f"probe: {what} x {lesson.factor:.4f} = {lesson.probe}  [--no-ledger ignores it]")
            continue
        steps = "; ".join(
            f"{name}: exp({shift.log:+.4f}) from {shift.kept} of {shift.seen} runs" for name, shift in lesson.levels if shift.seen
        )
        out.append(
            f"ledger: {what} x {lesson.factor:.4f} = {steps}  [sum of ln(measured / modelled) over "
            f"({PRIOR_RUNS:g} + runs); runs far from the others are left out; --no-ledger ignores it]"
        )
    return out
