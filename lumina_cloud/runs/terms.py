"""On which terms a run is rented: what the user said besides the workload and its caps.

They are kept as an event of the run, so every controller that takes it up later finds them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from lumina_cloud.ledger import Ledger
    from lumina_cloud.ledger.transaction import Transaction

KIND = "run.terms"
LEASE_SECONDS = 900.0
LEAST_LEASE_SECONDS = 10.0

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Terms:
    """How a run is rented."""

    lease_seconds: float = LEASE_SECONDS
    """How long a machine goes on without hearing from a controller."""
    store: str | None = None
    """Object storage for checkpoints and results, as `fsspec` names it; None for home."""
    secrets: tuple[str, ...] = ()
    """Environment variables of the user's that the machine is given."""
    accept_unguarded: bool = False
    """The user knows that this machine cannot end itself."""
    interruptible: bool = False
    disk_gb: int = 50
    boot_seconds: float | None = None
    """How long a machine may take to come up; None for what its provider usually takes."""


def parse_span(option: str, text: str) -> float:
    """Return a span of time in seconds: `90s`, `15m`, `2h`, or plain minutes. Raises UsageError."""
    digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text.strip()[len(digits) :].strip() or "m"
    try:
        seconds = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise UsageError(f"{option} takes a span of time, not {text!r}", f"e.g. {option} 15m, {option} 90s or {option} 2h") from None
    if not LEAST_LEASE_SECONDS <= seconds <= 30 * 86400:
        raise UsageError(f"{option} is {text}, but must lie between {LEAST_LEASE_SECONDS:.0f} s and 30 days", f"e.g. {option} 15m")
    return seconds


def keep(tx: Transaction, run_id: str, terms: Terms) -> None:
    """Write a run's terms down."""
    tx.add_event(KIND, run_id=run_id, **asdict(terms))


def of(ledger: Ledger, run_id: str) -> Terms:
    """Return a run's terms: the last that were written down, the usual ones for a run of an earlier release."""
    kept: dict[str, Any] = next((e.data for e in reversed(ledger.events(run_id)) if e.kind == KIND), {})
    known = {name: kept[name] for name in Terms.__dataclass_fields__ if name in kept}
    return replace(Terms(), **{**known, "secrets": tuple(known.get("secrets", ()))})
