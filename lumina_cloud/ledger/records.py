"""What the ledger holds, as frozen records: money in `Decimal` dollars, times aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

RUN_STATES = ("planned", "provisioning", "preparing", "training", "finishing", "succeeded", "failed", "stopped")
RENTAL_STATES = ("intended", "creating", "booting", "ready", "terminating", "ended", "lost")

RunState = Literal["planned", "provisioning", "preparing", "training", "finishing", "succeeded", "failed", "stopped"]
RentalState = Literal["intended", "creating", "booting", "ready", "terminating", "ended", "lost"]
Basis = Literal["metered", "billed"]
ChargeKind = Literal["gpu", "storage", "traffic", "other"]
Ending = Literal["", "finished", "stopped", "failed", "interrupted"]
CostKey = Literal["model", "arch", "provider", "gpu", "project", "label", "day", "week", "month"]


@dataclass(frozen=True)
class PlanRecord:
    """A plan: what was asked, and the document that answered."""

    plan_id: str
    created_at: datetime
    request: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One training job. `planned` holds ranges of seconds, usd, peak_memory_gib, tokens_per_second and loss, as a run reports them."""

    run_id: str
    created_at: datetime
    model: str
    arch: str
    state: RunState
    reason: str
    config_json: str
    plan_id: str | None
    provider: str
    gpu: str
    count: int
    usd_per_hour: Decimal
    planned: dict[str, Any]
    usd_cap: Decimal
    seconds_cap: float
    data_path: str | None
    folder: str
    started_at: datetime | None
    ended_at: datetime | None
    stop_requested_at: datetime | None
    progress: dict[str, Any]
    """The trainer's last heartbeat."""
    result: dict[str, Any]
    project: str = ""
    """What the money is for; empty when nobody said."""
    labels: list[str] = field(default_factory=list)
    """Free words, or `name=value`, by which costs can be shown."""


@dataclass(frozen=True)
class RentalRecord:
    """One machine from intent to end."""

    rental_id: str
    run_id: str
    attempt: int
    tag: str
    provider: str
    gpu: str
    count: int
    usd_per_hour: Decimal
    offer_id: str
    instance_id: str | None
    state: RentalState
    intended_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None
    training_at: datetime | None = None
    """When the trainer made its first step on this machine; before that it booted."""
    work_ended_at: datetime | None = None
    """When the trainer was over; after that the machine idled until it ended."""
    saved_at: datetime | None = None
    """When the last checkpoint that is safe was made: an interruption loses what came after."""
    ending: Ending = ""
    """How its work ended; empty while it goes on, and when it never began."""
    interruptible: bool = False


@dataclass(frozen=True)
class ChargeRecord:
    """Money for an interval. `metered` by us, or `billed` by the provider."""

    charge_id: str
    run_id: str
    rental_id: str
    provider: str
    usd: Decimal
    usd_per_hour: Decimal
    since: datetime
    until: datetime
    basis: Basis
    kind: ChargeKind = "gpu"
    """What it is for: the machine's time, or what its provider bills beside it."""
    counted: bool = True
    """Whether it counts as spent: a metered charge no more does once the provider's own bill is here."""
    source: str = ""
    """The provider's own id of it, when it is billed."""


@dataclass(frozen=True)
class HoldRecord:
    """Money kept back for a rental before it is created: the most that it may cost. Settled when its charges are known."""

    rental_id: str
    run_id: str
    usd: Decimal
    made_at: datetime
    settled_at: datetime | None = None


@dataclass(frozen=True)
class LeaseRecord:
    """Which controller drives a run, and until when if nothing is heard of it.

    `fence` grows with each taking-over: what a controller of a lower one writes is refused.
    """

    run_id: str
    fence: int
    holder: str
    """The controller; empty when it has let go."""
    place: str
    """The computer, its start and the home folder: who is in the same place can tell whether that controller lives."""
    until: datetime


@dataclass(frozen=True)
class EventRecord:
    """Something that happened; never changed, never removed."""

    event_id: int
    at: datetime
    run_id: str | None
    rental_id: str | None
    kind: str
    data: dict[str, Any]
    previous: str = ""
    """Seal of the event before it, so that none can be taken out unseen."""


@dataclass(frozen=True)
class ArtifactRecord:
    """A file that came home."""

    run_id: str
    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class MetricRecord:
    """One step of a run. The ledger keeps a thinned-out selection; the run's own `metrics.jsonl` has all of them."""

    run_id: str
    step: int
    data: dict[str, Any]


@dataclass(frozen=True)
class PriceRecord:
    """The lowest price that a market asked for one kind of machine at a moment. `offers` is how many there were."""

    seen_at: datetime
    provider: str
    gpu: str
    count: int
    interruptible: bool
    usd_per_hour: Decimal
    offers: int


@dataclass(frozen=True)
class SpendingRecord:
    """Money under one key of one dimension, kept up to date by every transaction, in whole micro-dollars and micro-seconds.

    `usd_micros` is the sum of the eight parts that follow it, of which `billed_micros` has been billed by a provider.
    """

    dimension: str
    key: str
    usd_micros: int = 0
    training_micros: int = 0
    boot_micros: int = 0
    failed_micros: int = 0
    interrupted_micros: int = 0
    idle_micros: int = 0
    storage_micros: int = 0
    traffic_micros: int = 0
    other_micros: int = 0
    billed_micros: int = 0
    microseconds: int = 0
    """Machine time."""
    runs: int = 0
    tokens: int = 0
    loss_drop_millionths: int = 0
    """Validation loss before the first step less that after the last, summed over runs."""
    planned_micros: int = 0
    """What the plans of runs that succeeded expected."""
    planned_actual_micros: int = 0
    """What those same runs cost."""


@dataclass(frozen=True)
class CurveRecord:
    """A run's metrics, thinned out: `columns` holds one list a figure, `step` among them, all of the same length."""

    run_id: str
    stride: int
    last_step: int
    columns: dict[str, Any]


@dataclass(frozen=True)
class BudgetRecord:
    """The most that a project may cost in a month; an empty project is all of them, an empty month every month."""

    project: str
    month: str
    usd_cap: Decimal
    set_at: datetime


@dataclass(frozen=True)
class NoticeRecord:
    """Something that the user is to be told by a webhook. `notice_id` says what happened: it is told once."""

    notice_id: str
    at: datetime
    kind: str
    run_id: str | None
    body: dict[str, Any]
    state: Literal["due", "sent", "given_up"]
    attempts: int
    due_at: datetime
    error: str


@dataclass(frozen=True)
class SweepRecord:
    """Many runs over a grid of settings, under one budget."""

    sweep_id: str
    created_at: datetime
    spec: dict[str, Any]
    usd_cap: Decimal
    state: Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class FactRecord:
    """Something that the ledger knows about itself: its own id, its number of commits, the head of its events."""

    name: str
    value: str


@dataclass(frozen=True)
class CostRow:
    """Spending under one key; `hours` are billed machine hours."""

    key: str
    usd: Decimal
    hours: float
    runs: int
    spending: SpendingRecord | None = None
