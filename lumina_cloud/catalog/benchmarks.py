"""The published benchmark as data, from `data/benchmarks.toml`: its figures unchanged, in its own units.

Memory is in the document's GB, percentages carry its sign, money is in dollars. A range is a pair (low, high). A figure that
the document does not give is None. It decides nothing here: `planner.published` says which of its rows cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cache
from typing import Any, Literal, TypeVar, get_type_hints

from lumina_cloud.catalog import toml_data

T = TypeVar("T")

TimeUnit = Literal["minutes", "hours", "days"]
Labels = tuple[tuple[str, str], ...]
"""What the document writes beside a figure, as (figure, label)."""

_PER_HOUR = {"minutes": 60.0, "hours": 1.0, "days": 1 / 24}


@dataclass(frozen=True)
class Conditions:
    """How the document says it measured."""

    dataset: str
    epochs: int
    seq_len: int
    providers: tuple[str, ...]
    precision: str
    optimizer: str
    beta1: float
    beta2: float
    adam_eps: float
    batch: str


@dataclass(frozen=True)
class MachinePrice:
    """One line of the price table."""

    hardware: str
    usd_per_hour: Decimal
    terms: str


@dataclass(frozen=True)
class Size:
    """The heading of one model size."""

    model: str
    title: str
    section: str
    active: str
    active_parameters: int
    total: str
    total_parameters: int
    routing: str
    tokens: int
    steps: int | None = None
    tokens_per_batch: int | None = None
    epochs: int | None = None
    unique_tokens: int | None = None
    chinchilla_tokens: int | None = None


@dataclass(frozen=True)
class Row:
    """The table of one model x architecture."""

    model: str
    arch: str
    loss: float
    ppl: float
    time: float
    time_unit: TimeUnit
    vram_gb: float
    """All GPUs together."""
    tokens_per_second: float
    usd: Decimal
    machine: str
    """What the cost is of, by the price table's names."""
    gpu: str | None = None
    """What we take `machine` for, by the GPU catalog's names; None for "any GPU"."""
    gpus: int | None = None
    hardware: str | None = None
    """The hardware line, where there is one."""
    configuration: str = ""
    n_experts: int | None = None
    top_k: int | None = None
    capacity: float | None = None
    time_days: float | None = None
    vram_gb_per_gpu: float | None = None
    expert_utilisation_percent: float | None = None
    load_balance: float | None = None
    skip_rate_percent: float | None = None
    flops_reduction_percent: float | None = None
    micro_batch: int | None = None
    grad_accum: int | None = None
    effective_tokens: str | None = None
    effective_batch_tokens: int | None = None
    notes: Labels = ()

    @property
    def hours(self) -> float:
        """Training time in hours."""
        return self.time / _PER_HOUR[self.time_unit]


@dataclass(frozen=True)
class CostPerBillion:
    """One line of the table of costs per 10^9 tokens."""

    model: str
    arch: str
    usd: Decimal
    use: str


@dataclass(frozen=True)
class Winner:
    """The best of one category, with the figures it is named for."""

    category: str
    model: str
    arch: str
    loss: float | None = None
    usd: Decimal | None = None
    hours: float | None = None
    days: float | None = None


@dataclass(frozen=True)
class Tier:
    """One budget tier and what is recommended in it."""

    name: str
    usd_range: tuple[Decimal, ...]
    model: str
    archs: tuple[str, ...]
    on: str
    cost_usd: tuple[Decimal, ...]
    time: tuple[float, ...]
    time_unit: TimeUnit
    loss: tuple[float, ...]
    hardware: str
    usd_per_hour: tuple[Decimal, ...]
    use: str


@dataclass(frozen=True)
class Breakdown:
    """Where the training time of one row goes."""

    model: str
    arch: str
    total_hours: float
    setup_minutes: float
    epoch_hours: tuple[float, ...]
    checkpointing_minutes: float
    evaluation_minutes: float
    notes: Labels = ()

    @property
    def summed_hours(self) -> float:
        """What the parts add up to, in hours."""
        return sum(self.epoch_hours) + (self.setup_minutes + self.checkpointing_minutes + self.evaluation_minutes) / 60


@dataclass(frozen=True)
class Insight:
    """What the document says of one architecture; percentages against dense."""

    arch: str
    quality: str
    speed: str
    memory: str
    cost: str
    loss_better_percent: tuple[float, ...] = ()
    loss_worse_percent: tuple[float, ...] = ()
    slower_percent: tuple[float, ...] = ()
    faster_percent: tuple[float, ...] = ()
    use: str = ""


@dataclass(frozen=True)
class Advice:
    """What the document recommends for one purpose."""

    purpose: str
    choices: tuple[str, ...]
    usd: tuple[Decimal, ...]
    hardware: str = ""
    usd_per_hour: Decimal | None = None
    hours: tuple[float, ...] = ()
    days: tuple[float, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Option:
    """One way through the example project."""

    name: str
    label: str
    hardware: str
    model: str
    arch: str
    hours: float
    usd: Decimal
    loss: float
    quality: str
    use: str
    days: float | None = None


@dataclass(frozen=True)
class Scenario:
    """The example project with its three options."""

    title: str
    goal: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class MemoryTip:
    """One way to need less memory."""

    name: str
    change: str = ""
    memory_saved_percent: tuple[float, ...] = ()
    speed_cost_percent: float | None = None


@dataclass(frozen=True)
class MemoryCase:
    """One side of the memory example."""

    micro_batch: int
    seq_len: int
    checkpointing: bool
    vram_gb: float
    fits: bool


@dataclass(frozen=True)
class MemoryExample:
    """How the document fits a model onto a smaller card."""

    model: str
    arch: str
    hardware: str
    before: MemoryCase
    after: MemoryCase


@dataclass(frozen=True)
class Conclusion:
    """The figures of the closing section."""

    b1_usd: tuple[Decimal, ...]
    b7_mod_usd: tuple[Decimal, ...]
    b7_moe_hybrid_usd: tuple[Decimal, ...]
    mod_quality_loss_percent: tuple[float, ...]
    mod_faster_percent: tuple[float, ...]
    hybrid: str
    times: str


@dataclass(frozen=True)
class Benchmark:
    """The whole document."""

    test: Conditions
    prices: tuple[MachinePrice, ...]
    sizes: tuple[Size, ...]
    rows: tuple[Row, ...]
    usd_per_billion_tokens: tuple[CostPerBillion, ...]
    winners: tuple[Winner, ...]
    tiers: tuple[Tier, ...]
    breakdowns: tuple[Breakdown, ...]
    insights: tuple[Insight, ...]
    recommendations: tuple[Advice, ...]
    scenario: Scenario
    memory_tips: tuple[MemoryTip, ...]
    memory_example: MemoryExample
    conclusion: Conclusion

    def size(self, model: str) -> Size:
        """Return the heading of a model. Raises KeyError for one that is not in the document."""
        return {size.model: size for size in self.sizes}[model]

    def usd_per_hour(self, machine: str) -> Decimal | None:
        """Return the price table's line for a machine as rows name it, e.g. `RTX 4090`; None for "any GPU"."""
        return next((price.usd_per_hour for price in self.prices if price.hardware.removesuffix(" 24GB") == machine), None)


@cache
def load() -> Benchmark:
    """Return the published benchmark."""
    return _build(Benchmark, toml_data.read("benchmarks"))


def _build(cls: type[T], table: dict[str, Any]) -> T:
    """Return a dataclass from its table, values converted to what the fields are annotated as."""
    hints = get_type_hints(cls)
    unknown = set(table) - {f.name for f in fields(cls)}  # type: ignore[arg-type]  # T is one of the dataclasses above
    if unknown:
        raise KeyError(f"{cls.__name__} has no {sorted(unknown)[0]!r}")
    return cls(**{name: _value(hints[name], raw) for name, raw in table.items()})


def _value(hint: Any, raw: Any) -> Any:
    if isinstance(raw, list):
        item = hint.__args__[0]
        return tuple(_value(item, element) for element in raw)
    if isinstance(raw, dict):
        return tuple(raw.items()) if hint == Labels else _build(hint, raw)
    return Decimal(raw) if hint in (Decimal, Decimal | None) else raw
