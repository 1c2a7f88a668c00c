"""Every provider by its name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import UsageError
from providers.clouds import CLOUDS, PlannedOnly
from providers.local import LocalProvider

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from pathlib import Path

    from lumina_cloud.core.clock import Clock
    from providers.contract import Provider

NAMES = ("local", *CLOUDS)


def check_name(name: str) -> None:
    """Raise UsageError for a name that is no provider's, with the nearest one."""
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
        raise UsageError(f"unknown provider {name!r}", f"{f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(NAMES)}")


def connect(name: str, *, home: Path, local_usd_per_hour: Decimal, clock: Clock, env: Mapping[str, str]) -> Provider:
    """Return a provider's client. Raises UsageError for an unknown name."""
    check_name(name)
    if name == "local":
        return LocalProvider(home / "local", local_usd_per_hour, clock)
    return PlannedOnly(CLOUDS[name], env)
