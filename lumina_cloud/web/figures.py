"""What the pages' charts are drawn from: JSON, with no more points than a screen has."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import planning
from lumina_cloud.api.requests import ARCHS, MODELS, Options, workload_request
from lumina_cloud.core import money
from lumina_cloud.core.commands import SANDBOX
from lumina_cloud.core.errors import UsageError
from lumina_cloud.web.charts import points_of, thinned
from lumina_cloud.web.pages import line_of, planned_against_actual, summary

if TYPE_CHECKING:
    from lumina_cloud.api.documents.of_plans import PlanRow
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.ledger import MetricRecord
    from lumina_cloud.web.pages import Asked

CURVES = ("loss", "tokens_per_second")
MAX_POINTS = 600
MAX_CURVES = 12


def live(lumina: Lumina, asked: Asked, trouble: str) -> dict[str, Any]:
    """Return the runs as they stand: all that the table of runs shows, or one run with its figures."""
    status = lumina.status()
    name = asked.one("run")
    if not name:
        return {"summary": summary(status), "trouble": trouble, "runs": [asdict(line_of(r)) for r in status.runs]}
    mine = [r for r in status.runs if r.run == name]
    figures = planned_against_actual(lumina.results(name))
    return {"summary": summary(status), "trouble": trouble, "runs": [asdict(line_of(r)) for r in mine], "figures": figures}


# --- curves ---------------------------------------------------------------------------------------------------------------


def curves(lumina: Lumina, asked: Asked) -> dict[str, Any]:
    """Return the loss and the speed of runs against tokens. Raises UsageError for an unknown run, or too many."""
    names = list(dict.fromkeys(asked.query.get("run", ())))
    if not 0 < len(names) <= MAX_CURVES:
        raise UsageError(f"{len(names)} runs to draw", f"1 to {MAX_CURVES} can be told apart")
    return {"runs": [{"run": name, **_curve(lumina.metrics(name))} for name in names]}


def _curve(metrics: list[MetricRecord]) -> dict[str, list[list[float]]]:
    """Return the points of each curve, no more than a chart shows."""
    return {figure: [list(point) for point in thinned(points_of(metrics, figure), MAX_POINTS)] for figure in CURVES}


# --- plans ----------------------------------------------------------------------------------------------------------------


def plan(lumina: Lumina, asked: Asked) -> dict[str, Any]:
    """Return the rows of a plan, cheapest first, and which of them keep within a budget and a deadline. It is not kept in the ledger.

    Raises UsageError for what cannot be meant.
    """
    model, arch = asked.one("model", "debug200m"), asked.one("arch", "dense")
    if model not in MODELS or arch not in (*ARCHS, "all"):
        raise UsageError(f"{model!r} {arch!r} is no model", f"models: {', '.join(MODELS)}; architectures: {', '.join(ARCHS)}, all")
    budget, deadline = _positive(asked, "budget"), _positive(asked, "deadline")
    request = workload_request(model, Options(arch=arch, tokens=asked.one("tokens") or None))
    document = planning.make_plan(lumina.session, request, planning.MachineFilter()).document
    rows = [_row(r, budget, deadline) for r in document.rows if r.fits]
    return {
        "tokens": document.workloads[0].tokens,
        "parameters": document.workloads[0].parameters_active,
        "rows": sorted(rows, key=lambda r: (r["usd"], r["hours"])),
        "refused": sum(not r.fits for r in document.rows),
        "type": _typed(model, arch, asked.one("tokens"), rehearsal=lumina.settings.sandbox),
        "notes": document.notes,
    }


def _row(row: PlanRow, budget: Decimal | None, deadline: Decimal | None) -> dict[str, Any]:
    usd, hours = Decimal(row.usd.mid), row.hours.mid
    within = (budget is None or usd <= budget) and (deadline is None or Decimal(repr(hours)) <= deadline)
    return {
        "arch": row.arch,
        "machine": f"{row.count} x {row.gpu}",
        "provider": row.provider + (" (interruptible)" if row.interruptible else ""),
        "launch": {"arch": row.arch, "provider": row.provider, "gpu": row.gpu, "count": row.count, "interruptible": int(row.interruptible)},
        # A chart's place, not an amount: the amounts are the texts beside it.
        "usd": float(usd),
        "hours": hours,
        "usd_text": f"{money.show(usd)} ({money.show(Decimal(row.usd.low))} to {money.show(Decimal(row.usd.high))})",
        "hours_text": f"{hours:,.3g} h ({row.hours.low:,.3g} to {row.hours.high:,.3g})",
        "loss_text": f"{row.loss.mid:.3f}",
        "basis": row.basis,
        "front": row.front,
        "within": within,
    }


def _positive(asked: Asked, name: str) -> Decimal | None:
    text = asked.one(name)
    if not text:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or not 0 < value <= Decimal(10) ** 12:
        raise UsageError(f"{name} is {text!r}, but must be a number above 0", "leave it empty for no limit")
    return value


def _typed(model: str, arch: str, tokens: str, *, rehearsal: bool) -> str:
    words = ["lumina plan", model, "--arch", arch, *(["--tokens", tokens] if tokens else [])]
    return " ".join([*words, *([SANDBOX] if rehearsal else [])])


# --- the published benchmark ----------------------------------------------------------------------------------------------


def published_against_modelled(lumina: Lumina) -> list[dict[str, Any]]:
    """Return each published row with the modelled one beside it: the same workload on the machine that is cheapest for it and fits."""
    found = []
    for model in MODELS:
        request = workload_request(model, Options(arch="all"))
        document = planning.make_plan(lumina.session, request, planning.MachineFilter(), taught=False).document
        for row in document.published:
            fitting = [r for r in document.rows if r.arch == row.arch and r.fits and r.provider != "local"]
            found.append({"published": row, "modelled": min(fitting, key=lambda r: Decimal(r.usd.mid), default=None)})
    return found


# --- prices ---------------------------------------------------------------------------------------------------------------


def prices(lumina: Lumina, asked: Asked) -> dict[str, Any]:
    """Return what a GPU cost over time: one series a kind of machine. Raises UsageError for an unknown GPU."""
    try:
        days = float(asked.one("days", "30"))
    except ValueError:
        raise UsageError(f"days is {asked.one('days')!r}, no number", "e.g. 30") from None
    document = lumina.prices(asked.one("gpu") or None, None, days)
    series: dict[str, list[tuple[str, float]]] = {}
    for p in document.seen:
        name = f"{p.count} x {p.gpu} at {p.provider}{', interruptible' if p.interruptible else ''}"
        # A chart's place, not an amount.
        series.setdefault(name, []).append((p.seen_at, float(Decimal(p.usd_per_hour))))
    largest = sorted(series, key=lambda name: -len(series[name]))[:MAX_CURVES]
    return {
        "series": [{"name": name, "points": series[name][-MAX_POINTS:]} for name in sorted(largest)],
        "left_out": len(series) - len(largest),
    }
