"""What RunPod answers (REST v2 and GraphQL), in pydantic models, and what of it means for us."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from providers.contract import Instance, InstanceState, SshAddress
from providers.gpu_names import from_runpod
from providers.replies import Id, Moment, Number, Reply, SignedUsd, Text, Usd

if TYPE_CHECKING:
    from datetime import datetime

DISK_USD_PER_GB_MONTH = Decimal("0.10")
"""Container and volume disk of a running pod (RunPod's pricing page); a stopped pod's volume is twice that."""

HOURS_A_MONTH = 720


class GpuPrice(Reply):
    """$/h of ONE GPU in each cloud; null or 0 where it is not offered."""

    secure: Usd | None = None
    community: Usd | None = None


class MaxCount(Reply):
    """The most GPUs of a pod: a ceiling, not the stock."""

    secure: int | None = None
    community: int | None = None


class DataCenter(Reply):
    """Where a GPU can be had."""

    id: Text
    availability: Text | None = None


class Cuda(Reply):
    """A CUDA version that hosts of this GPU have."""

    version: Text
    available: bool = False


class GpuType(Reply):
    """One kind of GPU of `GET /v2/catalog/gpus`."""

    id: Text
    memory: Number
    price: GpuPrice
    maxCount: MaxCount = MaxCount()
    availability: Text | None = None
    """NONE, LOW, MEDIUM or HIGH, for the cloud and count that were asked about: a hint, no reservation."""
    dataCenters: list[DataCenter] | None = None
    cudaVersions: list[Cuda] | None = None


class Catalog(Reply):
    """`GET /v2/catalog/gpus`."""

    gpus: list[Any]


class Gpu(Reply):
    """The GPUs of a pod."""

    id: Text
    count: int


class Direct(Reply):
    """SSH straight to the pod."""

    host: Text
    port: int
    username: Text = "root"


class Ssh(Reply):
    """How a pod is reached; `direct` comes late, and changes whenever the pod was stopped."""

    direct: Direct | None = None


class Pod(Reply):
    """One pod of REST v2."""

    id: Id
    name: Text
    status: Text
    gpu: Gpu | None = None
    cost: Usd
    """$/h of the whole pod."""
    disk: int | None = None
    createdAt: Moment | None = None
    runtime: dict[str, Any] | None = None
    ssh: Ssh | None = None

    @property
    def address(self) -> SshAddress | None:
        """RUNNING is what was asked for, not what is: reached is a pod that has a runtime and a direct address."""
        direct = None if self.ssh is None else self.ssh.direct
        if self.status != "RUNNING" or not self.runtime or direct is None or not 0 < direct.port < 65536:
            return None
        return SshAddress(direct.host, direct.port, direct.username)

    @property
    def state(self) -> InstanceState:
        """EXITED and ERROR never recover by waiting."""
        match self.status:
            case "RUNNING":
                return "running" if self.address is not None else "creating"
            case "EXITED" | "ERROR":
                return "stopped"
            case "TERMINATED":
                return "ended"
            case _:
                return "creating"

    def as_instance(self, now: datetime) -> Instance:
        """Return it in the words of the contract."""
        return Instance(
            instance_id=self.id,
            tag=self.name,
            state=self.state,
            usd_per_hour=self.cost + disk_per_hour(self.disk or 0),
            created_at=self.createdAt or now,
            ended_at=None,
            address=self.address,
            detail=self.status,
            gpu=None if self.gpu is None else from_runpod(self.gpu.id) or self.gpu.id,
            count=None if self.gpu is None else self.gpu.count,
        )


class Pods(Reply):
    """`GET /v2/pods`: all of them, without pages."""

    pods: list[Pod]


class BillingRecord(Reply):
    """What one pod cost in one bucket of time."""

    startTime: Moment
    endTime: Moment
    podId: Id
    totalAmount: SignedUsd
    gpuAmount: SignedUsd = Decimal(0)
    cpuAmount: SignedUsd = Decimal(0)
    diskAmount: SignedUsd = Decimal(0)


class Billing(Reply):
    """`GET /v2/billing/pods`."""

    records: list[BillingRecord]


class GraphError(Reply):
    """One error of a GraphQL reply, which comes with status 200."""

    message: Text = ""
    extensions: dict[str, Any] | None = None


class Graph(Reply):
    """A GraphQL reply."""

    data: dict[str, Any] | None = None
    errors: list[GraphError] | None = None


class Deployed(Reply):
    """What `podFindAndDeployOnDemand` returns."""

    id: Id
    costPerHr: Usd | None = None


class Myself(Reply):
    """`myself` of GraphQL. A balance that is missing is an error: silence is not zero."""

    clientBalance: SignedUsd


def disk_per_hour(disk_gb: int) -> Decimal:
    """Return what a running pod's disk of that size costs an hour."""
    return DISK_USD_PER_GB_MONTH * disk_gb / HOURS_A_MONTH
