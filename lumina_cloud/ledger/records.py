"""What the ledger holds, as frozen records: money in `Decimal` dollars, times aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

RUN_STATES = ("planned", "provisioning", "preparing", "training", "finishing", "succeeded", "failed", "stopped")
RENTAL_STATES = ("intended", "creating", "booting", "ready", "terminating", "ended", "lost")

RunState = Literal["planned", "provisioning", "preparing", "training", "finishing", "succeeded", "failed", "stopped"]
RentalState = Literal["intended", "creating", "booting", "ready", "terminating", "ended", "lost"]
Basis = Literal["metered", "billed"]
CostKey = Literal["model", "arch", "provider", "gpu", "month"]


@dataclass(frozen=True)
class PlanRecord:
    """A plan: what was asked, and the document that answered."""

    plan_id: str
    created_at: datetime
    request: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One training job. `planned` holds ranges of seconds, usd, peak_memory_gib, tokens_per_second and loss."""

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


@dataclass(frozen=True)
class EventRecord:
    """Something that happened; never changed, never removed."""

    event_id: int
    at: datetime
    run_id: str | None
    rental_id: str | None
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class ArtifactRecord:
    """A file that came home."""

    run_id: str
    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class MetricRecord:
    """One step of a run."""

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
class CostRow:
    """Spending under one key; `hours` are billed machine hours."""

    key: str
    usd: Decimal
    hours: float
    runs: int
