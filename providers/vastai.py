"""Vast.ai: a market of other people's machines (console API, v0 and v1 paths).

Its own rules: every instance is a contract on one ask; the label is our tag; a bid is for the whole machine; storage bills for as
long as the contract exists, also stopped; an error may come with status 200, "wrong key" with 404, "no such instance" with 200 and
null; a create can fail and leave a stopped contract, named in the error. The retired list of v0 answers 410: nothing that is not a
list of instances is taken for one.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import (
    AuthError,
    BadReply,
    InsufficientBalance,
    InvalidRequest,
    NoCapacity,
    NotFound,
    OutcomeUnknown,
    ProviderDown,
    RateLimited,
    StillTerminating,
)
from providers import startup
from providers import vastai_replies as wire
from providers.contract import TAG_PREFIX, BoxKey, Charge, Instance, Offer
from providers.gpu_names import to_vastai
from providers.http import CREATE_SECONDS, MARKET_SECONDS, Answer, Call, Retired, refusal, retry_after
from providers.rate import Limit
from providers.replies import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lumina_cloud.core.errors import LuminaError
    from providers.contract import ChargeKind, LaunchSpec, OfferQuery
    from providers.http import Http

NAME = "vastai"
TITLE = "Vast.ai"
IMAGE = "pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime"

MAX_TRAFFIC_USD_PER_GB = Decimal("0.05")
"""Hosts that ask more for traffic are left out: a checkpoint of a large model would cost more than its training."""

_SEARCH_ROWS = 64
"""No search answers more, whatever its limit."""
_SEARCH_PAGES = 2
"""Ten searches a minute are allowed: two commands in a row, each for both kinds of rental, stay below."""
_LIST_PAGES = 200
_MICRO = Decimal("0.000001")

# Their thresholds, and a little more: over there an interval is measured on arrival.
_SEARCH = Limit("search", 6.2, burst=9)
_CREATE = Limit("create", 4.7)
_DESTROY = Limit("destroy", 3.1)
_GET = Limit("get", 2.1)
_LIST = Limit("list", 1.05)
_CHANGE = Limit("change", 5.7)
_ACCOUNT = Limit("account", 1.05)
_CHARGES = Limit("charges", 1.05)

_KINDS: dict[str, ChargeKind] = {"gpu": "gpu", "disk": "storage", "bwd": "traffic", "bwu": "traffic"}


class VastAi:
    """Rents at Vast.ai. Offers can be looked at without a key."""

    name = NAME
    startup_script_limit = 11_000
    """16,384 characters of on-start command hold that much, compressed or not."""

    def __init__(self, http: Http) -> None:
        self._http = http

    # --- the market -----------------------------------------------------------------------------------------------------

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Return the cheapest machines of the market that fit, on-demand and interruptible."""
        if query.gpu is not None and not to_vastai(query.gpu):
            return []
        kinds = (False, True) if query.interruptible is None else (query.interruptible,)
        return [offer for bid in kinds for offer in self._market(query, bid=bid)]

    def _market(self, query: OfferQuery, *, bid: bool) -> Iterator[Offer]:
        seen: set[int] = set()
        floor: Decimal | None = None
        now = self._http.clock.now()
        for _page in range(_SEARCH_PAGES):
            rows = self._search(query, bid=bid, floor=floor)
            new = [ask for ask in rows if ask.id not in seen]
            seen.update(ask.id for ask in new)
            for ask in new:
                offer = _offer(ask, query, bid=bid, now=now)
                if offer is not None and _fits(ask, offer, query):
                    yield offer
            prices = [ask.dph_total for ask in rows if ask.dph_total is not None]
            if len(rows) < _SEARCH_ROWS or not new or not prices:
                return
            floor = max(prices)

    def _search(self, query: OfferQuery, *, bid: bool, floor: Decimal | None) -> list[wire.Ask]:
        call = Call(
            "search",
            "a search for offers",
            "POST",
            "/api/v0/bundles/",
            body=_filters(query, bid=bid, floor=floor),
            limits=(_SEARCH,),
            seconds=8.0,
            patience=MARKET_SECONDS,
        )

        def rows(answer: Answer) -> list[wire.Ask]:
            return read_rows(_understood(answer).read(wire.Offers).offers, wire.Ask, TITLE, call.what)

        return self._http.ask(call, rows)

    # --- create ---------------------------------------------------------------------------------------------------------

    def create(self, offer: Offer, spec: LaunchSpec, tag: str) -> Instance:
        """Accept an ask. Raises OutcomeUnknown with the contract that a failed create has left behind."""
        call = Call(
            "create",
            "a rental",
            "PUT",
            f"/api/v0/asks/{quote(offer.offer_id, safe='')}/",
            body=_rental(offer, spec, tag),
            limits=(_CREATE,),
            seconds=CREATE_SECONDS,
        )
        secrets = (*spec.env.values(), spec.startup_script, spec.ssh_public_key)
        created = self._http.ask_once(call, lambda answer: _created(answer, secrets))
        return Instance(
            instance_id=str(created.new_contract),
            tag=tag,
            state="creating",
            usd_per_hour=offer.usd_per_hour,
            created_at=self._http.provider_now(),
            ended_at=None,
            address=None,
            gpu=offer.gpu,
            count=offer.count,
            machine_id=offer.machine_id,
        )

    # --- what is there --------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> Sequence[Instance]:
        """Return the instances of that label. An ended one is known no more."""
        return [i for i in self._list({"label": {"eq": tag}}) if i.tag == tag]

    def list_owned(self) -> Sequence[Instance]:
        """Return the instances whose label is a tag of ours."""
        return [i for i in self._list({}) if i.tag.startswith(TAG_PREFIX)]

    def get(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound for one that is gone, or so new that it is not shown yet."""
        call = Call("get", f"instance {instance_id}", "GET", _instance_path(instance_id), limits=(_GET,))

        def single(answer: Answer) -> wire.Machine | None:
            return _understood(answer).read(wire.Single).instances

        machine = self._http.ask(call, single)
        if machine is None:
            raise NotFound(f"{TITLE} knows no instance {untrusted.line(instance_id, 80)}")
        return machine.as_instance(self._http.provider_now())

    def _list(self, filters: dict[str, Any]) -> list[Instance]:
        found: dict[int, wire.Machine] = {}
        token: str | None = None
        tokens: set[str] = set()
        for _page in range(_LIST_PAGES):
            page = self._page(filters, token)
            found.update((machine.id, machine) for machine in page.instances)
            token = page.next_token
            if not token:
                now = self._http.provider_now()
                return [machine.as_instance(now) for machine in found.values()]
            if token in tokens:
                break
            tokens.add(token)
        raise BadReply(f"{TITLE}'s list of instances does not end", "nothing was concluded from it; ask again")

    def _page(self, filters: dict[str, Any], token: str | None) -> wire.Page:
        params = {
            "limit": "25",
            "select_filters": json.dumps(filters),
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "select_cols": json.dumps(["*"]),
        }
        if token:
            params["after_token"] = token
        call = Call("list", "the list of instances", "GET", "/api/v1/instances/", params=params, limits=(_LIST,))
        return self._http.ask(call, lambda answer: _understood(answer).read(wire.Page))

    # --- ending ---------------------------------------------------------------------------------------------------------

    def terminate(self, instance_id: str) -> None:
        """Destroy the contract, and prove that it is gone. Raises StillTerminating."""
        call = Call("destroy", f"the end of instance {instance_id}", "DELETE", _instance_path(instance_id), body={}, limits=(_DESTROY,))
        with contextlib.suppress(NotFound):
            self._http.ask(call, lambda answer: _understood(answer).read(wire.Done))
        try:
            instance = self.get(instance_id)
        except NotFound:
            if all(other.instance_id != instance_id for other in self._list({})):
                return
            raise StillTerminating(f"{TITLE} instance {instance_id} is still in the list of instances", "it is asked again") from None
        raise StillTerminating(
            f"{TITLE} instance {instance_id} was told to end and is {instance.detail or instance.state}", "it is asked again"
        )

    # --- money, and the account -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AuthError for a key that cannot read the account or its instances."""
        self.balance()
        self._page({}, None)

    def balance(self) -> Decimal:
        """Return the credit that can be spent."""
        call = Call("account", "the account", "GET", "/api/v0/users/current/", limits=(_ACCOUNT,))
        return self._http.ask(call, lambda answer: _understood(answer).read(wire.Account)).credit

    def charges(self, since: datetime) -> Sequence[Charge]:
        """Return what instances were charged: GPU and disk by the second, traffic by the byte."""
        found: dict[str, Charge] = {}
        token: str | None = None
        for _page in range(_LIST_PAGES):
            page = self._charge_page(since, token)
            for charge in (c for row in page.results for c in _charges(row) if c.until > since):
                known = found.get(charge.charge_id)
                found[charge.charge_id] = charge if known is None else _joined(known, charge)
            if not page.next_token:
                return sorted(found.values(), key=lambda c: (c.since, c.charge_id))
            if page.next_token == token:
                break
            token = page.next_token
        raise BadReply(f"{TITLE}'s list of charges does not end", "nothing was concluded from it; ask again")

    def _charge_page(self, since: datetime, token: str | None) -> wire.ChargePage:
        day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        until = self._http.latest_now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        filters = {"day": {"gte": int(day.timestamp()), "lte": int(until.timestamp())}, "type": {"in": ["instance"]}}
        params = {"select_filters": json.dumps(filters), "format": "table", "latest_first": "true", "limit": "100"}
        if token:
            params["after_token"] = token
        call = Call("charges", "the charges", "GET", "/api/v0/charges/", params=params, limits=(_CHARGES,))
        return self._http.ask(call, lambda answer: _understood(answer).read(wire.ChargePage))

    # --- abilities ------------------------------------------------------------------------------------------------------

    def change_bid(self, instance_id: str, usd_per_hour: Decimal) -> None:
        """Bid another price for the whole machine."""
        path = f"/api/v0/instances/bid_price/{quote(instance_id, safe='')}/"
        body = {"client_id": "me", "price": usd_per_hour}
        call = Call("bid", f"another bid for instance {instance_id}", "PUT", path, body=body, limits=(_CHANGE,))
        self._http.ask(call, lambda answer: _understood(answer).read(wire.Done))

    def box_key(self) -> BoxKey:
        """Return how an instance destroys itself with the key that Vast.ai gives it alone."""
        return BoxKey("CONTAINER_ID", "CONTAINER_API_KEY", "DELETE", f"{self._http.base_url}/api/v0/instances/{{id}}/")

    def boot_log(self, instance_id: str) -> str:
        """Return the last lines that the container printed; the key is not sent to where they are stored."""
        path = f"/api/v0/instances/request_logs/{quote(instance_id, safe='')}/"
        ask = Call("log_request", f"the log of instance {instance_id}", "PUT", path, body={"tail": "1000"}, limits=(_CHANGE,))
        place = self._http.ask(ask, lambda answer: _understood(answer).read(wire.LogPlace)).result_url
        if not (place.startswith("https://") or _same_host(place, self._http.base_url)):
            raise BadReply(f"{TITLE} keeps the log of instance {instance_id} at an address that is not asked", "ask again")

        def text(answer: Answer) -> str:
            if not answer.ok:
                raise ProviderDown(f"the log of instance {instance_id} is not there yet", "ask again in some seconds")
            return untrusted.block(answer.body, max_lines=1000)

        return self._http.ask(Call("log", ask.what, "GET", place, anonymous=True), text)

    def clock_skew(self) -> float | None:
        """Return by how many seconds this computer is ahead."""
        return self._http.clock_skew


# --- offers --------------------------------------------------------------------------------------------------------------


def _filters(query: OfferQuery, *, bid: bool, floor: Decimal | None) -> dict[str, Any]:
    """Return a search in Vast.ai's operator language, cheapest first."""
    body: dict[str, Any] = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "disk_space": {"gte": query.disk_gb},
        "direct_port_count": {"gte": 1},
        "duration": {"gte": query.hours * 3600},
        "inet_down_cost": {"lte": MAX_TRAFFIC_USD_PER_GB},
        "inet_up_cost": {"lte": MAX_TRAFFIC_USD_PER_GB},
        "type": "bid" if bid else "on-demand",
        "order": [["dph_total", "asc"]],
        "limit": _SEARCH_ROWS,
        "allocated_storage": query.disk_gb,
    }
    if query.gpu is not None:
        body["gpu_name"] = {"in": list(to_vastai(query.gpu))}
    if query.count is not None:
        body["num_gpus"] = {"eq": query.count}
    if query.min_reliability is not None:
        body["reliability2"] = {"gte": query.min_reliability}
    if query.min_cuda is not None:
        body["cuda_max_good"] = {"gte": float(query.min_cuda)}
    if query.region is not None and _is_country(query.region):
        body["geolocation"] = {"in": [query.region.upper()]}
    if query.secure:
        body["datacenter"] = {"eq": True}
    price = {"gte": floor} if floor is not None else {}
    if query.max_usd_per_hour is not None:
        price["lte"] = query.max_usd_per_hour
    return body | ({"dph_total": price} if price else {})


def _offer(ask: wire.Ask, query: OfferQuery, *, bid: bool, now: datetime) -> Offer | None:
    """Return an ask as an offer, None for one without a price or whose share of a machine makes no sense."""
    gpus = (ask.min_bid if bid else ask.dph_base) or Decimal(0)
    if gpus <= 0 or not 1 <= ask.num_gpus <= 64:
        return None
    storage = wire.storage_per_hour(ask, query.disk_gb)
    traffic = wire.traffic_per_hour(ask, download_gb=query.download_gb, upload_gb=query.upload_gb, hours=query.hours)
    return Offer(
        provider=NAME,
        offer_id=str(ask.id),
        gpu=ask.gpu or ask.gpu_name,
        gpu_known=ask.gpu is not None,
        count=ask.num_gpus,
        usd_per_hour=(gpus + storage + traffic).quantize(_MICRO, ROUND_CEILING),
        interruptible=bid,
        bid_usd_per_hour=gpus if bid else None,
        usd_per_hour_stopped=storage.quantize(_MICRO, ROUND_CEILING),
        region=(ask.geolocation or "").strip(", "),
        reliability=None if ask.reliability2 is None else min(1.0, ask.reliability2),
        # 1 is a data centre in the site's own listings; the API's documentation does not say so.
        secure=query.secure or ask.hosting_type == 1,
        machine_id=None if ask.machine_id is None else str(ask.machine_id),
        vram_gib=ask.gpu_ram / 1024,
        cpu_cores=ask.cpu_cores_effective,
        memory_gib=ask.memory_gib,
        disk_gb=ask.disk_space,
        download_mbit=ask.inet_down,
        cuda=None if ask.cuda_max_good is None else f"{ask.cuda_max_good:g}",
        architecture="arm64" if (ask.cpu_arch or "").lower() in ("arm64", "aarch64") else "x86_64",
        ends_at=ask.end_date,
        seen_at=now,
    )


def _fits(ask: wire.Ask, offer: Offer, query: OfferQuery) -> bool:
    """Check again what was searched for: not every filter is always applied over there."""
    traffic = max(ask.inet_down_cost or Decimal(0), ask.inet_up_cost or Decimal(0))
    return all(
        (
            ask.rentable is not False and ask.rented is not True,
            query.gpu in (None, offer.gpu),
            query.count in (None, offer.count),
            query.max_usd_per_hour is None or offer.usd_per_hour <= query.max_usd_per_hour,
            query.min_reliability is None or (offer.reliability or 0.0) >= query.min_reliability,
            query.min_cuda is None or (ask.cuda_max_good or 0.0) >= float(query.min_cuda),
            query.region is None or _in_region(ask, query.region),
            not query.secure or ask.hosting_type != 0,
            ask.disk_space is None or ask.disk_space >= query.disk_gb,
            ask.direct_port_count is None or ask.direct_port_count >= 1,
            ask.duration is None or ask.duration >= query.hours * 3600,
            traffic <= MAX_TRAFFIC_USD_PER_GB,
        )
    )


def _in_region(ask: wire.Ask, region: str) -> bool:
    return ask.country == region.upper() if _is_country(region) else region.lower() in (ask.geolocation or "").lower()


def _is_country(region: str) -> bool:
    return len(region) == 2 and region.isalpha()


# --- create --------------------------------------------------------------------------------------------------------------


def _rental(offer: Offer, spec: LaunchSpec, tag: str) -> dict[str, Any]:
    """Return the body of a create. Raises InvalidRequest for what would not arrive as it is meant."""
    startup.check(spec, limit=VastAi.startup_script_limit, title=TITLE)
    script = base64.b64encode(gzip.compress(spec.startup_script.encode(), mtime=0)).decode() if spec.startup_script else ""
    steps = [
        *(startup.let_in(spec.ssh_public_key) if spec.ssh_public_key else ()),
        'touch "$HOME/.no_auto_tmux"',
        *((f'echo {script} | base64 -d | gzip -dc > "$HOME/lumina-start.sh" && sh "$HOME/lumina-start.sh"',) if script else ()),
    ]
    return {
        "client_id": "me",
        "image": spec.image or IMAGE,
        "label": tag,
        "disk": spec.disk_gb,
        "runtype": "ssh_direct",
        "env": dict(spec.env),
        "onstart": "\n".join(steps),
        # Fail rather than leave a queued contract that starts, and bills, some day.
        "cancel_unavail": True,
        "target_state": "running",
        "price": offer.bid_usd_per_hour,
    }


def _created(answer: Answer, secrets: tuple[str, ...]) -> wire.Created:
    """Read a create's reply. A refusal that names a contract has left one behind."""
    raw = answer.json_or_none()
    left = raw.get("new_contract") if isinstance(raw, dict) else None
    refused = not answer.ok or (isinstance(raw, dict) and raw.get("success") is False)
    if refused and isinstance(left, int) and not isinstance(left, bool):
        raise OutcomeUnknown(
            f"{TITLE} refused a rental, and made instance {left} all the same: {_said(raw, secrets)}", "it has to be ended", str(left)
        )
    if refused:
        raise _meaning(answer, secrets)
    return answer.read(wire.Created)


# --- what an answer means ------------------------------------------------------------------------------------------------


def _understood(answer: Answer) -> Answer:
    """Return a reply that is a success. Raises what it means otherwise."""
    raw = answer.json_or_none()
    if not answer.ok or (isinstance(raw, dict) and raw.get("success") is False):
        raise _meaning(answer)
    return answer


def _meaning(answer: Answer, secrets: tuple[str, ...] = ()) -> LuminaError:
    """Return the error that a refusal means. The code in the body decides, since statuses differ from server to server."""
    raw = answer.json_or_none()
    code = str(raw.get("error") or "") if isinstance(raw, dict) else ""
    text = f"{code} {raw.get('msg') or ''}" if isinstance(raw, dict) else ""
    said = _said(raw, secrets)
    if code == "auth_error":
        return AuthError(
            f"{TITLE} refused the key: {said}", f"make a new one at cloud.vast.ai, Account, API Keys: export VAST_API_KEY=...\n{LOOK}"
        )
    if "no_such_ask" in text:
        return NoCapacity(f"that offer of {TITLE} is gone: {said}", "take another: lumina offers")
    if "insufficient_credit" in text or code == "missing_billing":
        return InsufficientBalance(f"{TITLE} wants more credit: {said}", "top up at cloud.vast.ai, Billing")
    if code == "search_quota_exceeded":
        wait = retry_after(answer) or 3600.0
        return RateLimited(f"{TITLE} answers no more searches today", "the count begins anew at midnight UTC", retry_after=wait)
    if code == "no_such_instance" or (answer.status == 404 and code == "not_found"):
        return NotFound(f"{TITLE} knows no such instance: {said}")
    if code == "deprecated_endpoint":
        return Retired(f"{TITLE} has retired the address for {answer.call.what}: {said}", "pip install --upgrade lumina-cloud")
    if answer.ok:
        return InvalidRequest(f"{TITLE} refused {answer.call.what}: {said}")
    return refusal(answer, said)


LOOK = "lumina doctor shows which keys were found where"


def _said(raw: object, secrets: tuple[str, ...]) -> str:
    if not isinstance(raw, dict):
        return ""
    text = untrusted.line(" ".join(str(raw[k]) for k in ("error", "msg", "detail") if isinstance(raw.get(k), str)), 240)
    # An error may echo what was sent, a script or a variable's value among it.
    echoed = any(len(secret) > 3 and secret[:40] in text for secret in secrets) or len(text) > 200
    return untrusted.line(str(raw.get("error") or "its words repeat what was sent"), 80) if echoed else text


# --- charges -------------------------------------------------------------------------------------------------------------


def _charges(row: wire.ChargeRow) -> Iterator[Charge]:
    source = re.fullmatch(r"instance-(\d+)", row.source)
    if source is None:
        return
    tag = (row.metadata.label if row.metadata else None) or ""
    for item in row.items:
        kind = _KINDS.get(item.type, "other")
        charge_id = f"{NAME}-{source[1]}-{item.type}-{int(item.start.timestamp())}"
        yield Charge(charge_id=charge_id, instance_id=source[1], kind=kind, usd=item.amount, since=item.start, until=item.end, tag=tag)


def _joined(a: Charge, b: Charge) -> Charge:
    return Charge(a.charge_id, a.instance_id, a.kind, a.usd + b.usd, min(a.since, b.since), max(a.until, b.until), a.tag)


def _instance_path(instance_id: str) -> str:
    return f"/api/v0/instances/{quote(instance_id, safe='')}/"


def _same_host(url: str, base_url: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(base_url)[:2]
