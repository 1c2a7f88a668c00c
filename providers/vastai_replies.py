"""What Vast.ai answers, in pydantic models, and what of it means for us."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from providers.contract import Instance, InstanceState, SshAddress
from providers.gpu_names import from_vastai
from providers.replies import Moment, Number, Reply, SignedUsd, Text, Usd

if TYPE_CHECKING:
    from datetime import datetime

HOURS_A_MONTH = 720
"""Vast.ai's month: storage per GB and month, divided by it, is what an hour costs."""


class Offers(Reply):
    """`POST /api/v0/bundles/`."""

    offers: list[Any]


class Ask(Reply):
    """One offer. All figures but id and count may be null."""

    id: int
    machine_id: int | None = None
    num_gpus: int
    gpu_name: Text
    gpu_ram: Number
    """MiB of one GPU."""
    dph_base: Usd | None = None
    """$/h of all GPUs together; of a search for bids, the lowest bid."""
    dph_total: Usd | None = None
    min_bid: Usd | None = None
    storage_cost: Usd | None = None
    """$ per GB and month."""
    inet_up_cost: Usd | None = None
    """$ per GB, in any state."""
    inet_down_cost: Usd | None = None
    reliability2: Number | None = None
    cuda_max_good: Number | None = None
    disk_space: Number | None = None
    inet_down: Number | None = None
    cpu_ram: Number | None = None
    """MB of the whole machine, of which `cpu_cores_effective` of `cpu_cores` are this offer's share."""
    cpu_cores: Number | None = None
    cpu_cores_effective: Number | None = None
    cpu_arch: Text | None = None
    direct_port_count: Number | None = None
    duration: Number | None = None
    end_date: Moment | None = None
    geolocation: Text | None = None
    hosting_type: int | None = None
    rentable: bool | None = None
    rented: bool | None = None

    @property
    def country(self) -> str:
        """The country's two letters at the end of `City, CC`; empty where it is not said."""
        code = (self.geolocation or "").rpartition(",")[2].strip()
        return code.upper() if len(code) == 2 and code.isalpha() else ""

    @property
    def gpu(self) -> str | None:
        """The catalog's name."""
        return from_vastai(self.gpu_name, self.gpu_ram)

    @property
    def memory_gib(self) -> float | None:
        """This offer's share of the machine's memory."""
        if not (self.cpu_ram and self.cpu_cores and self.cpu_cores_effective):
            return None
        return self.cpu_ram / 1024 * min(1.0, self.cpu_cores_effective / self.cpu_cores)


class Created(Reply):
    """`PUT /api/v0/asks/{id}/`. The key of the instance that comes with it is not read: the machine has it."""

    success: bool
    new_contract: int


class Port(Reply):
    """Where a port of the container is on its host."""

    HostPort: Text


class Machine(Reply):
    """One instance, of the list or by its id."""

    id: int
    label: Text | None = None
    machine_id: int | None = None
    actual_status: Text | None = None
    cur_state: Text | None = None
    next_state: Text | None = None
    intended_status: Text | None = None
    status_msg: Text | None = None
    image_runtype: Text | None = None
    ssh_host: Text | None = None
    ssh_port: int | None = None
    public_ipaddr: Text | None = None
    ports: dict[str, list[Port] | None] | None = None
    dph_total: Usd
    is_bid: bool | None = None
    start_date: Moment | None = None
    end_date: Moment | None = None
    gpu_name: Text | None = None
    gpu_ram: Number | None = None
    num_gpus: int | None = None

    @property
    def tag(self) -> str:
        """Its label."""
        return self.label or ""

    @property
    def state(self) -> InstanceState:
        """`running` is the only status in which it can be reached; exited, unknown and offline never recover by themselves."""
        match self.actual_status:
            case "running":
                return "running" if self.address is not None else "creating"
            case "stopped" | "exited" | "frozen" | "unknown" | "offline":
                return "stopped"
            case _:
                # A contract whose container was never started because the machine was taken says so only here.
                halted = self.cur_state == "stopped" and self.intended_status == "stopped"
                return "stopped" if halted else "creating"

    @property
    def interrupted(self) -> bool:
        """Outbid or displaced; also true of one that somebody stopped, which we never do."""
        return bool(self.is_bid) and self.cur_state == self.intended_status == self.next_state == "stopped"

    @property
    def address(self) -> SshAddress | None:
        """Straight to the machine where it has a port of its own, else through Vast.ai's relay."""
        if self.actual_status != "running":
            return None
        direct = (self.ports or {}).get("22/tcp")
        if direct and self.public_ipaddr and (port := _port(direct[0].HostPort)):
            return SshAddress(self.public_ipaddr, port, "root")
        if self.ssh_host and self.ssh_port and 0 < self.ssh_port < 65535:
            return SshAddress(self.ssh_host, self.ssh_port + ("jupyter" in (self.image_runtype or "")), "root")
        return None

    def as_instance(self, now: datetime) -> Instance:
        """Return it in the words of the contract."""
        return Instance(
            instance_id=str(self.id),
            tag=self.tag,
            state=self.state,
            usd_per_hour=self.dph_total,
            created_at=self.start_date or now,
            ended_at=None,
            address=self.address,
            interrupted=self.interrupted,
            detail=" ".join(part for part in (self.actual_status, self.status_msg) if part),
            gpu=None if self.gpu_name is None else from_vastai(self.gpu_name, self.gpu_ram or 0.0) or self.gpu_name,
            count=self.num_gpus,
            machine_id=None if self.machine_id is None else str(self.machine_id),
        )


def _port(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536 else None


class Page(Reply):
    """`GET /api/v1/instances/`, 25 at a time."""

    success: bool | None = None
    instances: list[Machine]
    next_token: str | None = None


class Single(Reply):
    """`GET /api/v0/instances/{id}/`: one instance under a plural key, null when there is none."""

    instances: Machine | None


class Done(Reply):
    """`{"success": true}`."""

    success: bool
    msg: Text | None = None


class Account(Reply):
    """`GET /api/v0/users/current/`."""

    id: int
    credit: SignedUsd
    """What can be spent."""


class ChargeItem(Reply):
    """A part of a charge."""

    type: Text
    start: Moment
    end: Moment
    amount: SignedUsd


class ChargeAbout(Reply):
    """What a charge says of its instance."""

    label: Text | None = None


class ChargeRow(Reply):
    """What one instance cost in a time."""

    source: Text
    """`instance-123`."""
    items: list[ChargeItem]
    metadata: ChargeAbout | None = None


class ChargePage(Reply):
    """`GET /api/v0/charges/`."""

    results: list[ChargeRow]
    next_token: str | None = None


class LogPlace(Reply):
    """`PUT /api/v0/instances/request_logs/{id}/`: where the log will be in a moment."""

    success: bool | None = None
    result_url: str


def storage_per_hour(ask: Ask, disk_gb: int) -> Decimal:
    """Return what a disk of that size costs an hour, while the instance exists."""
    return (ask.storage_cost or Decimal(0)) * disk_gb / HOURS_A_MONTH


def traffic_per_hour(ask: Ask, *, download_gb: float, upload_gb: float, hours: float) -> Decimal:
    """Return what the expected traffic costs, spread over the hours."""
    total = (ask.inet_down_cost or Decimal(0)) * Decimal(str(download_gb)) + (ask.inet_up_cost or Decimal(0)) * Decimal(str(upload_gb))
    return total / Decimal(str(hours))
