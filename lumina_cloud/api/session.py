"""What every verb of the api stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lumina_cloud.api.settings import Settings
    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import Ledger
    from providers.contract import Provider


@dataclass(frozen=True)
class Session:
    """Settings, ledger, clock, and the way to a provider's client."""

    settings: Settings
    ledger: Ledger
    clock: Clock
    provider: Callable[[str], Provider]
    """Raises UsageError for an unknown name."""
