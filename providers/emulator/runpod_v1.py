"""RunPod's REST API v1, which is being retired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from providers.emulator import runpod_rows as rows
from providers.emulator.clock import rfc3339
from providers.emulator.runpod_cloud import NO_CAPACITY, Deployment, NoBalance, NoCapacity, NotAllowed, Pod, RunpodCloud
from providers.emulator.wire import Json, Reply, Request, Router, reply_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from providers.emulator.clock import Moment

FILTERS = ("id", "name", "desiredStatus", "imageName")


class RestV1:
    """Pods and their bill."""

    def __init__(self, cloud: RunpodCloud, shift: Callable[[], Moment], billed_until: Callable[[], Moment]) -> None:
        self.cloud = cloud
        self._shift = shift
        self._billed_until = billed_until

    def declare(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/v1/pods", "list", self._list)
        router.add("POST", "/v1/pods", "create", self._create)
        router.add("GET", "/v1/pods/{id}", "get", self._get)
        router.add("DELETE", "/v1/pods/{id}", "terminate", self._delete)
        for verb, call in (("start", "start"), ("stop", "stop"), ("restart", "start"), ("reset", "start")):
            router.add("POST", f"/v1/pods/{{id}}/{verb}", call, self._verb(verb))
        router.add("GET", "/v1/billing/pods", "charges", self._billing)

    def _list(self, request: Request, _: dict[str, str]) -> Reply:
        found = [rows.pod_v1(pod, self._shift()) for pod in self.cloud.pods()]
        for name in FILTERS:
            if name in request.query:
                found = [row for row in found if row[name] == request.query[name]]
        return reply_json(found)

    def _get(self, request: Request, parts: dict[str, str]) -> Reply:
        pod = self.cloud.pod(parts["id"])
        return _missing() if pod is None else reply_json(rows.pod_v1(pod, self._shift()))

    def _create(self, request: Request, _: dict[str, str]) -> Reply:
        try:
            body = request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not body.get("imageName") or not body.get("gpuTypeIds"):
            return reply_json({"message": "imageName and gpuTypeIds are required"}, 400)
        for gpu_id in body["gpuTypeIds"]:
            try:
                pod = self.cloud.deploy(_deployment(body, gpu_id))
            except NoCapacity:
                continue
            except NoBalance:
                return reply_json({"error": "insufficient balance"}, 402)
            return reply_json(rows.pod_v1(pod, self._shift()), 201)
        return reply_json({"error": NO_CAPACITY}, 400)

    def _delete(self, request: Request, parts: dict[str, str]) -> Reply:
        pod = self.cloud.pod(parts["id"])
        if pod is None:
            return _missing()
        self.cloud.terminate(pod)
        return Reply(204)

    def _verb(self, verb: str) -> Callable[[Request, dict[str, str]], Reply]:
        def handle(request: Request, parts: dict[str, str]) -> Reply:
            pod = self.cloud.pod(parts["id"])
            if pod is None:
                return _missing()
            acts = {"start": self.cloud.start, "stop": self.cloud.stop}
            try:
                acts.get(verb, self.cloud.restart)(pod)
            except NotAllowed as error:
                return reply_json({"message": str(error)}, 400)
            except NoCapacity as error:
                return reply_json({"message": str(error)}, 500)
            return reply_json(rows.pod_v1(pod, self._shift()))

        return handle

    def _billing(self, request: Request, _: dict[str, str]) -> Reply:
        as_of = self._billed_until()
        grouping = request.query.get("grouping", "gpuTypeId")
        groups: dict[str, Json] = {}
        for pod in self.cloud.world.instances[self.cloud.name].values():
            if not isinstance(pod, Pod) or request.query.get("podId") not in (None, pod.id):
                continue
            name = pod.id if grouping == "podId" else pod.gpu.name
            row: dict[str, Any] = groups.setdefault(
                name, {"time": rfc3339(pod.created), grouping: name, "amount": 0, "timeBilledMs": 0, "diskSpaceBilledGb": 0}
            )
            row["amount"] += pod.meter.total(as_of)
            row["timeBilledMs"] += rows.billed_milliseconds(pod, as_of)
            row["diskSpaceBilledGb"] += rows.disk_gb_hours(pod, as_of)
        return reply_json(list(groups.values()))


def _missing() -> Reply:
    return reply_json({"message": "Invalid Pod ID"}, 404)


def _deployment(body: Json, gpu_id: str) -> Deployment:
    return Deployment(
        name=str(body.get("name") or "my pod"),
        image=body["imageName"],
        gpu_id=gpu_id,
        count=int(body.get("gpuCount") or 1),
        tiers=("COMMUNITY",) if body.get("cloudType") == "COMMUNITY" else ("SECURE",),
        data_centers=tuple(body.get("dataCenterIds") or ()),
        countries=tuple(body.get("countryCodes") or ()),
        disk_gb=int(body.get("containerDiskInGb") or 50),
        volume_gb=20 if body.get("volumeInGb") is None else int(body["volumeInGb"]),
        mount_path=str(body.get("volumeMountPath") or "/workspace"),
        ports=tuple(body["ports"] if body.get("ports") is not None else ("8888/http", "22/tcp")),
        env={str(name): str(value) for name, value in (body.get("env") or {}).items()},
        command=(*(body.get("dockerEntrypoint") or ()), *(body.get("dockerStartCmd") or ())),
        start_ssh=True,
        spot=bool(body.get("interruptible")),
        allowed_cuda=tuple(body.get("allowedCudaVersions") or ()),
    )
