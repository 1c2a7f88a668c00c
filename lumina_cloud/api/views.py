"""What is read back from the ledger: status, results, costs. Pure functions of records."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.api.documents import of_money, of_runs
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.clock import iso
from lumina_cloud.runs.states import ACTIVE, FINAL, REASONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.ledger import ArtifactRecord, ChargeRecord, CostRow, EventRecord, RentalRecord, RunRecord, SpendingRecord

PERIODS = ("day", "week", "month")
ENDED = FINAL
"""States of a run that is over, for whoever shows runs."""
LOST = tuple(of_money.LostMoney.model_fields)
LOG_LINES = 15
LOG_BYTES = 64_000


def extended(was: RunRecord, run: RunRecord, spent: Decimal, *, told: bool) -> of_runs.ExtendDocument:
    """Return the answer of `lumina extend`."""
    return of_runs.ExtendDocument(
        run=run.run_id,
        state=run.state,
        usd_cap_was=money.text(was.usd_cap),
        usd_cap=money.text(run.usd_cap),
        hours_cap=run.seconds_cap / 3600,
        usd_spent=money.text(spent),
        told=told,
    )


def running_cost(charges: Sequence[ChargeRecord], open_rentals: Sequence[RentalRecord], now: datetime) -> Decimal:
    """Return what charges say, plus what open rentals have cost since their last reading."""
    total = sum((c.usd for c in charges), Decimal(0))
    for rental in open_rentals:
        if rental.state in ("booting", "ready", "terminating"):
            last = next((c.until for c in charges if c.rental_id == rental.rental_id), rental.intended_at)
            total += money.for_time(rental.usd_per_hour, max(timedelta(0), now - last))
    return total


def run_status(run: RunRecord, spent: Decimal, now: datetime) -> of_runs.RunStatus:
    """Return one run as `status` shows it."""
    progress = run.progress
    return of_runs.RunStatus(
        run=run.run_id,
        model=run.model,
        arch=run.arch,
        state=run.state,
        reason=run.reason,
        provider=run.provider,
        gpu=run.gpu,
        started_at=_iso(run.started_at),
        ended_at=_iso(run.ended_at),
        usd_spent=money.text(spent),
        usd_cap=money.text(run.usd_cap),
        step=progress.get("step"),
        steps=progress.get("steps"),
        loss=run.result.get("loss_last") or progress.get("loss"),
        tokens_per_second=run.result.get("tokens_per_second") or progress.get("tokens_per_second"),
        estimated_end=_iso(estimated_end(run, now)),
    )


def estimated_end(run: RunRecord, now: datetime) -> datetime | None:
    """Return when the run will probably end: by its own speed once it has one, else by the plan."""
    if run.state not in ACTIVE:
        return None
    left = seconds_left(run)
    if left is not None:
        return now + timedelta(seconds=left)
    planned = run.planned.get("seconds", {}).get("mid")
    return max(now, run.created_at + timedelta(seconds=planned)) if planned is not None and planned < 1e9 else None


def seconds_left(run: RunRecord) -> float | None:
    """Return how long training will still take at its present speed, None before there is one."""
    p = run.progress
    if run.state != "training" or not (p.get("step") and p.get("steps") and p.get("tokens") and p.get("tokens_per_second")):
        return None
    left: float = p["tokens"] / p["step"] * max(0, p["steps"] - p["step"]) / p["tokens_per_second"]
    return left if left < 1e9 else None


def rental_status(rental: RentalRecord) -> of_runs.RentalStatus:
    """Return one rental as `status` shows it."""
    return of_runs.RentalStatus(
        rental=rental.rental_id,
        run=rental.run_id,
        provider=rental.provider,
        instance=None if rental.instance_id is None else untrusted.line(rental.instance_id, 120),
        state=rental.state,
    )


def results(
    run: RunRecord,
    charges: Sequence[ChargeRecord],
    artifacts: Sequence[ArtifactRecord],
    spent: Decimal,
    said: str = "",
) -> of_runs.ResultsDocument:
    """Return what was planned beside what came out; `said` is what the provider or the machine said of its end."""
    actual = run.result
    return of_runs.ResultsDocument(
        run=run.run_id,
        model=run.model,
        arch=run.arch,
        state=run.state,
        reason=run.reason,
        reason_text=reason_text(run, said),
        planned=_planned(run.planned),
        actual=of_runs.Outcome(
            seconds=_billed_seconds(charges),
            usd=money.text(spent),
            peak_memory_gib=actual.get("peak_memory_gib"),
            tokens_per_second=actual.get("tokens_per_second") or run.progress.get("tokens_per_second"),
            loss=actual.get("loss_last"),
        ),
        loss_first=actual.get("loss_first"),
        loss_last=actual.get("loss_last"),
        tokens=actual.get("tokens") or run.progress.get("tokens"),
        folder=run.folder,
        artifacts=[of_runs.Artifact(path=a.path, bytes=a.n_bytes, sha256=a.sha256) for a in artifacts],
        details={k: v for k, v in actual.items() if k not in ("loss_first", "loss_last", "tokens")},
        log_tail=log_tail(run),
    )


def reason_text(run: RunRecord, said: str = "") -> str:
    """Return why a run ended, in words, with what the provider or the machine said of it; empty while it goes on."""
    words = next((words for reason, (_event, words) in REASONS.items() if reason == run.reason), "")
    if not words or run.reason == "finished":
        return words
    if said:
        words = f"{words} ({said})"
    return f"{words}; {'its last checkpoint is here' if has_checkpoint(run) else 'there is no checkpoint of it here'}"


def said_of_its_end(run: RunRecord, events: Sequence[EventRecord]) -> str:
    """Return what the provider or the machine said of the end for which the run's reason stands, on one line; empty where nothing."""
    last = next((e.data for e in reversed(events) if e.kind == "run.work_ended"), {})
    return untrusted.line(str(last.get("detail", "")), 200) if last.get("reason") == run.reason else ""


def has_checkpoint(run: RunRecord) -> bool:
    """Whether a checkpoint of the run came home."""
    return any((Path(run.folder) / "checkpoints").glob("step-*"))


def log_tail(run: RunRecord, max_lines: int = LOG_LINES) -> str:
    """Return the last lines of a run's log, safe to print; empty when there is none."""
    path = Path(run.folder) / "log.txt"
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - LOG_BYTES))
            return untrusted.block(handle.read().rstrip(b"\n"), max_lines=max_lines)
    except OSError:
        return ""


def read_log(run: RunRecord, offset: int, limit: int = 1 << 20) -> bytes:
    """Return bytes of a fetched log from `offset`; empty at its end or when there is none."""
    try:
        with (Path(run.folder) / "log.txt").open("rb") as handle:
            handle.seek(offset)
            return handle.read(limit)
    except OSError:
        return b""


def costs(by: str, rows: Sequence[CostRow], total: SpendingRecord | None, forecast: of_money.Forecast) -> of_money.CostsDocument:
    """Return spending by one key: periods in their order, anything else largest first."""
    known = [r.spending for r in rows if r.spending is not None]
    if by in PERIODS:
        known.sort(key=lambda s: s.key)
    return of_money.CostsDocument(
        by=by,
        total_usd=money.text(Decimal(0) if total is None else money.from_micros(total.usd_micros)),
        rows=[cost_row(spending, spending.key) for spending in known],
        total=None if total is None else cost_row(total, "total"),
        forecast=forecast,
    )


def cost_row(spending: SpendingRecord, key: str) -> of_money.CostRow:
    """Return the money under one key as scripts read it."""

    def text(micros: int) -> str:
        return money.text(money.from_micros(micros))

    usd = money.from_micros(spending.usd_micros)
    drop = Decimal(spending.loss_drop_millionths) / 1_000_000
    planned = spending.planned_micros or spending.planned_actual_micros
    return of_money.CostRow(
        key=key,
        usd=text(spending.usd_micros),
        hours=round(spending.microseconds / 3.6e9, 6),
        runs=spending.runs,
        usd_training=text(spending.training_micros),
        usd_lost=text(spending.usd_micros - spending.training_micros),
        lost=of_money.LostMoney(**{name: text(getattr(spending, f"{name}_micros")) for name in LOST}),
        usd_billed=text(spending.billed_micros),
        tokens=spending.tokens,
        usd_per_billion_tokens=money.text(usd * 1_000_000_000 / spending.tokens) if spending.tokens else None,
        loss_drop=float(drop),
        usd_per_loss=money.text(usd / drop) if drop else None,
        planned_usd=text(spending.planned_micros) if planned else None,
        actual_usd=text(spending.planned_actual_micros) if planned else None,
    )


def _planned(planned: dict[str, Any]) -> of_runs.Outcome:
    def mid(name: str) -> Any:
        return planned.get(name, {}).get("mid")

    return of_runs.Outcome(
        seconds=mid("seconds"),
        usd=mid("usd"),
        peak_memory_gib=mid("peak_memory_gib"),
        tokens_per_second=mid("tokens_per_second"),
        loss=mid("loss"),
    )


def _billed_seconds(charges: Sequence[ChargeRecord]) -> float | None:
    return sum((c.until - c.since).total_seconds() for c in charges) if charges else None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)
