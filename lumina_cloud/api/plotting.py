"""A plan as a chart: cost against time. Needs matplotlib (`lumina-cloud[plot]`).

One point is a machine, with the front marked; of a goal it is an answer, with the best marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from lumina_cloud.api.documents import of_plans

    _Point = of_plans.PlanRow | of_plans.BackwardsAnswer

KINDS = (".png", ".svg", ".pdf")


def draw(path: Path, document: of_plans.PlanDocument) -> None:
    """Write the chart of a plan. Raises UsageError for another kind of file, without matplotlib, or where it cannot be written."""
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--plot is {path}, and a chart is {', '.join(KINDS)}", f"--plot {path.with_suffix('.png')}")
    points, marked, name = _points_of(document)
    if not points:
        raise UsageError("there is nothing to draw: no machine that was priced can train this", "plan without --plot to see why")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("a chart needs matplotlib, which is not installed", "pip install 'lumina-cloud[plot]'") from None
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for arch in dict.fromkeys(row.arch for row in points):
        _points(axes, [row for row in points if row.arch == arch], arch)
    _mark(axes, marked, name)
    title = points[0].model if document.backwards is None else "answers"
    axes.set(xscale="log", yscale="log", xlabel="hours", ylabel="dollars", title=f"{title}: cost against time")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "give --plot a file in a folder that exists") from error


def _points_of(document: of_plans.PlanDocument) -> tuple[list[_Point], list[_Point], str]:
    """Return what is drawn, what of it is marked, and the mark's name."""
    if document.backwards is not None:
        return [*document.backwards.answers], [*document.backwards.answers[:1]], "the best"
    fitting = [row for row in document.rows if row.fits]
    return [*fitting], [row for row in fitting if row.front], "front"


def _points(axes: Any, rows: list[_Point], arch: str) -> None:
    hours, usd = [r.hours.mid for r in rows], [float(r.usd.mid) for r in rows]
    across = [[r.hours.mid - r.hours.low for r in rows], [r.hours.high - r.hours.mid for r in rows]]
    up = [[float(r.usd.mid) - float(r.usd.low) for r in rows], [float(r.usd.high) - float(r.usd.mid) for r in rows]]
    axes.errorbar(hours, usd, xerr=across, yerr=up, fmt="o", markersize=5, elinewidth=0.5, alpha=0.7, label=arch)


def _mark(axes: Any, rows: list[_Point], name: str) -> None:
    ordered = sorted(rows, key=lambda r: r.hours.mid)
    hours, usd = [r.hours.mid for r in ordered], [float(r.usd.mid) for r in ordered]
    axes.plot(hours, usd, "-D", color="black", markersize=8, markerfacecolor="none", label=name)
    for r in ordered:
        axes.annotate(f"{r.count} x {r.gpu}", (r.hours.mid, float(r.usd.mid)), xytext=(6, 6), textcoords="offset points", fontsize=8)
