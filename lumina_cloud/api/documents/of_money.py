"""Documents of money: `lumina costs`, `costs --check`, `budget`."""

from __future__ import annotations

from lumina_cloud.api.documents.root import Answer, Document, MoneyRange


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


class CostsDocument(Answer):
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


class BudgetDocument(Answer):
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


class CheckDocument(Answer):
    """`lumina costs --check --json`."""

    since: str
    lines: list[CheckLine]
    metered_usd: str
    billed_usd: str
    difference_usd: str
    unexplained: int
    notes: list[str]
