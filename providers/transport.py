"""An httpx transport whose requests end in time.

httpx's own time-outs hold for one read each: a server that sends a byte now and then is never late. Here each request has one
deadline, on every read and write of its socket, and is sent soon or not at all. A request has a connection of its own, so an error while
connecting means that nothing was sent: with kept connections a server's hang-up would leave that open, and a create must know.
"""

from __future__ import annotations

import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpcore
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

SECONDS = "seconds"
"""Name of the request extension that holds how long a request may take, its reply included. The wire has its own clock."""

CONNECT_SECONDS = 6.0

SEND_SECONDS = 20.0
"""After that long nothing more of a request is sent: a process that slept in between has lost what allowed it (a controller its lease)."""

# Goes on while the computer sleeps, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
)


class DeadlineTransport(httpx.BaseTransport):
    """Sends each request over a new connection that is closed at the request's deadline at the latest."""

    def __init__(self) -> None:
        self._ssl: ssl.SSLContext | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises httpx.TransportError."""
        pool = self._pool(request.url, _Backend(request.extensions[SECONDS]))
        outgoing = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions={"timeout": {"connect": CONNECT_SECONDS}},
        )
        try:
            with _as_httpx():
                response = pool.handle_request(outgoing)
        except BaseException:
            pool.close()
            raise
        return httpx.Response(status_code=response.status, headers=response.headers, stream=_Body(response, pool))

    def _pool(self, url: httpx.URL, backend: httpcore.NetworkBackend) -> httpcore.ConnectionPool:
        """Return a pool of one connection, through the proxy that the environment names for this address."""
        proxy = None if urllib.request.proxy_bypass(url.host) else urllib.request.getproxies().get(url.scheme)
        tls = self._tls() if url.scheme == "https" else None
        if proxy and url.host not in ("127.0.0.1", "::1", "localhost"):
            return httpcore.HTTPProxy(proxy_url=proxy, ssl_context=tls, max_keepalive_connections=0, network_backend=backend)
        return httpcore.ConnectionPool(ssl_context=tls, max_keepalive_connections=0, network_backend=backend)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = httpx.create_ssl_context()
        return self._ssl


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, pool: httpcore.ConnectionPool) -> None:
        self._response = response
        self._pool = pool

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()
        self._pool.close()


class _Backend(httpcore.NetworkBackend):
    """Connects as httpcore does, and lends each socket what is left of the time."""

    def __init__(self, seconds: float) -> None:
        self._inner = httpcore.SyncBackend()
        now = time.clock_gettime(_CLOCK)
        self._deadline = now + seconds
        self._send_by = now + min(seconds, SEND_SECONDS)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self._send_by, timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options), self._deadline, self._send_by)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: float, send_by: float) -> None:
        self._inner = inner
        self._deadline = deadline
        self._send_by = send_by

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(self._deadline, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(self._send_by, timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(self._send_by, timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline, self._send_by)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


def _left(deadline: float, timeout: float | None, error: type[Exception]) -> float:
    left = deadline - time.clock_gettime(_CLOCK)
    if left <= 0:
        raise error("the request's time is over")
    return left if timeout is None else min(left, timeout)


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise httpcore's errors as those of httpx."""
    try:
        yield
    except Exception as error:
        for ours, theirs in _ERRORS:
            if isinstance(error, ours):
                raise theirs(str(error)) from error
        raise
