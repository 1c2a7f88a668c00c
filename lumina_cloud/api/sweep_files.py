"""The file of a sweep: what varies, what is fixed, and the money for all of it.

name = "first-look"
budget = "2.00"                # dollars for the whole sweep
concurrency = 2                # runs at once
provider = "local"
tokens = "200k"

[grid]                         # every combination is one run
model = ["debug"]
arch = ["dense", "mod"]
lr = [0.001, 0.0003]
seed = [0, 1]

[set]                          # settings of all runs
seq_len = 128

[early_stopping]               # successive halving; without this section every run goes to its end
rungs = [0.25, 0.5]            # shares of a run's steps at which it is compared
keep = 0.5                     # the share of those compared that goes on
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from decimal import Decimal  # noqa: TC003  # pydantic reads annotations
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MAX_TRIALS = 1000
Value = str | int | float | bool
ALIASES = {"models": "model", "archs": "arch", "seeds": "seed", "learning_rates": "lr", "lrs": "lr"}
_TOP = ("model", "arch", "seed", "lr")


class EarlyStopping(BaseModel):
    """Successive halving, decided whenever a run comes to a rung (as ASHA does, arXiv 1810.05934)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rungs: Annotated[list[float], Field(min_length=1, max_length=10)] = [0.25, 0.5]  # pydantic copies defaults
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @field_validator("rungs")
    @classmethod
    def _rungs(cls, rungs: list[float]) -> list[float]:
        if any(not 0 < rung < 1 for rung in rungs) or sorted(set(rungs)) != rungs:
            raise ValueError("rungs are shares of a run's steps, between 0 and 1, in their order")
        return rungs


class SweepFile(BaseModel):
    """A sweep as it was written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    budget: Decimal
    concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    max_cost: Decimal | None = None
    """The most that one run may cost; the plan's own upper bound by default."""
    project: str = ""
    provider: str | None = None
    gpu: str | None = None
    count: int | None = None
    tokens: str | int | None = None
    unique_tokens: str | int | None = None
    epochs: float | None = None
    global_batch: str | int | None = None
    data: str | None = None
    grid: dict[str, list[Value]]
    set: dict[str, Value] = {}  # pydantic copies defaults
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, raw: Any) -> Any:
        """Take what varies from the top level into the grid, under its own name."""
        if not isinstance(raw, dict):
            return raw
        rest = {k: v for k, v in raw.items() if ALIASES.get(k, k) not in _TOP}
        grid = {**{k: v for k, v in raw.items() if k not in rest}, **raw.get("grid", {})}
        rest["grid"] = {ALIASES.get(k, k): v if isinstance(v, list) else [v] for k, v in grid.items()}
        return rest

    @field_validator("budget", "max_cost", mode="before")
    @classmethod
    def _amount(cls, value: Any) -> Any:
        if value is None:
            return None
        amount = money.usd(str(value).lstrip("$"))
        if amount <= 0:
            raise ValueError("an amount of dollars above zero")
        return amount

    @field_validator("grid")
    @classmethod
    def _grid(cls, grid: dict[str, list[Value]]) -> dict[str, list[Value]]:
        if "model" not in grid or not all(grid.values()):
            raise ValueError("the grid needs at least a model, and a value for every name")
        if _product(grid) > MAX_TRIALS:
            raise ValueError(f"the grid has {_product(grid):,} combinations, at most {MAX_TRIALS:,} can be run")
        return grid

    def trials(self) -> list[dict[str, Value]]:
        """Return every combination, in a fixed order."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    @property
    def key(self) -> str:
        """Return a hash of what is to be run: a sweep is gone on with only when it is the same one."""
        kept = self.model_dump(mode="json", exclude={"budget", "concurrency"})
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _product(grid: dict[str, list[Value]]) -> int:
    total = 1
    for values in grid.values():
        total *= len(values)
    return total


def read(path: Path) -> SweepFile:
    """Read a sweep's file. Raises UsageError naming the key and its value."""
    try:
        return SweepFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {error}", "lumina sweep FILE.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "mend that line") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        given = "" if first["type"] == "missing" else f" is {first['input']!r}:"
        raise UsageError(
            f"{path}: {where}{given} {first['msg'].removeprefix('Value error, ').lower()}", 'name, budget and [grid] model = ["debug"]'
        ) from error
