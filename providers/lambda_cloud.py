"""Lambda: whole machines by the minute (Cloud API v1).

It has no stop, no interruptible machines, no charges, and no key that a machine could end itself with. Prices are per machine, in
cents, everywhere the same, the disk included. A launch names one SSH key of the account, so ours is entered there once. A key may
ask once a second and launch once in twelve: all processes share that.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lumina_cloud.core import untrusted
from lumina_cloud.core.clock import iso
from lumina_cloud.core.errors import (
    AuthError,
    InvalidRequest,
    NoCapacity,
    NotFound,
    ProviderDown,
    StillTerminating,
)
from providers import lambda_replies as wire
from providers import startup
from providers.contract import TAG_PREFIX, Instance, Offer
from providers.gpu_names import from_lambda
from providers.http import CREATE_SECONDS, MARKET_SECONDS, Answer, Call, refusal
from providers.rate import Limit
from providers.replies import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from lumina_cloud.core.errors import LuminaError
    from providers.contract import LaunchSpec, OfferQuery
    from providers.http import Http

NAME = "lambda"
TITLE = "Lambda"

_LOG_PAGES = 50
# One a second and one launch in twelve, and a little more: over there the interval is measured on arrival.
_REQUEST = Limit("request", 1.05)
_LAUNCH = Limit("launch", 12.5)
_MAX_NAME = 64
_ARM = ("gh200",)
"""Types whose processor is an ARM one."""

_COUNTRIES = {"us": "US", "europe-central": "DE", "asia-south": "IN", "asia-northeast": "JP", "australia-east": "AU", "me-west": "IL"}


class LambdaCloud:
    """Rents at Lambda."""

    name = NAME
    startup_script_limit = 1_000_000

    def __init__(self, http: Http, ssh_port: int = 22) -> None:
        self._http = http
        self._ssh_port = ssh_port
        """Lambda says no port, since it is always 22; where an emulation of it listens elsewhere, that is known from outside."""

    # --- the market -----------------------------------------------------------------------------------------------------

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Return every kind of machine in every region that has one now."""
        if query.interruptible is True or query.min_reliability is not None:
            return []
        call = Call(
            "search",
            "the list of instance types",
            "GET",
            "/api/v1/instance-types",
            limits=(_REQUEST,),
            seconds=8.0,
            patience=MARKET_SECONDS,
        )

        def rows(answer: Answer) -> list[wire.TypeWithCapacity]:
            return read_rows(_understood(answer).read(wire.Types).data.values(), wire.TypeWithCapacity, TITLE, call.what)

        types, now = self._http.ask(call, rows), self._http.clock.now()
        return [offer for kind in types for offer in _offers(kind, now) if _fits(offer, query)]

    # --- create ---------------------------------------------------------------------------------------------------------

    def create(self, offer: Offer, spec: LaunchSpec, tag: str) -> Instance:
        """Launch a machine. The account's SSH keys are looked at first, and ours is entered if it is not there."""
        startup.check(spec, limit=self.startup_script_limit, title=TITLE)
        type_name, _, region = offer.offer_id.partition("@")
        if not region:
            raise InvalidRequest(f"{untrusted.line(offer.offer_id, 80)!r} is no offer of {TITLE}", "take one from: lumina offers")
        if len(tag) > _MAX_NAME:
            raise InvalidRequest(f"the tag {tag!r} has {len(tag)} characters, {TITLE} takes {_MAX_NAME}", "")
        # Lambda says of no machine when it was created: the tag keeps it, by its own clock, by which the bill goes too.
        now = self._http.provider_now()
        body: dict[str, Any] = {
            "region_name": region,
            "instance_type_name": type_name,
            "ssh_key_names": [self._key_name(spec)],
            "name": tag,
            "tags": [{"key": wire.CREATED, "value": iso(now)}],
        }
        if spec.startup_script or spec.env:
            body["user_data"] = _user_data(spec)
        path = "/api/v1/instance-operations/launch"
        call = Call("create", "a launch", "POST", path, body=body, limits=(_REQUEST, _LAUNCH), seconds=CREATE_SECONDS)
        secrets = (*spec.env.values(), spec.startup_script)
        launched = self._http.ask_once(call, lambda answer: _understood(answer, secrets).read(wire.LaunchReply)).data
        return Instance(
            instance_id=launched.instance_ids[0],
            tag=tag,
            state="creating",
            usd_per_hour=offer.usd_per_hour,
            created_at=now,
            ended_at=None,
            address=None,
            gpu=offer.gpu,
            count=offer.count,
        )

    def _key_name(self, spec: LaunchSpec) -> str:
        """Return the account's name of the public key, which is entered where it is not there yet."""
        if not spec.ssh_public_key:
            raise InvalidRequest(f"{TITLE} lets nobody in without an SSH key, and none was given", "give LaunchSpec.ssh_public_key")
        kind_and_key = spec.ssh_public_key.split()[:2]
        if name := self._known_key(kind_and_key):
            return name
        name = f"lumina-{hashlib.sha256(' '.join(kind_and_key).encode()).hexdigest()[:12]}"
        body = {"name": name, "public_key": " ".join(kind_and_key)}
        call = Call("key", "an SSH key", "POST", "/api/v1/ssh-keys", body=body, limits=(_REQUEST,))
        try:
            return self._http.ask(call, lambda answer: _understood(answer).read(wire.OneSshKey)).data.name
        except InvalidRequest:
            # Another process entered it in between, or a lost answer did.
            if name := self._known_key(kind_and_key):
                return name
            raise

    def _known_key(self, kind_and_key: list[str]) -> str | None:
        call = Call("keys", "the list of SSH keys", "GET", "/api/v1/ssh-keys", limits=(_REQUEST,))
        keys = self._http.ask(call, lambda answer: _understood(answer).read(wire.SshKeys)).data
        return next((key.name for key in keys if (key.public_key or "").split()[:2] == kind_and_key), None)

    # --- what is there --------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> Sequence[Instance]:
        """Return every instance of that name, terminated ones for as long as they are listed."""
        return [i for i in self._list() if i.tag == tag]

    def list_owned(self) -> Sequence[Instance]:
        """Return the instances whose name is a tag of ours."""
        return [i for i in self._list() if i.tag.startswith(TAG_PREFIX) and i.state != "ended"]

    def get(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound."""
        path = f"/api/v1/instances/{quote(instance_id, safe='')}"
        call = Call("get", f"instance {untrusted.line(instance_id, 80)}", "GET", path, limits=(_REQUEST,))
        machine = self._http.ask(call, lambda answer: _understood(answer).read(wire.OneMachine)).data
        return machine.as_instance(self._http.provider_now(), self._ssh_port)

    def _list(self) -> list[Instance]:
        call = Call("list", "the list of instances", "GET", "/api/v1/instances", limits=(_REQUEST,))
        now = self._http.provider_now()
        machines = self._http.ask(call, lambda answer: _understood(answer).read(wire.Machines)).data
        return [m.as_instance(now, self._ssh_port) for m in machines]

    def lifetime(self, instance_id: str, since: datetime) -> tuple[datetime, datetime] | None:
        """Return when an ended machine was launched and terminated by the account's log: billing follows these moments."""
        began = ended = None
        token: str | None = None
        for _page in range(_LOG_PAGES):
            params = {"start": iso(since), "resource_type": "cloud.instance", **({"page_token": token} if token else {})}
            call = Call("log", "the account's log", "GET", "/api/v1/audit-events", params=params, limits=(_REQUEST,))
            page = self._http.ask(call, lambda answer: _understood(answer).read(wire.AuditEvents))
            for event in page.data:
                if any(name.rsplit(":", 1)[-1] == instance_id for name in event.resource_lrns):
                    began = event.event_time if "launch" in event.action and began is None else began
                    ended = event.event_time if "terminat" in event.action and ended is None else ended
            token = page.page_token
            if not token:
                break
        return (began, ended) if began is not None and ended is not None else None

    # --- ending ---------------------------------------------------------------------------------------------------------

    def terminate(self, instance_id: str) -> None:
        """Terminate the machine, and prove that it is gone. Raises StillTerminating."""
        shown = untrusted.line(instance_id, 80)
        path, body = "/api/v1/instance-operations/terminate", {"instance_ids": [instance_id]}
        call = Call("destroy", f"the end of instance {shown}", "POST", path, body=body, limits=(_REQUEST,))
        with contextlib.suppress(NotFound):
            self._http.ask(call, lambda answer: _understood(answer).read(wire.TerminateReply))
        try:
            instance = self.get(instance_id)
            if instance.state != "ended":
                raise StillTerminating(f"{TITLE} instance {shown} was told to end and is {instance.detail}", "it is asked again")
        except NotFound:
            pass
        if any(i.instance_id == instance_id and i.state != "ended" for i in self._list()):
            raise StillTerminating(f"{TITLE} instance {shown} is still in the list of instances", "it is asked again")

    def check(self) -> None:
        """Raise AuthError for a key that is refused, or an account that may not launch."""
        self._list()

    def clock_skew(self) -> float | None:
        """Return by how many seconds this computer is ahead."""
        return self._http.clock_skew


# --- offers --------------------------------------------------------------------------------------------------------------


def _offers(kind: wire.TypeWithCapacity, now: datetime) -> Iterator[Offer]:
    """Yield a kind of machine once for each region that has one."""
    type_ = kind.instance_type
    if type_.specs.gpus < 1 or type_.price_cents_per_hour <= 0:
        return
    gpu, vram = from_lambda(type_.gpu_description)
    for region in kind.regions_with_capacity_available:
        yield Offer(
            provider=NAME,
            offer_id=f"{type_.name}@{region.name}",
            gpu=gpu or type_.gpu_description or type_.name,
            gpu_known=gpu is not None,
            count=type_.specs.gpus,
            usd_per_hour=type_.usd_per_hour,
            interruptible=False,
            region=region.name,
            secure=True,
            vram_gib=vram,
            cpu_cores=type_.specs.vcpus,
            memory_gib=type_.specs.memory_gib,
            disk_gb=type_.specs.storage_gib * 1.073741824,
            architecture="arm64" if any(name in type_.name for name in _ARM) else "x86_64",
            seen_at=now,
        )


def _fits(offer: Offer, query: OfferQuery) -> bool:
    return all(
        (
            query.gpu in (None, offer.gpu),
            query.count in (None, offer.count),
            query.max_usd_per_hour is None or offer.usd_per_hour <= query.max_usd_per_hour,
            query.region is None or _in_region(offer.region, query.region),
            offer.disk_gb is None or offer.disk_gb >= query.disk_gb,
        )
    )


def _in_region(name: str, region: str) -> bool:
    wanted = region.lower()
    country = next((code for prefix, code in _COUNTRIES.items() if name.startswith(f"{prefix}-")), "")
    return name == wanted or name.startswith(f"{wanted}-") or country == region.upper()


def _user_data(spec: LaunchSpec) -> str:
    """Return cloud-init's user data: a script, since it begins with `#!`. Variables are set for it, and for nothing else."""
    from shlex import quote as shell_quote

    exports = [f"export {name}={shell_quote(value)}" for name, value in spec.env.items()]
    first, _, rest = spec.startup_script.partition("\n")
    body = rest if first.startswith("#!") else spec.startup_script
    return "\n".join([first if first.startswith("#!") else "#!/bin/sh", *exports, body])


# --- what an answer means ------------------------------------------------------------------------------------------------


def _understood(answer: Answer, secrets: tuple[str, ...] = ()) -> Answer:
    """Return a reply that is a success. Raises what its code means otherwise; only the code is branched on."""
    if answer.ok:
        return answer
    raise _meaning(answer, secrets)


def _meaning(answer: Answer, secrets: tuple[str, ...]) -> LuminaError:
    raw = answer.json_or_none()
    error = raw.get("error") if isinstance(raw, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if not isinstance(code, str) or not isinstance(error, dict):
        return refusal(answer, "")
    said = untrusted.line(f"{error.get('message') or ''} ({code})", 300)
    if any(len(secret) > 3 and secret[:40] in said for secret in secrets):
        said = untrusted.line(code, 80)
    match code:
        case "global/invalid-api-key":
            return AuthError(f"{TITLE} refused the key: {said}", f"{_NEW_KEY}\nlumina doctor shows which keys were found where")
        case "global/account-inactive" | "global/invalid-address":
            # Lambda bills a card afterwards: an account that cannot pay is inactive, it has no balance that could be low.
            return AuthError(f"{TITLE} refuses this account: {said}", "look at the account and its billing at cloud.lambda.ai")
        case "instance-operations/launch/insufficient-capacity" | "global/quota-exceeded":
            return NoCapacity(f"{TITLE} has none of it now: {said}", "take another: lumina offers")
        case "global/object-does-not-exist":
            wrong = InvalidRequest if answer.call.verb == "create" else NotFound
            return wrong(f"{TITLE} knows nothing of that name: {said}")
    if code.startswith("provider/"):
        return ProviderDown(f"{TITLE} failed at {answer.call.what}: {said}", "ask again later")
    return refusal(answer, said)


_NEW_KEY = "make a new one at cloud.lambda.ai, API keys: export LAMBDA_API_KEY=..."
