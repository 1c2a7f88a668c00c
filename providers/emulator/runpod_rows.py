"""How RunPod shows pods, GPU types and bills, in REST v2, REST v1 and GraphQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from providers.emulator.clock import HOUR, SECOND, Moment, go_style, rfc3339, utc
from providers.emulator.hardware import RUNPOD_DATA_CENTERS, Gpu
from providers.emulator.runpod_cloud import MAX_COUNT, Pod, RunpodCloud, Tier

if TYPE_CHECKING:
    from providers.emulator.wire import Json

ACTIONS = {
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "TERMINATED": [],
}


def level(free: int, count: int) -> str:
    """Return the availability word for so many free GPUs."""
    if free < count:
        return "NONE"
    return "LOW" if free < 4 else "MEDIUM" if free < 12 else "HIGH"


def pod_v2(pod: Pod, now: Moment, shift: Moment) -> Json:
    """Return a pod of REST v2; `shift` is how far the provider's clock is wrong."""
    up = pod.runtime_since is not None and pod.phase == "RUNNING"
    machine, order = pod.machine, pod.order
    mounts = {"persistent": {"size": order.volume_gb, "path": order.mount_path}} if order.volume_gb else {}
    direct = None
    if up and "22/tcp" in order.ports:
        command = f"ssh root@{machine.host} -p {machine.port}"
        direct = {"host": machine.host, "port": machine.port, "username": "root", "command": command}
    user = f"{pod.id}-{pod.host_suffix}"
    return {
        "id": pod.id,
        "name": pod.label,
        "status": pod.phase,
        "actions": ACTIONS[pod.phase],
        "image": order.image,
        "args": order.args_text,
        "disk": order.disk_gb,
        "mounts": mounts,
        "gpu": {"count": order.count, "id": pod.gpu.name},
        "cloud": pod.tier,
        "dataCenterId": pod.data_center,
        "cudaVersion": pod.cuda,
        "cost": pod.usd_per_hour,
        "locked": pod.locked,
        "globalNetworking": {"enabled": False},
        "env": order.env,
        "ports": list(order.ports),
        "registry": None,
        "template": None,
        "createdAt": rfc3339(pod.created + shift),
        "startedAt": None if pod.started_at is None else rfc3339(pod.started_at + shift),
        "runtime": _runtime_v2(pod, now) if up else None,
        "ssh": {
            "direct": direct,
            "proxy": {"host": "ssh.runpod.io", "port": 22, "username": user, "command": f"ssh {user}@ssh.runpod.io"},
        },
    }


def _runtime_v2(pod: Pod, now: Moment) -> Json:
    ports = [{key: port[name] for key, name in _V2_PORT.items()} for port in _ports(pod)]
    gpus = [{"util": 0, "memoryUtil": 0} for _ in range(pod.order.count)]
    return {"uptime": uptime(pod, now), "cpu": {"util": 0}, "memory": {"util": 0}, "gpus": gpus, "ports": ports}


_V2_PORT = {"ip": "ip", "private": "privatePort", "public": "publicPort", "type": "type"}


def uptime(pod: Pod, now: Moment) -> int:
    """Return seconds since the container came up."""
    return 0 if pod.runtime_since is None else max(0, (now - pod.runtime_since) // SECOND)


def _ports(pod: Pod) -> list[Json]:
    """Return the ports of a pod that is up: public TCP ones, and the proxy's inner ones."""
    found = []
    if "22/tcp" in pod.order.ports:
        found.append({"ip": pod.machine.host, "isIpPublic": True, "privatePort": 22, "publicPort": pod.machine.port, "type": "tcp"})
    for number, port in enumerate(one for one in pod.order.ports if one.endswith("/http")):
        private = int(port.removesuffix("/http"))
        found.append({"ip": "100.65.14.155", "isIpPublic": False, "privatePort": private, "publicPort": 60821 + number, "type": "http"})
    return found


def desired(pod: Pod) -> str:
    """Return the status of v1 and GraphQL, which is what is wanted rather than what is."""
    return {"EXITED": "EXITED", "TERMINATED": "TERMINATED"}.get(pod.phase, "RUNNING")


def pod_v1(pod: Pod, shift: Moment) -> Json:
    """Return a pod of REST v1."""
    up = pod.runtime_since is not None and pod.phase == "RUNNING"
    order = pod.order
    return {
        "id": pod.id,
        "name": pod.label,
        "desiredStatus": desired(pod),
        "costPerHr": pod.usd_per_hour,
        "adjustedCostPerHr": pod.usd_per_hour,
        "imageName": order.image,
        "image": order.image,
        "containerDiskInGb": order.disk_gb,
        "volumeInGb": order.volume_gb,
        "volumeMountPath": order.mount_path,
        "gpuCount": order.count,
        "gpu": {"id": pod.gpu.name, "count": order.count, "displayName": pod.gpu.runpod_display},
        "interruptible": order.spot,
        "locked": pod.locked,
        "machineId": pod.machine_id,
        "machine": {},
        "memoryInGb": 41 * order.count,
        "vcpuCount": 8 * order.count,
        "networkVolumeId": None,
        "env": order.env,
        "ports": list(order.ports),
        "portMappings": {"22": pod.machine.port} if up and "22/tcp" in order.ports else None,
        "publicIp": pod.machine.host if up else "",
        "createdAt": go_style(pod.created + shift),
        "lastStartedAt": None if pod.started_at is None else go_style(pod.started_at + shift),
        "lastStatusChange": pod.last_status_change,
        "templateId": "",
        "dockerEntrypoint": [],
        "dockerStartCmd": list(order.command),
    }


def pod_graphql(pod: Pod, now: Moment, shift: Moment) -> Json:
    """Return a pod of GraphQL."""
    up = pod.runtime_since is not None and pod.phase == "RUNNING"
    order = pod.order
    return {
        "id": pod.id,
        "name": pod.label,
        "imageName": order.image,
        "env": [f"{name}={value}" for name, value in order.env.items()],
        "containerDiskInGb": order.disk_gb,
        "volumeInGb": order.volume_gb,
        "volumeMountPath": order.mount_path,
        "costPerHr": float(pod.usd_per_hour),
        "adjustedCostPerHr": float(pod.usd_per_hour),
        "desiredStatus": desired(pod),
        "dockerArgs": order.args_text,
        "dockerId": None,
        "gpuCount": order.count,
        "lastStatusChange": pod.last_status_change,
        "machineId": pod.machine_id,
        "memoryInGb": 41 * order.count,
        "podType": "INTERRUPTABLE" if order.spot else "RESERVED",
        "port": None,
        "ports": ",".join(order.ports),
        "uptimeSeconds": uptime(pod, now),
        "vcpuCount": 8 * order.count,
        "createdAt": rfc3339(pod.created + shift),
        "runtime": {"uptimeInSeconds": uptime(pod, now), "ports": _ports(pod)} if up else None,
        "machine": {
            "podHostId": f"{pod.id}-{pod.host_suffix}",
            "gpuDisplayName": pod.gpu.runpod_display,
            "gpuTypeId": pod.gpu.name,
            "location": RUNPOD_DATA_CENTERS[pod.data_center][2],
            "dataCenterId": pod.data_center,
        },
    }


def gpu_v2(cloud: RunpodCloud, gpu: Gpu, tier: Tier, count: int, places: set[str], *, with_stock: bool) -> Json:
    """Return a GPU type of the v2 catalogue. Prices are per GPU."""
    secure, community = cloud.prices.get((gpu.name, "SECURE")), cloud.prices.get((gpu.name, "COMMUNITY"))
    row: Json = {
        "id": gpu.name,
        "name": gpu.runpod_display,
        "pool": gpu.pool,
        "manufacturer": "NVIDIA",
        "memory": round(gpu.memory_mib / 1024),
        "secure": secure is not None,
        "community": community is not None,
        "price": {"secure": secure, "community": community, "serverless": 1.1},
        "maxCount": {"secure": MAX_COUNT["SECURE"] if secure else 0, "community": MAX_COUNT["COMMUNITY"] if community else 0},
    }
    if with_stock:
        centers = []
        for place in sorted(places):
            word = level(cloud.free(gpu.name, tier, place), count)
            if word != "NONE":
                centers.append({"id": place, "name": RUNPOD_DATA_CENTERS[place][0], "availability": word})
        best = max((cloud.free(gpu.name, tier, place) for place in places), default=0)
        row["availability"] = level(best, count)
        if centers:
            row["dataCenters"] = centers
        row["cudaVersions"] = [{"version": "12.8", "available": True}, {"version": "13.0", "available": False}]
    return row


BUCKETS = ("hour", "day", "week", "month", "year")


def bucket_start(moment: Moment, size: str) -> datetime:
    """Return the start of the bucket that a moment lies in."""
    when = utc(moment).replace(minute=0, second=0, microsecond=0)
    if size == "hour":
        return when
    when = when.replace(hour=0)
    if size == "day":
        return when
    if size == "week":
        return when - timedelta(days=when.weekday())
    return when.replace(day=1) if size == "month" else when.replace(month=1, day=1)


def bucket_end(start: datetime, size: str) -> datetime:
    """Return the start of the next bucket."""
    if size == "hour":
        return start + timedelta(hours=1)
    if size == "day":
        return start + timedelta(days=1)
    if size == "week":
        return start + timedelta(days=7)
    if size == "month":
        return (start + timedelta(days=32)).replace(day=1)
    return start.replace(year=start.year + 1)


def _ms(when: datetime) -> Moment:
    return round(when.timestamp() * SECOND)


def billing_records(pods: list[Pod], since: Moment, until: Moment, as_of: Moment, size: str) -> list[Json]:
    """Return what pods cost in each bucket that lies in a range, as far as the billing job has come.

    A bucket's amount is the difference of two totals, so that all buckets of a pod add up to its bill exactly.
    """
    found = []
    for pod in pods:
        start = bucket_start(max(since, pod.created), size)
        while _ms(start) < min(until, pod.ended or as_of, as_of) + (pod.ended is not None):
            end = bucket_end(start, size)
            amounts = _amounts(pod, min(_ms(start), as_of), min(_ms(end), as_of))
            total = sum(amounts.values(), Decimal(0))
            if total:
                span = {"startTime": rfc3339(_ms(start)), "endTime": rfc3339(_ms(end)), "podId": pod.id}
                found.append({**span, "totalAmount": total, **amounts})
            start = end
    return found


def _amounts(pod: Pod, start: Moment, end: Moment) -> dict[str, Decimal]:
    amounts = {"gpuAmount": Decimal(0), "cpuAmount": Decimal(0), "diskAmount": Decimal(0)}
    for line in pod.meter.times:
        amounts["gpuAmount" if line.kind == "gpu" else "diskAmount"] += line.amount(end) - line.amount(start)
    return amounts


def billed_milliseconds(pod: Pod, as_of: Moment) -> int:
    """Return how long a pod's GPU was billed."""
    return sum(line.billed_seconds(as_of) * SECOND for line in pod.meter.times if line.kind == "gpu")


def disk_gb_hours(pod: Pod, as_of: Moment) -> Any:
    """Return the gigabytes of disk that were billed, while they are."""
    hours = Decimal(max(0, (pod.ended or as_of) - pod.created)) / HOUR
    return (pod.order.disk_gb + pod.order.volume_gb) if hours else 0
