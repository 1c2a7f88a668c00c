"""From a request to a reply: authorization, rate limits, faults, and the dialect's own answer.

Nothing here opens a socket. `server.py` puts it behind HTTP; a simulation on a virtual clock calls `Gateway.handle` itself and plays
`Reply.delivery` to its client: `dropped` is a broken connection without a reply, `cut` one in the middle of it, `hung` a time-out and
`dribbled` a body that takes for ever.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from providers.emulator.clock import http_date, rfc3339
from providers.emulator.wire import Json, Reply, Request, Route, Router, reply_text

if TYPE_CHECKING:
    from providers.emulator.clock import Moment
    from providers.emulator.faults import Armed
    from providers.emulator.world import Cloud, Instance, World

PROXY_PAGE = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"


class Dialect(Protocol):
    """One provider's API: routes, refusals, and how it words what a fault asks for."""

    provider: str
    router: Router
    cloud: Any

    def moment(self) -> Moment:
        """Return the time that this provider's clock shows."""
        ...

    def authorize(self, request: Request, route: Route, parts: dict[str, str]) -> Reply | None:
        """Return the refusal of a key that may not do this."""
        ...

    def limited(self, request: Request, route: Route) -> Reply | None:
        """Return 429 to a caller that comes too often."""
        ...

    def too_many(self, wait: float) -> Reply:
        """Return a 429."""
        ...

    def broken(self) -> Reply:
        """Return a 500."""
        ...

    def gone(self, request: Request) -> Reply:
        """Return the 410 of a retired endpoint."""
        ...

    def unknown(self, request: Request) -> Reply:
        """Return the answer to a path that does not exist."""
        ...

    def empty_list(self) -> Reply:
        """Return a list without instances."""
        ...

    def terminated(self, request: Request) -> Reply:
        """Return what a terminate answers with."""
        ...

    def create_failed(self, created: list[str]) -> Reply:
        """Return the error of a create that left something behind."""
        ...


class Gateway:
    """Answers requests to all three providers, one at a time."""

    def __init__(self, world: World, dialects: list[Dialect]) -> None:
        self.world = world
        self.dialects = {dialect.provider: dialect for dialect in dialects}
        self.lock = threading.RLock()
        self.requests: list[Json] = []
        """What was asked and answered, without bodies, queries and headers."""

    def handle(self, provider: str, request: Request) -> Reply:
        """Answer a request."""
        dialect = self.dialects[provider]
        with self.lock:
            self.world.advance()
            reply, call, fault = self._answer(dialect, request)
            self.world.advance()
            line = {
                "at": rfc3339(self.world.now),
                "provider": provider,
                "call": call,
                "method": request.method,
                "path": request.path,
                "status": reply.status,
                "delivery": reply.delivery,
                "fault": fault,
            }
            self.requests.append(line)
            return reply if "date" in reply.headers else reply.with_headers({"date": http_date(dialect.moment())})

    def _answer(self, dialect: Dialect, request: Request) -> tuple[Reply, str, str | None]:
        found = dialect.router.find(request.method, request.path)
        if found is None:
            return dialect.unknown(request), "unknown", None
        route, parts = found
        named = getattr(dialect, "call_of", None)
        route = replace(route, call=named(request, route)) if named else route
        reply, fault = self._decide(dialect, request, route, parts)
        finish = getattr(dialect, "finish", None)
        return (finish(request, reply) if finish else reply), route.call, fault

    def _decide(self, dialect: Dialect, request: Request, route: Route, parts: dict[str, str]) -> tuple[Reply, str | None]:
        if self._partitioned(dialect, request):
            return Reply(0, delivery="dropped"), "network_partition"
        refused = dialect.authorize(request, route, parts)
        if refused is None and self.world.options.rate_limits:
            refused = dialect.limited(request, route)
        if refused is not None:
            return refused, None
        armed = self.world.faults.strike(dialect.provider, route.call)
        if armed is None:
            return route.handler(request, parts), None
        return self._struck(armed, dialect, request, route, parts), armed.name

    def _partitioned(self, dialect: Dialect, request: Request) -> bool:
        key = request.bearer()
        return any(one.key == key and one.partitioned_until > self.world.now for one in self.world.live(dialect.provider) if one.key)

    def _struck(self, armed: Armed, dialect: Dialect, request: Request, route: Route, parts: dict[str, str]) -> Reply:
        before = self._without_effect(armed, dialect, request)
        if before is not None:
            return before
        if armed.name == "terminate_lies":
            self.world.after(armed.lasting, lambda: _ignore(route.handler(request, parts)))
            return dialect.terminated(request)
        known = set(self.world.instances[dialect.provider])
        reply = route.handler(request, parts)
        created = [one for number, one in self.world.instances[dialect.provider].items() if number not in known]
        return self._with_effect(armed, dialect, reply, created)

    @staticmethod
    def _without_effect(armed: Armed, dialect: Dialect, request: Request) -> Reply | None:
        if armed.name == "lost_create_before":
            return Reply(0, delivery="dropped")
        if armed.name == "timeout_before":
            return Reply(0, delivery="hung", seconds=armed.lasting)
        if armed.name == "rate_limit_storm":
            return dialect.too_many(armed.lasting or 1)
        if armed.name == "error_500":
            return dialect.broken()
        if armed.name == "html_200":
            return reply_text(PROXY_PAGE, 200, "text/html; charset=utf-8")
        if armed.name == "empty_list":
            return dialect.empty_list()
        if armed.name == "retired_endpoint":
            return dialect.gone(request)
        if armed.name == "terminate_ignored":
            return dialect.terminated(request)
        return None

    def _with_effect(self, armed: Armed, dialect: Dialect, reply: Reply, created: list[Instance]) -> Reply:
        if armed.name == "lost_create_after":
            return Reply(0, delivery="dropped")
        if armed.name == "error_500_after_effect":
            return dialect.broken()
        if armed.name == "timeout":
            return Reply(0, delivery="hung", seconds=armed.lasting)
        if armed.name == "slow_loris":
            return replace(reply, delivery="dribbled", seconds=armed.lasting)
        if armed.name == "malformed_body":
            return replace(reply, body=reply.body[: max(1, len(reply.body) // 2)])
        cloud: Cloud = dialect.cloud
        if armed.name == "duplicated_create":
            self._duplicate(dialect, created)
        elif armed.name == "create_fails_leaves_stopped" and created:
            for one in created:
                cloud.spoil(one)
            return dialect.create_failed([one.id for one in created])
        return reply

    def _duplicate(self, dialect: Dialect, created: list[Instance]) -> None:
        """Make what was just made once more, and say so: the history tells it from what a second create asked for."""
        known = set(self.world.instances[dialect.provider])
        for one in created:
            dialect.cloud.duplicate(one)
        for number, one in self.world.instances[dialect.provider].items():
            if number not in known:
                self.world.record(one, "duplicated")


def _ignore(reply: Reply) -> None:
    """Drop a reply that nobody waits for."""
