"""Documents of runs: `lumina launch`, `status`, `logs`, `results`, `compare`, `sweep`, `sample`, `weights`."""

from __future__ import annotations

from typing import Any

from lumina_cloud.api.documents.root import Answer, Document


class SampleDocument(Answer):
    """`lumina sample --json`."""

    run: str
    prompt: str
    text: str


class WeightsDocument(Answer):
    """`lumina weights --json`."""

    run: str
    path: str
    load: str
    """How `transformers` loads it."""


class LaunchDocument(Answer):
    """The last line of `lumina launch`."""

    run: str
    state: str
    reason: str
    usd: str


class ExtendDocument(Answer):
    """`lumina extend --json`."""

    run: str
    state: str
    usd_cap_was: str
    usd_cap: str
    hours_cap: float
    usd_spent: str
    told: bool
    """Whether its machine goes by them already; one that does not answer is told as soon as it does."""


class LogLine(Answer):
    """`lumina logs --json`: one line of a run's log."""

    run: str
    line: str


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


class StatusDocument(Answer):
    """`lumina status --json`."""

    runs: list[RunStatus]
    rentals: list[RentalStatus]
    more: bool = False
    """There are older runs that are not shown; `--all` shows them."""


class Outcome(Document):
    """Planned or actual figures of a run; None where there is none."""

    seconds: float | None
    usd: str | None
    peak_memory_gib: float | None
    """Per GPU: what torch's allocator has given out. A plan's `memory_gib` has the context and the reserve in it too."""
    tokens_per_second: float | None
    loss: float | None


class Artifact(Document):
    """A file that came home."""

    path: str
    bytes: int
    sha256: str


class ResultsDocument(Answer):
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


class CurvePoint(Document):
    """One point of a run's curve."""

    step: int
    tokens: int | None
    loss: float


class ComparedRun(Document):
    """One run beside others. `loss_in_common` is its training loss when it had seen as many tokens as all of them have."""

    run: str
    model: str
    arch: str
    state: str
    provider: str
    gpu: str
    project: str
    labels: list[str]
    planned: Outcome
    actual: Outcome
    tokens: int | None
    vocab: int | None
    """Tokens of its vocabulary: losses per token of different ones do not compare."""
    loss_in_common: float | None
    usd_per_billion_tokens: str | None
    usd_per_loss: str | None
    curve: list[CurvePoint]


class ComparisonDocument(Answer):
    """`lumina compare RUN… --json`."""

    tokens_in_common: int
    runs: list[ComparedRun]


class SweepTrial(Document):
    """One combination of a sweep."""

    trial: int
    values: dict[str, str | int | float | bool]
    run: str | None
    state: str
    stopped_early: bool
    loss: float | None
    usd: str
    why: str


class SweepDocument(Answer):
    """`lumina sweep FILE.toml --json`."""

    sweep: str
    usd_budget: str
    usd_spent: str
    best: str | None
    trials: list[SweepTrial]
    note: str


class ReportDocument(Answer):
    """`lumina report --json`."""

    path: str
    """The page that was written."""
