"""What a cloud must be able to do: the guide to adding one.

A provider is one class that fulfils `Provider`, in a file of its own, entered in `providers.registry`. The contract suite
(`tests/providers/test_contract.py`) then runs against it. To add a cloud:

1. Copy the nearest client. `providers.http` sends, retries, limits and times out; what is yours is the dialect: paths, bodies,
   pydantic models of the replies, and which error a refusal means.
2. Enter where its users keep their key in `providers.credentials`, and its GPU names in `providers.gpu_names`.
3. Fulfil the seven verbs of `Provider`, and of the abilities below those that the cloud really has. An ability is a protocol
   that callers ask for with `isinstance`, not a flag: what a cloud cannot do has no method that could be called by mistake.

Every verb may be repeated. Errors are chosen by what the caller is to do next (`lumina_cloud.core.errors`):
`AuthError`, `NoCapacity`, `InsufficientBalance`, `RateLimited(retry_after)`, `InvalidRequest`, `NotFound`, `ProviderDown`,
`BadReply` (never an empty list instead), `OutcomeUnknown(created_id)` (it may have happened), `StillTerminating`. A client
retries by itself only what is safe to repeat, which `create` never is, and returns or raises within its deadline.

Prices are per machine and hour, all its GPUs together, in `Decimal` dollars; sizes are 10^9 bytes where a name ends in `_gb`, 2^30
where it ends in `_gib`; times are aware UTC. Texts have passed `lumina_cloud.core.untrusted`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from pathlib import Path

InstanceState = Literal["creating", "running", "stopped", "ended"]
"""`running` can be reached; `stopped` computes no more and may still be billed for storage; `ended` costs nothing."""

ChargeKind = Literal["gpu", "storage", "traffic", "other"]

TAG_PREFIX = "lumina-"
"""Every tag of ours begins so. `list_owned` returns only such instances."""


# --- what is rented ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """Something that can be rented now. None stands for what the provider does not say."""

    provider: str
    offer_id: str
    gpu: str
    """Name in the catalog, or the provider's own text where that is not known (`gpu_known` is then False)."""
    count: int
    usd_per_hour: Decimal
    """The whole machine, all-in: GPUs, the disk that was asked for, and the traffic that is expected, spread over the hours."""
    interruptible: bool
    region: str
    gpu_known: bool = True
    bid_usd_per_hour: Decimal | None = None
    """What `create` will bid for the whole machine; None for on-demand."""
    usd_per_hour_stopped: Decimal | None = None
    """What the disk alone costs, also while the machine computes nothing."""
    reliability: float | None = None
    """Share of time that the host was up, 0 to 1."""
    secure: bool = False
    """In a data centre, by the provider's own word."""
    machine_id: str | None = None
    """The host, so that one that failed can be remembered."""
    vram_gib: float | None = None
    """Memory of one GPU."""
    cpu_cores: float | None = None
    memory_gib: float | None = None
    disk_gb: float | None = None
    """The largest disk that can be had."""
    download_mbit: float | None = None
    cuda: str | None = None
    """The newest CUDA that the driver can run."""
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    ends_at: datetime | None = None
    """When the host takes the machine back."""
    seen_at: datetime | None = None


@dataclass(frozen=True)
class OfferQuery:
    """What is looked for; None means any."""

    gpu: str | None = None
    """Name in the catalog."""
    count: int | None = None
    max_usd_per_hour: Decimal | None = None
    region: str | None = None
    """A country (`US`), or the beginning of a provider's own region (`us-east`)."""
    secure: bool = False
    min_reliability: float | None = None
    """Offers whose reliability nobody states do not pass it."""
    interruptible: bool | None = None
    min_cuda: str | None = None
    disk_gb: int = 50
    """Priced into the offer, and rented by a `LaunchSpec` of the same size."""
    download_gb: float = 8.0
    """Expected traffic onto the machine over `hours`: image, packages, data."""
    upload_gb: float = 4.0
    """Expected traffic off the machine over `hours`: checkpoints and results."""
    hours: float = 4.0
    """Over which traffic is spread in the all-in price, and that the host must be there for."""


@dataclass(frozen=True)
class LaunchSpec:
    """What a rented machine is to have, besides what its offer says."""

    ssh_public_key: str = ""
    """One line in OpenSSH form, let in for the user of the instance's `SshAddress`."""
    startup_script: str = ""
    """POSIX shell, run as root at first boot. Only for a `StartupScript` provider, else InvalidRequest."""
    env: Mapping[str, str] = field(default_factory=dict)
    disk_gb: int = 50
    image: str | None = None
    """A container image; None for the client's own choice. Whole-machine clouds do not use it."""


# --- what is there -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalAddress:
    """A machine that is a folder on this computer."""

    folder: Path


@dataclass(frozen=True)
class SshAddress:
    """A machine that answers SSH by key."""

    host: str
    port: int
    user: str
    host_keys: tuple[str, ...] = ()
    """Its host keys in OpenSSH form where the provider's own channel gave them, else empty: they are pinned at first contact."""


Address = LocalAddress | SshAddress
"""How a machine is reached."""


@dataclass(frozen=True)
class Instance:
    """What the provider says about one instance."""

    instance_id: str
    tag: str
    state: InstanceState
    usd_per_hour: Decimal
    """What the whole machine costs while it runs, by the provider's own figure."""
    created_at: datetime
    """By the provider; where it does not say, when we asked for it."""
    ended_at: datetime | None
    """When billing stopped, by the provider's own record."""
    address: Address | None
    """None until the machine can be reached. It may change when a machine was stopped: read it again."""
    interrupted: bool = False
    """The provider took it away: outbid, or its host needed it."""
    detail: str = ""
    """The provider's own words about its state."""
    ends_at: datetime | None = None
    """When the provider itself will end it, where a deadline was set."""
    gpu: str | None = None
    count: int | None = None
    machine_id: str | None = None


@dataclass(frozen=True)
class Charge:
    """Money that the provider says an instance has cost over an interval."""

    charge_id: str
    """The same charge has the same id whenever it is asked for; its amount may still grow."""
    instance_id: str
    kind: ChargeKind
    usd: Decimal
    since: datetime
    until: datetime
    tag: str = ""
    """What its instance was labelled, where the bill says so: it tells whose it was when nothing else is left of it."""


class Provider(Protocol):
    """One cloud."""

    name: str

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Return what can be rented now. Raises BadReply rather than return a list that may be incomplete."""
        ...

    def create(self, offer: Offer, spec: LaunchSpec, tag: str) -> Instance:
        """Rent `offer` and label it `tag`; return at once, the machine may still boot.

        The caller has committed its intent and has looked `tag` up. An interruptible offer is bid for with its own
        `bid_usd_per_hour`. Never retried here. Raises OutcomeUnknown when the request may have happened, with the id of
        what it left behind where the provider named one; ProviderDown when nothing was sent.
        """
        ...

    def find(self, tag: str) -> Sequence[Instance]:
        """Return every instance labelled `tag`, ended ones included for as long as the provider remembers them.

        A new instance may be missing for as long as the provider's list lags.
        """
        ...

    def get(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound when the provider knows no such id (which a new one may not be yet)."""
        ...

    def list_owned(self) -> Sequence[Instance]:
        """Return every instance that carries a tag of ours and has not ended, stopped ones included."""
        ...

    def terminate(self, instance_id: str) -> None:
        """End the instance. Returns only when it is gone by id and absent from a valid list; gone already is success.

        Raises StillTerminating when it was asked and is not gone yet: call again.
        """
        ...

    def check(self) -> None:
        """Raise CredentialsError or AuthError when renting could not work, naming what is missing and how to get it."""
        ...


# --- abilities -----------------------------------------------------------------------------------------------------------


@runtime_checkable
class HasCharges(Protocol):
    """Says what was billed."""

    def charges(self, since: datetime) -> Sequence[Charge]:
        """Return what instances were charged after `since`, by the provider's clock, ended ones included.

        The newest may be missing for some minutes.
        """
        ...


@runtime_checkable
class HasLifetimes(Protocol):
    """Keeps a log of when machines began and ended, where it has no bill that can be read."""

    def lifetime(self, instance_id: str, since: datetime) -> tuple[datetime, datetime] | None:
        """Return when an ended instance began and ended by the provider's own log since a moment, None while that is not there."""
        ...


@runtime_checkable
class HasBalance(Protocol):
    """Is paid in advance."""

    def balance(self) -> Decimal:
        """Return what is left to spend. Raises BadReply when the provider does not say: silence is not zero."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """Rents cheaper machines that it may take away. Their offers carry `bid_usd_per_hour`, which `create` sends as it stands."""

    def change_bid(self, instance_id: str, usd_per_hour: Decimal) -> None:
        """Bid another price for the whole machine of an instance that is there."""
        ...


@runtime_checkable
class ProviderDeadline(Protocol):
    """Can end an instance by itself: a second belt, beside the guard on the machine."""

    def create_until(self, offer: Offer, spec: LaunchSpec, tag: str, ends_at: datetime) -> Instance:
        """As `create`, to be ended by the provider at `ends_at`.

        Where the provider could not take the deadline, the instance's `ends_at` is None and its `detail` says why.
        """
        ...


@dataclass(frozen=True)
class BoxKey:
    """How a machine ends itself with a key that can do nothing else. The variables are those of its first process."""

    id_variable: str
    key_variable: str
    method: str
    url: str
    """With `{id}` where the instance's id goes; the key is sent as a bearer token."""


@runtime_checkable
class InstanceScopedKey(Protocol):
    """Gives each machine a key of its own, so that a guard on it needs no key of the account."""

    def box_key(self) -> BoxKey:
        """Return how a machine uses it."""
        ...


@runtime_checkable
class StartupScript(Protocol):
    """Runs `LaunchSpec.startup_script` at first boot."""

    startup_script_limit: int
    """The longest script, in bytes. A longer one is an InvalidRequest."""


@runtime_checkable
class HostKeyChannel(Protocol):
    """Hands over what the machine printed at boot through the provider's own authenticated API.

    A start-up script prints the machine's host keys there, so that they are known before first contact.
    """

    def boot_log(self, instance_id: str) -> str:
        """Return the last of what the machine printed, safe to show. Raises NotFound, ProviderDown when there is none yet."""
        ...


@runtime_checkable
class HasClock(Protocol):
    """Dates its answers."""

    def clock_skew(self) -> float | None:
        """Return by how many seconds this computer is ahead of the provider, None before a first dated answer."""
        ...
