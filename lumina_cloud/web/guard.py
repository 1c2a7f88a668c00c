"""Who may ask: only the browser of whoever started `lumina ui`, and only from its own pages.

The pages are served on the loopback address, where every program and every web page open in the same browser can reach them. So a request
has to pass four checks: its Host is ours (else a foreign name was made to point here, DNS rebinding), its Origin is ours if it has one,
the browser does not say that another site sent it (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/), and it knows the token: once in
the address that was printed, from then on in a cookie that scripts cannot read and other sites cannot send.

A browser sends a cookie to every port of a host (RFC 6265, section 8.5), so to whatever else listens on this computer. It does keep to the
cookie's path: all pages lie below one that nobody can guess, new each time, and the cookie is sent for nothing else.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer: nothing is loaded from elsewhere, nothing inline runs, nobody frames a page or keeps one."""

LOCKED = "This page is locked. Open the address that `lumina ui` printed when it was started: it holds the key.\n"


@dataclass(frozen=True)
class Asked:
    """What of a request decides whether it is answered. Header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """`status` 200 lets the request through; 303 sends the browser to `location`, with the cookie; anything else refuses with `text`."""

    status: int
    text: str = ""
    location: str = ""


@dataclass(frozen=True)
class Lock:
    """What opens one `lumina ui`, and where it is."""

    token: str
    """In the printed address alone: it gets a browser its session."""
    session: str
    """The cookie's value. It opens this `lumina ui` until its end, and nothing else."""
    port: int
    root: str
    """The path below which all pages lie, as unguessable as the token: the only one for which a browser sends the cookie."""

    @classmethod
    def new(cls, port: int) -> Lock:
        """Return a lock that was never there before."""
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32), port, f"/{secrets.token_urlsafe(16)}")

    @property
    def address(self) -> str:
        """What is printed: whoever opens it is let in."""
        return f"http://127.0.0.1:{self.port}{self.root}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The cookie's name: two `lumina ui` on two ports are no strangers to a browser."""
        return f"lumina-{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a Host header may say."""
        return (f"127.0.0.1:{self.port}", f"localhost:{self.port}")


def judge(lock: Lock, asked: Asked) -> Verdict:
    """Return whether a request is answered."""
    host = asked.headers.get("host", "")
    if host not in lock.hosts:
        return Verdict(403, "This address is not ours: use the one that `lumina ui` printed.\n")
    if asked.method not in ("GET", "HEAD", "POST"):
        return Verdict(405, "Only GET and POST.\n")
    foreign = _foreign(asked, host)
    if foreign:
        return Verdict(403, foreign)
    if not _below(lock.root, asked.path):
        return Verdict(403, LOCKED)
    offered = dict(parse_qsl(asked.query)).get("token")
    if offered is not None:
        if asked.method != "GET" or not _same(offered, lock.token):
            return Verdict(403, LOCKED)
        kept = urlencode([(k, v) for k, v in parse_qsl(asked.query) if k != "token"])
        return Verdict(303, location=_local(asked.path) + (f"?{kept}" if kept else ""))
    if not _same(_cookies(asked.headers.get("cookie", "")).get(lock.cookie, ""), lock.session):
        return Verdict(403, LOCKED)
    return Verdict(200)


def _foreign(asked: Asked, host: str) -> str:
    """Return why a request is another site's; empty when it is not."""
    origin, site = asked.headers.get("origin"), asked.headers.get("sec-fetch-site")
    if origin is not None and origin != f"http://{host}":
        return "Another site sent this request.\n"
    navigated = asked.method == "GET" and asked.headers.get("sec-fetch-mode") == "navigate"
    if site not in (None, "same-origin", "none") and not navigated:
        return "Another site sent this request.\n"
    if asked.method == "POST" and origin is None:
        return "A request that changes something has to say where it comes from (Origin).\n"
    return ""


def _below(root: str, path: str) -> bool:
    """Whether a path lies below another. How much of it is right takes as long to say as that it is wrong."""
    return _same(path[: len(root) + 1], f"{root}/")


def _local(path: str) -> str:
    """Return a path that a browser cannot take for another host, as it would `//host`."""
    return "/" + quote(path.lstrip("/\\"))


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _cookies(header: str) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return {name: value for name, sign, value in pairs if sign}


class Guard:
    """Stands before the application: judges every request, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, lock: Lock) -> None:
        self._app = app
        self._lock = lock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # We have no web sockets.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = Asked(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers)
        verdict = judge(self._lock, asked)
        if verdict.status == 200:
            # The pages themselves know nothing of where they lie.
            path = scope["path"][len(self._lock.root) :]
            await self._app({**scope, "path": path, "raw_path": quote(path).encode()}, receive, _with_headers(send))
            return
        await self._refuse(verdict, _with_headers(send))

    async def _refuse(self, verdict: Verdict, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if verdict.location:
            cookie = f"{self._lock.cookie}={self._lock.session}; Path={self._lock.root}/; HttpOnly; SameSite=Strict"
            headers += [(b"location", verdict.location.encode("latin-1", "replace")), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": verdict.status, "headers": headers})
        await send({"type": "http.response.body", "body": verdict.text.encode()})


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            names = {name for name, _ in extra}
            message = {**message, "headers": [*((n, v) for n, v in message["headers"] if n.lower() not in names), *extra]}
        await send(message)

    return sent
