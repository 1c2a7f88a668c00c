"""RunPod's REST API v2, and the dialect that joins it with v1 and GraphQL below one host."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from providers.emulator import runpod_rows as rows
from providers.emulator.clock import SECOND, parse
from providers.emulator.hardware import BY_NAME, GPUS, RUNPOD_DATA_CENTERS
from providers.emulator.limits import Window
from providers.emulator.runpod_cloud import Deployment, NoBalance, NoCapacity, NotAllowed, Pod, RunpodCloud, Tier
from providers.emulator.runpod_graphql import GraphQL
from providers.emulator.runpod_v1 import RestV1
from providers.emulator.wire import Json, Reply, Request, Route, Router, reply_json

if TYPE_CHECKING:
    from providers.emulator.clock import Moment

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
CREATE_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "image": str,
    "templateId": str,
    "cloud": str,
    "gpu": dict,
    "cpu": dict,
    "dataCenterIds": list,
    "disk": int,
    "mounts": dict,
    "ports": list,
    "env": dict,
    "args": str,
    "startSsh": bool,
    "registry": (dict, str),
    "entrypoint": list,
    "cmd": list,
    "globalNetworking": (dict, bool),
    "locked": bool,
}
NULLABLE = {"registry", "templateId", "mounts", "args", "gpu", "cpu"}
GPU_KEYS = {"id", "count", "allowedCudaVersions", "minCudaVersion", "minRamPerGpu", "minVcpuCountPerGpu"}
PATCH_KEYS = {"name", "image", "args", "disk", "ports", "env", "locked"}


def problem(status: int, detail: str, errors: list[str] | None = None) -> Reply:
    """Return an RFC 9457 problem."""
    body: Json = {"title": TITLES[status], "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return reply_json(body, status, "application/problem+json")


class RunpodApi:
    """The dialect. `handle` is called after authorization, limits and faults."""

    provider = "runpod"

    def __init__(self, cloud: RunpodCloud) -> None:
        self.cloud = cloud
        self.world = cloud.world
        self.router = Router()
        quota = self.world.options.unverified.runpod_per_minute
        self._window = Window(quota) if quota else None
        self._advertised: dict[str, str] = {}
        self.graphql = GraphQL(cloud, self.shift)
        self.v1 = RestV1(cloud, self.shift, self.billed_until)
        self._declare()

    def _declare(self) -> None:
        add = self.router.add
        add("POST", "/graphql", "graphql", self.graphql.handle)
        self.v1.declare(self.router)
        add("GET", "/v2/catalog/gpus", "offers", self._gpus)
        add("GET", "/v2/catalog/gpus/{id}", "offers", self._gpu)
        add("GET", "/v2/catalog/datacenters", "offers", self._data_centers)
        add("POST", "/v2/pods", "create", self._create)
        add("GET", "/v2/pods", "list", self._list)
        add("GET", "/v2/pods/{id}", "get", self._get)
        add("PATCH", "/v2/pods/{id}", "label", self._patch)
        add("DELETE", "/v2/pods/{id}", "terminate", self._delete)
        add("POST", "/v2/pods/{id}/action", "stop", self._action)
        add("GET", "/v2/pods/{id}/logs", "logs", self._logs)
        add("GET", "/v2/account/ssh-keys", "keys", self._keys)
        add("PUT", "/v2/account/ssh-keys", "keys", self._put_keys)
        add("GET", "/v2/billing/pods", "charges", self._billing)
        add("GET", "/v2/billing", "charges", self._billing)

    # Who asks, and how often

    def call_of(self, request: Request, route: Route) -> str:
        """Return what a request does: of GraphQL by its fields, of an action by its verb."""
        if route.call == "graphql":
            return self.graphql.call_of(request)
        if request.path.rstrip("/").endswith("/action"):
            body = _body(request)
            verb = body.get("action") if isinstance(body, dict) else None
            return {"start": "start", "restart": "start", "terminate": "terminate"}.get(str(verb), "stop")
        return route.call

    def authorize(self, request: Request, route: Route, parts: dict[str, str]) -> Reply | None:
        """Return the refusal of a key that may not do this."""
        account = self.world.accounts[self.provider]
        is_graphql = request.path.rstrip("/") == "/graphql"
        unverified = self.world.options.unverified
        if is_graphql and unverified.runpod_graphql_gone:
            return self.gone(request)
        if request.path.startswith("/v1/") and unverified.runpod_v1_gone:
            return self.gone(request)
        key = request.bearer() or (request.query.get("api_key") if is_graphql else None)
        if key is None and is_graphql and route.call == "offers":
            return None
        if key == account.key:
            return None
        reads = request.method == "GET" or (is_graphql and route.call in ("offers", "list", "get", "balance", "account"))
        if key == account.read_only_key:
            return None if reads else self._forbidden(request)
        pod = next((one for one in self.cloud.pods() if key and key == one.key), None)
        if pod is not None:
            own = parts.get("id") == pod.id or (is_graphql and self.graphql.only_about(request, pod.id))
            allowed = own and route.call in ("get", "stop", "terminate") and (is_graphql or unverified.runpod_pod_key_rest)
            return None if allowed else self._forbidden(request)
        return self._unauthorized(request, key)

    def _unauthorized(self, request: Request, key: str | None) -> Reply:
        if request.path.startswith("/v2"):
            return problem(401, "missing bearer token" if key is None else "invalid api key")
        if request.path.startswith("/v1"):
            return reply_json({"message": "Unauthorized"}, 401)
        return self.graphql.error("Unauthorized", "UNAUTHENTICATED", 401)

    def _forbidden(self, request: Request) -> Reply:
        if request.path.startswith("/v2"):
            return problem(403, "access denied")
        if request.path.startswith("/v1"):
            return reply_json({"message": "access denied"}, 403)
        return self.graphql.error("access denied", "FORBIDDEN", 200)

    def limited(self, request: Request, route: Route) -> Reply | None:
        """Return 429 to a caller that comes too often; only v2 has known limits."""
        if self._window is None or not request.path.startswith("/v2"):
            return None
        remaining, seconds, within = self._window.take(request.bearer() or request.peer, self.world.now)
        quota = self._window.quota
        self._advertised = {
            "ratelimit-policy": f'"minute";q={quota};w=60, "hour";q=3000;w=3600, "day";q=50000;w=86400',
            "ratelimit": f'"minute";r={remaining};t={seconds}',
        }
        if within:
            return None
        return problem(429, "rate limit exceeded for the minute window").with_headers({"retry-after": str(seconds)})

    def finish(self, request: Request, reply: Reply) -> Reply:
        """Advertise the limits on every authenticated answer of v2."""
        if request.path.startswith("/v2") and reply.status != 401 and self._advertised:
            return reply.with_headers(self._advertised)
        return reply

    # Errors that a fault asks for

    def too_many(self, wait: float) -> Reply:
        """Return a 429."""
        return problem(429, "rate limit exceeded for the minute window").with_headers({"retry-after": str(max(1, round(wait)))})

    def broken(self) -> Reply:
        """Return a 500."""
        return problem(500, "internal server error")

    def gone(self, request: Request) -> Reply:
        """Return the 410 of a retired endpoint."""
        return problem(410, f"{request.path} is retired")

    def unknown(self, request: Request) -> Reply:
        """Return the answer to a path that does not exist, or not with that method."""
        if methods := self.router.methods(request.path):
            return problem(405, "method not allowed").with_headers({"allow": ", ".join(methods)})
        return problem(404, "Not Found")

    def empty_list(self) -> Reply:
        """Return a list without pods."""
        return reply_json({"pods": []})

    def terminated(self, request: Request) -> Reply:
        """Return what a terminate answers with."""
        if request.path.rstrip("/") == "/graphql":
            return reply_json({"data": {"podTerminate": None}})
        return Reply(204)

    def create_failed(self, created: list[str]) -> Reply:
        """Return the error of a create that left something behind."""
        return problem(500, "internal server error")

    # Time

    def shift(self) -> Moment:
        """Return how far this provider's clock is wrong."""
        skew = self.world.faults.standing("clock_skew", self.provider)
        return round(skew.lasting * SECOND) if skew else 0

    def moment(self) -> Moment:
        """Return the time that this provider's clock shows."""
        return self.world.now + self.shift()

    def billed_until(self) -> Moment:
        """Return the moment of the last billing job."""
        every = round(self.world.options.delays.runpod_billing * SECOND)
        return self.world.started + (self.world.now - self.world.started) // every * every

    # Catalogue

    def _gpus(self, request: Request, _: dict[str, str]) -> Reply:
        asked = self._stock_query(request)
        if isinstance(asked, Reply):
            return asked
        tier, count, places, with_stock = asked
        kinds = [gpu for gpu in GPUS if gpu.runpod_display]
        return reply_json({"gpus": [rows.gpu_v2(self.cloud, gpu, tier, count, places, with_stock=with_stock) for gpu in kinds]})

    def _gpu(self, request: Request, parts: dict[str, str]) -> Reply:
        asked = self._stock_query(request)
        if isinstance(asked, Reply):
            return asked
        tier, count, places, with_stock = asked
        gpu = BY_NAME.get(parts["id"])
        if gpu is None or not gpu.runpod_display:
            return problem(404, "Not Found")
        return reply_json(rows.gpu_v2(self.cloud, gpu, tier, count, places, with_stock=with_stock))

    def _stock_query(self, request: Request) -> Reply | tuple[Tier, int, set[str], bool]:
        query = request.query
        with_stock = "AVAILABILITY" in query.get("include", "").split(",")
        filters = {"count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion"} & set(query)
        if with_stock != ("product" in query):
            return problem(400, "product and include=AVAILABILITY go together")
        if filters and not with_stock:
            return problem(400, f"{sorted(filters)[0]} needs include=AVAILABILITY")
        if query.get("product", "POD") not in ("POD", "SERVERLESS", "CLUSTER"):
            return problem(422, "Request validation failed.", ["$.product: value must be one of POD, SERVERLESS, CLUSTER"])
        tier = query.get("cloud", "SECURE")
        if tier not in ("SECURE", "COMMUNITY"):
            return problem(422, "Request validation failed.", ["$.cloud: value must be one of SECURE, COMMUNITY"])
        if not query.get("count", "1").isdigit() or int(query.get("count", "1")) < 1:
            return problem(422, "Request validation failed.", ["$.count: value must be a positive integer"])
        countries = {one for one in query.get("countryCodes", "").split(",") if one}
        places = {place for place, (_, _, country) in RUNPOD_DATA_CENTERS.items() if not countries or country in countries}
        return ("COMMUNITY" if tier == "COMMUNITY" else "SECURE"), int(query.get("count", "1")), places, with_stock

    def _data_centers(self, request: Request, _: dict[str, str]) -> Reply:
        with_stock = "GPU_AVAILABILITY" in request.query.get("include", "").split(",")
        regions = {one for one in request.query.get("regions", "").split(",") if one}
        found = []
        for place, (name, region, _country) in RUNPOD_DATA_CENTERS.items():
            if regions and region not in regions:
                continue
            row: Json = {"id": place, "name": name, "region": region, "globalNetwork": True, "networkVolumeTypes": [], "compliance": []}
            if with_stock:
                row["gpuAvailability"] = [
                    {"id": gpu.name, "name": gpu.runpod_display, "availability": rows.level(self.cloud.free(gpu.name, "SECURE", place), 1)}
                    for gpu in GPUS
                    if gpu.runpod_display
                ]
            found.append(row)
        return reply_json({"dataCenters": found})

    # Pods

    def _create(self, request: Request, _: dict[str, str]) -> Reply:
        body = _body(request)
        if not isinstance(body, dict):
            return problem(400, "request body is not a JSON object")
        if errors := _mistakes(body):
            return problem(422, "Request validation failed.", errors)
        if body.get("templateId"):
            return problem(404, "template not found")
        if (body.get("mounts") or {}).get("network"):
            return problem(404, "network volume not found")
        if body.get("cpu"):
            return problem(
                400, "There are no longer any instances available with the requested specifications. Please refresh and try again."
            )
        try:
            pod = self.cloud.deploy(_deployment(body))
        except NoCapacity as error:
            return problem(400, str(error))
        except NoBalance:
            return problem(402, "insufficient balance")
        pod.locked = bool(body.get("locked"))
        return reply_json(rows.pod_v2(pod, self.world.now, self.shift()), 201)

    def _listed(self) -> list[Pod]:
        return listed(self.cloud)

    def _list(self, request: Request, _: dict[str, str]) -> Reply:
        return reply_json({"pods": [rows.pod_v2(pod, self.world.now, self.shift()) for pod in self._listed()]})

    def _get(self, request: Request, parts: dict[str, str]) -> Reply:
        pod = self.cloud.pod(parts["id"])
        return problem(404, "Not Found") if pod is None else reply_json(rows.pod_v2(pod, self.world.now, self.shift()))

    def _patch(self, request: Request, parts: dict[str, str]) -> Reply:
        pod, body = self.cloud.pod(parts["id"]), _body(request)
        if pod is None:
            return problem(404, "Not Found")
        if not isinstance(body, dict) or set(body) - PATCH_KEYS:
            return problem(422, "Request validation failed.", ["$: unknown property"])
        if "name" in body:
            pod.label = str(body["name"])
        if "locked" in body:
            pod.locked = bool(body["locked"])
        return reply_json(rows.pod_v2(pod, self.world.now, self.shift()))

    def _delete(self, request: Request, parts: dict[str, str]) -> Reply:
        pod = self.cloud.pod(parts["id"])
        if pod is None:
            return problem(404, "Not Found")
        self.cloud.terminate(pod)
        return self.terminated(request)

    def _action(self, request: Request, parts: dict[str, str]) -> Reply:
        pod, body = self.cloud.pod(parts["id"]), _body(request)
        if pod is None:
            return problem(404, "Not Found")
        verbs = {"start": self.cloud.start, "stop": self.cloud.stop, "restart": self.cloud.restart, "terminate": self.cloud.terminate}
        verb = body.get("action") if isinstance(body, dict) else None
        if verb not in verbs:
            return problem(422, "Request validation failed.", [f"$.action: value must be one of {', '.join(verbs)}"])
        try:
            verbs[verb](pod)
        except NotAllowed as error:
            return problem(409, f"{verb} is not valid: {error}")
        except NoCapacity as error:
            return problem(400, str(error))
        return Reply(204) if verb == "terminate" else reply_json(rows.pod_v2(pod, self.world.now, self.shift()))

    def _logs(self, request: Request, parts: dict[str, str]) -> Reply:
        pod = self.cloud.pod(parts["id"])
        if pod is None:
            return problem(404, "Not Found")
        lines = [f"id: {number}\nevent: log\ndata: {line}\n\n" for number, line in enumerate(pod.machine.log().splitlines())]
        return Reply(200, "".join(lines).encode(), {"content-type": "text/event-stream"})

    # Account

    def _keys(self, request: Request, _: dict[str, str]) -> Reply:
        return reply_json({"keys": list(self.world.accounts[self.provider].ssh_keys.values())})

    def _put_keys(self, request: Request, _: dict[str, str]) -> Reply:
        body = _body(request)
        keys = body.get("keys") if isinstance(body, dict) else None
        if not isinstance(keys, list) or not all(isinstance(one, str) for one in keys):
            return problem(422, "Request validation failed.", ["$.keys: must be a list of strings"])
        if bad := next((n for n, one in enumerate(keys) if not re.match(r"(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+", one)), None):
            return problem(422, "Request validation failed.", [f"$.keys[{bad}]: not a public key"])
        self.world.accounts[self.provider].ssh_keys = {str(number): text for number, text in enumerate(keys)}
        return reply_json({"keys": keys})

    def _billing(self, request: Request, _: dict[str, str]) -> Reply:
        query, as_of = request.query, self.billed_until()
        size = query.get("bucketSize", "day")
        if size not in rows.BUCKETS:
            return problem(422, "Request validation failed.", [f"$.bucketSize: value must be one of {', '.join(rows.BUCKETS)}"])
        if "lastN" in query and {"startTime", "endTime"} & set(query):
            return problem(400, "lastN and startTime/endTime exclude each other")
        try:
            until = parse(query["endTime"]) if "endTime" in query else self.world.now
            since = parse(query["startTime"]) if "startTime" in query else until - 30 * 86_400 * SECOND
        except ValueError:
            return problem(422, "Request validation failed.", ["$.startTime: not RFC 3339"])
        if "lastN" in query:
            start = rows.bucket_start(until, size)
            for _step in range(max(0, int(query["lastN"]) - 1)):
                start = rows.bucket_start(round(start.timestamp() * SECOND) - 1, size)
            since = round(start.timestamp() * SECOND)
        everyone = [one for one in self.world.instances[self.provider].values() if isinstance(one, Pod)]
        pods = [pod for pod in everyone if query.get("podId") in (None, pod.id)]
        records = rows.billing_records(pods, since, until, as_of, size)
        totals = {name: sum(one[name] for one in records) for name in ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")}
        unique = len({one["podId"] for one in records})
        metadata = {"query": dict(query), "recordCount": len(records), "uniquePodCount": unique, "totals": totals}
        return reply_json({"records": records, "metadata": metadata})


def listed(cloud: RunpodCloud) -> list[Pod]:
    """Return the pods that a list shows: with a lag, those of some seconds ago."""
    world = cloud.world
    lag = world.faults.standing("listing_lag", cloud.name)
    if lag is None:
        return cloud.pods()
    seen = world.now - round(lag.lasting * SECOND)
    everyone = world.instances[cloud.name].values()
    then = [one for one in everyone if one.created <= seen and (one.ended is None or one.ended > seen)]
    return [one for one in then if isinstance(one, Pod)]


def _body(request: Request) -> Any:
    try:
        return request.json()
    except ValueError:
        return None


def _mistakes(body: Json) -> list[str]:
    """Return what is wrong with a create, in the service's words."""
    errors = [f"$.{name}: unknown property" for name in sorted(set(body) - set(CREATE_KEYS))]
    for name, value in body.items():
        kind = CREATE_KEYS.get(name)
        wrong = kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool)))
        if wrong and not (value is None and name in NULLABLE):
            errors.append(f"$.{name}: wrong type")
    missing = {
        "$.name: required": not body.get("name"),
        "$.image: required": not body.get("image") and not body.get("templateId"),
        "$: exactly one of gpu and cpu": bool(body.get("gpu")) == bool(body.get("cpu")),
        "$.cloud: value must be one of SECURE, COMMUNITY": body.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY"),
    }
    errors += [text for text, wrong in missing.items() if wrong]
    return errors or _gpu_mistakes(body) + _mount_mistakes(body)


def _gpu_mistakes(body: Json) -> list[str]:
    gpu = body.get("gpu") or {}
    errors = [f"$.gpu.{name}: unknown property" for name in sorted(set(gpu) - GPU_KEYS)]
    if body.get("gpu") and not isinstance(gpu.get("id"), str):
        errors.append("$.gpu.id: required")
    if not isinstance(gpu.get("count", 1), int) or gpu.get("count", 1) < 1:
        errors.append("$.gpu.count: must be a positive integer")
    if "allowedCudaVersions" in gpu and "minCudaVersion" in gpu:
        errors.append("$.gpu: allowedCudaVersions and minCudaVersion exclude each other")
    return errors


def _mount_mistakes(body: Json) -> list[str]:
    mounts = body.get("mounts") or {}
    if "persistent" in mounts and "network" in mounts:
        return ["$.mounts: persistent and network exclude each other"]
    if "persistent" in mounts and int(mounts["persistent"].get("size", 0)) < 10:
        return ["$.mounts.persistent.size: must be at least 10"]
    return [
        f"$.ports[{n}]: not PORT/tcp or PORT/http"
        for n, one in enumerate(body.get("ports") or [])
        if not re.fullmatch(r"\d+/(tcp|http|udp)", str(one))
    ]


def _deployment(body: Json) -> Deployment:
    gpu, persistent = body["gpu"], (body.get("mounts") or {}).get("persistent") or {}
    command = [*(body.get("entrypoint") or []), *(body.get("cmd") or [])] or shlex.split(body.get("args") or "")
    return Deployment(
        name=body["name"],
        image=body["image"],
        gpu_id=gpu["id"],
        count=gpu.get("count", 1),
        tiers=("COMMUNITY",) if body.get("cloud") == "COMMUNITY" else ("SECURE",),
        data_centers=tuple(body.get("dataCenterIds") or ()),
        disk_gb=body.get("disk") or 50,
        volume_gb=int(persistent.get("size", 0)),
        mount_path=persistent.get("path", "/workspace"),
        ports=tuple(body.get("ports") or ()),
        env={str(name): str(value) for name, value in (body.get("env") or {}).items()},
        command=tuple(str(part) for part in command),
        args_text=body.get("args") or "",
        start_ssh=bool(body.get("startSsh")),
        min_cuda=gpu.get("minCudaVersion"),
        allowed_cuda=tuple(gpu.get("allowedCudaVersions") or ()),
    )
