"""The published benchmark's rows, each with the checks that it fails, in plain words with the numbers.

The figures are the document's, unchanged; they decide nothing. The checks are `planner.audit`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.catalog import benchmarks
from lumina_cloud.planner import claims
from lumina_cloud.planner.audit import audit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from lumina_cloud.catalog.benchmarks import Row


@dataclass(frozen=True)
class PublishedRow:
    """One row as the document has it, and what speaks against it."""

    model: str
    arch: str
    loss: float
    ppl: float
    hours: float
    vram_gb: float
    """All GPUs together, in the document's GB."""
    tokens_per_second: float
    usd: Decimal
    hardware: str
    fails: tuple[str, ...]


def published(models: Sequence[str], archs: Sequence[str]) -> tuple[PublishedRow, ...]:
    """Return the rows that the document has of these models and architectures, in its order."""
    document = benchmarks.load()
    found = audit(claims.of_document(document))
    # A breakdown speaks against the row that it breaks down.
    fails = {
        row: [f.text for f in found if f.row in (row, f"breakdown/{row}")] for row in {f.row.removeprefix("breakdown/") for f in found}
    }
    wanted = [row for row in document.rows if row.model in models and row.arch in archs]
    return tuple(_row(row, tuple(fails.get(f"{row.model}/{row.arch}", ()))) for row in wanted)


def _row(row: Row, fails: tuple[str, ...]) -> PublishedRow:
    return PublishedRow(
        model=row.model,
        arch=row.arch,
        loss=row.loss,
        ppl=row.ppl,
        hours=row.hours,
        vram_gb=row.vram_gb,
        tokens_per_second=row.tokens_per_second,
        usd=row.usd,
        hardware=row.hardware or row.machine,
        fails=fails,
    )
