"""`lumina ui`: the pages on this computer's loopback address, behind a token that is new each time."""

from __future__ import annotations

import importlib.util
import socket
import sys
from typing import TYPE_CHECKING

from lumina_cloud.api.documents.of_keeping import UiDocument
from lumina_cloud.core.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = "127.0.0.1"
CLOSING_SECONDS = 5
"""How long streams have to end."""


def serve(port: int, tell: Callable[[UiDocument], None]) -> None:
    """Serve until Ctrl-C; `tell` hears the address once the port is ours. With port 0 any free one is taken.

    Raises UsageError for a port that cannot be had, RefusedError without the extra `ui`.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(f"lumina ui needs {' and '.join(missing)}, not installed for {sys.executable}", "pip install 'lumina-cloud[ui]'")
    import uvicorn

    from lumina_cloud.web.app import application
    from lumina_cloud.web.desk import Desk
    from lumina_cloud.web.guard import Lock

    listening = _listen(port)
    with listening:
        lock = Lock.new(listening.getsockname()[1])
        desk = Desk()
        try:
            desk.settle()
            tell(UiDocument(url=lock.address, port=lock.port))
            # No access log: the first address holds the token.
            config = uvicorn.Config(
                application(desk, lock),
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                timeout_graceful_shutdown=CLOSING_SECONDS,
            )
            server = uvicorn.Server(config)
            # A browser holds its streams open for ever: they end first.
            desk.closes_when(lambda: server.should_exit)
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return
        finally:
            desk.close()


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port is {port}, but ports are 1 to 65535", "leave it out for any free one")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        # From here on a browser that is quicker than the server waits, and is not turned away.
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(f"port {port} cannot be had: {error.strerror}", "leave out --port for any free one") from error
    return listening
