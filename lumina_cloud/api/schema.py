"""The documents that `--json` prints: kept keys, money as decimal strings of dollars, times as ISO 8601 in UTC."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Root of all documents: fixed once built."""

    model_config = ConfigDict(frozen=True)


class Range(Document):
    """An estimate with its 80 % interval."""

    low: float
    mid: float
    high: float


class MoneyRange(Document):
    """An estimate of money, decimal strings in dollars."""

    low: str
    mid: str
    high: str


class Layout(Document):
    """How the work is spread over the GPUs."""

    micro_batch: int
    grad_accum: int
    zero_stage: int
    checkpointing: str
    offload: str
    expert_parallel: int


class PlanRow(Document):
    """One model and architecture on one kind of machine. `memory_gib` is per GPU, the rest for the whole layout."""

    model: str
    arch: str
    gpu: str
    count: int
    provider: str
    interruptible: bool
    usd_per_hour: str
    fits: bool
    layout: Layout
    basis: str
    memory_gib: Range
    usable_memory_gib: float
    tokens_per_second: Range
    hours: Range
    usd: MoneyRange
    loss: Range


class Published(Document):
    """A row of the published benchmark, its figures unchanged, and the checks that they fail."""

    model: str
    arch: str
    loss: float
    ppl: float
    hours: float
    vram_gb: float
    tokens_per_second: float
    usd: str
    hardware: str
    fails: list[str]


class Recommended(Document):
    """What to rent, and why."""

    model: str
    arch: str
    gpu: str
    count: int
    provider: str
    interruptible: bool
    layout: Layout
    usd: MoneyRange
    hours: Range
    reason: str


class Workload(Document):
    """What is to be computed, for one architecture."""

    model: str
    arch: str
    parameters_total: int
    parameters_active: int
    tokens: int
    unique_tokens: int
    epochs: float
    seq_len: int
    global_batch_tokens: int
    steps: int
    data: str


class PlanDocument(Document):
    """`lumina plan --json`."""

    plan: str
    workloads: list[Workload]
    rows: list[PlanRow]
    published: list[Published]
    recommendation: Recommended | None
    refused: list[str]
    notes: list[str]


class LaunchDocument(Document):
    """The last line of `lumina launch`."""

    run: str
    state: str
    reason: str
    usd: str


class DryRun(Document):
    """`lumina launch --dry-run --json`: what would be rented, and the most it could cost."""

    plan: str
    row: PlanRow
    workload: Workload
    usd_cap: str
    hours_cap: float
    config: dict[str, Any]


class RunStatus(Document):
    """One run."""

    run: str
    model: str
    arch: str
    state: str
    reason: str
    provider: str
    gpu: str
    started_at: str | None
    ended_at: str | None
    usd_spent: str
    usd_cap: str
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_second: float | None
    estimated_end: str | None


class RentalStatus(Document):
    """One rental that has not ended."""

    rental: str
    run: str
    provider: str
    instance: str | None
    state: str


class StatusDocument(Document):
    """`lumina status --json`."""

    runs: list[RunStatus]
    rentals: list[RentalStatus]


class Outcome(Document):
    """Planned or actual figures of a run; None where there is none."""

    seconds: float | None
    usd: str | None
    peak_memory_gib: float | None
    tokens_per_second: float | None
    loss: float | None


class Artifact(Document):
    """A file that came home."""

    path: str
    bytes: int
    sha256: str


class ResultsDocument(Document):
    """`lumina results RUN --json`."""

    run: str
    model: str
    arch: str
    state: str
    reason: str
    reason_text: str
    planned: Outcome
    actual: Outcome
    loss_first: float | None
    loss_last: float | None
    tokens: int | None
    folder: str
    artifacts: list[Artifact]
    details: dict[str, Any]
    log_tail: str


class CostRow(Document):
    """Money by one key."""

    key: str
    usd: str
    hours: float
    runs: int


class CostsDocument(Document):
    """`lumina costs --json`."""

    by: str
    total_usd: str
    rows: list[CostRow]


class OfferRow(Document):
    """Something that can be rented now; prices are decimal strings in dollars, all-in, for the whole machine."""

    provider: str
    offer: str
    gpu: str
    gpu_known: bool
    count: int
    usd_per_hour: str
    usd_per_gpu_hour: str
    bid_usd_per_hour: str | None
    interruptible: bool
    region: str
    reliability: float | None
    secure: bool
    vram_gib: float | None
    cpu_cores: float | None
    memory_gib: float | None
    disk_gb: float | None
    download_mbit: float | None
    cuda: str | None
    architecture: str
    machine: str | None
    ends_at: str | None
    seen_at: str
    age_seconds: float


class ProviderFailure(Document):
    """A provider that gave no offers, and why."""

    provider: str
    kind: str
    message: str
    hint: str


class OffersDocument(Document):
    """`lumina offers --json`."""

    asked_at: str
    offers: list[OfferRow]
    failed: list[ProviderFailure]


class BookPrice(Document):
    """A price of the price book."""

    provider: str
    gpu: str
    count: int
    interruptible: bool
    usd_per_hour: str
    date: str | None
    source: str


class PriceSeen(Document):
    """The lowest price that a market asked for one kind of machine at a moment."""

    seen_at: str
    provider: str
    gpu: str
    count: int
    interruptible: bool
    usd_per_hour: str
    offers: int


class PricesDocument(Document):
    """`lumina prices --json`."""

    gpu: str | None
    book: list[BookPrice]
    seen: list[PriceSeen]


class Check(Document):
    """One thing that `lumina doctor` looked at. `state` is ok, missing (nothing is broken), warning or failed."""

    name: str
    state: str
    message: str
    hint: str


class DoctorDocument(Document):
    """`lumina doctor --json`. `ok` is false when a check failed."""

    ok: bool
    checks: list[Check]


class ErrorBody(Document):
    """What was wrong, and what to type next."""

    kind: str
    message: str
    hint: str


class ErrorDocument(Document):
    """An error on standard error."""

    error: ErrorBody


class PreparedDataDocument(Document):
    """`lumina data prepare --json`."""

    path: str
    documents: int
    tokens: int
    """To train on."""
    validation_tokens: int
    shards: int
    upload_bytes: int
    tokenizer: str
    vocab: int
    seconds: float


class CheckedDataDocument(Document):
    """`lumina data check --json`. `exact` is false where the tokens were reckoned from a sample or from the size."""

    path: str
    kind: str
    documents: int | None
    tokens: int
    exact: bool
    upload_bytes: int
    wanted_tokens: int | None = None
    epochs: float | None = None
