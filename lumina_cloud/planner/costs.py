"""Dollars of a rental: the hour in the provider's billing steps, the disk, the traffic. Every price has its date and source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.catalog.terms import terms
from lumina_cloud.core import money
from lumina_cloud.planner.duration import checkpoint_bytes, uploaded_bytes, weights_bytes
from lumina_cloud.planner.estimate import MoneyInterval

if TYPE_CHECKING:
    from lumina_cloud.planner.estimate import Interval, Machine
    from trainer.config import RunConfig

IMAGE_GB = 12
"""Image and packages that a rented machine fetches: torch with its CUDA libraries."""
BASE_DISK_GIB = 25
TOKEN_BYTES = 2
"""Of a token that is written down."""
HOURS_PER_MONTH = 720


@dataclass(frozen=True)
class Costs:
    """Dollars by part, as expected."""

    rental: Decimal
    storage: Decimal
    traffic: Decimal


def billed_hours(provider: str, hours: float) -> float:
    """Return hours rounded up to the provider's billing step."""
    step = terms(provider).billing_seconds
    return math.ceil(hours * 3600 / step - 1e-9) * step / 3600


def cost(machine: Machine, hours: Interval) -> MoneyInterval:
    """Return what renting a machine for `hours` costs, disk and traffic not counted."""
    billed = (billed_hours(machine.provider, h) for h in (hours.low, hours.mid, hours.high))
    return MoneyInterval(*(money.for_hours(machine.usd_per_hour, h) for h in billed))


def disk_gib(config: RunConfig) -> float:
    """Return the disk that a run needs: image, tokens, and checkpoints kept and being written."""
    kept = (config.training.keep_last + 1) * checkpoint_bytes(config)
    return BASE_DISK_GIB + (kept + TOKEN_BYTES * config.training.unique_tokens) / 2**30


def costs(config: RunConfig, machine: Machine, hours: Interval) -> tuple[MoneyInterval, Costs]:
    """Return the whole cost, and its parts as expected."""
    rental, its = cost(machine, hours), terms(machine.provider)
    per_hour = its.storage_usd_per_gib_month * Decimal(repr(disk_gib(config))) / HOURS_PER_MONTH
    storage = [money.for_hours(per_hour, h) for h in (hours.low, hours.mid, hours.high)]
    down = IMAGE_GB + uploaded_bytes(config, machine) / 1e9
    if config.data.source.startswith("hf:"):
        down += 4 * config.training.unique_tokens / 1e9
    up = weights_bytes(config) / 1e9
    traffic = money.for_hours(its.down_usd_per_gb, down) + money.for_hours(its.up_usd_per_gb, up)
    whole = MoneyInterval(*(r + s + traffic for r, s in zip((rental.low, rental.mid, rental.high), storage, strict=True)))
    return whole, Costs(rental.mid, storage[1], traffic)
