"""Where each micro-dollar of a run went: a pure function from its rentals and charges to sums under every key that costs can be shown by.

A charge is cut at midnights (UTC) and where its rental passed from booting to training to idling, and its whole micro-dollars are
shared out by time without one lost or made. What belongs to a run as a whole (its tokens, how far its loss fell, what its plan
expected) is shared out in proportion to its money, so that sums over any dimension agree.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lumina_cloud.core import money
from lumina_cloud.ledger.records import SpendingRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Literal

    from lumina_cloud.ledger.records import ChargeRecord, RentalRecord, RunRecord

    Purpose = Literal["training", "boot", "failed", "interrupted", "idle", "storage", "traffic", "other"]

MEASURES = tuple(name for name in SpendingRecord.__dataclass_fields__ if name not in ("dimension", "key"))
PERIODS = ("day", "week", "month")
DIMENSIONS = ("all", "model", "arch", "provider", "gpu", "project", "label", *PERIODS, "project_month")

Cell = tuple[str, str]
Cells = dict[Cell, dict[str, int]]

_ZERO = timedelta(0)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class _Piece:
    """Part of a charge that lies within one day and one phase."""

    at: datetime
    micros: int
    microseconds: int
    purpose: Purpose
    billed: bool
    provider: str
    gpu: str


def cells(run: RunRecord, rentals: Sequence[RentalRecord], charges: Sequence[ChargeRecord]) -> Cells:
    """Return what one run adds to each cell of the spending table."""
    by_id = {r.rental_id: r for r in rentals}
    counted = sorted((c for c in charges if c.counted), key=lambda c: (c.since, c.charge_id))
    pieces = [piece for charge in counted for piece in _pieces(charge, by_id.get(charge.rental_id), run)]
    made: Cells = {}
    for dimension in DIMENSIONS:
        made.update(_dimension(dimension, run, pieces))
    return made


def difference(before: Cells, after: Cells) -> Cells:
    """Return what has to be added to the table so that it holds `after` in place of `before`."""
    changes: Cells = {}
    for cell in before.keys() | after.keys():
        old, new = before.get(cell, {}), after.get(cell, {})
        delta = {m: new.get(m, 0) - old.get(m, 0) for m in old.keys() | new.keys()}
        if any(delta.values()):
            changes[cell] = delta
    return changes


def summed(many: Iterable[Cells]) -> Cells:
    """Return the sum of several runs' cells."""
    total: Cells = {}
    for one in many:
        for cell, measures in one.items():
            kept = total.setdefault(cell, {})
            for name, value in measures.items():
                kept[name] = kept.get(name, 0) + value
    return {cell: kept for cell, kept in total.items() if any(kept.values())}


def record(cell: Cell, measures: Mapping[str, int]) -> SpendingRecord:
    """Return a cell as it is kept."""
    dimension, key = cell
    return SpendingRecord(dimension=dimension, key=key, **{name: measures.get(name, 0) for name in MEASURES})


# --- one dimension -------------------------------------------------------------------------------------------------------


def _dimension(dimension: str, run: RunRecord, pieces: Sequence[_Piece]) -> Cells:
    if dimension == "label":
        # A run of several labels is whole under each of them.
        return {("label", label): measures for label in run.labels or [""] for measures in _dimension("all", run, pieces).values()}
    made: dict[str, dict[str, int]] = {}
    for piece in pieces:
        sums = made.setdefault(_key(dimension, run, piece), defaultdict(int))
        sums["usd_micros"] += piece.micros
        sums[f"{piece.purpose}_micros"] += piece.micros
        sums["billed_micros"] += piece.micros if piece.billed else 0
        sums["microseconds"] += piece.microseconds
    _share_out(run, made)
    for nth, sums in enumerate(made.values()):
        # A run is counted in the period in which it was first charged, and under each provider and GPU that it had.
        sums["runs"] += 1 if nth == 0 or dimension not in (*PERIODS, "project_month") else 0
    return {(dimension, key): dict(sums) for key, sums in made.items()}


def _key(dimension: str, run: RunRecord, piece: _Piece) -> str:
    match dimension:
        case "model" | "arch" | "project":
            return str(getattr(run, dimension))
        case "provider" | "gpu":
            return str(getattr(piece, dimension))
        case "day":
            return f"{piece.at:%Y-%m-%d}"
        case "week":
            year, week, _day = piece.at.isocalendar()
            return f"{year}-W{week:02d}"
        case "month":
            return f"{piece.at:%Y-%m}"
        case "project_month":
            return f"{piece.at:%Y-%m}/{run.project}"
        case _:
            return ""


def _share_out(run: RunRecord, made: Mapping[str, dict[str, int]]) -> None:
    """Give each key its part of what the run achieved, by money; with no money at all the first key has it."""
    total = sum(sums["usd_micros"] for sums in made.values())
    for name, amount in _of_the_run(run, total).items():
        so_far = given = 0
        for nth, sums in enumerate(made.values()):
            so_far += sums["usd_micros"]
            upto = amount * so_far // total if total else (amount if nth == 0 else given)
            sums[name] += upto - given
            given = upto


def _of_the_run(run: RunRecord, usd_micros: int) -> dict[str, int]:
    tokens, first, last = (run.result.get(name) for name in ("tokens", "loss_first", "loss_last"))
    made = {"tokens": tokens if isinstance(tokens, int) else 0}
    if isinstance(first, int | float) and isinstance(last, int | float) and first > last:
        made["loss_drop_millionths"] = round((first - last) * 1e6)
    planned = run.planned.get("usd", {}).get("mid") if run.state == "succeeded" else None
    if planned is not None:
        made["planned_micros"] = money.to_micros(money.usd(str(planned)))
        made["planned_actual_micros"] = usd_micros
    return made


# --- one charge ----------------------------------------------------------------------------------------------------------


def _pieces(charge: ChargeRecord, rental: RentalRecord | None, run: RunRecord) -> Iterator[_Piece]:
    """Cut a charge where its day or its phase changes; the pieces add up to it exactly."""
    micros, whole = money.to_micros(charge.usd), (charge.until - charge.since) // _MICROSECOND
    trained_at = _training_began(rental, run)
    cuts = {charge.since, charge.until, *_midnights(charge.since, charge.until)}
    if charge.kind == "gpu" and rental is not None:
        cuts |= {m for m in (trained_at, rental.work_ended_at, rental.saved_at) if m is not None and charge.since < m < charge.until}
    moments = sorted(cuts)
    given = 0
    for start, end in zip(moments, moments[1:] or moments, strict=False):
        upto = micros if end == charge.until else micros * ((end - charge.since) // _MICROSECOND) // whole
        yield _Piece(
            at=start.astimezone(UTC),
            micros=upto - given,
            microseconds=(end - start) // _MICROSECOND if charge.kind == "gpu" else 0,
            purpose=charge.kind if charge.kind != "gpu" else _phase(start, rental, trained_at),
            billed=charge.basis == "billed",
            provider=charge.provider,
            gpu=run.gpu if rental is None else rental.gpu,
        )
        given = upto


def _midnights(since: datetime, until: datetime) -> Iterator[datetime]:
    day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    while day < until:
        yield day
        day += timedelta(days=1)


def _training_began(rental: RentalRecord | None, run: RunRecord) -> datetime | None:
    """Return when training began on a machine; of a ledger's first release only the run says so, for its first one."""
    if rental is None or rental.training_at is not None or run.started_at is None:
        return None if rental is None else rental.training_at
    return run.started_at if rental.intended_at <= run.started_at <= (rental.ended_at or run.started_at) else None


def _phase(at: datetime, rental: RentalRecord | None, trained_at: datetime | None) -> Purpose:
    if rental is None:
        return "training"
    if trained_at is None:
        return "failed" if rental.state in ("ended", "lost") else "boot"
    if at < trained_at:
        return "boot"
    if rental.work_ended_at is not None and at >= rental.work_ended_at:
        return "idle"
    if rental.ending == "interrupted" and at >= (rental.saved_at or trained_at):
        return "interrupted"
    return "training"
