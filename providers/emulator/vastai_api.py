"""Vast.ai's HTTP API, as its documentation and its own client have it."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from providers.emulator import vastai_rows as rows
from providers.emulator.clock import SECOND
from providers.emulator.limits import Intervals
from providers.emulator.vastai_cloud import Contract, Order, Refused, VastaiCloud
from providers.emulator.vastai_market import DEFAULT_STORAGE_GB, matches, offer_row, ordered
from providers.emulator.wire import Json, Reply, Request, Route, Router, reply_json, reply_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from providers.emulator.clock import Moment

INTERVALS = {"create": 4.5, "terminate": 3.0, "get": 2.0, "list": 1.0, "stop": 1.0, "charges": 1.0, "keys": 1.0, "bid": 5.5, "logs": 1.5}
"""Seconds between two requests to one endpoint by one identity."""
CREATE_PENALTY = 12.0
SEARCH_INTERVAL, SEARCH_BURST = 6.0, 10
PAGE = 25
NOT_A_FILTER = {"type", "order", "limit", "allocated_storage", "disable_bundling"}
COMPUTED = {"dph_total", "num_gpus", "duration", "uptime_mins"}


def refusal(status: int, error: str, msg: str, **more: object) -> Reply:
    """Return Vast.ai's error body."""
    return reply_json({"success": False, "error": error, "msg": msg, **more}, status)


class VastaiApi:
    """The dialect. `handle` is called after authorization, limits and faults."""

    provider = "vastai"

    def __init__(self, cloud: VastaiCloud) -> None:
        self.cloud = cloud
        self.world = cloud.world
        self.router = Router()
        self._limits = Intervals(getattr(self.world.clock, "scale", 1.0))
        self._results: dict[str, str] = {}
        self._declare()

    def _declare(self) -> None:
        add = self.router.add
        add("POST", "/api/v0/bundles/", "offers", self._search)
        add("GET", "/api/v0/bundles/", "offers", self._search)
        add("PUT", "/api/v0/search/asks/", "offers", self._search)
        add("POST", "/api/v0/asks/bulk/", "create", self._rent_bulk)
        add("PUT", "/api/v0/asks/{ask}/", "create", self._rent)
        add("GET", "/api/v1/instances/", "list", self._list)
        add("GET", "/api/v0/instances/", "list", self._retired_list)
        add("PUT", "/api/v0/instances/", "stop", self._change_bulk)
        add("DELETE", "/api/v0/instances/", "terminate", self._destroy_bulk)
        add("PUT", "/api/v0/instances/reboot/{id}/", "start", self._reboot)
        add("PUT", "/api/v0/instances/recycle/{id}/", "start", self._reboot)
        add("PUT", "/api/v0/instances/bid_price/{id}/", "bid", self._bid)
        add("PUT", "/api/v0/instances/request_logs/{id}/", "logs", self._logs)
        add("PUT", "/api/v0/instances/command/{id}/", "logs", self._command)
        add("GET", "/api/v0/instances/{id}/ssh/", "keys", self._instance_keys)
        add("POST", "/api/v0/instances/{id}/ssh/", "keys", self._attach_key)
        add("DELETE", "/api/v0/instances/{id}/ssh/{key}/", "keys", self._detach_key)
        add("GET", "/api/v0/instances/{id}/", "get", self._get)
        add("PUT", "/api/v0/instances/{id}/", "stop", self._change)
        add("DELETE", "/api/v0/instances/{id}/", "terminate", self._destroy)
        add("GET", "/api/v0/users/current/", "balance", self._user)
        add("GET", "/api/v0/charges/", "charges", self._charges)
        add("GET", "/api/v1/invoices/", "charges", self._invoices)
        add("GET", "/api/v0/ssh/", "keys", self._keys)
        add("POST", "/api/v0/ssh/", "keys", self._add_key)
        add("PUT", "/api/v0/ssh/{key}/", "keys", self._replace_key)
        add("DELETE", "/api/v0/ssh/{key}/", "keys", self._drop_key)
        add("GET", "/api/v0/results/{token}", "result", self._result)

    # Who asks, and how often

    def authorize(self, request: Request, route: Route, parts: dict[str, str]) -> Reply | None:
        """Return the refusal of a key that may not do this."""
        key = request.bearer() or request.query.get("api_key")
        account = self.world.accounts[self.provider]
        if key is None:
            open_to_all = route.call in ("offers", "result")
            return None if open_to_all else refusal(403, "auth_error", "This action requires login.")
        if key == account.key:
            return None
        if key == account.read_only_key:
            reads = request.method == "GET" or route.call == "offers"
            return None if reads else refusal(403, "auth_error", "The API key is not authorized for this endpoint.")
        for contract in self.cloud.contracts():
            if key == contract.key:
                own = parts.get("id") == contract.id and route.call in ("get", "stop", "terminate")
                return None if own else refusal(403, "auth_error", "The API key is not authorized for this endpoint.")
        return refusal(self.world.options.unverified.vastai_bad_key_status, "auth_error", "Invalid user key")

    def limited(self, request: Request, route: Route) -> Reply | None:
        """Return 429 to a caller that comes too often."""
        now, unverified = self.world.now, self.world.options.unverified
        identity = f"{request.bearer()} {request.peer} {route.call}"
        if route.call == "offers":
            interval = SEARCH_INTERVAL
            wait = self._limits.wait(f"{request.peer} search", interval, SEARCH_BURST, now)
        elif route.call in INTERVALS:
            interval = INTERVALS[route.call]
            burst = 1 if route.call == "create" else unverified.vastai_burst
            wait = self._limits.wait(identity, interval, burst, now)
        else:
            return None
        return self.too_many(wait, interval) if wait else None

    def too_many(self, wait: float, interval: float = 1.0) -> Reply:
        """Return Vast.ai's 429."""
        reply = reply_text(f"API requests too frequent: endpoint threshold={interval}", 429)
        if self.world.options.unverified.vastai_retry_after:
            reply = reply.with_headers({"retry-after": f"{max(1, round(wait + 0.5))}"})
        return reply

    # Errors that a fault asks for

    def broken(self) -> Reply:
        """Return a 500."""
        return refusal(500, "server_error", "Internal Server Error")

    def gone(self, request: Request) -> Reply:
        """Return the 410 of a retired endpoint."""
        return refusal(410, "deprecated_endpoint", f"{request.path} is deprecated.")

    def unknown(self, request: Request) -> Reply:
        """Return the answer to a path that does not exist."""
        return refusal(404, "not_found", f"no such endpoint: {request.path}")

    def empty_list(self) -> Reply:
        """Return a list without instances."""
        document = {"success": True, "instances_found": 0, "total_instances": 0, "label_counts": {}, "next_token": None, "instances": []}
        return reply_json(document)

    def terminated(self, request: Request) -> Reply:
        """Return what a terminate answers with."""
        return reply_json({"success": True, "msg": "destroying instance"})

    def create_failed(self, created: list[str]) -> Reply:
        """Return the error of a create that left something behind."""
        number = int(created[0]) if created else None
        return refusal(400, "invalid_args", "error 400/3467: Invalid args: could not start the instance", new_contract=number)

    # Offers

    def _search(self, request: Request, _: dict[str, str]) -> Reply:
        try:
            asked = json.loads(request.query["q"]) if "q" in request.query else request.json() or {}
        except ValueError:
            return refusal(400, "invalid_request", "Invalid json body")
        if not isinstance(asked, dict):
            return refusal(400, "invalid_request", "Invalid json body")
        query = asked.get("q", asked) if request.path.startswith("/api/v0/search") else asked
        storage = Decimal(str(query.get("allocated_storage") or DEFAULT_STORAGE_GB))
        bid = query.get("type") in ("bid", "interruptible")
        now = self.moment()
        found = [offer_row(ask, now, storage, bid=bid) for ask in self.cloud.market.asks.values()]
        filters = {name: condition for name, condition in query.items() if name not in NOT_A_FILTER}
        if "id" in filters:
            found = []
        try:
            found = [row for row in found if matches(row, filters)]
        except ValueError as error:
            return refusal(400, "invalid_args", f"error 400/3001: Invalid args: {error}")
        found = ordered(found, query.get("order") or [["score", "desc"]])
        limit = min(int(query.get("limit") or 64), self.world.options.unverified.vastai_offer_cap)
        return reply_json({"offers": found[:limit]})

    # Renting

    def _rent(self, request: Request, parts: dict[str, str]) -> Reply:
        body = _object(request)
        if body is None:
            return refusal(400, "invalid_request", "Invalid json body")
        if not parts["ask"].isdigit():
            return refusal(400, "invalid_args", f"error 400/3466: Invalid args: ask id {parts['ask']!r}")
        try:
            order = self._order(body)
            contract = self.cloud.rent(int(parts["ask"]), order)
        except Refused as error:
            return _refused(error)
        return reply_json({"success": True, "new_contract": int(contract.id), "instance_api_key": contract.key})

    def _rent_bulk(self, request: Request, _: dict[str, str]) -> Reply:
        body = _object(request)
        if body is None or not isinstance(body.get("ids"), list):
            return refusal(400, "invalid_request", "Invalid json body")
        results = []
        for number in body["ids"]:
            reply = self._rent(request, {"ask": str(number)})
            results.append({"ask_id": number, **reply.document()})
        return reply_json({"success": all(one["success"] for one in results), "results": results})

    def _order(self, body: Json) -> Order:
        image = body.get("image")
        env = body.get("env") or {}
        if not image and not body.get("template_hash_id"):
            raise Refused(400, "invalid_args", "error 400/3467: Invalid args: image is required")
        if not isinstance(env, dict):
            env = {}
        texts = {"image": (str(image or ""), 1024), "args": (str(body.get("args") or ""), 16384), "label": (body.get("label") or "", 256)}
        if any(len(text) > limit for text, limit in texts.values()) or len(body.get("onstart") or "") > 16384:
            text = "error 400/3471: Invalid args: len(image) > 1024, or len(args) > 16384, or len(label) > 256"
            raise Refused(400, "invalid_args", text)
        self._check_env(env)
        disk = Decimal(str(body.get("disk") or 10))
        if disk < 8:
            raise Refused(400, "invalid_args", "error 400/3468: Invalid args: disk must be at least 8 GB")
        price = None if body.get("price") is None else Decimal(str(body["price"]))
        if price is not None and not Decimal("0.001") <= price <= 128:
            raise Refused(400, "invalid_price", "error 400/3469: price must lie between 0.001 and 128")
        return Order(
            image=str(image or body.get("template_hash_id")),
            label=str(body.get("label") or ""),
            disk_gb=disk,
            runtype=str(body.get("runtype") or "ssh"),
            env={str(name): str(value) for name, value in env.items()},
            onstart=body.get("onstart") or None,
            args=_arguments(body.get("args")),
            price=price,
            cancel_unavail=bool(body.get("cancel_unavail")),
        )

    def _check_env(self, env: Json) -> None:
        limit = self.world.options.unverified.vastai_env_limit
        sizes = [len(str(value)) for value in env.values()]
        if (limit is not None and any(size > limit for size in sizes)) or sum(sizes) > 32768:
            raise Refused(400, "invalid_args", "error 400/3473: Invalid args: env is too long")
        if sum(1 for name in env if str(name).startswith("-p")) > 64:
            raise Refused(400, "invalid_args", "error 400/3474: Invalid args: more than 64 ports")

    # Instances

    def moment(self) -> Moment:
        """Return the time that this provider's clock shows."""
        skew = self.world.faults.standing("clock_skew", self.provider)
        return self.world.now + (round(skew.lasting * SECOND) if skew else 0)

    def _listed(self) -> list[Contract]:
        everyone = self.world.instances[self.provider].values()
        lag = self.world.faults.standing("listing_lag", self.provider)
        if lag is None:
            return self.cloud.contracts()
        seen = self.world.now - round(lag.lasting * SECOND)
        then = [one for one in everyone if one.created <= seen and (one.ended is None or one.ended > seen)]
        return [one for one in then if isinstance(one, Contract)]

    def _list(self, request: Request, _: dict[str, str]) -> Reply:
        try:
            filters = json.loads(request.query.get("select_filters") or "{}")
            order = json.loads(request.query.get("order_by") or '[{"col": "id", "dir": "asc"}]')
            columns = json.loads(request.query.get("select_cols") or '["*"]')
            limit = max(1, min(int(request.query.get("limit") or PAGE), PAGE))
            token = request.query.get("after_token")
            after = json.loads(base64.urlsafe_b64decode(token)) if token and token not in ("null", "None") else None
        except (ValueError, TypeError):
            return refusal(400, "invalid_args", "error 400/3002: Invalid args: not JSON")
        if computed := sorted(COMPUTED & set(filters)):
            return refusal(400, "invalid_args", f"error 400/3003: Invalid args: {computed[0]} is a computed column")
        everything = [rows.instance_row(contract, self.moment()) for contract in self._listed()]
        found = [row for row in everything if matches(row, filters)]
        column, direction = (order[0]["col"], order[0].get("dir", "asc")) if order else ("id", "asc")
        found = ordered(found, [[column, direction], ["id", "asc"]])
        if after is not None:
            found = found[_position_after(found, after, column, descending=direction == "desc") :]
        page, rest = found[:limit], found[limit:]
        next_token = base64.urlsafe_b64encode(json.dumps([_plain(page[-1][column]), page[-1]["id"]]).encode()).decode() if rest else None
        counts: dict[str, int] = {}
        for row in everything:
            counts[row["label"] or ""] = counts.get(row["label"] or "", 0) + 1
        if columns != ["*"]:
            page = [{name: row.get(name) for name in columns} for row in page]
        return reply_json(
            {
                "success": True,
                "instances_found": len(page),
                "total_instances": len(everything),
                "label_counts": counts,
                "next_token": next_token,
                "instances": page,
            }
        )

    def _retired_list(self, request: Request, _: dict[str, str]) -> Reply:
        return refusal(410, "deprecated_endpoint", "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead.")

    def _get(self, request: Request, parts: dict[str, str]) -> Reply:
        contract = self.cloud.contract(parts["id"])
        if contract is None:
            if self.world.options.unverified.vastai_gone_status == 404:
                return refusal(404, "no_such_instance", f"error 404/3700: no_such_instance {parts['id']}")
            return reply_json({"instances": None})
        row = rows.instance_row(contract, self.moment())
        row.pop("volume_info")
        return reply_json({"instances": row})

    def _with(self, parts: dict[str, str], act: Callable[[Contract], Reply]) -> Reply:
        contract = self.cloud.contract(parts["id"])
        if contract is None or contract.doomed:
            return refusal(404, "no_such_instance", f"error 404/3701: no_such_instance Instance {parts['id']} not found")
        try:
            return act(contract)
        except Refused as error:
            return _refused(error)

    def _change(self, request: Request, parts: dict[str, str]) -> Reply:
        body = _object(request)
        if body is None:
            return refusal(400, "invalid_request", "Invalid json body")

        def act(contract: Contract) -> Reply:
            if "label" in body:
                if len(str(body["label"] or "")) > 1024:
                    return refusal(400, "label_too_long", "label is longer than 1024 characters")
                contract.label = str(body["label"] or "")
            if body.get("state") == "stopped":
                self.cloud.stop(contract)
            elif body.get("state") == "running" and not self.cloud.start(contract):
                return reply_json({"success": False, "msg": "Required resources are currently unavailable, state change queued."})
            return reply_json({"success": True})

        return self._with(parts, act)

    def _change_bulk(self, request: Request, parts: dict[str, str]) -> Reply:
        body = _object(request)
        if body is None or not isinstance(body.get("ids"), list):
            return refusal(400, "invalid_request", "Invalid json body")
        replies = [self._change(request, {"id": str(number)}).document() for number in body["ids"]]
        return reply_json({"success": all(one["success"] for one in replies)})

    def _destroy(self, request: Request, parts: dict[str, str]) -> Reply:
        def act(contract: Contract) -> Reply:
            self.cloud.destroy(contract)
            return self.terminated(request)

        reply = self._with(parts, act)
        return refusal(404, "not_found", "Instance not found") if reply.status == 404 else reply

    def _destroy_bulk(self, request: Request, _: dict[str, str]) -> Reply:
        body = _object(request)
        if body is None or not isinstance(body.get("instance_ids"), list):
            return refusal(400, "invalid_request", "Invalid json body")
        for number in body["instance_ids"]:
            self._destroy(request, {"id": str(number)})
        return reply_json({"success": True, "msg": "destroying instances"})

    def _reboot(self, request: Request, parts: dict[str, str]) -> Reply:
        def act(contract: Contract) -> Reply:
            self.cloud.reboot(contract)
            return reply_json({"success": True})

        return self._with(parts, act)

    def _bid(self, request: Request, parts: dict[str, str]) -> Reply:
        body = _object(request) or {}

        def act(contract: Contract) -> Reply:
            price = body.get("price")
            self.cloud.change_bid(contract, contract.ask.min_bid or Decimal(1) if price is None else Decimal(str(price)))
            return reply_json({"success": True})

        return self._with(parts, act)

    def _logs(self, request: Request, parts: dict[str, str]) -> Reply:
        body = _object(request) or {}

        def act(contract: Contract) -> Reply:
            lines = contract.machine.log().splitlines(keepends=True)
            return self._as_result(request, "".join(lines[-int(body.get("tail") or 1000) :]))

        return self._with(parts, act)

    def _command(self, request: Request, parts: dict[str, str]) -> Reply:
        command = str((_object(request) or {}).get("command") or "").split()

        def act(contract: Contract) -> Reply:
            if not command or command[0] not in ("ls", "rm", "du"):
                return refusal(400, "invalid_args", "error 400/3510: Invalid args: only ls, rm and du")
            return self._as_result(request, f"{contract.spec.name}\n")

        return self._with(parts, act)

    def _as_result(self, request: Request, text: str) -> Reply:
        token = self.cloud.world.token(32)
        self._results[token] = text
        url = f"http://{request.headers.get('host', '127.0.0.1')}/api/v0/results/{token}"
        return reply_json({"success": True, "result_url": url, "writeable_path": ""})

    def _result(self, request: Request, parts: dict[str, str]) -> Reply:
        text = self._results.get(parts["token"])
        return reply_text("not yet", 404) if text is None else reply_text(text)

    # Account

    def _user(self, request: Request, _: dict[str, str]) -> Reply:
        credit = self.world.credit(self.provider)
        account = self.world.accounts[self.provider]
        return reply_json(
            {
                "id": 1,
                "username": "sandbox",
                "email": "sandbox@example.invalid",
                "credit": credit,
                "balance": 0.0,
                "balance_threshold": 0.0,
                "balance_threshold_enabled": False,
                "has_billing": True,
                "can_pay": True,
                "ssh_key": next(iter(account.ssh_keys.values()), None),
                "sid": "sandbox",
                "api_key": None,
            }
        )

    def _charges(self, request: Request, _: dict[str, str]) -> Reply:
        try:
            filters = json.loads(request.query.get("select_filters") or "{}")
            since, until = (float(filters["day"][bound]) for bound in ("gte", "lte"))
            limit = max(1, min(int(request.query.get("limit") or 100), 500))
            skip = int(request.query.get("after_token") or 0)
        except (ValueError, KeyError, TypeError):
            return refusal(400, "invalid_args", "error 400/3601: Invalid args: select_filters needs a range of days")
        kinds = filters.get("type", {}).get("in") or ["instance"]
        now = self.world.now
        found = []
        for contract in self.world.instances[self.provider].values():
            assert isinstance(contract, Contract)
            if contract.live:
                self.world.measure(contract)
            end = contract.ended or now
            if "instance" in kinds and contract.created / SECOND <= until and end / SECOND >= since:
                found.append(rows.charge(contract, now))
        found.sort(key=lambda row: row["start"], reverse=request.query.get("latest_first", "").lower() == "true")
        page = found[skip : skip + limit]
        token = str(skip + limit) if skip + limit < len(found) else None
        return reply_json({"success": True, "count": len(page), "total": len(found), "next_token": token, "results": page})

    def _invoices(self, request: Request, _: dict[str, str]) -> Reply:
        world = self.world
        paid = {
            "id": 1,
            "when": world.started / SECOND,
            "type": "payment",
            "service": "stripe_payments",
            "amount": world.accounts[self.provider].deposit,
            "description": "credit of the sandbox",
        }
        return reply_json({"success": True, "count": 1, "total": 1, "next_token": None, "results": [paid]})

    # SSH keys

    def _keys(self, request: Request, _: dict[str, str]) -> Reply:
        keys = self.world.accounts[self.provider].ssh_keys
        if not keys:
            return refusal(404, "not_found", "no ssh keys")
        return reply_json([rows.ssh_key_row(number, text, self.world.started) for number, text in keys.items()])

    def _add_key(self, request: Request, _: dict[str, str]) -> Reply:
        text = str((_object(request) or {}).get("ssh_key") or "").strip()
        if not text:
            return refusal(400, "invalid_args", "error 400/3801: Invalid args: ssh_key is required")
        number = str(next(self.cloud.key_ids))
        self.world.accounts[self.provider].ssh_keys[number] = text
        return reply_json({"success": True, "key": rows.ssh_key_row(number, text, self.world.now)})

    def _replace_key(self, request: Request, parts: dict[str, str]) -> Reply:
        keys = self.world.accounts[self.provider].ssh_keys
        text = str((_object(request) or {}).get("ssh_key") or "").strip()
        if parts["key"] not in keys or not text:
            return refusal(400, "no_ssh_key", "no such ssh key")
        keys[parts["key"]] = text
        return reply_json({"success": True, "key": rows.ssh_key_row(parts["key"], text, self.world.now)})

    def _drop_key(self, request: Request, parts: dict[str, str]) -> Reply:
        if self.world.accounts[self.provider].ssh_keys.pop(parts["key"], None) is None:
            return refusal(400, "no_ssh_key", "no such ssh key")
        return reply_json({"success": True})

    def _instance_keys(self, request: Request, parts: dict[str, str]) -> Reply:
        def act(contract: Contract) -> Reply:
            return reply_json(
                {"success": True, "ssh_keys": [rows.ssh_key_row(str(n), text, self.world.now) for n, text in contract.ssh_keys]}
            )

        return self._with(parts, act)

    def _attach_key(self, request: Request, parts: dict[str, str]) -> Reply:
        text = str((_object(request) or {}).get("ssh_key") or "").strip()

        def act(contract: Contract) -> Reply:
            number = self.cloud.attach_key(contract, text)
            return reply_json({"success": True, "key": rows.ssh_key_row(str(number), text, self.world.now)})

        return self._with(parts, act) if text else refusal(400, "invalid_args", "error 400/3801: Invalid args: ssh_key is required")

    def _detach_key(self, request: Request, parts: dict[str, str]) -> Reply:
        def act(contract: Contract) -> Reply:
            contract.ssh_keys = [(number, text) for number, text in contract.ssh_keys if str(number) != parts["key"]]
            return reply_json({"success": True})

        return self._with(parts, act)


def _object(request: Request) -> Json | None:
    try:
        body = request.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else {} if body is None else None


def _arguments(given: object) -> tuple[str, ...] | None:
    if given in (None, "", []):
        return None
    return tuple(str(one) for one in given) if isinstance(given, list) else (str(given),)


def _refused(error: Refused) -> Reply:
    more: Json = {}
    if error.ask_id is not None:
        more["ask_id"] = error.ask_id
    if error.contract is not None:
        more["new_contract"] = error.contract
    return refusal(error.status, error.error, error.msg, **more)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _position_after(found: list[Json], after: list[Any], column: str, *, descending: bool) -> int:
    """Return where the page after a key begins; the key itself may be gone."""
    value, number = after
    for index, row in enumerate(found):
        have = _plain(row[column])
        if have == value:
            if row["id"] > number:
                return index
        elif have is not None and value is not None and ((have < value) if descending else (have > value)):
            return index
    return len(found)
