"""Lambda's HTTP API v1."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from providers.emulator.clock import SECOND, parse, rfc3339
from providers.emulator.hardware import LAMBDA_REGIONS, LambdaType
from providers.emulator.lambda_vms import Inactive, LambdaVms, Launch, NoCapacity, Vm, moment_of
from providers.emulator.limits import Intervals
from providers.emulator.wire import Json, Reply, Request, Route, Router, reply_json, reply_text

if TYPE_CHECKING:
    from providers.emulator.clock import Moment

LAUNCH_INTERVAL = 12.0
PAGE_OF_EVENTS = 100
LAUNCH_KEYS = {
    *("region_name", "instance_type_name", "ssh_key_names", "name", "tags", "hostname", "image", "user_data", "quantity"),
    *("file_system_names", "file_system_mounts", "firewall_rulesets"),
}
USER_DATA_LIMIT = 1 << 20
IMAGES = (("lambda-stack-24-04", "Lambda Stack 24.04"), ("lambda-stack-22-04", "Lambda Stack 22.04"), ("ubuntu-24-04", "Ubuntu 24.04"))


def error(status: int, code: str, message: str, suggestion: str | None = None) -> Reply:
    """Return Lambda's error envelope."""
    body: Json = {"code": code, "message": message}
    if suggestion:
        body["suggestion"] = suggestion
    return reply_json({"error": body}, status)


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = error(status, code, message)


class LambdaApi:
    """The dialect. `handle` is called after authorization, limits and faults."""

    provider = "lambda"

    def __init__(self, cloud: LambdaVms) -> None:
        self.cloud = cloud
        self.world = cloud.world
        self.router = Router()
        self._limits = Intervals(getattr(self.world.clock, "scale", 1.0))
        for prefix in ("/api/v1", ""):
            self._declare(prefix)

    def _declare(self, prefix: str) -> None:
        add = self.router.add
        add("GET", f"{prefix}/instance-types", "offers", self._types)
        add("POST", f"{prefix}/instance-operations/launch", "create", self._launch)
        add("POST", f"{prefix}/instance-operations/terminate", "terminate", self._terminate)
        add("POST", f"{prefix}/instance-operations/restart", "start", self._restart)
        add("GET", f"{prefix}/instances", "list", self._list)
        add("GET", f"{prefix}/instances/{{id}}", "get", self._get)
        add("POST", f"{prefix}/instances/{{id}}", "label", self._rename)
        add("GET", f"{prefix}/ssh-keys", "keys", self._keys)
        add("POST", f"{prefix}/ssh-keys", "keys", self._add_key)
        add("DELETE", f"{prefix}/ssh-keys/{{id}}", "keys", self._drop_key)
        add("GET", f"{prefix}/images", "account", self._images)
        add("GET", f"{prefix}/file-systems", "account", self._nothing)
        add("GET", f"{prefix}/firewall-rules", "account", self._firewall)
        add("GET", f"{prefix}/firewall-rulesets", "account", self._nothing)
        add("GET", f"{prefix}/audit-events", "charges", self._audit)

    # Who asks, and how often

    def authorize(self, request: Request, route: Route, parts: dict[str, str]) -> Reply | None:
        """Return the refusal of a key that may not do this."""
        account, key = self.world.accounts[self.provider], _key(request)
        if key == account.key:
            return None
        if key == account.read_only_key:
            return None if request.method == "GET" else error(403, "global/account-inactive", "Your account is inactive.")
        return error(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.", "Check your API key or create a new one.")

    def limited(self, request: Request, route: Route) -> Reply | None:
        """Return 429 to a caller that comes too often."""
        now, key = self.world.now, _key(request)
        wait = self._limits.wait(f"{key} all", 1.0, self.world.options.unverified.lambda_burst, now)
        if not wait and route.call == "create":
            wait = self._limits.wait(f"{key} launch", LAUNCH_INTERVAL, 1, now)
        return self.too_many(wait) if wait else None

    # Errors that a fault asks for

    def too_many(self, wait: float) -> Reply:
        """Return a 429."""
        if not self.world.options.unverified.lambda_429_is_json:
            return reply_text("Too Many Requests", 429)
        reply = error(429, "global/rate-limit-exceeded", "Too many requests.", "Wait before trying again.")
        return reply.with_headers({"retry-after": str(max(1, round(wait + 0.5)))})

    def broken(self) -> Reply:
        """Return a 500."""
        return error(500, "global/unknown", "An unknown error occurred.")

    def gone(self, request: Request) -> Reply:
        """Return the 410 of a retired endpoint."""
        return error(410, "global/endpoint-retired", f"{request.path} is retired.")

    def unknown(self, request: Request) -> Reply:
        """Return the answer to a path that does not exist."""
        if methods := self.router.methods(request.path):
            return error(405, "global/unknown", "Method not allowed.").with_headers({"allow": ", ".join(methods)})
        return error(404, "global/object-does-not-exist", "Specified endpoint does not exist.")

    def empty_list(self) -> Reply:
        """Return a list without instances."""
        return reply_json({"data": []})

    def terminated(self, request: Request) -> Reply:
        """Return what a terminate answers with."""
        try:
            ids = (request.json() or {}).get("instance_ids") or []
        except ValueError:
            ids = []
        found = [self.cloud.vm(str(one)) for one in ids]
        return reply_json({"data": {"terminated_instances": [self._row(vm) for vm in found if vm is not None]}})

    def create_failed(self, created: list[str]) -> Reply:
        """Return the error of a launch that left something behind."""
        return self.broken()

    # Time

    def moment(self) -> Moment:
        """Return the time that this provider's clock shows."""
        skew = self.world.faults.standing("clock_skew", self.provider)
        return self.world.now + (round(skew.lasting * SECOND) if skew else 0)

    # Offers

    def _types(self, request: Request, _: dict[str, str]) -> Reply:
        data = {}
        for name, kind in self.cloud.types.items():
            regions = [{"name": one, "description": LAMBDA_REGIONS[one]} for one in sorted(self.cloud.capacity[name])]
            data[name] = {"instance_type": self._type(kind), "regions_with_capacity_available": regions}
        return reply_json({"data": data})

    def _type(self, kind: LambdaType) -> Json:
        return {
            "name": kind.name,
            "description": f"{kind.count}x {kind.gpu_text}",
            "gpu_description": kind.gpu_text,
            "price_cents_per_hour": int(self.cloud.cents[kind.name]),
            "specs": {"vcpus": kind.vcpus, "memory_gib": kind.memory_gib, "storage_gib": kind.storage_gib, "gpus": kind.count},
        }

    # Instances

    def _launch(self, request: Request, _: dict[str, str]) -> Reply:
        try:
            order = self._order(_object(request))
            vm = self.cloud.launch(order)
        except _Refused as refused:
            return refused.reply
        except NoCapacity:
            code = "instance-operations/launch/insufficient-capacity"
            return error(400, code, "Not enough capacity to fulfill launch request.", "Choose an instance type with more availability.")
        except Inactive:
            return error(403, "global/account-inactive", "Your account is inactive.", "Make sure you have verified your email and payment.")
        return reply_json({"data": {"instance_ids": [vm.id]}})

    def _order(self, body: Json) -> Launch:
        unknown = sorted(set(body) - LAUNCH_KEYS)
        if unknown:
            raise _Refused(400, "global/invalid-parameters", f"{unknown[0]}: Extra inputs are not permitted")
        self._check(body)
        missing = self.world.options.unverified.lambda_missing_object_status
        kind = self.cloud.types.get(str(body.get("instance_type_name")))
        if kind is None or body.get("region_name") not in LAMBDA_REGIONS:
            raise _Refused(missing, "global/object-does-not-exist", "Specified instance type or region does not exist.")
        key_name = body["ssh_key_names"][0]
        if key_name not in self.world.accounts[self.provider].ssh_keys:
            raise _Refused(missing, "global/object-does-not-exist", "Specified SSH key does not exist.")
        if body.get("file_system_names") or body.get("file_system_mounts"):
            raise _Refused(missing, "global/object-does-not-exist", "Specified file system does not exist.")
        return Launch(
            type=kind,
            region=body["region_name"],
            key_name=key_name,
            name=body.get("name") or "",
            tags=tuple((str(one["key"]), str(one["value"])) for one in body.get("tags") or ()),
            hostname=body.get("hostname") or "",
            user_data=body.get("user_data") or "",
        )

    def _check(self, body: Json) -> None:
        def refuse(text: str) -> None:
            raise _Refused(400, "global/invalid-parameters", text)

        keys = body.get("ssh_key_names")
        if not isinstance(keys, list) or len(keys) != 1:
            refuse("ssh_key_names: exactly one SSH key must be given")
        if int(body.get("quantity") or 1) > 1:
            refuse("Requested too many instances.")
        if len(body.get("name") or "") > 64:
            refuse("name: String should have at most 64 characters")
        if body.get("hostname") and not re.fullmatch(r"[a-z0-9][0-9a-z-]{0,62}", body["hostname"]):
            refuse("hostname: String should match pattern")
        if len((body.get("user_data") or "").encode()) > USER_DATA_LIMIT:
            refuse("user_data: at most 1 MB")
        for tag in body.get("tags") or ():
            if not re.fullmatch(r"[a-z][a-z0-9-:]{1,54}", str(tag.get("key"))) or len(str(tag.get("value"))) > 128:
                refuse("tags: key or value does not match pattern")

    def _row(self, vm: Vm) -> Json:
        ending = vm.status in ("terminating", "terminated", "preempted")
        launched = vm.status != "booting"

        def action() -> Json:
            if ending:
                return {"available": False, "reason_code": "vm-is-terminating", "reason_description": "The instance is terminating."}
            if not launched:
                return {"available": False, "reason_code": "vm-has-not-launched", "reason_description": "The instance has not launched."}
            return {"available": True}

        dead_end = action() if ending else {"available": True}
        row: Json = {
            "id": vm.id,
            "name": vm.label,
            "private_ip": "10.0.2.100",
            "status": vm.status,
            "ssh_key_names": [vm.order.key_name],
            "file_system_names": [],
            "region": {"name": vm.order.region, "description": LAMBDA_REGIONS[vm.order.region]},
            "instance_type": {**self._type(vm.order.type), "price_cents_per_hour": int(vm.cents_per_hour)},
            "hostname": vm.order.hostname or vm.machine.host.replace(".", "-"),
            "jupyter_token": vm.jupyter_token,
            "jupyter_url": f"https://jupyter-{vm.jupyter_token}.lambdaspaces.com/?token={vm.jupyter_token}",
            "actions": {**{name: action() for name in ("migrate", "rebuild", "restart", "cold_reboot")}, "terminate": dead_end},
            "tags": [{"key": key, "value": value} for key, value in vm.order.tags],
            "firewall_rulesets": [],
        }
        if vm.has_address:
            row["ip"] = vm.machine.host
        return row

    def _listed(self) -> list[Vm]:
        lag = self.world.faults.standing("listing_lag", self.provider)
        if lag is None:
            return self.cloud.vms()
        seen = self.world.now - round(lag.lasting * SECOND)
        everyone = [one for one in self.world.instances[self.provider].values() if isinstance(one, Vm)]
        return [vm for vm in everyone if vm.created <= seen and (vm.ended is None or vm.ended > seen)]

    def _list(self, request: Request, _: dict[str, str]) -> Reply:
        found = [] if "cluster_id" in request.query else self._listed()
        return reply_json({"data": [self._row(vm) for vm in found]})

    def _get(self, request: Request, parts: dict[str, str]) -> Reply:
        vm = self.cloud.vm(parts["id"])
        return _no_instance() if vm is None else reply_json({"data": self._row(vm)})

    def _rename(self, request: Request, parts: dict[str, str]) -> Reply:
        vm = self.cloud.vm(parts["id"])
        if vm is None:
            return _no_instance()
        name = _object(request).get("name")
        if not isinstance(name, str) or len(name) > 64:
            return error(400, "global/invalid-parameters", "name: String should have at most 64 characters")
        vm.label = name
        return reply_json({"data": self._row(vm)})

    def _named(self, request: Request) -> list[Vm] | None:
        ids = _object(request).get("instance_ids")
        found = [self.cloud.vm(str(one)) for one in ids] if isinstance(ids, list) else []
        there = [vm for vm in found if vm is not None]
        return there if there and len(there) == len(found) else None

    def _terminate(self, request: Request, _: dict[str, str]) -> Reply:
        vms = self._named(request)
        if vms is None or any(vm.status in ("terminated", "preempted") for vm in vms):
            return _no_instance()
        for vm in vms:
            self.cloud.terminate(vm)
        return reply_json({"data": {"terminated_instances": [self._row(vm) for vm in vms]}})

    def _restart(self, request: Request, _: dict[str, str]) -> Reply:
        vms = self._named(request)
        if vms is None:
            return _no_instance()
        for vm in vms:
            if vm.status == "active":
                self.cloud.restart(vm)
        return reply_json({"data": {"restarted_instances": [self._row(vm) for vm in vms]}})

    # Account

    def _key_row(self, name: str, text: str) -> Json:
        return {"id": self.cloud.key_ids.setdefault(name, self.world.token(32)), "name": name, "public_key": text}

    def _keys(self, request: Request, _: dict[str, str]) -> Reply:
        keys = self.world.accounts[self.provider].ssh_keys
        return reply_json({"data": [self._key_row(name, text) for name, text in keys.items()]})

    def _add_key(self, request: Request, _: dict[str, str]) -> Reply:
        body, keys = _object(request), self.world.accounts[self.provider].ssh_keys
        name, text = body.get("name"), body.get("public_key")
        if not isinstance(name, str) or not 1 <= len(name) <= 64 or len(str(text or "")) > 4096:
            return error(400, "global/invalid-parameters", "name: String should have 1 to 64 characters")
        if name in keys:
            return error(400, self.world.options.unverified.lambda_duplicate_key_code, f"An SSH key named {name!r} exists.")
        if text:
            keys[name] = str(text).strip()
            return reply_json({"data": self._key_row(name, keys[name])})
        public, private = _new_pair()
        keys[name] = public
        return reply_json({"data": {**self._key_row(name, public), "private_key": private}})

    def _drop_key(self, request: Request, parts: dict[str, str]) -> Reply:
        name = next((name for name, key_id in self.cloud.key_ids.items() if key_id == parts["id"]), None)
        if name is None or self.world.accounts[self.provider].ssh_keys.pop(name, None) is None:
            return error(404, "global/object-does-not-exist", "Specified SSH key does not exist.")
        del self.cloud.key_ids[name]
        return reply_json({"data": {}})

    def _images(self, request: Request, _: dict[str, str]) -> Reply:
        data = []
        for family, name in IMAGES:
            region = {"name": "us-east-1", "description": LAMBDA_REGIONS["us-east-1"]}
            more = {"description": name, "version": "1.0.0", "architecture": "x86_64", "region": region}
            data.append({"id": f"sandbox-{family}", "name": name, "family": family, **more})
        return reply_json({"data": data})

    def _nothing(self, request: Request, _: dict[str, str]) -> Reply:
        return reply_json({"data": []})

    def _firewall(self, request: Request, _: dict[str, str]) -> Reply:
        rule = {"protocol": "tcp", "port_range": [22, 22], "source_network": "0.0.0.0/0", "description": "ssh"}
        return reply_json({"data": [rule]})

    def _audit(self, request: Request, _: dict[str, str]) -> Reply:
        query = request.query
        try:
            since = parse(query["start"]) if "start" in query else 0
            until = parse(query["end"]) if "end" in query else self.world.now
            skip = int(query.get("page_token") or 0)
        except ValueError:
            return error(400, "global/invalid-parameters", "start, end: not ISO 8601")
        found = [
            one for one in self.cloud.events if since <= moment_of(one) <= until and query.get("resource_type") in (None, "cloud.instance")
        ]
        page = found[skip : skip + PAGE_OF_EVENTS]
        token = str(skip + PAGE_OF_EVENTS) if skip + PAGE_OF_EVENTS < len(found) else None
        return reply_json({"data": [self._event(one) for one in page], "page_token": token})

    def _event(self, event: Json) -> Json:
        shift = self.moment() - self.world.now
        return {
            "service_name": "cloud",
            "resource_name": "instance",
            "action": event["action"],
            "catalog_version": "2025-11-18",
            "event_id": f"sandbox-{event['number']}",
            "event_time": rfc3339(moment_of(event) + shift),
            "actor_lrn": None,
            "resource_lrns": [f"lrn:cloud:instance:{event['id']}"],
            "resource_owner_lrn": None,
            "request_api_key_lrn": None,
            "additional_details": {},
        }


def _key(request: Request) -> str | None:
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest, validate=True).decode().partition(":")[0]
    except ValueError:
        return rest.strip() or None


def _object(request: Request) -> Json:
    try:
        body: Any = request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _no_instance() -> Reply:
    return error(404, "global/object-does-not-exist", "Specified instance does not exist.")


def _new_pair() -> tuple[str, str]:
    """Return an SSH key pair in OpenSSH's and PEM's text."""
    import asyncssh

    pair = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    return pair.export_public_key().decode().strip(), pair.export_private_key("pkcs1-pem").decode()
