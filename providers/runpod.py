"""RunPod: pods in data centres (secure) and at hosts (community).

Two APIs of one account. Pods are made through GraphQL, since it alone takes `terminateAfter`, an end that RunPod itself keeps; they
are listed, read, ended and billed through REST v2. Where GraphQL is gone (410), pods are made through v2 without that end, and
their instance says so. The name is our tag; names need not be unique, so `find` may return several.
"""

from __future__ import annotations

import base64
import contextlib
import re
from dataclasses import replace
from datetime import UTC, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

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
    StillTerminating,
)
from providers import runpod_replies as wire
from providers import startup
from providers.contract import TAG_PREFIX, BoxKey, Charge, Instance, Offer
from providers.gpu_names import from_runpod, to_runpod
from providers.http import CREATE_SECONDS, LOOK_UP, MARKET_SECONDS, Answer, Call, Retired, refusal
from providers.rate import Limit
from providers.replies import read, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from lumina_cloud.core.errors import LuminaError
    from providers.contract import ChargeKind, LaunchSpec, OfferQuery
    from providers.http import Http

NAME = "runpod"
TITLE = "RunPod"
IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
COUNTS = (1, 2, 4, 8)
_LOG_SECONDS = 4.0
_EVENT = re.compile(rb"\s*(data|id|event|retry)?:")

_MICRO = Decimal("0.000001")
_READ = Limit("request", 1.0, burst=12)
"""60 a minute is what RunPod's own documentation shows; its headers say what holds."""
_RANK = {"HIGH": 3, "MEDIUM": 2, "LOW": 1}

_NO_CAPACITY = ("no longer any instances", "does not have the resources", "no instances available", "supply_constraint")
_NO_MONEY = ("insufficient balance", "insufficient funds", "balance is too low", "not enough credit", "add funds")

_DEPLOY = (
    "mutation Deploy($input: PodFindAndDeployOnDemandInput!) { podFindAndDeployOnDemand(input: $input) { id costPerHr desiredStatus } }"
)


class RunPod:
    """Rents at RunPod."""

    name = NAME
    startup_script_limit = 24_000

    def __init__(self, http: Http) -> None:
        self._http = http

    # --- the market -----------------------------------------------------------------------------------------------------

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Return what the catalog says can be had, on-demand: RunPod's API no longer sells interruptible pods reliably."""
        wanted = None if query.gpu is None else to_runpod(query.gpu)
        if query.interruptible is True or query.min_reliability is not None or (query.gpu is not None and wanted is None):
            return []
        counts = COUNTS if query.count is None else (query.count,)
        clouds = ("SECURE",) if query.secure else ("SECURE", "COMMUNITY")
        return [
            offer
            for cloud in clouds
            for count in counts
            for gpu in self._catalog(cloud, count, query)
            if wanted in (None, " ".join(gpu.id.split()))
            for offer in _offers(gpu, cloud, count, query, self._http.clock.now())
        ]

    def _catalog(self, cloud: str, count: int, query: OfferQuery) -> list[wire.GpuType]:
        params = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": str(count)}
        if query.min_cuda is not None:
            params["minCudaVersion"] = query.min_cuda
        call = Call(
            "search", "the catalog of GPUs", "GET", "/v2/catalog/gpus", params=params, limits=(_READ,), seconds=8.0, patience=MARKET_SECONDS
        )
        return self._http.ask(call, lambda a: read_rows(_understood(a).read(wire.Catalog).gpus, wire.GpuType, TITLE, call.what))

    # --- create ---------------------------------------------------------------------------------------------------------

    def create(self, offer: Offer, spec: LaunchSpec, tag: str) -> Instance:
        """Make a pod."""
        return self._create(offer, spec, tag, None)

    def create_until(self, offer: Offer, spec: LaunchSpec, tag: str, ends_at: datetime) -> Instance:
        """Make a pod that RunPod itself ends at `ends_at`."""
        return self._create(offer, spec, tag, ends_at)

    def _create(self, offer: Offer, spec: LaunchSpec, tag: str, ends_at: datetime | None) -> Instance:
        startup.check(spec, limit=self.startup_script_limit, title=TITLE)
        known = Instance(
            instance_id="",
            tag=tag,
            state="creating",
            usd_per_hour=offer.usd_per_hour,
            created_at=self._http.provider_now(),
            ended_at=None,
            address=None,
            ends_at=ends_at,
            gpu=offer.gpu,
            count=offer.count,
        )
        try:
            pod_id = self._deploy(offer, spec, tag, ends_at)
        except Retired as gone:
            pod_id = self._create_v2(offer, spec, tag)
            without = f"{gone.message}: made without an end that RunPod keeps by itself" if ends_at is not None else ""
            return replace(known, instance_id=pod_id, ends_at=None, detail=without)
        return replace(known, instance_id=pod_id)

    def _deploy(self, offer: Offer, spec: LaunchSpec, tag: str, ends_at: datetime | None) -> str:
        call = _graphql("create", "a pod", _DEPLOY, {"input": _deploy_input(offer, spec, tag, ends_at)}, seconds=CREATE_SECONDS)

        def deployed(answer: Answer) -> str:
            data = _data(answer, spec)
            raw = data.get("podFindAndDeployOnDemand")
            if raw is None:
                raise OutcomeUnknown(f"{TITLE} answered {call.what} with neither a pod nor an error", LOOK_UP)
            return read(raw, wire.Deployed, TITLE, call.what).id

        return self._http.ask_once(call, deployed)

    def _create_v2(self, offer: Offer, spec: LaunchSpec, tag: str) -> str:
        call = Call("create", "a pod", "POST", "/v2/pods", body=_v2_body(offer, spec, tag), limits=(_READ,), seconds=CREATE_SECONDS)
        return self._http.ask_once(call, lambda answer: _understood(answer, spec).read(wire.Pod)).id

    # --- what is there --------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> Sequence[Instance]:
        """Return every pod of that name."""
        return [pod for pod in self._list() if pod.tag == tag]

    def list_owned(self) -> Sequence[Instance]:
        """Return the pods whose name is a tag of ours."""
        return [pod for pod in self._list() if pod.tag.startswith(TAG_PREFIX) and pod.state != "ended"]

    def get(self, instance_id: str) -> Instance:
        """Return one pod. Raises NotFound."""
        call = Call("get", f"pod {untrusted.line(instance_id, 80)}", "GET", _pod_path(instance_id), limits=(_READ,))
        return self._http.ask(call, lambda answer: _understood(answer).read(wire.Pod)).as_instance(self._http.provider_now())

    def _list(self) -> list[Instance]:
        call = Call("list", "the list of pods", "GET", "/v2/pods", limits=(_READ,))
        now = self._http.provider_now()
        return [pod.as_instance(now) for pod in self._http.ask(call, lambda answer: _understood(answer).read(wire.Pods)).pods]

    # --- ending ---------------------------------------------------------------------------------------------------------

    def terminate(self, instance_id: str) -> None:
        """Delete the pod, and prove that it is gone. Raises StillTerminating."""
        call = Call("destroy", f"the end of pod {untrusted.line(instance_id, 80)}", "DELETE", _pod_path(instance_id), limits=(_READ,))
        with contextlib.suppress(NotFound):
            self._http.ask(call, _deleted)
        try:
            instance = self.get(instance_id)
            if instance.state != "ended":
                raise StillTerminating(f"{TITLE} pod {instance_id} was told to end and is {instance.detail}", "it is asked again")
        except NotFound:
            pass
        if any(pod.instance_id == instance_id and pod.state != "ended" for pod in self._list()):
            raise StillTerminating(f"{TITLE} pod {instance_id} is still in the list of pods", "it is asked again")

    # --- money, and the account -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AuthError for a key that cannot read pods."""
        self._list()

    def balance(self) -> Decimal:
        """Return the account's balance, which only GraphQL tells. Raises BadReply where it does not."""
        call = _graphql("account", "the balance", "query { myself { id clientBalance currentSpendPerHr spendLimit } }", {})

        def myself(answer: Answer) -> Decimal:
            return read(_data(answer).get("myself"), wire.Myself, TITLE, call.what).clientBalance

        return self._http.ask(call, myself)

    def charges(self, since: datetime) -> Sequence[Charge]:
        """Return what pods were charged, by the hour's bucket; RunPod's books lag some minutes behind."""
        start = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        end = (self._http.latest_now() + timedelta(hours=1)).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        params = {"startTime": _rfc3339(start), "endTime": _rfc3339(end), "bucketSize": "hour"}
        call = Call("charges", "the charges", "GET", "/v2/billing/pods", params=params, limits=(_READ,))
        records = self._http.ask(call, lambda answer: _understood(answer).read(wire.Billing)).records
        return [charge for record in records for charge in _charges(record) if charge.until > since]

    # --- abilities ------------------------------------------------------------------------------------------------------

    def box_key(self) -> BoxKey:
        """Return how a pod deletes itself with the key that RunPod gives it alone."""
        return BoxKey("RUNPOD_POD_ID", "RUNPOD_API_KEY", "DELETE", f"{self._http.base_url}/v2/pods/{{id}}")

    def boot_log(self, instance_id: str) -> str:
        """Return the last lines that the pod printed: a stream of events that is listened to for some seconds."""
        what, path = f"the log of pod {untrusted.line(instance_id, 80)}", f"{_pod_path(instance_id)}/logs"
        call = Call("log", what, "GET", path, params={"tail": "1000"}, limits=(_READ,), seconds=_LOG_SECONDS, endless=True)

        def lines(answer: Answer) -> str:
            body = _understood(answer).body
            if not body.strip():
                raise ProviderDown(f"{what} is not there yet", "ask again in some seconds")
            if not _EVENT.match(body):
                raise BadReply(f"{TITLE} answered {what} with no stream of events", "ask again")
            return untrusted.block("\n".join(_events(body)), max_lines=1000)

        return self._http.ask(call, lines)

    def clock_skew(self) -> float | None:
        """Return by how many seconds this computer is ahead."""
        return self._http.clock_skew


# --- offers --------------------------------------------------------------------------------------------------------------


def _offers(gpu: wire.GpuType, cloud: str, count: int, query: OfferQuery, now: datetime) -> Iterator[Offer]:
    """Yield a kind of GPU as an offer of `count`, none where its price, count, stock or place will not do."""
    secure = cloud == "SECURE"
    each = (gpu.price.secure if secure else gpu.price.community) or Decimal(0)
    most = gpu.maxCount.secure if secure else gpu.maxCount.community
    if each <= 0 or (most is not None and count > most) or gpu.availability in (None, "NONE"):
        return
    places = _places(gpu, query.region)
    if query.region is not None and not places:
        return
    storage = wire.disk_per_hour(query.disk_gb)
    usd_per_hour = (each * count + storage).quantize(_MICRO, ROUND_CEILING)
    if query.max_usd_per_hour is not None and usd_per_hour > query.max_usd_per_hour:
        return
    name = from_runpod(gpu.id)
    place = places[0] if query.region is not None else ""
    cuda = [c.version for c in gpu.cudaVersions or () if c.available]
    yield Offer(
        provider=NAME,
        offer_id="/".join((cloud, place, gpu.id)),
        gpu=name or gpu.id,
        gpu_known=name is not None,
        count=count,
        usd_per_hour=usd_per_hour,
        interruptible=False,
        region=place or ", ".join(places[:2]) + (f" and {len(places) - 2} more" if len(places) > 2 else ""),
        secure=secure,
        vram_gib=gpu.memory,
        usd_per_hour_stopped=2 * storage,
        cuda=max(cuda, key=_version, default=None),
        seen_at=now,
    )


def _places(gpu: wire.GpuType, region: str | None) -> list[str]:
    """Return the data centres in `region` that have the GPU, the best stocked first. `US` means all whose name begins `US-`."""
    stocked = [d for d in gpu.dataCenters or () if d.availability not in (None, "NONE")]
    fitting = [d for d in stocked if region is None or _in(d.id, region)]
    return [d.id for d in sorted(fitting, key=lambda d: (-_RANK.get(d.availability or "", 0), d.id))]


def _in(data_center: str, region: str) -> bool:
    """Whether a data centre, e.g. `EU-RO-1`, is in a region, e.g. `RO`, `EU`, `EU-RO` or `eu-ro-1`."""
    name, wanted = data_center.upper(), region.upper()
    return name == wanted or name.startswith(f"{wanted}-") or (len(wanted) == 2 and name.split("-")[1:2] == [wanted] and name[:2] != "US")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split(".")[:3])


# --- create --------------------------------------------------------------------------------------------------------------


def _parts(offer: Offer) -> tuple[str, str, str]:
    """Return cloud, data centre (may be empty) and GPU id of one of our offers. Raises InvalidRequest for another's."""
    parts = offer.offer_id.split("/", 2)
    if len(parts) != 3 or parts[0] not in ("SECURE", "COMMUNITY"):
        raise InvalidRequest(f"{untrusted.line(offer.offer_id, 80)!r} is no offer of {TITLE}", "take one from: lumina offers")
    return parts[0], parts[1], parts[2]


def _env(spec: LaunchSpec) -> dict[str, str]:
    return {**({"PUBLIC_KEY": spec.ssh_public_key.strip()} if spec.ssh_public_key else {}), **spec.env}


def _command(spec: LaunchSpec) -> str:
    """Return the container's command: our script in the background, then what the image would have started.

    In base64, because the command passes two shells' quoting. A container whose command ends is started again, so it never does.
    """
    if not spec.startup_script:
        return ""
    script = base64.b64encode(spec.startup_script.encode()).decode()
    start = f'echo {script} | base64 -d > "$HOME/lumina-start.sh"; sh "$HOME/lumina-start.sh" 2>&1 | tee "$HOME/lumina-start.log" &'
    return f"bash -c '{start} if [ -x /start.sh ]; then exec /start.sh; fi; exec sleep infinity'"


def _deploy_input(offer: Offer, spec: LaunchSpec, tag: str, ends_at: datetime | None) -> dict[str, Any]:
    cloud, place, gpu_id = _parts(offer)
    fields: dict[str, Any] = {
        "name": tag,
        "imageName": spec.image or IMAGE,
        "gpuTypeId": gpu_id,
        "cloudType": cloud,
        "gpuCount": offer.count,
        "containerDiskInGb": spec.disk_gb,
        "volumeInGb": 0,
        "ports": "22/tcp",
        "supportPublicIp": True,
        "startSsh": True,
        "dockerArgs": _command(spec),
        "env": [{"key": k, "value": v} for k, v in _env(spec).items()],
    }
    if place:
        fields["dataCenterId"] = place
    if ends_at is not None:
        fields["terminateAfter"] = _rfc3339(ends_at)
    return fields


def _v2_body(offer: Offer, spec: LaunchSpec, tag: str) -> dict[str, Any]:
    cloud, place, gpu_id = _parts(offer)
    body: dict[str, Any] = {
        "name": tag,
        "image": spec.image or IMAGE,
        "cloud": cloud,
        "gpu": {"id": gpu_id, "count": offer.count},
        "disk": spec.disk_gb,
        "ports": ["22/tcp"],
        "startSsh": True,
        "args": _command(spec),
        "env": _env(spec),
    }
    return body | ({"dataCenterIds": [place]} if place else {})


# --- what an answer means ------------------------------------------------------------------------------------------------


def _graphql(verb: str, what: str, query: str, variables: Mapping[str, Any], seconds: float = 12.0) -> Call:
    body = {"query": query, "variables": dict(variables)}
    return Call(verb, what, "POST", "/graphql", body=body, limits=(_READ,), seconds=seconds)


def _data(answer: Answer, spec: LaunchSpec | None = None) -> dict[str, Any]:
    """Return a GraphQL reply's data. Raises what its errors mean: they come with status 200."""
    if answer.status == 410:
        raise Retired(f"{TITLE} has switched GraphQL off, which {answer.call.what} needs", "pip install --upgrade lumina-cloud")
    raw = answer.json_or_none()
    if not answer.ok and not (isinstance(raw, dict) and raw.get("errors")):
        raise _meaning(answer, spec)
    reply = answer.read(wire.Graph)
    if reply.errors:
        raise _graph_meaning(answer, reply.errors, spec)
    if reply.data is None:
        raise BadReply(f"{TITLE} answered {answer.call.what} with neither data nor an error", "ask again")
    return reply.data


def _graph_meaning(answer: Answer, errors: Sequence[wire.GraphError], spec: LaunchSpec | None) -> LuminaError:
    codes = " ".join(str((e.extensions or {}).get("code", "")) for e in errors)
    said = _quiet("; ".join(e.message for e in errors), spec)
    if answer.status in (401, 403) or "UNAUTHENTICATED" in codes or "FORBIDDEN" in codes:
        return _refused_key(said)
    known = _by_words(f"{said} {codes}", said)
    if known is not None:
        return known
    if answer.status == 400 or "VALIDATION_FAILED" in codes or "BAD_USER_INPUT" in codes:
        return InvalidRequest(f"{TITLE} refused {answer.call.what}: {said}")
    # A resolver that failed half way may have made the pod.
    return refusal(answer, said) if answer.status >= 429 else BadReply(f"{TITLE} failed at {answer.call.what}: {said}", "ask again")


def _understood(answer: Answer, spec: LaunchSpec | None = None) -> Answer:
    """Return a REST reply that is a success. Raises what it means otherwise."""
    if answer.ok:
        return answer
    raise _meaning(answer, spec)


def _deleted(answer: Answer) -> None:
    """Take the reply to a delete, which has no body: a web page is somebody else's answer."""
    if _understood(answer).body.strip():
        answer.json()


def _meaning(answer: Answer, spec: LaunchSpec | None = None) -> LuminaError:
    """Return the error that a problem document means."""
    raw = answer.json_or_none()
    said = _quiet(str(raw.get("detail") or raw.get("title") or "") if isinstance(raw, dict) else "", spec)
    if answer.status in (401, 403) and said:
        return _refused_key(said)
    if answer.status == 402:
        return InsufficientBalance(f"{TITLE} wants more credit: {said or 'payment required'}", "top up at console.runpod.io, Billing")
    if answer.status == 400:
        known = _by_words(said, said)
        if known is not None:
            return known
    return refusal(answer, said)


def _by_words(text: str, said: str) -> LuminaError | None:
    """Return what only the words of a refusal tell: RunPod gives no code for either."""
    low = text.lower()
    if any(words in low for words in _NO_CAPACITY):
        return NoCapacity(f"{TITLE} has none of it now: {said}", "take another: lumina offers")
    if any(words in low for words in _NO_MONEY):
        return InsufficientBalance(f"{TITLE} wants more credit: {said}", "top up at console.runpod.io, Billing")
    return None


def _refused_key(said: str) -> AuthError:
    return AuthError(
        f"{TITLE} refused the key: {said}",
        "make a new one at console.runpod.io, Settings, API Keys, that may read and write pods: export RUNPOD_API_KEY=...\n"
        "lumina doctor shows which keys were found where",
    )


def _quiet(text: str, spec: LaunchSpec | None) -> str:
    """Return the provider's words, cut where they repeat what was sent."""
    clean = untrusted.line(text, 300)
    secrets = () if spec is None else (*spec.env.values(), spec.startup_script)
    return "its words repeat what was sent" if any(len(s) > 3 and s[:40] in clean for s in secrets) else clean


def _events(body: bytes) -> Iterator[str]:
    """Yield the lines in a stream of server-sent events, each a text or an object that holds one."""
    for line in body.decode("utf-8", "replace").splitlines():
        if not line.startswith("data:"):
            continue
        text = line.removeprefix("data:").strip()
        found = untrusted.json_object(text) if text.startswith("{") else None
        yield text if found is None else next((str(found[k]) for k in ("line", "message", "log", "text") if k in found), text)


# --- charges -------------------------------------------------------------------------------------------------------------


def _charges(record: wire.BillingRecord) -> Iterator[Charge]:
    """Yield a bucket's parts; what the parts leave of the total is `other`."""
    other = record.totalAmount - record.gpuAmount - record.diskAmount
    parts: tuple[tuple[ChargeKind, Decimal], ...] = (("gpu", record.gpuAmount), ("storage", record.diskAmount), ("other", other))
    for kind, usd in parts:
        if usd:
            charge_id = f"{NAME}-{record.podId}-{kind}-{int(record.startTime.timestamp())}"
            yield Charge(charge_id, record.podId, kind, usd, record.startTime, record.endTime)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pod_path(instance_id: str) -> str:
    return f"/v2/pods/{quote(instance_id, safe='')}"
