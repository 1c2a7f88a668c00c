"""The routes of `lumina ui`: pages as HTML, figures as JSON, what changes as a stream of server-sent events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lumina_cloud.core import templates, untrusted
from lumina_cloud.core.errors import LuminaError, ProviderError, UsageError
from lumina_cloud.web import figures, launching, pages
from lumina_cloud.web.guard import Guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.web.desk import Desk
    from lumina_cloud.web.guard import Lock

STATIC = Path(__file__).parent / "static"
LIVE_SECONDS = 1.0
"""How often a stream looks at the ledger."""
SILENCE_SECONDS = 15.0
"""A stream says something at least this often, so that a browser that has gone is noticed."""
FORM_BYTES = 10_000


def application(desk: Desk, lock: Lock) -> Starlette:
    """Return the application: every request passes the guard first."""
    site = _Site(desk, lock.root, _environment(desk))
    shown = {
        "/": pages.runs,
        "/runs/{run}": pages.run,
        "/runs/{run}/stop": pages.stop,
        "/plan": pages.plan,
        "/launch": pages.launch,
        "/money": pages.money,
        "/prices": pages.prices,
        "/published": pages.published,
        "/accuracy": pages.accuracy,
    }
    counted = {"/api/curves": figures.curves, "/api/plan": figures.plan, "/api/prices": figures.prices}
    routes: list[Route | Mount] = [Route(path, partial(site.page, page)) for path, page in shown.items()]
    routes += [Route(path, partial(site.figures, made)) for path, made in counted.items()]
    routes += [
        Route("/runs/{run}/stop", site.stop, methods=["POST"]),
        Route("/launch", site.launch, methods=["POST"]),
        Route("/live", site.live),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, lock=lock)],
        exception_handlers={404: site.not_found, 405: site.not_found, LuminaError: site.refused},
    )


def _environment(desk: Desk) -> Environment:
    made = Environment(
        loader=FileSystemLoader(templates.folder() / "ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= pages.FILTERS | {"typed": desk.typed}
    return made


@dataclass(frozen=True)
class _Site:
    """Answers requests. Handlers that are no coroutines run in a thread each."""

    desk: Desk
    root: str
    """The path below which all pages lie."""
    environment: Environment
    launching: anyio.Lock = field(default_factory=anyio.Lock)
    """One launch at a time: two at once would plan for the same money."""

    def page(self, made: Callable[[Lumina, pages.Asked], pages.Page], request: Request) -> Response:
        """Answer with a page."""
        with self.desk.reading() as lumina:
            page = made(lumina, _asked(request))
        return self._rendered(page)

    def figures(self, made: Callable[[Lumina, pages.Asked], Any], request: Request) -> Response:
        """Answer with figures, or with what is wrong about the question."""
        try:
            with self.desk.reading() as lumina:
                return JSONResponse(made(lumina, _asked(request)))
        except LuminaError as error:
            return JSONResponse(
                {"error": {"kind": error.kind, "message": error.message, "hint": self.desk.typed(error.hint)}}, status_code=_status(error)
            )

    async def stop(self, request: Request) -> Response:
        """End a run in good order, once its page has asked for it."""
        form = await _form(request)
        run = request.path_params["run"]
        if form.get("sure") != ["yes"]:
            raise UsageError("ending a run has to be confirmed", f"open /runs/{run}/stop")
        await anyio.to_thread.run_sync(self._stop, run)
        return RedirectResponse(f"{self.root}/runs/{run}", status_code=303)

    def _stop(self, run: str) -> None:
        with self.desk.reading() as lumina:
            asked = lumina.ask_to_stop(run)
            # A rented machine's run gets a process of its own, so that it ends even when these pages are closed now.
            lumina.hand_over(asked.run_id)

    async def launch(self, request: Request) -> Response:
        """Start a run, once its page has said what it may cost."""
        form = await _form(request)
        wanted, cap = launching.Wanted.of(form), launching.cap_of(form.get("cap", [""])[0])
        once = form.get("once", [""])[0]
        if not once:
            raise UsageError("the form is not one of ours", "choose a row on the planner's page")
        async with self.launching:
            run = await anyio.to_thread.run_sync(launching.launch, wanted, cap, once)
        return RedirectResponse(f"{self.root}/runs/{run}", status_code=303)

    async def live(self, request: Request) -> Response:
        """Answer with a stream: the runs as they stand, whenever that changes."""
        return StreamingResponse(self._changes(_asked(request)), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _changes(self, asked: pages.Asked) -> AsyncIterator[str]:
        last, silent = "", 0.0
        while not self.desk.closing:
            now = await anyio.to_thread.run_sync(self._now, asked)
            silent += LIVE_SECONDS
            if now != last:
                yield f"data: {now}\n\n"
                last, silent = now, 0.0
            elif silent >= SILENCE_SECONDS:
                yield ": nothing new\n\n"
                silent = 0.0
            await self._pause()

    async def _pause(self) -> None:
        for _ in range(5):
            if not self.desk.closing:
                await anyio.sleep(LIVE_SECONDS / 5)

    def _now(self, asked: pages.Asked) -> str:
        try:
            with self.desk.reading() as lumina:
                return json.dumps(figures.live(lumina, asked, self.desk.trouble))
        except LuminaError as error:
            return json.dumps({"runs": [], "summary": error.message})

    def refused(self, request: Request, error: Exception) -> Response:
        """Answer with a page that says what was wrong, and what to do."""
        assert isinstance(error, LuminaError)
        return self._rendered(pages.Page("error.html.j2", "Refused", {"error": error}), status=_status(error))

    def not_found(self, request: Request, _error: Exception) -> Response:
        """Answer for an address that is no page."""
        missing = UsageError(f"there is no page {untrusted.line(request.url.path, 200)}", "the words above lead to all pages")
        return self._rendered(pages.Page("error.html.j2", "Not found", {"error": missing}), status=404)

    def _rendered(self, page: pages.Page, status: int = 200) -> Response:
        text = self.environment.get_template(page.template).render(
            root=self.root, title=page.title, place=page.place, trouble=self.desk.trouble, **page.context
        )
        return HTMLResponse(text, status_code=status)


def _asked(request: Request) -> pages.Asked:
    return pages.Asked(run=request.path_params.get("run", ""), query=parse_qs(request.url.query, keep_blank_values=False))


async def _form(request: Request) -> dict[str, list[str]]:
    """Return a form's fields. A form of ours is short."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise UsageError(f"a form longer than {FORM_BYTES} bytes", "none of ours is")
    return parse_qs(body.decode("utf-8", "replace"))


def _status(error: LuminaError) -> int:
    return 400 if error.exit_code in (2, 3, 4) else 502 if isinstance(error, ProviderError) else 500
