"""What each page shows: pure functions of the api and of what was asked, to a template and its context."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

from lumina_cloud.api.views import ENDED, PERIODS
from lumina_cloud.core import money as dollars
from lumina_cloud.core import units
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lumina_cloud.api.documents.of_runs import ResultsDocument, RunStatus, StatusDocument
    from lumina_cloud.api.lumina import Lumina

PRICE_DAYS = (7, 30, 90, 365)
PLACES = {
    "plan.html.j2": "Plan",
    "launch.html.j2": "Plan",
    "money.html.j2": "Money",
    "prices.html.j2": "Prices",
    "published.html.j2": "Published",
    "accuracy.html.j2": "Accuracy",
}
"""The words at the top of every page; all other pages are about runs."""
BARS = 12
MAX_ROWS = 300
"""Rows of a long table on a page; the commands print all."""


@dataclass(frozen=True)
class Asked:
    """A request: the run of its path, empty where it has none, and its query."""

    run: str
    query: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str = "") -> str:
        """Return the query's value of a name."""
        return self.query.get(name, [default])[0]


@dataclass(frozen=True)
class Page:
    """A template, and what it shows."""

    template: str
    title: str
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Which of the words at the top it is under."""
        return PLACES.get(self.template, "Runs")


@dataclass(frozen=True)
class Line:
    """One run in the table of runs, as text; the same for the page and for its live stream."""

    run: str
    state: str
    going: bool
    cells: dict[str, str]


def line_of(run: RunStatus) -> Line:
    """Return a run as the table shows it."""
    return Line(
        run=run.run,
        state=run.state,
        going=run.state not in ENDED,
        cells={
            "model": f"{run.model} {run.arch}",
            "machine": f"{run.gpu} at {run.provider}",
            "progress": "-" if not run.step or not run.steps else f"{100 * run.step / run.steps:.0f} %",
            "loss": "-" if run.loss is None else f"{run.loss:.3f}",
            "speed": "-" if not run.tokens_per_second else units.count(run.tokens_per_second),
            "usd": usd(run.usd_spent),
            "cap": usd(run.usd_cap),
            "started": when(run.started_at),
            "end": when(run.ended_at or run.estimated_end),
        },
    )


def summary(status: StatusDocument) -> str:
    """Return one sentence of what goes on."""
    going = [r for r in status.runs if r.state not in ENDED]
    if not going:
        return "No run goes on now."
    spent = sum((Decimal(r.usd_spent) for r in going), Decimal(0))
    return f"{len(going)} run{'s' if len(going) > 1 else ''} going on, {dollars.show(spent)} so far; {len(status.rentals)} rented now."


# --- pages ----------------------------------------------------------------------------------------------------------------


def runs(lumina: Lumina, asked: Asked) -> Page:
    """Show all runs, or the newest and those that go on."""
    everything = asked.one("all") == "1"
    status = lumina.status(everything=everything)
    lines = [line_of(r) for r in status.runs]
    return Page("runs.html.j2", "Runs", {"lines": lines, "summary": summary(status), "more": status.more, "everything": everything})


def run(lumina: Lumina, asked: Asked) -> Page:
    """Show one run: planned and actual, its curves, its money, the end of its log."""
    record = lumina.find(asked.run)
    results = lumina.results(record.run_id)
    others = [name for name in lumina.ledger.run_names()[: MAX_ROWS + 1] if name != record.run_id]
    compared = [name for name in dict.fromkeys(asked.query.get("with", ())) if name != record.run_id]
    return Page(
        "run.html.j2",
        record.run_id,
        {
            "run": record,
            "results": results,
            "going": record.state not in ENDED,
            "asked_to_stop": record.stop_requested_at is not None,
            "figures": planned_against_actual(results),
            "routing": routing(results),
            "sample": sample(results),
            "versions": versions(results),
            "line": next((line_of(r) for r in lumina.status().runs if r.run == record.run_id), None),
            "rentals": lumina.ledger.rentals(record.run_id),
            "charges": lumina.ledger.charges(record.run_id),
            "others": others,
            "compared": compared,
        },
    )


def stop(lumina: Lumina, asked: Asked) -> Page:
    """Ask whether a run is really to end."""
    record = lumina.find(asked.run)
    if record.state in ENDED:
        raise UsageError(f"run {record.run_id} is {record.state} already", f"lumina results {record.run_id}")
    return Page("stop.html.j2", f"Stop {record.run_id}?", {"run": record, "spent": dollars.show(lumina.spent(record))})


def money(lumina: Lumina, asked: Asked) -> Page:
    """Show what was spent, by one key, with lost money apart, and the budgets."""
    from lumina_cloud.api.reader import COST_KEYS
    from lumina_cloud.web.charts import bars

    costs = lumina.costs(asked.one("by", "month"))
    shown = costs.rows[-MAX_ROWS:] if costs.by in PERIODS else costs.rows[:MAX_ROWS]
    drawn = shown[-BARS:] if costs.by in PERIODS else shown[:BARS]
    chart = bars([(row.key or "(none)", float(Decimal(row.usd_training)), float(Decimal(row.usd_lost))) for row in drawn])
    return Page(
        "money.html.j2",
        "Money",
        {"costs": costs, "rows": shown, "keys": COST_KEYS, "chart": chart, "budget": lumina.budget()},
    )


def prices(lumina: Lumina, asked: Asked) -> Page:
    """Show what the markets asked over time, beside the price book."""
    days = asked.one("days", "30")
    if days not in map(str, PRICE_DAYS):
        raise UsageError(f"days is {days!r}", f"one of {', '.join(map(str, PRICE_DAYS))}")
    gpu = asked.one("gpu") or None
    found = lumina.prices(gpu, None, float(days))
    known = sorted({p.gpu for p in lumina.prices(None, None, 365.0).book} | {p.gpu for p in found.seen})
    return Page(
        "prices.html.j2",
        "Market prices",
        {
            "prices": found,
            "seen": found.seen[::-1][:MAX_ROWS],
            "gpu": found.gpu or "",
            "gpus": known,
            "days": int(days),
            "spans": PRICE_DAYS,
        },
    )


def plan(_lumina: Lumina, asked: Asked) -> Page:
    """Show the planner; its figures come from `/api/plan`."""
    from lumina_cloud.api.requests import ARCHS, MODELS

    return Page(
        "plan.html.j2",
        "Plan",
        {"models": MODELS, "archs": ARCHS, "model": asked.one("model", "debug200m"), "arch": asked.one("arch", "dense")},
    )


def launch(lumina: Lumina, asked: Asked) -> Page:
    """Ask whether a row of the planner is to be rented, and what it may cost at most."""
    from dataclasses import asdict

    from lumina_cloud.web import launching

    wanted = launching.Wanted.of(asked.query)
    row = launching.expected(lumina, wanted)
    # Twice what is likely at worst, to the cent above: a cap that a sound run does not meet.
    cap = (2 * Decimal(row.usd.high)).quantize(dollars.CENT, ROUND_CEILING)
    fields = [(name, str(int(value)) if isinstance(value, bool) else value) for name, value in asdict(wanted).items()]
    return Page("launch.html.j2", "Start this run?", {"row": row, "fields": fields, "cap": cap, "once": secrets.token_urlsafe(12)})


def published(lumina: Lumina, _asked: Asked) -> Page:
    """Show every row of the published benchmark beside what our physics says of it."""
    from lumina_cloud.web.figures import published_against_modelled

    return Page("published.html.j2", "Published and modelled", {"rows": published_against_modelled(lumina)})


def accuracy(lumina: Lumina, _asked: Asked) -> Page:
    """Show how plans turned out."""
    found = lumina.accuracy()
    return Page("accuracy.html.j2", "Plan and actual", {"accuracy": found, "rows": found.rows[:MAX_ROWS]})


# --- figures as text ------------------------------------------------------------------------------------------------------


def planned_against_actual(results: ResultsDocument) -> list[tuple[str, str, str]]:
    """Return name, planned and actual of each figure of a run."""
    planned, actual = results.planned, results.actual
    rows: list[tuple[str, Any, Any, Callable[[Any], str]]] = [
        ("time", planned.seconds, actual.seconds, units.duration),
        ("cost", planned.usd, actual.usd, usd),
        ("peak memory", planned.peak_memory_gib, actual.peak_memory_gib, lambda v: f"{v:.2f} GiB"),
        ("tokens/s", planned.tokens_per_second, actual.tokens_per_second, lambda v: f"{v:,.0f}"),
        ("validation loss", planned.loss, actual.loss, lambda v: f"{v:.3f}"),
    ]
    return [(name, *("-" if v is None else form(v) for v in (before, after))) for name, before, after, form in rows]  # type: ignore[misc]


def routing(results: ResultsDocument) -> list[tuple[str, str]]:
    """Return how the run's routers did; empty for a dense model."""
    found = results.details.get("routing")
    if not isinstance(found, dict):
        return []
    return [(name.replace("_", " "), f"{v:.3g}") for name, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)]


def sample(results: ResultsDocument) -> str:
    """Return what the run's model wrote; empty where nothing came home."""
    found = results.details.get("sample")
    return f"{found.get('prompt') or ''}{found.get('text') or ''}" if isinstance(found, dict) else ""


def versions(results: ResultsDocument) -> list[tuple[str, str]]:
    """Return the versions that the run was made with."""
    found = results.details.get("versions")
    return [(str(name), str(v)) for name, v in found.items()] if isinstance(found, dict) else []


def usd(text: str | None) -> str:
    """Return an amount of a document for a person."""
    return "-" if text is None else dollars.show(Decimal(text))


def when(moment: object) -> str:
    """Return a moment in UTC to the minute."""
    return "-" if moment is None else str(moment)[:16].replace("T", " ")


FILTERS: dict[str, Callable[..., str]] = {
    "usd": usd,
    "when": when,
    "count": units.count,
    "duration": units.duration,
    "size": units.n_bytes,
    "show": dollars.show,
}
