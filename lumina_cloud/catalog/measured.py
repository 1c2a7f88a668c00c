"""Published measurements of training runs: speed and memory, with their sources, from `data/measured_*.csv`.

Read only where accuracy is computed: no plan and no estimate looks at them. `flags` are short words:
`derived` (computed from other published figures), `doubtful`, `nonstandard-model`, `short-sequences`, `dims-from-public-config`,
`a800`, `h100-96gb-500w` (another variant of the named GPU).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Measured:
    """One row. `columns` holds the text of every column, empty where unknown."""

    id: str
    source_url: str
    columns: Mapping[str, str]

    def text(self, column: str) -> str | None:
        """Return a column's text, None where it is empty or not there."""
        return self.columns.get(column) or None

    def number(self, column: str) -> float | None:
        """Return a column's number, None where it is empty or not there."""
        found = self.text(column)
        return None if found is None else float(found)

    @property
    def flags(self) -> frozenset[str]:
        """What is odd about the row."""
        return frozenset((self.text("flags") or "").split())

    @property
    def source(self) -> str:
        """Who published it: the owner and name of a repository, or a host and path."""
        parts = self.source_url.removeprefix("https://").split("/")
        return "/".join(parts[1:3]) if parts[0] == "github.com" else "/".join(parts[:2])


@cache
def speeds() -> tuple[Measured, ...]:
    """Return the measurements of tokens per second."""
    return _read("measured_throughput")


@cache
def memories() -> tuple[Measured, ...]:
    """Return the measurements of peak memory, and the runs that are known to have fitted or not."""
    return _read("measured_memory")


def _read(name: str) -> tuple[Measured, ...]:
    text = resources.files("lumina_cloud.catalog").joinpath("data", f"{name}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Measured(row["id"], row["source_url"], row) for row in rows)
