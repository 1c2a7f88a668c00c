"""How true the estimates are: cross-validation against published measurements, the constants' fit, and the page about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.api import accuracy_page
from lumina_cloud.catalog import gpus, measured, near_names
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import constants, validation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.catalog.measured import Measured
    from lumina_cloud.planner.constants import MemoryConstants, SpeedConstants
    from lumina_cloud.planner.fitting import Observation
    from lumina_cloud.planner.validation import Error, MemoryRow, SpeedRow

CONSTANTS_FILE = Path("lumina_cloud/catalog/data/efficiency.toml")
PAGE = Path("docs/accuracy.md")


@dataclass(frozen=True)
class Accuracy:
    """Errors of rows left out, by what was left out; memory has nothing fitted but its spread, so its rows are compared as they are."""

    speed: Mapping[str, list[Error]]
    """`row`, `gpu`, `size`, `source`."""
    memory: list[Error]
    runs: list[MemoryRow]
    """Rows that are known to have fitted or not."""
    unseen: Mapping[str, list[tuple[MemoryRow, float]]]
    """The same with the GiB that decide whether they fit when their tenth of the rows (`row`), or their `source`, has taught nothing."""
    ran: list[MemoryRow]
    """Runs whose speed was measured: they fitted too."""
    own: list[tuple[Observation, float]]
    """Our own trainer's measured speeds, each with what is estimated from the others and the published ones."""
    refused: list[tuple[Measured, str]]
    rows: list[SpeedRow]
    usable_sizes: list[float]
    """Usable GiB of the catalog's GPUs."""


def find_gpu(name: str) -> Gpu:
    """Return the GPU of a measured row."""
    return near_names.nearest(name)[0]


def measure() -> Accuracy:
    """Cross-validate. Takes about half a minute."""
    rows, refused = validation.speed_rows(measured.speeds(), find_gpu)
    memory_rows, memory_refused = validation.memory_rows(measured.memories(), find_gpu)
    ran = validation.rows_that_ran(rows)
    whole = _with_fitted_spread(rows)
    return Accuracy(
        speed={
            "row": validation.left_out(rows, validation.by_fold, whole),
            "gpu": validation.left_out(rows, lambda _, r: r.observation.gpu.name, whole, unseen_gpu=True),
            "size": validation.left_out(rows, lambda _, r: _size(r.row), whole),
            "source": validation.left_out(rows, lambda _, r: r.row.source, whole),
        },
        memory=[e for row in memory_rows if (e := validation.memory_error(row)) is not None],
        runs=[row for row in memory_rows if row.ran is not None],
        own=validation.own_left_out(rows, whole),
        unseen={
            name: [(row, gib) for row, gib in validation.unseen_bounds(memory_rows, ran, key) if row.ran is not None]
            for name, key in (("row", validation.by_run), ("source", validation.by_source))
        },
        ran=ran,
        refused=[*refused, *memory_refused],
        rows=rows,
        usable_sizes=usable_sizes(),
    )


def _size(row: Measured) -> str:
    return row.text("model_name") or ""


def _with_fitted_spread(rows: list[SpeedRow]) -> SpeedConstants:
    whole = validation.fitted(rows)
    frameworks = {r.row.id: r.observation.setting.framework for r in rows}
    by_row = validation.left_out(rows, validation.by_fold, whole)
    by_source = validation.left_out(rows, lambda _, r: r.row.source, whole)
    return validation.with_spread(whole, by_row, frameworks, by_source)


def fit_constants(root: Path) -> Path:
    """Fit the constants to all measured rows and write them below `root`. Raises UsageError outside of a source checkout."""
    path = root / CONSTANTS_FILE
    if not path.is_file():
        raise UsageError(f"no {CONSTANTS_FILE} in {root}", "run it at the root of a source checkout")
    rows, _ = validation.speed_rows(measured.speeds(), find_gpu)
    speed = _with_fitted_spread(rows)
    memory_rows, _ = validation.memory_rows(measured.memories(), find_gpu)
    spread, upper, width = validation.memory_spread(memory_rows, validation.rows_that_ran(rows))
    memory = replace(
        constants.memory_constants(),
        spread=spread,
        upper=upper,
        width=width,
        spread_other=validation.SPREAD_OTHER,
        upper_other=math.exp(validation.BOUND * validation.SPREAD_OTHER),
    )
    path.write_text(_toml(speed, memory, len(rows), len(memory_rows)), encoding="utf-8")
    return path


_HEAD = """\
# Constants of the planner that are fitted to published measurements. Written by `lumina accuracy --physics --fit`: change nothing by hand.
#
# Speed: {speed_rows} rows of measured_throughput.csv; most probable values under priors from physics, heavy-tailed errors, and one
# factor a framework and a GPU, drawn towards 1 (lumina_cloud.planner.fitting). `spread` is the standard deviation of ln(measured /
# estimated) of rows left out of the fit, `width` how many of them to either side hold four cases of five.
# Memory: {memory_rows} rows of measured_memory.csv; `spread` likewise, `upper` the factor on activations and other passing memory
# that 95 runs of 100 stay under (lumina_cloud.planner.validation).
"""


def _toml(speed: SpeedConstants, memory: MemoryConstants, n_speed: int, n_memory: int) -> str:
    parts = [_HEAD.format(speed_rows=n_speed, memory_rows=n_memory)]
    parts += ["[memory]", *(f"{name} = {getattr(memory, name):.4g}" for name in ("reserve", "spread_other", "upper_other", "width")), ""]
    parts += [
        *_table("memory.spread", memory.spread),
        *_table("memory.upper", {name: _floor(bound) for name, bound in memory.upper.items()}),
    ]
    plain = [f.name for f in fields(speed) if isinstance(getattr(speed, f.name), float)]
    parts += ["[speed]", *(f"{name} = {getattr(speed, name):.4g}" for name in plain), ""]
    for name in ("frameworks", "gpus", "spread"):
        parts += _table(f"speed.{name}", getattr(speed, name))
    return "\n".join(parts).rstrip() + "\n"


def _floor(value: float) -> float:
    """Return a bound that still lets in the run that it was lowered for."""
    return math.floor(1e4 * value) / 1e4


def _table(name: str, values: Mapping[str, float]) -> list[str]:
    return [f"[{name}]", *(f'"{key}" = {value:.5g}' for key, value in sorted(values.items())), ""]


def write_page(root: Path, found: Accuracy) -> Path:
    """Write the page and its plots below `root`. Raises UsageError where there is no docs folder."""
    path = root / PAGE
    if not path.parent.is_dir():
        raise UsageError(f"no folder {PAGE.parent} in {root}", "run it at the root of a source checkout")
    for name, text in accuracy_page.documents(found).items():
        (path.parent / name).write_text(text, encoding="utf-8")
    return path


def summary_lines(found: Accuracy) -> list[str]:
    """Return the figures of the issue's table, one line each."""
    return accuracy_page.bars(found)


def usable_sizes() -> list[float]:
    """Return the usable memory of the catalog's GPUs in GiB, ascending."""
    return sorted({gpu.usable_memory_gib for gpu in gpus.all_gpus() if gpu.usable_memory_gib is not None})
