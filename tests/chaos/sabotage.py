"""How the product is broken on purpose, at seams that are handed in: a campaign that does not find it is worth nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

NAMES = ("no-lookup", "no-reconcile", "no-guard", "charge-by-own-clock")


def _no_lookup(provider: Any) -> Any:
    """Look no tag up: whatever is asked for by its tag is not there."""
    return _with(provider, find=lambda _self, _tag: [])


def _charge_by_own_clock(provider: Any) -> Any:
    """Believe no bill and no clock of the provider's: a machine costs what our own clock says."""
    kind = type(provider)

    def get(self: Any, instance_id: str) -> Any:
        found = kind.get(self, instance_id)
        known = self.first_seen.setdefault(instance_id, self._http.clock.now())
        return replace(found, created_at=known, ended_at=None if found.ended_at is None else self._http.clock.now())

    broken = _with(provider, get=get, charges=None, lifetime=None, clock_skew=None)
    broken.first_seen = {}
    return broken


def _with(provider: Any, **changed: Any) -> Any:
    broken = copy.copy(provider)
    broken.__class__ = type(type(provider).__name__, (type(provider),), changed)
    return broken


ALTERED: dict[str, Callable[[Any], Any]] = {"no-lookup": _no_lookup, "charge-by-own-clock": _charge_by_own_clock}
"""What becomes of a provider's client. `no-guard` and `no-reconcile` are done by machines and commands that leave it out."""
