"""Documents of claims: `lumina audit`, and `lumina compare` without runs."""

from __future__ import annotations

from lumina_cloud.api.documents.root import Answer, Document


class FindingDocument(Document):
    """One claim that cannot be. `ratio` is by how many times it is off, at least 1."""

    row: str
    rule: str
    claimed: float | None
    possible: float | None
    ratio: float | None
    text: str


class AuditDocument(Answer):
    """`lumina audit --json`."""

    source: str
    rows: int
    """Claims that were checked."""
    findings: list[FindingDocument]
    notes: list[str]
    """Claims that could not be checked, and why."""
    ignored_columns: list[str]


class Figures(Document):
    """One model and architecture with its figures; None where none is known."""

    model: str
    arch: str
    on: str
    loss: float | None = None
    hours: float | None = None
    usd: str | None = None
    tokens: int | None = None
    fits: bool | None = None
    vocab: int | None = None
    """Tokens of its vocabulary, where ours: losses per token of different ones do not compare."""
    basis: str = "modelled"


class Winner(Document):
    """The best of one category: as published, and by modelled figures."""

    category: str
    published: Figures
    modelled: Figures | None


class Tier(Document):
    """What a budget tier buys: as published; which of the document's workloads really cost that; the best model for its top."""

    name: str
    usd: list[str]
    published: list[Figures]
    modelled: list[Figures]
    best_for_it: Figures | None


class CostPerBillion(Document):
    """Dollars for 10^9 tokens."""

    model: str
    arch: str
    published: str
    modelled: str | None
    ratio: float | None


class Insight(Document):
    """One architecture against dense, percent as (least, most); negative is less. Published ranges carry the document's sign."""

    arch: str
    published: dict[str, list[float]]
    loss_percent: list[float]
    hours_percent: list[float]
    memory_percent: list[float]
    usd_percent: list[float]
    sizes: list[str]


class Breakdown(Document):
    """Hours by part."""

    model: str
    arch: str
    on: str
    published: dict[str, float]
    modelled: dict[str, float]


class ScenarioOption(Document):
    """One way through the example project."""

    name: str
    label: str
    published: Figures
    modelled: Figures


class Stage(Document):
    """One stage of the train-small-first strategy."""

    stage: int
    published_usd: str
    modelled: Figures
    spent_usd: str
    decision: str


class MemoryTip(Document):
    """One memory tip alone: GiB before and after, at most."""

    name: str
    before_gib: float
    after_gib: float
    saved_percent: float
    fits: bool


class SectionsDocument(Answer):
    """`lumina compare --json` without runs."""

    machines: int
    rows: list[tuple[Figures, Figures | None]]
    """Published and modelled."""
    winners: list[Winner]
    tiers: list[Tier]
    cost_per_billion_tokens: list[CostPerBillion]
    insights: list[Insight]
    breakdowns: list[Breakdown]
    scenario: list[ScenarioOption]
    strategy: list[Stage]
    memory_tips: list[MemoryTip]
    memory_example: str
