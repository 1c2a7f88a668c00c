"""Documents of plans: `lumina plan`, `launch --dry-run`, `accuracy`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lumina_cloud.api.documents.root import Answer, Document, MoneyRange, Range


class Layout(Document):
    """How the work is spread over the GPUs."""

    micro_batch: int
    grad_accum: int
    zero_stage: int
    checkpointing: str
    offload: str
    expert_parallel: int


class PlanRow(Document):
    """One model and architecture on one kind of machine. `memory_gib` is of the whole process on each GPU, the rest of the layout."""

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
    memory_upper_gib: float
    """Per GPU, not exceeded in 95 cases of 100: what `fits` goes by."""
    hours_by_part: dict[str, float]
    """As expected: start_up, data, warm_up, training, checkpoints, transfer, evaluation, interruptions."""
    usd_by_part: dict[str, str]
    """As expected: rental, storage, traffic."""
    checkpoint_gib: float
    checkpoint_minutes_best: float | None
    """Between checkpoints, where the machine may be interrupted."""
    front: bool = False
    """Whether no other row that fits is as cheap and as soon, and better in one of both."""
    runs: int = 0
    """Finished runs of the ledger that the speed rests on; 0 where it is modelled alone."""


class Change(Document):
    """One setting, as it was and as it has to be."""

    name: str
    before: str
    after: str


class Remedy(Document):
    """One smallest set of changes that makes a workload fit. `hours`, `usd` and `loss` are after them."""

    changes: list[Change]
    layout: Layout
    count: int
    memory_upper_gib: float
    host_memory_gib: float
    """Main memory of the machine that offloading takes."""
    hours: Range
    usd: MoneyRange
    loss: Range
    slowdown: float
    """Hours over those of the unchanged workload, had the machine the memory for it."""
    type: str
    """What to type for it."""


class Misfit(Document):
    """A machine that a workload does not fit, and what would make it fit, the least slowing first."""

    model: str
    arch: str
    gpu: str
    count: int
    provider: str
    memory_upper_gib: float
    usable_memory_gib: float
    text: str
    remedies: list[Remedy]


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


class RecipeRow(Document):
    """One way of routing blocks over depth, on the machine that the plan puts first."""

    arch: str
    recipe: str
    mod_every: int
    mod_capacity: float
    flops_saved: float
    """Share of the training FLOPs of the same model without depth routing."""
    gpu: str
    count: int
    provider: str
    tokens_per_second: Range
    hours: Range
    usd: MoneyRange
    loss: Range


class BackwardsAnswer(Document):
    """A model, its tokens and its machine that reach the goal. `settings` is how the model differs from its preset."""

    model: str
    arch: str
    settings: dict[str, str]
    parameters_active: int
    tokens: int
    tokens_per_parameter: float
    gpu: str
    count: int
    provider: str
    interruptible: bool
    usd: MoneyRange
    hours: Range
    loss: Range
    type: str
    """What plans it forwards."""


class Backwards(Document):
    """The question turned round: what was wanted, and what reaches it, the best first."""

    budget_usd: str | None
    deadline_hours: float | None
    target_loss: float | None
    answers: list[BackwardsAnswer]
    tried: int
    """Sizes on machines."""
    why_none: str


class PlanDocument(Answer):
    """`lumina plan --json`."""

    plan: str
    workloads: list[Workload]
    rows: list[PlanRow]
    recipes: list[RecipeRow] = Field(default_factory=list)
    """Both recipes of the depth-routed architectures."""
    published: list[Published]
    recommendation: Recommended | None
    refused: list[str]
    misfits: list[Misfit] = Field(default_factory=list)
    """What does not fit, with the smallest sets of changes that would make it."""
    backwards: Backwards | None = None
    """With `--budget`, `--deadline` or `--target-loss`: the rows are then the first answer, planned forwards."""
    notes: list[str]
    explanation: list[str] = Field(default_factory=list)
    """The derivation of the recommended row (of the first, where none is), if it was asked for; it is not kept in the ledger."""


class PriceChange(Document):
    """A price that changed since the plan was made, dollars."""

    what: str
    planned: str
    now: str
    percent: float


class Kept(Document):
    """Where a rented run's work is kept, how large it is, and how long it takes to get there."""

    where: Literal["home", "store"]
    checkpoint_gb: float
    checkpoint_seconds: float
    interval_seconds: float
    results_gb: float
    results_seconds: float
    disk_gb: int
    """Rented; its price, and that of the expected traffic, is part of the price an hour."""
    secrets: list[str]
    """Variables of the user's that the machine is given."""


class NeverUp(Document):
    """When a machine that does not come up is given back, and what it costs until then."""

    seconds: float
    usd: str


class DryRun(Answer):
    """`lumina launch --dry-run --json`: what would be rented, and the most it could cost."""

    plan: str
    row: PlanRow
    workload: Workload
    usd_cap: str
    hours_cap: float
    config: dict[str, Any]
    price_changes: list[PriceChange] = Field(default_factory=list)
    on_drift: str = "tell"
    kept: Kept | None = None
    """None on this computer."""
    never_up: NeverUp | None = None
    """None on this computer."""


class PredictedActual(Document):
    """One figure of one run. `ratio` is actual over predicted; `within` whether the predicted interval holds it."""

    run: str
    model: str
    arch: str
    gpu: str
    provider: str
    figure: str
    """seconds, usd, peak_memory_gib, tokens_per_second or loss."""
    predicted: float
    low: float
    high: float
    actual: float
    ratio: float
    within: bool
    learned_from: bool
    """Whether the ledger may learn from it."""


class AccuracyOfFigure(Document):
    """One figure over all runs."""

    figure: str
    runs: int
    median_ratio: float
    """Actual over predicted: above 1 means that plans say too little."""
    median_error_percent: float
    within_interval: int


class AccuracyDocument(Answer):
    """`lumina accuracy --json`: how plans turned out."""

    runs: int
    figures: list[AccuracyOfFigure]
    rows: list[PredictedActual]
