"""What Lambda answers, in pydantic models, and what of it means for us."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import Field

from providers.contract import Instance, InstanceState, SshAddress
from providers.gpu_names import from_lambda
from providers.replies import Id, Moment, Reply, Text

if TYPE_CHECKING:
    from datetime import datetime

CREATED = "lumina-created"
"""A tag that holds when we asked for the instance: Lambda itself keeps no time."""


class Specs(Reply):
    """Sizes of the whole machine."""

    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int


class InstanceType(Reply):
    """One kind of machine."""

    name: Text
    gpu_description: Text = ""
    price_cents_per_hour: int = Field(ge=0, le=10_000_000)
    """Of the whole machine, its disk included."""
    specs: Specs

    @property
    def usd_per_hour(self) -> Decimal:
        """The price in dollars."""
        return Decimal(self.price_cents_per_hour) / 100


class Region(Reply):
    """Where."""

    name: Text
    description: Text = ""


class TypeWithCapacity(Reply):
    """A kind of machine, and where it can be had now: nowhere is an empty list."""

    instance_type: InstanceType
    regions_with_capacity_available: list[Region]


class Types(Reply):
    """`GET /instance-types`: an object keyed by the type's name."""

    data: dict[str, Any]


class Launched(Reply):
    """Ids of what was launched."""

    instance_ids: list[Id] = Field(min_length=1)


class LaunchReply(Reply):
    """`POST /instance-operations/launch`."""

    data: Launched


class Tag(Reply):
    """A tag of an instance."""

    key: Text
    value: Text


class _Stamp(Reply):
    at: Moment


class Machine(Reply):
    """One instance."""

    id: Id
    name: Text | None = None
    ip: Text | None = None
    status: Text
    region: Region | None = None
    instance_type: InstanceType
    tags: list[Tag] | None = None

    @property
    def tag(self) -> str:
        """Our tag: the instance's name."""
        return self.name or ""

    def address(self, ssh_port: int) -> SshAddress | None:
        """Where SSH will answer, a little after `active`."""
        return SshAddress(self.ip, ssh_port, "ubuntu") if self.ip and self.status == "active" else None

    @property
    def state(self) -> InstanceState:
        """Nothing can be stopped here; `preempted` and `terminated` are over, `terminating` may still be billed."""
        match self.status:
            case "active":
                return "running" if self.ip else "creating"
            case "terminated" | "preempted":
                return "ended"
            case "terminating" | "unhealthy":
                return "stopped"
            case _:
                return "creating"

    def as_instance(self, now: datetime, ssh_port: int) -> Instance:
        """Return it in the words of the contract."""
        gpu, _gib = from_lambda(self.instance_type.gpu_description)
        return Instance(
            instance_id=self.id,
            tag=self.tag,
            state=self.state,
            usd_per_hour=self.instance_type.usd_per_hour,
            created_at=self._created() or now,
            ended_at=None,
            address=self.address(ssh_port),
            interrupted=self.status == "preempted",
            detail=self.status,
            gpu=gpu or self.instance_type.gpu_description or None,
            count=self.instance_type.specs.gpus,
        )

    def _created(self) -> datetime | None:
        for tag in self.tags or ():
            if tag.key == CREATED:
                try:
                    return _Stamp.model_validate({"at": tag.value}).at
                except ValueError:
                    return None
        return None


class Machines(Reply):
    """`GET /instances`: all of them, without pages."""

    data: list[Machine]


class OneMachine(Reply):
    """`GET /instances/{id}`."""

    data: Machine


class Terminated(Reply):
    """The instances that a terminate was for; it only begins then."""

    terminated_instances: list[Machine]


class TerminateReply(Reply):
    """`POST /instance-operations/terminate`."""

    data: Terminated


class AuditEvent(Reply):
    """One line of the account's log."""

    action: str
    event_time: Moment
    resource_lrns: list[str]


class AuditEvents(Reply):
    """`GET /audit-events`: in pages."""

    data: list[AuditEvent]
    page_token: str | None = None


class SshKey(Reply):
    """A public key of the account."""

    id: Text
    name: Text
    public_key: Text | None = None


class SshKeys(Reply):
    """`GET /ssh-keys`."""

    data: list[SshKey]


class OneSshKey(Reply):
    """`POST /ssh-keys`."""

    data: SshKey
