"""The emulator behind HTTP on the loopback: one port for each provider, and one to control it.

`python -m providers.emulator.server FOLDER` reads `options.json` in that folder, writes `server.json` when it answers, and runs until
it gets SIGTERM or a `POST /shutdown` on its control port.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from providers.emulator import faults
from providers.emulator.boxes import Boxes
from providers.emulator.clock import ScaledClock
from providers.emulator.emulator import Emulator
from providers.emulator.switches import QUICK, REAL, Options, Unverified
from providers.emulator.wire import Json, Reply, Request, reply_json

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
PULSE_SECONDS = 0.1
LARGEST_BODY = 8 << 20


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[Request], Reply], port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.answer = answer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 120

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if length > LARGEST_BODY:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        request = Request.of(self.command, self.path, dict(self.headers.items()), body, self.client_address[0])
        reply = self.server.answer(request)
        if reply.delivery == "dropped":
            self._reset()
        elif reply.delivery == "hung":
            self._hang(reply.seconds)
        else:
            self._send(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        if reply.delivery == "dribbled":
            self._dribble(reply)
        else:
            self.wfile.write(reply.body)

    def _dribble(self, reply: Reply) -> None:
        """Send a byte a second, and break off when the time is over."""
        end = time.monotonic() + reply.seconds
        for byte in reply.body:
            if time.monotonic() > end:
                break
            self.wfile.write(bytes((byte,)))
            self.wfile.flush()
            time.sleep(1)
        else:
            return
        self._reset()

    def _hang(self, seconds: float) -> None:
        """Say nothing until the client goes away or the time is over."""
        self.connection.settimeout(max(0.1, seconds))
        with contextlib.suppress(TimeoutError, ConnectionError):
            self.connection.recv(1)
        self._reset()

    def _reset(self) -> None:
        """Break the connection so that the client sees a reset rather than an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no access log: the gateway keeps its own, without queries."""


class Service:
    """The running emulator."""

    def __init__(self, folder: Path, settings: Json) -> None:
        self.folder = folder
        self.settings = settings
        self.done = threading.Event()
        self.boxes = Boxes(folder / "boxes")
        scale = float(settings.get("time_scale", 1))
        self.emulator = Emulator(ScaledClock(scale), read_options(settings), self.boxes, settings.get("api_key", ""))
        handle = self.emulator.handle
        self.servers = {name: _Server(lambda request, name=name: handle(name, request)) for name in faults.PROVIDERS}  # type: ignore[misc]
        self.control = _Server(self._control)
        urls = {name: server.url for name, server in self.servers.items()}
        self.boxes.connect(urls)
        self.boxes.powered_off = self._powered_off
        self.emulator.arm([faults.from_mapping(one) for one in settings.get("faults", [])])

    def document(self) -> Json:
        """Return what a user of the sandbox needs to know."""
        return {
            "vastai_url": self.servers["vastai"].url,
            "runpod_url": self.servers["runpod"].url,
            "lambda_url": self.servers["lambda"].url,
            "api_key": self.emulator.world.api_key,
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "control_url": self.control.url,
            "read_only_key": self.emulator.world.accounts["vastai"].read_only_key,
            "lambda_ssh_port": self.boxes.own_port,
            "settings": {name: value for name, value in self.settings.items() if name != "api_key"},
        }

    def run(self) -> None:
        """Answer until told to stop."""
        for server in (*self.servers.values(), self.control):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        _write(self.folder / "server.json", self.document())
        while not self.done.wait(PULSE_SECONDS):
            self.emulator.status()
        _write(self.folder / "last.json", self.emulator.status())
        for server in (*self.servers.values(), self.control):
            server.shutdown()
        self.boxes.close()
        (self.folder / "server.json").unlink(missing_ok=True)

    def _powered_off(self, box: str) -> None:
        """Do what a provider does when a machine switches itself off."""
        vm = self.emulator.lambda_.vm(box.removeprefix("lambda-"))
        if vm is not None:
            with self.emulator.gateway.lock:
                self.emulator.lambda_.powered_off(vm)

    def _control(self, request: Request) -> Reply:
        if request.bearer() != self.emulator.world.api_key:
            return reply_json({"error": "wrong key"}, 401)
        try:
            return self._controlled(request)
        except (ValueError, TypeError) as error:
            return reply_json({"error": str(error)}, 400)

    def _controlled(self, request: Request) -> Reply:
        emulator, what = self.emulator, (request.method, request.path)
        if what == ("GET", "/status"):
            return reply_json(emulator.status())
        if what == ("GET", "/faults"):
            armed = [vars(one) for one in emulator.world.faults.armed if one.times != 0]
            return reply_json({"armed": armed})
        if what == ("POST", "/faults"):
            body = request.json()
            emulator.arm([faults.from_mapping(one) for one in body["faults"]], now=bool(body.get("now")))
            return reply_json({})
        if what == ("DELETE", "/faults"):
            with emulator.gateway.lock:
                emulator.world.faults.clear(request.query.get("name"))
            return reply_json({})
        if what == ("GET", "/history"):
            return reply_json({"history": emulator.world.history, "requests": emulator.gateway.requests})
        if what == ("POST", "/shutdown"):
            self.done.set()
            return reply_json({})
        return reply_json({"error": f"no such request: {request.method} {request.path}"}, 404)


def read_options(settings: Json) -> Options:
    """Read the world's options. Raises ValueError for a value that cannot be meant."""
    delays = {"quick": QUICK, "real": REAL}.get(settings.get("delays", "quick"))
    if delays is None:
        raise ValueError(f"delays are quick or real, not {settings['delays']!r}")
    from providers.emulator.switches import MARKETS

    if settings.get("market", "calm") not in MARKETS:
        raise ValueError(f"the market is one of {', '.join(MARKETS)}, not {settings['market']!r}")
    return Options(
        seed=int(settings.get("seed", 0)),
        delays=delays,
        market=settings.get("market", "calm"),
        deposit_usd=str(settings.get("deposit_usd", "1000")),
        rate_limits=bool(settings.get("rate_limits", True)),
        unverified=Unverified.from_mapping(dict(settings.get("switches", {}))),
    )


def _write(path: Path, document: Json) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    beside = path.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file)
    beside.replace(path)


def main() -> None:
    """Run in the folder that the command line names."""
    folder = Path(sys.argv[1])
    service = Service(folder, json.loads((folder / "options.json").read_text(encoding="utf-8")))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.done.set())
    service.run()


if __name__ == "__main__":
    main()
