"""What a running machine tells us: heartbeat, metrics, how it ended. All of it is hostile until it passed `untrusted`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina_cloud.core import untrusted
from lumina_cloud.ledger import MetricRecord
from lumina_cloud.runs.decide import Exit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lumina_cloud.remote.box import Box

PHASES = ("preparing", "training", "evaluating", "saving", "done")
_EXITS = ("finished", "stopped", "deadline", "lease", "crashed")

# Bounds of what a trainer can truthfully say. A figure outside is dropped.
_BOUNDS: dict[str, tuple[float, float]] = {
    "loss": (0.0, 1e4),
    "loss_first": (0.0, 1e4),
    "loss_last": (0.0, 1e4),
    "perplexity": (1.0, 1e300),
    "lr": (0.0, 1e3),
    "grad_norm": (0.0, 1e12),
    "tokens_per_second": (0.0, 1e9),
    "recent_tokens_per_second": (0.0, 1e9),
    "seconds": (0.0, 1e9),
    "peak_memory_gib": (0.0, 1e5),
    "epochs": (0.0, 1e6),
    "bits_per_byte": (0.0, 1e3),
    "data_wait_share": (0.0, 1.0),
    "speed_over_plan": (0.0, 1e6),
    "seconds_over_plan": (0.0, 1e9),
    "remaining_seconds": (0.0, 1e9),
    "seconds_to_first_step": (0.0, 1e9),
    "expert_utilisation": (0.0, 1.0),
    "load_balance": (0.0, 1.0),
    "skip_rate": (0.0, 1.0),
    "predictor_precision": (0.0, 1.0),
    "predictor_recall": (0.0, 1.0),
}
_COUNTS = ("step", "steps", "tokens", "skipped_batches")


def heartbeat(box: Box) -> dict[str, Any]:
    """Return the trainer's last heartbeat, cleaned; empty when there is none."""
    raw = box.read("out/heartbeat.json")
    parsed = untrusted.json_object(raw) if raw else None
    if parsed is None or parsed.get("phase") not in PHASES:
        return {}
    return {"phase": parsed["phase"], **figures(parsed)}


def exit_of(box: Box) -> Exit | None:
    """Return how the trainer ended, None while it has not."""
    raw = box.read("exit.json")
    parsed = untrusted.json_object(raw) if raw else None
    if parsed is None:
        return None
    code = untrusted.whole(parsed.get("returncode"), -255, 255)
    reason = parsed.get("reason")
    return Exit(returncode=1 if code is None else code, reason=reason if reason in _EXITS else "crashed")


def figures(parsed: dict[str, Any]) -> dict[str, Any]:
    """Return the known figures of a JSON object that lie within bounds."""
    kept: dict[str, Any] = {}
    for name in _COUNTS:
        count = untrusted.whole(parsed.get(name), 0, 10**18)
        if count is not None:
            kept[name] = count
    for name, (low, high) in _BOUNDS.items():
        value = untrusted.number(parsed.get(name), low, high)
        if value is not None:
            kept[name] = value
    return kept


def metrics(run_id: str, lines: Iterable[bytes]) -> list[MetricRecord]:
    """Return the steps that whole lines of `metrics.jsonl` describe; lines that say nothing sensible are left out."""
    by_step: dict[int, MetricRecord] = {}
    for raw in lines:
        parsed = untrusted.json_object(raw)
        kept = figures(parsed) if parsed is not None else {}
        step = kept.get("step", 0)
        if step > 0 and "loss" in kept:
            by_step[step] = MetricRecord(run_id=run_id, step=step, data=kept)
    return [by_step[step] for step in sorted(by_step)]


def result(raw: bytes) -> dict[str, Any] | None:
    """Return a trainer's `result.json`, cleaned, or None when it is no such thing."""
    parsed = untrusted.json_object(raw)
    if parsed is None:
        return None
    kept = figures(parsed)
    if not {"loss_first", "loss_last", "tokens", "seconds"} <= kept.keys():
        return None
    for name in ("versions", "sample", "parameters", "routing"):
        part = parsed.get(name)
        if isinstance(part, dict):
            kept[name] = {untrusted.line(k, 60): _plain(v) for k, v in list(part.items())[:40]}
    device = parsed.get("device")
    if isinstance(device, str):
        kept["device"] = untrusted.line(device, 60)
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return untrusted.block(value, max_lines=60)
    number = untrusted.number(value, -1e300, 1e300)
    return value if number is not None else None
