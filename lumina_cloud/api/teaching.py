"""What the ledger's finished runs teach the planner, and how plans turned out (`lumina accuracy`)."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import probing
from lumina_cloud.api.documents import of_plans
from lumina_cloud.catalog.gpus import CPU
from lumina_cloud.core import money, untrusted
from lumina_cloud.planner.learning import SUSPECT, Experience, Figure, Kind, Lessons, family_of
from lumina_cloud.runs.drift import MEASURES
from trainer.config import ConfigError, from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from lumina_cloud.api.probing import Probe
    from lumina_cloud.ledger import ChargeRecord, Ledger, RunRecord
    from trainer.config import RunConfig

NEWEST = 400
"""Runs that are looked at: what older ones would add is known by then."""
FIGURES = ("seconds", "usd", "peak_memory_gib", "tokens_per_second", "loss")


def finished(ledger: Ledger) -> list[RunRecord]:
    """Return the runs that have something to say, newest first. Raises LedgerError."""
    return ledger.runs(("succeeded",), limit=NEWEST)


def lessons(ledger: Ledger, runs: Sequence[RunRecord]) -> Lessons:
    """Return what finished runs teach. Raises LedgerError."""
    charges = ledger.charges_of([run.run_id for run in runs]) if runs else {}
    return Lessons(experience(run, charges.get(run.run_id, [])) for run in runs if not measures(run))


def experience(run: RunRecord, charges: Sequence[ChargeRecord]) -> Experience:
    """Return what one finished run has to say: only figures that it measured itself and that can be true."""
    ratios = []
    for figure, measured, modelled in _measured(run, charges):
        if measured is not None and modelled is not None and measured > 0 and modelled > 0:
            ratio = math.log(measured / modelled)
            if abs(ratio) < SUSPECT:
                ratios.append((figure, ratio))
    return Experience(run.gpu, run.provider, family_of(run.model, run.arch), tuple(ratios))


def _measured(run: RunRecord, charges: Sequence[ChargeRecord]) -> list[tuple[Figure, float | None, float | None]]:
    """Return (figure, measured, modelled by physics alone)."""
    result, modelled = run.result, run.planned.get("modelled", {})

    def known(name: str, fallback: str) -> float | None:
        value = modelled.get(name, run.planned.get(fallback, {}).get("mid"))
        return untrusted.number(value, 0.0, 1e12)

    speed, tokens = untrusted.number(result.get("tokens_per_second"), 0.0, 1e9), result.get("tokens")
    overhead = None
    if speed and tokens and len(charges) == 1:
        # A run that was interrupted, or taken up again, has more in it than a plan foresees.
        billed = (charges[0].until - charges[0].since).total_seconds()
        overhead = max(0.0, billed - tokens / speed) / 3600
    clean = not result.get("skipped_batches")
    return [
        ("tokens_per_second", speed, known("tokens_per_second", "tokens_per_second")),
        ("memory", untrusted.number(result.get("peak_memory_gib"), 0.0, 1e5), modelled_peak(run)),
        ("overhead", overhead, known("overhead", "")),
        ("loss", untrusted.number(result.get("loss_last"), 0.0, 1e3) if clean else None, known("loss", "loss")),
    ]


def modelled_peak(run: RunRecord) -> float | None:
    """Return what physics alone said that a run would report as its peak memory, GiB; None where it was not said.

    Plans of former releases gave that of a GPU's whole process, which no run reports.
    """
    modelled = run.planned.get("modelled", {})
    said = modelled.get("reported")
    if said is None and run.gpu == CPU:
        said = modelled.get("memory", run.planned.get("peak_memory_gib", {}).get("mid"))
    return untrusted.number(said, 1e-9, 1e5)


# --- probes that ran on rented machines ----------------------------------------------------------------------------------


def measures(run: RunRecord) -> bool:
    """Whether a run only measured: it speaks of its own workload alone, and its few steps are no plan that turned out."""
    return bool(run.planned.get(MEASURES))


def probes(ledger: Ledger, runs: Iterable[RunRecord], configs: Sequence[RunConfig], since: datetime) -> dict[Kind, Probe]:
    """Return what probes of these workloads measured since a moment, the newest of each kind of machine. Raises LedgerError."""
    made: dict[Kind, Probe] = {}
    for run in runs:
        if not measures(run) or run.created_at < since or kind_of(run) in made:
            continue
        found = _of_any(ledger, run, configs)
        if found is not None and probing.is_believed(found, run.provider):
            made[kind_of(run)] = found
    return made


def kind_of(run: RunRecord) -> Kind:
    """Return what a run's measurements speak of."""
    return Kind(run.gpu, run.provider, run.count, family_of(run.model, run.arch))


def _of_any(ledger: Ledger, run: RunRecord, configs: Sequence[RunConfig]) -> Probe | None:
    try:
        config = from_json(run.config_json)
    except ConfigError:
        # Of a release with other settings: it is made again when asked for.
        return None
    return probe_of(ledger, run) if any(probing.same_workload(config, other) for other in configs) else None


def probe_of(ledger: Ledger, run: RunRecord) -> Probe | None:
    """Return what a probe's run measured, None where it does not say it. Raises LedgerError."""
    billed = [c for c in ledger.charges(run.run_id) if c.counted and c.kind == "gpu"]
    seconds = sum((c.until - c.since).total_seconds() for c in billed)
    # A machine that never came up before it is no part of how soon one is at work, nor is one's idle time after its work.
    ended = {r.rental_id: r.work_ended_at for r in ledger.rentals(run.run_id)}.get(billed[0].rental_id) if len(billed) == 1 else None
    return probing.measured(
        ledger.metrics(run.run_id),
        run.result,
        run.planned.get("modelled", {}),
        seconds=seconds,
        at_work=None if ended is None else max(0.0, (ended - billed[0].since).total_seconds()),
        usd=money.text(ledger.spent(run.run_id)),
    )


# --- how plans turned out ------------------------------------------------------------------------------------------------


def accuracy(ledger: Ledger) -> of_plans.AccuracyDocument:
    """Return predicted against actual, per figure, over all finished runs, newest first. Raises LedgerError."""
    runs = [run for run in ledger.runs(("succeeded",)) if not measures(run)]
    charges = ledger.charges_of([run.run_id for run in runs]) if runs else {}
    rows = [row for run in runs for row in accuracy_rows(run, charges.get(run.run_id, []))]
    figures = [_summary(figure, [r for r in rows if r.figure == figure]) for figure in FIGURES]
    return of_plans.AccuracyDocument(runs=len(runs), figures=[f for f in figures if f.runs], rows=rows)


def accuracy_rows(run: RunRecord, charges: Sequence[ChargeRecord]) -> list[of_plans.PredictedActual]:
    """Return predicted against actual of one finished run, a row a figure that is known of both."""
    counted = [c for c in charges if c.counted]
    actual: dict[str, Any] = {
        "seconds": sum((c.until - c.since).total_seconds() for c in counted if c.kind == "gpu") or None,
        "usd": float(sum(c.usd for c in counted)) or None,
        "peak_memory_gib": None if modelled_peak(run) is None else run.result.get("peak_memory_gib"),
        "tokens_per_second": run.result.get("tokens_per_second"),
        "loss": run.result.get("loss_last"),
    }
    out = []
    for figure in FIGURES:
        planned = run.planned.get(figure, {})
        measured = untrusted.number(actual[figure], 0.0, 1e12)
        try:
            low, mid, high = (float(planned[name]) for name in ("low", "mid", "high"))
        except (KeyError, TypeError, ValueError):
            continue
        if measured is None or mid <= 0:
            continue
        out.append(
            of_plans.PredictedActual(
                run=run.run_id,
                model=run.model,
                arch=run.arch,
                gpu=run.gpu,
                provider=run.provider,
                figure=figure,
                predicted=mid,
                low=low,
                high=high,
                actual=measured,
                ratio=measured / mid,
                within=low <= measured <= high,
                learned_from=measured > 0 and abs(math.log(measured / mid)) < SUSPECT,
            )
        )
    return out


def _summary(figure: str, rows: Sequence[of_plans.PredictedActual]) -> of_plans.AccuracyOfFigure:
    if not rows:
        return of_plans.AccuracyOfFigure(figure=figure, runs=0, median_ratio=1.0, median_error_percent=0.0, within_interval=0)
    return of_plans.AccuracyOfFigure(
        figure=figure,
        runs=len(rows),
        median_ratio=round(median(r.ratio for r in rows), 4),
        median_error_percent=round(100 * median(abs(r.ratio - 1) for r in rows), 2),
        within_interval=sum(r.within for r in rows),
    )
