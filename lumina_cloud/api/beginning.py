"""`lumina init`: where to begin, whether its key is found, and the most that a month may cost.

Nothing here reads a key but to ask its provider whether it is taken, and nothing writes one: it stays where its user keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.api import doctor
from lumina_cloud.api.documents import of_markets
from lumina_cloud.core import money
from lumina_cloud.core.errors import AuthError, CredentialsError
from providers import credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal
    from pathlib import Path

    from lumina_cloud.api.documents import of_money
    from providers.contract import Provider

WAYS = ("sandbox", "local", *credentials.CLOUDS)
"""Where one can begin, what costs nothing first."""

PURPOSES = {
    "sandbox": "three clouds emulated on this computer: everything as for real, and nothing is paid",
    "local": "train on this computer: small models, for the price of its electricity",
    **{name: f"rent at {cloud.title}; needs a key and some dollars there" for name, cloud in credentials.CLOUDS.items()},
}

NEXT = {
    "sandbox": "lumina sandbox up, then lumina plan debug --live --sandbox",
    "local": "lumina plan debug --provider local",
    **{name: f"lumina plan debug --live --provider {name}" for name in credentials.CLOUDS},
}


@dataclass(frozen=True)
class KeyPlace:
    """Where a key is made, and where it may be kept."""

    title: str
    console: str
    variable: str
    files: tuple[Path, ...]


def key_place(name: str, env: Mapping[str, str]) -> KeyPlace:
    """Return where a cloud's key is made and kept."""
    cloud = credentials.CLOUDS[name]
    return KeyPlace(cloud.title, cloud.console, cloud.variables[0], cloud.files(env))


def needs_key(name: str) -> bool:
    """Whether one needs a key to begin there."""
    return name in credentials.CLOUDS


def checks(name: str, connect: Callable[[str], Provider], env: Mapping[str, str]) -> list[of_markets.Check]:
    """Return what `lumina doctor` says of one way to begin; a cloud with a key is asked whether it takes it."""
    if name == "sandbox":
        return []
    return list(doctor.trainer() if name == "local" else doctor.of_cloud(name, connect, env))


def without_account(error: CredentialsError, env: Mapping[str, str]) -> CredentialsError:
    """Return a missing key's error; for somebody who has none at any cloud, with how to try without one."""
    if isinstance(error, AuthError) or any(credentials.find_key(cloud, env) is not None for cloud in credentials.CLOUDS.values()):
        return error
    free = "without an account: lumina sandbox up, then the same with --sandbox; or a small one here: lumina launch debug --provider local"
    return CredentialsError(error.message, f"{error.hint}\n{free}")


def cap_of_all(document: of_money.BudgetDocument) -> str | None:
    """Return the cap on every month of all projects together, as a decimal string, None where there is none."""
    return next((row.usd_cap for row in document.budgets if row.project == "" and row.month == ""), None)


def document(name: str, found: list[of_markets.Check], cap: Decimal | str | None) -> of_markets.InitDocument:
    """Return how one is set up. What is missing for renting comes before what to do next."""
    ready = all(check.state in ("ok", "warning") for check in found)
    following = NEXT[name] if ready else f"{found[0].hint}; then lumina init --where {name}"
    kept = cap if cap is None or isinstance(cap, str) else money.text(cap)
    return of_markets.InitDocument(where=name, ready=ready, checks=found, usd_cap_a_month=kept, next=following)
