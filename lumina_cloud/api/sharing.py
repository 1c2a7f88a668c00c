"""A plan as a file that can be kept, shared, and launched as it stands: `lumina plan --out plan.toml`, `lumina launch --plan plan.toml`.

The file holds what was asked, the machine that was recommended with its price, the layout, and the figures that were promised. Launching
it plans the same workload in the same layout on the same kind of machine at today's prices; what changed is said before anything is
rented. It is read as untrusted text: nothing in it is executed, and every value passes the same checks as an option.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from decimal import Decimal  # noqa: TC003 - pydantic reads the annotations
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lumina_cloud.api.launching import PriceChange
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import UsageError
from lumina_cloud.runs.workloads import WorkloadRequest

if TYPE_CHECKING:
    from lumina_cloud.api.documents import of_plans
    from lumina_cloud.planner.plan import Row

VERSION = 1
MAX_BYTES = 1 << 20
LAYOUT = ("micro_batch", "grad_accum", "zero_stage", "checkpointing", "offload")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Workload(_Part):
    model: str
    arch: str
    tokens: int = Field(gt=0)
    unique_tokens: int = Field(gt=0)
    data: str | None = None
    seed: int | None = None
    recipe: str = "paper"
    init_from: str | None = None
    global_batch: str | None = None
    settings: dict[str, str] = {}


class _Machine(_Part):
    provider: str
    gpu: str
    count: int = Field(gt=0)
    interruptible: bool
    usd_per_hour: Decimal = Field(ge=0, allow_inf_nan=False)


class _Layout(_Part):
    micro_batch: int
    grad_accum: int
    zero_stage: int
    checkpointing: str
    offload: str


class _Range(_Part):
    low: float
    mid: float
    high: float


class _Money(_Part):
    low: Decimal
    mid: Decimal
    high: Decimal


class _Promised(_Part):
    usd: _Money
    hours: _Range
    tokens_per_second: _Range
    memory_gib: _Range
    loss: _Range


class _File(_Part):
    lumina_plan: int
    plan: str
    workload: _Workload
    machine: _Machine
    layout: _Layout
    promised: _Promised


@dataclass(frozen=True)
class Shared:
    """A plan that was read from a file."""

    request: WorkloadRequest
    wanted: MachineFilter
    usd_per_hour: Decimal
    usd: Decimal
    """What it was to cost, as expected."""
    interruptible: bool
    """The price is that of a machine that may be taken away: so is the one that is rented."""


def save(path: Path, request: WorkloadRequest, document: of_plans.PlanDocument) -> None:
    """Write a plan's recommendation. Raises UsageError where there is none, or the file cannot be written."""
    best = document.recommendation
    if best is None:
        raise UsageError("there is nothing to write: no machine that was priced can train this", "plan without --out to see why")
    row = next(
        r
        for r in document.rows
        if (r.arch, r.gpu, r.count, r.provider, r.interruptible) == (best.arch, best.gpu, best.count, best.provider, best.interruptible)
    )
    work = next(w for w in document.workloads if w.arch == best.arch)
    workload = {
        **{"model": request.model, "arch": best.arch, "tokens": work.tokens, "unique_tokens": work.unique_tokens},
        **{"data": request.data, "seed": request.seed, "recipe": request.recipe, "init_from": request.init_from},
        "global_batch": request.global_batch,
        "settings": {k: v for k, v in request.settings if k not in (*LAYOUT, "tokens", "unique_tokens")},
    }
    layout = row.layout.model_dump()
    table = {
        "lumina_plan": VERSION,
        "plan": document.plan,
        "workload": {k: v for k, v in workload.items() if v is not None},
        "machine": {name: getattr(row, name) for name in ("provider", "gpu", "count", "interruptible", "usd_per_hour")},
        "layout": {name: layout[name] for name in LAYOUT},
        "promised": {name: getattr(row, name).model_dump() for name in ("usd", "hours", "tokens_per_second", "memory_gib", "loss")},
    }
    import tomli_w

    try:
        path.write_text(
            f"# A plan of Lumina Cloud. Launch it as it stands: lumina launch --plan {path.name}\n{tomli_w.dumps(table)}", encoding="utf-8"
        )
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "give --out a file in a folder that exists") from error


def is_file(text: str) -> bool:
    """Whether what was typed for `--plan` names a file and not a plan's id."""
    return text.endswith(".toml") or "/" in text or Path(text).is_file()


def load(path: Path) -> Shared:
    """Read a plan from a file. Raises UsageError for one that is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes: that is no plan", "lumina plan MODEL --out plan.toml writes one")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        read = _File.model_validate(raw)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "lumina plan MODEL --out plan.toml writes one") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "lumina plan MODEL --out plan.toml writes one") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} is no plan: {untrusted.line(where, 80)}: {untrusted.line(first['msg'], 120)}",
            "lumina plan MODEL --out plan.toml writes one",
        ) from error
    if read.lumina_plan != VERSION:
        raise UsageError(f"{path} is a plan of version {read.lumina_plan}, and this release reads {VERSION}", "plan anew with --out")
    return _shared(read)


def _shared(read: _File) -> Shared:
    work, machine = read.workload, read.machine
    settings: dict[str, str] = {**work.settings, **{name: str(value) for name, value in read.layout.model_dump().items()}}
    if machine.provider != "local":
        settings["n_gpus"] = str(machine.count)
    request = WorkloadRequest(
        model=work.model,
        archs=(work.arch,),
        tokens=str(work.tokens),
        unique_tokens=str(work.unique_tokens),
        global_batch=work.global_batch,
        data=work.data,
        seed=work.seed,
        recipe=work.recipe,
        init_from=work.init_from,
        settings=tuple(settings.items()),
    )
    wanted = MachineFilter("local") if machine.provider == "local" else MachineFilter(machine.provider, machine.gpu, machine.count)
    return Shared(request, wanted, machine.usd_per_hour, read.promised.usd.mid, machine.interruptible)


def price_changes(shared: Shared, row: Row) -> tuple[PriceChange, ...]:
    """Return which prices differ from the plan's: the hour, and the whole as expected."""
    hour, whole = row.machine.usd_per_hour, row.estimate.usd.mid
    found = []
    if hour != shared.usd_per_hour:
        found.append(
            PriceChange(f"an hour of {row.machine.count} x {row.machine.gpu.name} at {row.machine.provider}", shared.usd_per_hour, hour)
        )
        if money.text(whole) != money.text(shared.usd):
            found.append(PriceChange("the whole run, as expected", shared.usd, whole))
    return tuple(found)
