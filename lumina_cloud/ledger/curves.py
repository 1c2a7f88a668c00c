"""Metrics as the ledger keeps them: a selection of steps that is even, small, and the same in whatever portions they came.

Of a run's steps every `stride`-th is kept, and the last; the stride doubles whenever more than `MAX_POINTS` would be. The whole
record is the run's own `metrics.jsonl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina_cloud.ledger.records import CurveRecord, MetricRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_POINTS = 512


def extended(curve: CurveRecord | None, run_id: str, metrics: Iterable[MetricRecord]) -> CurveRecord:
    """Return a curve with more steps in it; a step that is known already is replaced."""
    points = {} if curve is None else {m.step: m.data for m in points_of(curve)}
    points.update((m.step, m.data) for m in metrics)
    stride = 1 if curve is None else curve.stride
    last = max(points, default=0)
    kept = _kept(points, stride, last)
    while len(kept) > MAX_POINTS:
        stride *= 2
        kept = _kept(points, stride, last)
    return CurveRecord(run_id, stride, last, _columns({step: points[step] for step in kept}))


def points_of(curve: CurveRecord) -> list[MetricRecord]:
    """Return a curve's steps in their order."""
    columns = dict(curve.columns)
    steps: list[int] = columns.pop("step", [])
    return [
        MetricRecord(curve.run_id, step, {"step": step, **{k: v[n] for k, v in columns.items() if v[n] is not None}})
        for n, step in enumerate(steps)
    ]


def _kept(points: dict[int, dict[str, Any]], stride: int, last: int) -> list[int]:
    return [step for step in sorted(points) if (step - 1) % stride == 0 or step == last]


def _columns(points: dict[int, dict[str, Any]]) -> dict[str, Any]:
    names = {name: None for data in points.values() for name in data if name != "step"}
    return {"step": list(points), **{name: [data.get(name) for data in points.values()] for name in names}}
