"""The network of a box: a relay between its public ports and its SSH server, which counts bytes, throttles, refuses and cuts off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 64 << 10
PACE = 0.1


class Relay:
    """Passes connections on to whatever port the SSH server has at present."""

    def __init__(self, target: Callable[[], int], download_kib_per_second: int | None) -> None:
        self._target = target
        self._throttle = download_kib_per_second
        self._open = asyncio.Event()
        self._open.set()
        self._servers: list[asyncio.Server] = []
        self._places: list[tuple[str, int]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.received = 0
        self.sent = 0

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Begin to accept on sockets that are bound."""
        self._places = [one.getsockname()[:2] for one in sockets]
        for one in sockets:
            # Inherited by the connections: else what is left of them would keep the port from being bound again.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._servers = [await asyncio.start_server(self._accept, sock=one) for one in sockets]

    async def network(self, mode: str) -> None:
        """Go to `open`, `refused` or `partitioned`."""
        if mode == "refused":
            for server in self._servers:
                server.close()
            self._servers = []
            for task in list(self._connections):
                task.cancel()
        elif mode == "partitioned":
            self._open.clear()
        else:
            self._open.set()
            if not self._servers:
                self._servers = [await asyncio.start_server(self._accept, host, port, reuse_address=True) for host, port in self._places]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._open.wait()
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target())
            inward = asyncio.create_task(self._pump(reader, inner_writer, inward=True))
            outward = asyncio.create_task(self._pump(inner_reader, writer, inward=False))
            try:
                await asyncio.gather(inward, outward)
            finally:
                for one in (inward, outward):
                    one.cancel()
                inner_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, inward: bool) -> None:
        while data := await reader.read(CHUNK):
            await self._open.wait()
            if inward:
                self.received += len(data)
                if self._throttle:
                    await asyncio.sleep(len(data) / (self._throttle * 1024))
            else:
                self.sent += len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
