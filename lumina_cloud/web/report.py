"""One self-contained HTML page: what was planned, what happened, curves, costs, samples, how to do it again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lumina_cloud.core import money, templates, units
from lumina_cloud.core.clock import iso
from lumina_cloud.core.errors import UsageError
from lumina_cloud.web.charts import Series, line_chart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lumina_cloud.api.documents.of_runs import ResultsDocument
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.ledger import MetricRecord

MAX_RUNS = 50


@dataclass(frozen=True)
class _Section:
    """One run on the page."""

    results: ResultsDocument
    figures: tuple[tuple[str, str, str], ...]
    """Name, planned, actual."""
    routing: tuple[tuple[str, str], ...]
    sample: str
    versions: str


def write(lumina: Lumina, run: str | None, out: Path | None) -> Path:
    """Write the page and return its path. Raises UsageError for an unknown run or a path that cannot be written."""
    status = lumina.status()
    names = [lumina.results(run).run] if run is not None else [r.run for r in status.runs[:MAX_RUNS]]
    documents = [lumina.results(name) for name in names]
    curves = [(d.run, lumina.metrics(d.run)) for d in documents]
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            made_at=iso(lumina.clock.now())[:16].replace("T", " ") + " UTC",
            title=names[0] if run is not None else f"{len(names)} runs",
            sections=[_section(d) for d in documents],
            loss=Markup(_chart(curves, "loss", "training loss")),  # noqa: S704  # our own SVG, its texts escaped
            speed=Markup(_chart(curves, "tokens_per_second", "tokens/s")),  # noqa: S704  # our own SVG, its texts escaped
            costs=lumina.costs("arch"),
            show=lambda text: money.show(Decimal(text)),
            size=units.n_bytes,
        )
    )
    path = out or lumina.settings.home / "reports" / f"{names[0] if run is not None else 'all'}.html"
    _save(path, page)
    return path.absolute()


def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(templates.folder()), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _chart(curves: Sequence[tuple[str, list[MetricRecord]]], figure: str, label: str) -> str:
    series = []
    for name, metrics in curves:
        points = [(m.data["tokens"] / 1e6, m.data[figure]) for m in metrics if m.data.get("tokens") and m.data.get(figure) is not None]
        series.append(Series(name, tuple(points)))
    return line_chart(series, x_label="million tokens", y_label=label)


def _section(document: ResultsDocument) -> _Section:
    planned, actual = document.planned, document.actual
    figures = (
        ("time", _text(planned.seconds, units.duration), _text(actual.seconds, units.duration)),
        ("cost", _dollars(planned.usd), _dollars(actual.usd)),
        ("peak memory", _text(planned.peak_memory_gib, _gib), _text(actual.peak_memory_gib, _gib)),
        ("tokens/s", _text(planned.tokens_per_second, _whole), _text(actual.tokens_per_second, _whole)),
        ("validation loss", _text(planned.loss, _three), _text(actual.loss, _three)),
    )
    details = document.details
    sample = details.get("sample")
    versions = details.get("versions")
    routing = details.get("routing")
    return _Section(
        results=document,
        figures=figures,
        routing=tuple((k, f"{v:.3g}") for k, v in routing.items() if isinstance(v, int | float)) if isinstance(routing, dict) else (),
        sample=f"{sample.get('prompt') or ''}{sample.get('text') or ''}" if isinstance(sample, dict) else "",
        versions=", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else "",
    )


def _text(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _dollars(value: str | None) -> str:
    return "-" if value is None else money.show(Decimal(value))


def _gib(value: float) -> str:
    return f"{value:.2f} GiB"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _save(path: Path, page: str) -> None:
    """Write the page whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}", "--out takes the path of a page to write") from error
