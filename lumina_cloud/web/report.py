"""A page to send: what was planned, what happened, curves, routing, costs with lost money apart, samples, how to do it again.

One file that loads nothing: HTML with its curves as SVG, or Markdown with them as tables where the file's name ends in `.md`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lumina_cloud.api import reporting
from lumina_cloud.core import markdown, templates
from lumina_cloud.core.clock import iso
from lumina_cloud.core.errors import UsageError
from lumina_cloud.web.charts import Series, line_chart, points_of, thinned
from lumina_cloud.web.pages import FILTERS, planned_against_actual, routing, sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lumina_cloud.api.documents.of_runs import ResultsDocument
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.api.reporting import Selection
    from lumina_cloud.ledger import RunRecord

MAX_RUNS = 50
"""Runs that have a section of their own; the money is of all."""
MAX_CURVES = 6
"""Curves in one chart that can be told apart; of more runs, each has its own."""
TABLE_POINTS = 8
"""Points of a curve in Markdown."""


@dataclass(frozen=True)
class _Section:
    """One run on the page."""

    run: RunRecord
    results: ResultsDocument
    figures: list[tuple[str, str, str]]
    """Name, planned, actual."""
    routing: list[tuple[str, str]]
    sample: str
    versions: list[tuple[str, str]]
    command: str
    loss: tuple[tuple[float, float], ...]
    """Million tokens, and the training loss there."""
    speed: tuple[tuple[float, float], ...]


def write(lumina: Lumina, selection: Selection, out: Path | None) -> Path:
    """Write the page and return its path. Raises UsageError for unknown runs or a path that cannot be written."""
    runs = lumina.reported(selection)
    path = out or lumina.settings.home / "reports" / f"{selection.file_name}.html"
    sections = [_section(lumina, run) for run in runs[:MAX_RUNS]]
    context = {
        "made_at": iso(lumina.clock.now())[:16].replace("T", " ") + " UTC",
        "title": selection.title,
        "sections": sections,
        "left_out": len(runs) - len(sections),
        "money": lumina.money_of(runs),
        "thinned": lambda points: thinned(points, TABLE_POINTS),
    }
    if path.suffix.lower() in (".md", ".markdown"):
        text = _environment(html=False).get_template("report.md.j2").render(**context)
    else:
        together = sections if len(sections) <= MAX_CURVES else []
        loss = _chart([Series(s.run.run_id, s.loss) for s in together], "training loss")
        speed = _chart([Series(s.run.run_id, s.speed) for s in together], "tokens/s")
        alone = {} if together else {s.run.run_id: _chart([Series(s.run.run_id, s.loss)], "training loss") for s in sections}
        text = _environment(html=True).get_template("report.html.j2").render(**context, loss=loss, speed=speed, alone=alone)
    _save(path, text)
    return path.absolute()


def _environment(*, html: bool) -> Environment:
    # In Markdown, escaping for HTML would show as such; `markdown.FILTERS` do there what it does here.
    loader = FileSystemLoader(templates.folder())
    made = Environment(loader=loader, autoescape=html, undefined=StrictUndefined, trim_blocks=True)  # noqa: S701  # as above
    made.filters |= FILTERS | ({} if html else markdown.FILTERS)
    return made


def _chart(curves: Sequence[Series], label: str) -> Markup:
    return Markup(line_chart(curves, x_label="million tokens", y_label=label))  # noqa: S704  # our own SVG, its texts escaped


def _section(lumina: Lumina, run: RunRecord) -> _Section:
    results = lumina.results(run.run_id)
    metrics = lumina.metrics(run.run_id)

    def curve(figure: str) -> tuple[tuple[float, float], ...]:
        return tuple((tokens / 1e6, value) for tokens, value in points_of(metrics, figure))

    return _Section(
        run=run,
        results=results,
        figures=planned_against_actual(results),
        routing=routing(results),
        sample=sample(results),
        versions=reporting.versions_of(run),
        command=lumina.command_of(run),
        loss=curve("loss"),
        speed=curve("tokens_per_second"),
    )


def _save(path: Path, page: str) -> None:
    """Write the page whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}", "--out takes the path of a page to write") from error
