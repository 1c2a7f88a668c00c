"""What providers charge beside the hour, and how long they take to start, from `data/terms.toml`. Money is `Decimal` dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from lumina_cloud.catalog import toml_data

if TYPE_CHECKING:
    from datetime import date


@dataclass(frozen=True)
class Terms:
    """One provider's. Triples are: as low as, expected, as high as."""

    provider: str
    billing_seconds: int
    storage_usd_per_gib_month: Decimal
    down_usd_per_gb: Decimal
    up_usd_per_gb: Decimal
    start_minutes: tuple[float, float, float]
    interruptions_per_hour: tuple[float, float, float]
    date: date
    source: str


@cache
def terms(provider: str) -> Terms:
    """Return a provider's terms; those of a provider that is not in the file are the dearest of all that are."""
    known = {row["provider"]: _terms(row) for row in toml_data.read("terms")["terms"]}
    return known.get(provider) or max(known.values(), key=lambda t: t.storage_usd_per_gib_month)


def _terms(row: dict[str, Any]) -> Terms:
    money = {name: Decimal(str(row[name])) for name in ("storage_usd_per_gib_month", "down_usd_per_gb", "up_usd_per_gb")}
    triples = {name: tuple(row[name]) for name in ("start_minutes", "interruptions_per_hour")}
    return Terms(**{**row, **money, **triples})
