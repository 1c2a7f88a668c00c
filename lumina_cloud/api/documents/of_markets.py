"""Documents of what can be rented: `lumina offers`, `prices`, `doctor`, `init`."""

from __future__ import annotations

from lumina_cloud.api.documents.root import Answer, Document


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


class OffersDocument(Answer):
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


class PricesDocument(Answer):
    """`lumina prices --json`."""

    gpu: str | None
    book: list[BookPrice]
    seen: list[PriceSeen]


class Check(Document):
    """One thing that `lumina doctor` looked at. `state` is ok, missing (nothing is broken), warning or failed."""

    name: str
    provider: str | None = None
    """The provider that it is about, for a key or a balance."""
    state: str
    message: str
    hint: str


class DoctorDocument(Answer):
    """`lumina doctor --json`. `ok` is false when a check failed."""

    ok: bool
    checks: list[Check]


class InitDocument(Answer):
    """`lumina init --json`. `ready` is false when something is missing to begin there; `next` says what to type."""

    where: str
    ready: bool
    checks: list[Check]
    usd_cap_a_month: str | None
    """The most that all launches of a month may cost together; None where no cap is set."""
    next: str
