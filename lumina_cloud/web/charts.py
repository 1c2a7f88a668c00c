"""Line charts as plain SVG: no script, no outside asset, the same in every browser and on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from markupsafe import Markup

from lumina_cloud.core import untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.ledger import MetricRecord

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 26, 40
MAX_POINTS = 600
LEGEND = 18
"""Height of a name below a chart."""


@dataclass(frozen=True)
class Series:
    """Points (x, y) under a name."""

    name: str
    points: tuple[tuple[float, float], ...]


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Return an SVG element with one line a series, axes with ticks, and a legend. Empty series give an empty text."""
    drawn = [s for s in series if len(s.points) > 1]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_scale, y_scale = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT), _Scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    height = HEIGHT + LEGEND * len(drawn)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(y_label)} against {escape(x_label)}" class="chart">',
        *_axes(x_scale, y_scale, x_label, y_label),
    ]
    for i, s in enumerate(drawn):
        path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in thinned(s.points, MAX_POINTS))
        parts.append(f'<polyline class="line line-{i % 6}" points="{path}"/>')
        y = HEIGHT + LEGEND * i
        parts.append(f'<path class="line line-{i % 6}" d="M{LEFT},{y + 8} h24"/>')
        parts.append(f'<text class="tick" x="{LEFT + 32}" y="{y + 12}">{escape(s.name)}</text>')
    return "".join([*parts, "</svg>"])


def points_of(metrics: Sequence[MetricRecord], figure: str) -> list[tuple[float, float]]:
    """Return points (tokens, figure) of a run's metrics. What is no finite number is left out."""
    found = ((untrusted.number(m.data.get("tokens"), 0, 1e18), untrusted.number(m.data.get(figure), 0, 1e18)) for m in metrics)
    return [(tokens, value) for tokens, value in found if tokens is not None and value is not None]


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return at most about `most` points: evenly spaced ones, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    stride = math.ceil(len(points) / most)
    return [*points[:-1:stride], points[-1]]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round values within the scale, a 1-2-5 step apart."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str) -> list[str]:
    floor = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT},{TOP} V{floor} H{WIDTH - RIGHT}"/>']
    for tick in y.ticks():
        parts.append(f'<path class="grid" d="M{LEFT},{y(tick):.1f} H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y(tick) + 4:.1f}">{tick:g}</text>')
    for tick in x.ticks(7):
        parts.append(f'<text class="tick middle" x="{x(tick):.1f}" y="{floor + 16}">{tick:,g}</text>')
    parts.append(f'<text class="tick middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x_label)}</text>')
    parts.append(f'<text class="tick" x="{LEFT}" y="14">{escape(y_label)}</text>')
    return parts


BAR, ROW, NAMES, BARS = 18, 26, 110, 440
"""Height of a bar, of a row, the width of the names before them, and of all: text stays readable on a phone."""


def bars(rows: Sequence[tuple[str, float, float]]) -> Markup:
    """Return an SVG element with a bar a row: name, dollars that trained, dollars lost. No rows give an empty text."""
    most = max((trained + lost for _, trained, lost in rows), default=0.0)
    if most <= 0:
        return Markup("")
    height = ROW * len(rows) + 26
    parts = [f'<svg viewBox="0 0 {BARS} {height}" role="img" aria-label="Dollars that trained, and dollars lost" class="bars">']
    parts.append(f'<rect class="trained" x="{NAMES}" y="2" width="12" height="12"/><text x="{NAMES + 18}" y="13">trained</text>')
    parts.append(f'<rect class="lost" x="{NAMES + 90}" y="2" width="12" height="12"/><text x="{NAMES + 108}" y="13">lost</text>')
    scale = (BARS - NAMES - 80) / most
    for i, (name, trained, lost) in enumerate(rows):
        y, middle = 24 + ROW * i, NAMES + trained * scale
        parts.append(f'<text class="end" x="{NAMES - 8}" y="{y + 14}">{escape(name if len(name) <= 16 else name[:15] + "…")}</text>')
        parts.append(f'<rect class="trained" x="{NAMES}" y="{y}" width="{trained * scale:.1f}" height="{BAR}"/>')
        parts.append(f'<rect class="lost" x="{middle:.1f}" y="{y}" width="{lost * scale:.1f}" height="{BAR}"/>')
        parts.append(f'<text x="{middle + lost * scale + 6:.1f}" y="{y + 14}">${trained + lost:,.2f}</text>')
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704  # our own elements; the names are escaped
