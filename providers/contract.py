"""What a provider must be able to do, in seven verbs.

Every verb may be called twice. A provider is a file with one class that fulfils `Provider`, entered in
`providers.registry`. Errors are those of `lumina_cloud.core.errors`, chosen by what the caller should do next:
`CredentialsError`, `NoCapacity`, `BadReply` (never an empty list instead), `OutcomeUnknown`, `StillTerminating`, `NotFound`.

Prices are per machine and hour, all its GPUs together, in `Decimal` dollars. Times are aware UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal
    from pathlib import Path

InstanceState = Literal["creating", "running", "stopped", "ended"]


@dataclass(frozen=True)
class Offer:
    """Something that can be rented now."""

    provider: str
    offer_id: str
    gpu: str
    count: int
    usd_per_hour: Decimal
    """The whole machine, all-in."""
    interruptible: bool
    region: str


@dataclass(frozen=True)
class OfferQuery:
    """What is looked for; None means any."""

    gpu: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class LocalAddress:
    """A machine that is a folder on this computer."""

    folder: Path


Address = LocalAddress
"""How a machine is reached. An SSH address joins it with the first cloud."""


@dataclass(frozen=True)
class Instance:
    """What the provider says about one instance."""

    instance_id: str
    tag: str
    state: InstanceState
    usd_per_hour: Decimal
    created_at: datetime
    ended_at: datetime | None
    """When billing stopped, by the provider's own record."""
    address: Address | None
    """None until the machine can be reached."""


class Provider(Protocol):
    """One cloud."""

    name: str

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Return what can be rented now. Raises BadReply rather than return a list that may be incomplete."""
        ...

    def create(self, offer: Offer, tag: str) -> Instance:
        """Rent `offer` and label it `tag`; return at once, the machine may still boot.

        The caller has committed its intent and has looked `tag` up. Raises NoCapacity, or OutcomeUnknown when the request may
        have happened.
        """
        ...

    def find(self, tag: str) -> Sequence[Instance]:
        """Return every instance labelled `tag`, ended ones included for as long as the provider remembers them."""
        ...

    def get(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound when the provider knows no such id."""
        ...

    def list_owned(self) -> Sequence[Instance]:
        """Return every instance that carries a tag of ours and has not ended."""
        ...

    def terminate(self, instance_id: str) -> None:
        """End the instance; gone already is success. Raises StillTerminating when it has to be asked again."""
        ...

    def check(self) -> None:
        """Raise CredentialsError when renting could not work, naming the variable or file and where to get the key."""
        ...
