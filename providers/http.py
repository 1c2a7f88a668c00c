"""How the clients speak HTTP: one call with a deadline, one place that retries, one that says what a failure means.

`ask` is for what may be repeated, and repeats it with jitter while its deadline lasts, or after the time that the provider asked
for. `ask_once` is for what may not: it sends at most one request, and whatever leaves open whether that request happened is an
OutcomeUnknown.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import httpx
import stamina
import stamina.instrumentation

from lumina_cloud import __version__
from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import (
    AuthError,
    BadReply,
    InvalidRequest,
    LuminaError,
    NotFound,
    OutcomeUnknown,
    ProviderDown,
    RateLimited,
)
from providers import replies
from providers.transport import SECONDS, DeadlineTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lumina_cloud.core.clock import Clock
    from providers.rate import Bucket, Limit

ATTEMPT_SECONDS = 12.0
"""How long one request may take, its reply included."""

CREATE_SECONDS = 60.0
"""The same for a create: a cloud may take its time to place a machine, and giving up early only loses its answer."""

TOTAL_SECONDS = 40.0
"""After that long nothing is repeated, and no turn is waited for any more."""

MARKET_SECONDS = 15.0
"""The same for a market, which somebody sits and waits for: one that is down is a footnote."""

ATTEMPTS = 4
MAX_BYTES = 32 << 20

# Retries are told to the user by whoever asked; without this stamina would write to standard error.
stamina.instrumentation.set_on_retry_hooks([])

# Raised before a byte of the request was sent; anything else may have reached the other side.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One request. `verb` names it at the edge (`vastai.list`); `what` in messages (`the list of instances`)."""

    verb: str
    what: str
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    limits: tuple[Limit, ...] = ()
    seconds: float = ATTEMPT_SECONDS
    anonymous: bool = False
    """Sent without the key."""
    patience: float = TOTAL_SECONDS
    """After that long nothing is repeated."""
    endless: bool = False
    """The reply is a stream without an end: what came until the deadline is the answer."""


@dataclass(frozen=True)
class Answer:
    """A reply as it came: status, lower-case headers, body."""

    call: Call
    title: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status says success."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the body's JSON. Raises BadReply."""
        return replies.loads(self.body, self.title, self.call.what)

    def json_or_none(self) -> Any:
        """Return the body's JSON, None when it holds none."""
        try:
            return self.json()
        except BadReply:
            return None

    def read(self, model: type[replies.ReplyT]) -> replies.ReplyT:
        """Return the body as `model`. Raises BadReply."""
        return replies.read(self.json(), model, self.title, self.call.what)


class Http:
    """One cloud's API under one key."""

    def __init__(
        self,
        *,
        provider: str,
        title: str,
        base_url: str,
        key: str | None,
        bucket: Bucket,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.provider = provider
        self.title = title
        self.base_url = base_url
        self.clock = clock
        self.clock_skew: float | None = None
        """By how many seconds this computer was ahead of the provider at the last dated answer."""
        self._key = key
        self._bucket = bucket
        self._client = httpx.Client(transport=transport or DeadlineTransport(), timeout=None, trust_env=False)  # noqa: S113  # see SECONDS
        self._client.headers.clear()

    @property
    def has_key(self) -> bool:
        """Whether requests carry a key."""
        return self._key is not None

    def provider_now(self) -> datetime:
        """Return this moment by the provider's clock, as its last dated answer told it; by ours before the first one."""
        return self.clock.now() - timedelta(seconds=self.clock_skew or 0.0)

    def latest_now(self) -> datetime:
        """Return the later of both clocks' moments: up to it a bill is asked for, and neither's being wrong leaves anything out."""
        return max(self.clock.now(), self.provider_now())

    def ask(self, call: Call, read: Callable[[Answer], T]) -> T:
        """Send a request that may be repeated and return what `read` makes of the reply.

        `read` raises for a reply that is no success. RateLimited and ProviderDown are tried again while there is time.
        """
        give_up = self.clock.monotonic() + call.patience

        def again(error: Exception) -> bool | float:
            left = give_up - self.clock.monotonic()
            if isinstance(error, RateLimited) and error.retry_after is not None:
                return error.retry_after + random.random() if error.retry_after < left else False
            return isinstance(error, RateLimited | ProviderDown) and left > 0

        for attempt in stamina.retry_context(on=again, attempts=ATTEMPTS, timeout=None, wait_initial=0.4, wait_max=5.0, wait_jitter=0.8):
            with attempt:
                return read(self._send(call, give_up - self.clock.monotonic(), once=False))
        raise AssertionError("unreachable")

    def ask_once(self, call: Call, read: Callable[[Answer], T]) -> T:
        """Send a request that must not be repeated blindly. Raises OutcomeUnknown whenever it may have happened."""
        answer = self._send(call, max(TOTAL_SECONDS, call.seconds), once=True)
        try:
            return read(answer)
        except (OutcomeUnknown, Retired):
            raise
        except (BadReply, ProviderDown) as error:
            raise OutcomeUnknown(f"{error.message}: it may have happened all the same", LOOK_UP) from error

    def _send(self, call: Call, patience: float, *, once: bool) -> Answer:
        """Send one request. Raises ProviderDown when it was not sent or may be repeated, OutcomeUnknown when it may have happened."""
        started = self.clock.monotonic()
        self._bucket.wait(call.limits, patience)
        seconds = min(call.seconds, patience - (self.clock.monotonic() - started))
        if seconds <= 0:
            raise ProviderDown(f"{self.title} did not answer {call.what} in time", "ask again later")
        with edge(f"{self.provider}.{call.verb}"):
            try:
                answer = self._exchange(call, seconds)
            except _NOT_SENT as error:
                raise ProviderDown(f"{self.title} cannot be reached: {_words(error)}", "look at the network, then ask again") from error
            except httpx.HTTPError as error:
                self._lost(call, error, once=once)
        if answer.status == 429:
            self._bucket.hold(call.limits, retry_after(answer) or max((limit.seconds for limit in call.limits), default=1.0))
        return answer

    def _lost(self, call: Call, error: httpx.HTTPError, *, once: bool) -> NoReturn:
        said = f"{self.title} did not answer {call.what}: {_words(error)}"
        if once:
            raise OutcomeUnknown(f"{said}; it may have happened all the same", LOOK_UP) from error
        raise ProviderDown(said, "ask again later") from error

    def _exchange(self, call: Call, seconds: float) -> Answer:
        deadline = self.clock.monotonic() + seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"lumina-cloud/{__version__}"}
        if self._key is not None and not call.anonymous:
            headers["Authorization"] = f"Bearer {self._key}"
        content = None
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(call.body, default=_plain).encode()
        url = call.path if call.path.startswith("http") else f"{self.base_url}{call.path}"
        request = self._client.build_request(call.method, url, params=dict(call.params) or None, content=content, headers=headers)
        request.extensions[SECONDS] = seconds
        response = self._client.send(request, stream=True)
        sent()
        try:
            body = self._body(response, call, deadline)
        finally:
            response.close()
        self._date(response.headers.get("date", ""))
        return Answer(call, self.title, response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)

    def _body(self, response: httpx.Response, call: Call, deadline: float) -> bytes:
        body = bytearray()
        try:
            for part in response.iter_bytes():
                body += part
                if self.clock.monotonic() > deadline:
                    raise httpx.ReadTimeout("it answers too slowly", request=response.request)
                if len(body) > MAX_BYTES:
                    raise httpx.RemoteProtocolError(f"it sent more than {MAX_BYTES >> 20} MiB to {call.what}", request=response.request)
        except httpx.ReadTimeout:
            if not call.endless:
                raise
        return bytes(body)

    def _date(self, text: str) -> None:
        try:
            said = parsedate_to_datetime(text)
        except ValueError:
            return
        said = said if said.tzinfo else said.replace(tzinfo=UTC)
        self.clock_skew = (self.clock.now() - said).total_seconds()


LOOK_UP = "it is looked up by its tag before anything is repeated"


class Retired(BadReply):
    """The address is there no more: whatever was asked was not done."""


# --- what a failure means ------------------------------------------------------------------------------------------------


def refusal(answer: Answer, words: str) -> LuminaError:
    """Return the error that a reply without success means by its status alone, for what a dialect has no better word for.

    `words` are the provider's own, cleaned; empty when it sent none that could be understood.
    """
    said = f"{answer.title} refused {answer.call.what}" + (f": {words}" if words else f" (HTTP {answer.status})")
    match answer.status:
        case 429:
            return RateLimited(f"{answer.title} is asked too often", "it is asked again more slowly", retry_after=retry_after(answer))
        case 410:
            return Retired(f"{answer.title} has retired the address for {answer.call.what}", "pip install --upgrade lumina-cloud")
        case 408:
            return ProviderDown(said, "ask again later")
        case status if status >= 500:
            return ProviderDown(f"{answer.title} failed at {answer.call.what} (HTTP {status})" + (f": {words}" if words else ""))
    if not words:
        # A web page from a proxy says nothing about the key or the request.
        return BadReply(f"{answer.title} answered {answer.call.what} with HTTP {answer.status} and no word that is understood")
    match answer.status:
        case 401 | 403:
            return AuthError(said, "")
        case 404:
            return NotFound(said)
        case status if 400 <= status < 500:
            return InvalidRequest(said)
    return BadReply(f"{answer.title} answered {answer.call.what} with HTTP {answer.status}, which is not expected there")


def retry_after(answer: Answer) -> float | None:
    """Return how many seconds the provider wants us to wait: its `Retry-After` (seconds or a date), or a `retry_after` in its JSON."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 7:
        return float(text)
    if text:
        try:
            until = parsedate_to_datetime(text)
            return max(0.0, (until - datetime.now(until.tzinfo or UTC)).total_seconds())
        except (ValueError, TypeError):
            pass
    raw = answer.json_or_none()
    said = raw.get("retry_after") if isinstance(raw, dict) else None
    return untrusted.number(float(said) if isinstance(said, Decimal) else said, 0, 1e6)


def _words(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "its time is over"
    return untrusted.line(str(error) or type(error).__name__, 200)


def _plain(value: object) -> object:
    """Return an amount as a JSON number: its digits survive, since amounts here have far fewer than a double holds."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
