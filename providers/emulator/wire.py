"""Requests, replies and routes, without a socket: what a dialect is written in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

Json = dict[str, Any]
Delivery = Literal["whole", "dropped", "cut", "hung", "dribbled"]


@dataclass(frozen=True)
class Request:
    """One HTTP request. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    body: bytes = b""
    peer: str = "127.0.0.1"

    @classmethod
    def of(cls, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", peer: str = "127.0.0.1") -> Request:
        """Read a request target such as `/v2/pods?x=1`."""
        parts = urlsplit(target)
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        return cls(method.upper(), parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), lower, body, peer)

    def json(self) -> Any:
        """Return the body. Raises ValueError when it is no JSON."""
        return json.loads(self.body or b"null")

    def bearer(self) -> str | None:
        """Return the key of an `Authorization: Bearer` header."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Reply:
    """One HTTP reply, and how it travels."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"
    seconds: float = 0.0
    """Of a reply that hangs or dribbles: how long before the line is cut."""

    def with_headers(self, headers: dict[str, str]) -> Reply:
        """Return it with more headers."""
        return replace(self, headers={**self.headers, **headers})

    def document(self) -> Any:
        """Return the JSON of the body."""
        return json.loads(self.body)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"not for JSON: {value!r}")


def reply_json(document: object, status: int = 200, content_type: str = "application/json") -> Reply:
    """Return a JSON reply; decimals become numbers."""
    return Reply(status, json.dumps(document, default=_plain).encode(), {"content-type": content_type})


def reply_text(text: str, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> Reply:
    """Return a text reply."""
    return Reply(status, text.encode(), {"content-type": content_type})


Handler = Callable[[Request, dict[str, str]], Reply]


@dataclass(frozen=True)
class Route:
    """A method and a path, what a caller does by it, and who answers."""

    method: str
    pattern: re.Pattern[str]
    call: str
    handler: Handler


class Router:
    """Routes in order of their declaration. `{name}` stands for one part of a path, a slash at the end is optional."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def add(self, method: str, path: str, call: str, handler: Handler) -> None:
        """Declare a route."""
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path.rstrip("/"))
        self.routes.append(Route(method, re.compile(pattern + "/?"), call, handler))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a request and the parts of its path."""
        for route in self.routes:
            if route.method == method and (match := route.pattern.fullmatch(path)):
                return route, {name: unquote(value) for name, value in match.groupdict().items()}
        return None

    def methods(self, path: str) -> list[str]:
        """Return the methods that a path knows."""
        return sorted({route.method for route in self.routes if route.pattern.fullmatch(path)})
