"""`lumina compare RUN…`: what several runs were planned to be, what they became, and their curves side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lumina_cloud.api import views
from lumina_cloud.api.documents import of_runs
from lumina_cloud.core import money

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.ledger import Ledger, MetricRecord, RunRecord

POINTS = 60
"""Points of a curve in the document; the run's own file has all."""


def compare(ledger: Ledger, runs: Sequence[RunRecord]) -> of_runs.ComparisonDocument:
    """Return runs side by side, in the order in which they were named. Losses are compared at the most tokens that all have seen."""
    curves = {run.run_id: ledger.metrics(run.run_id) for run in runs}
    common = min((_seen(curves[run.run_id]) for run in runs), default=0)
    compared = [_compared(ledger, run, curves[run.run_id], common) for run in runs]
    return of_runs.ComparisonDocument(tokens_in_common=common, runs=compared)


def _compared(ledger: Ledger, run: RunRecord, curve: Sequence[MetricRecord], common: int) -> of_runs.ComparedRun:
    charges = ledger.charges(run.run_id)
    results = views.results(run, charges, (), ledger.spent(run.run_id))
    tokens = run.result.get("tokens") or _seen(curve) or None
    usd = ledger.spent(run.run_id)
    drop = run.result.get("loss_first", 0) - run.result.get("loss_last", 0)
    return of_runs.ComparedRun(
        run=run.run_id,
        model=run.model,
        arch=run.arch,
        state=run.state,
        provider=run.provider,
        gpu=f"{run.count} x {run.gpu}",
        project=run.project,
        labels=run.labels,
        planned=results.planned,
        actual=results.actual,
        tokens=tokens,
        vocab=_vocab(run),
        loss_in_common=_loss_at(curve, common),
        usd_per_billion_tokens=money.text(usd * 1_000_000_000 / tokens) if tokens else None,
        usd_per_loss=money.text(usd / money.usd(str(round(drop, 6)))) if drop > 0 else None,
        curve=_thinned(curve),
    )


def _vocab(run: RunRecord) -> int | None:
    """Return a run's vocabulary; None of one that was found again without its configuration."""
    model = json.loads(run.config_json).get("model")
    return model.get("vocab") if isinstance(model, dict) else None


def _seen(curve: Sequence[MetricRecord]) -> int:
    return max((int(m.data.get("tokens", 0)) for m in curve), default=0)


def _loss_at(curve: Sequence[MetricRecord], tokens: int) -> float | None:
    """Return the mean loss of the last few points up to so many tokens: one batch alone says little."""
    upto = [m.data["loss"] for m in curve if m.data.get("tokens", 0) <= tokens and "loss" in m.data][-5:]
    return sum(upto) / len(upto) if upto and tokens else None


def _thinned(curve: Sequence[MetricRecord]) -> list[of_runs.CurvePoint]:
    points = [m for m in curve if "loss" in m.data]
    stride = max(1, -(-len(points) // POINTS))
    kept = [m for n, m in enumerate(points) if n % stride == 0 or n == len(points) - 1]
    return [of_runs.CurvePoint(step=m.step, tokens=m.data.get("tokens"), loss=m.data["loss"]) for m in kept]
