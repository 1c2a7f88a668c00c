"""The documents that `--json` prints: kept keys, money as decimal strings of dollars, times as ISO 8601 in UTC."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Root of all documents: fixed once built."""

    # Built when first used: a command that prints one document does not wait for the others.
    model_config = ConfigDict(frozen=True, defer_build=True)


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


class PlanDocument(Document):
    """`lumina plan --json`."""

    plan: str
    workloads: list[Workload]
    rows: list[PlanRow]
    recipes: list[RecipeRow] = []
    """Both recipes of the depth-routed architectures."""
    published: list[Published]
    recommendation: Recommended | None
    refused: list[str]
    misfits: list[Misfit] = []
    """What does not fit, with the smallest sets of changes that would make it."""
    backwards: Backwards | None = None
    """With `--budget`, `--deadline` or `--target-loss`: the rows are then the first answer, planned forwards."""
    notes: list[str]
    explanation: list[str] = []
    """The derivation of the recommended row (of the first, where none is), if it was asked for; it is not kept in the ledger."""


class SampleDocument(Document):
    """`lumina sample --json`."""

    run: str
    prompt: str
    text: str


class WeightsDocument(Document):
    """`lumina weights --json`."""

    run: str
    path: str
    load: str
    """How `transformers` loads it."""


class LaunchDocument(Document):
    """The last line of `lumina launch`."""

    run: str
    state: str
    reason: str
    usd: str


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


class DryRun(Document):
    """`lumina launch --dry-run --json`: what would be rented, and the most it could cost."""

    plan: str
    row: PlanRow
    workload: Workload
    usd_cap: str
    hours_cap: float
    config: dict[str, Any]
    price_changes: list[PriceChange] = []
    on_drift: str = "tell"
    kept: Kept | None = None
    """None on this computer."""


class LogLine(Document):
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


class StatusDocument(Document):
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


class LostMoney(Document):
    """Money that trained nothing, apart from training money."""

    boot: str
    """Machines that trained later, before their first step."""
    failed: str
    """Machines that never came to train."""
    interrupted: str
    """Work that an interruption threw away."""
    idle: str
    """Machines whose work was over."""
    storage: str
    traffic: str
    other: str


class CostRow(Document):
    """Money by one key. Figures that nothing is known of yet are None."""

    key: str
    usd: str
    hours: float
    runs: int
    usd_training: str
    usd_lost: str
    lost: LostMoney
    usd_billed: str
    """How much of it a provider has billed; the rest is metered by us."""
    tokens: int
    usd_per_billion_tokens: str | None
    loss_drop: float
    usd_per_loss: str | None
    """Dollars a unit by which the validation loss fell."""
    planned_usd: str | None
    """What the plans of those runs that succeeded expected."""
    actual_usd: str | None
    """What those same runs cost."""


class Forecast(Document):
    """Where this month's spending will end."""

    month: str
    usd_spent: str
    usd_running: str
    """What runs that go on are expected to cost yet."""
    usd_at_pace: str
    """The rest of the month at the pace of the last weeks."""
    usd: MoneyRange


class CostsDocument(Document):
    """`lumina costs --json`."""

    by: str
    total_usd: str
    rows: list[CostRow]
    total: CostRow | None = None
    forecast: Forecast | None = None


class Budget(Document):
    """A cap on what a project may cost in a month. An empty project is all of them, an empty month every month."""

    project: str
    month: str
    usd_cap: str
    usd_spent: str
    usd_promised: str
    usd_left: str
    percent: float
    forecast_usd: str
    over: bool
    """The forecast lies above the cap."""


class BudgetDocument(Document):
    """`lumina budget --json`."""

    month: str
    budgets: list[Budget]
    forecast: Forecast


class CheckLine(Document):
    """One thing that was billed, or metered, or both. `verdict`: equal, explained, waiting (not billed yet) or unexplained."""

    provider: str
    rental: str | None
    run: str | None
    instance: str | None
    kind: str
    metered_usd: str | None
    billed_usd: str | None
    difference_usd: str
    verdict: str
    why: str


class CheckDocument(Document):
    """`lumina costs --check --json`."""

    since: str
    lines: list[CheckLine]
    metered_usd: str
    billed_usd: str
    difference_usd: str
    unexplained: int
    notes: list[str]


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
    provider: str | None = None
    """The provider that it is about, for a key or a balance."""
    state: str
    message: str
    hint: str


class DoctorDocument(Document):
    """`lumina doctor --json`. `ok` is false when a check failed."""

    ok: bool
    checks: list[Check]


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
    loss_in_common: float | None
    usd_per_billion_tokens: str | None
    usd_per_loss: str | None
    curve: list[CurvePoint]


class ComparisonDocument(Document):
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


class SweepDocument(Document):
    """`lumina sweep FILE.toml --json`."""

    sweep: str
    usd_budget: str
    usd_spent: str
    best: str | None
    trials: list[SweepTrial]
    note: str


class BackupDocument(Document):
    """`lumina ledger backup --json`."""

    path: str
    bytes: int


class RestoreDocument(Document):
    """`lumina ledger restore --json`. `kept` is where the ledger is that was there before."""

    path: str
    backup: str
    kept: str | None
    next: str


class VerifyDocument(Document):
    """`lumina ledger verify --json`."""

    ledger: str
    ok: bool
    rows: dict[str, int]
    problems: list[str]
    way_back: str


class ImportDocument(Document):
    """`lumina ledger import --json`. Rows that were there already are not added again."""

    rows: int
    added: dict[str, int]


class RebuildDocument(Document):
    """`lumina doctor --rebuild --json`."""

    path: str
    sources: list[str]
    kept: str | None
    rows: dict[str, int]
    adopted: list[str]
    """Tags of instances that no rental was known of."""
    notes: list[str]


class RemovedDocument(Document):
    """`lumina rm --json` and `lumina prune --json`."""

    runs: list[str]
    bytes: int


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


class AccuracyDocument(Document):
    """`lumina accuracy --json`: how plans turned out."""

    runs: int
    figures: list[AccuracyOfFigure]
    rows: list[PredictedActual]
