"""A shell or one command on a machine, with this terminal's own streams: what `lumina ssh` does.

The machine's bytes go to the terminal of somebody who asked for a shell on it, as with any SSH client; everywhere else they pass
`untrusted`.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumina_cloud.core.edge import edge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import paramiko

    from lumina_cloud.remote.ssh_connection import Connection

_CHUNK = 32 << 10


def run(connection: Connection, command: Sequence[str]) -> int:
    """Run a command, or a shell where there is none, until it ends; return its exit code. Raises ProviderError."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not command
    with edge("ssh.session"):
        channel = connection.session()
    with connection.errors():
        if terminal:
            size = os.get_terminal_size()
            channel.get_pty(os.environ.get("TERM", "xterm"), size.columns, size.lines)
        if command:
            channel.exec_command(shlex.join(command))
        else:
            channel.invoke_shell()
        with _raw() if terminal else _nothing():
            _copy(channel, resize=terminal)
        code = channel.recv_exit_status()
        return code if code >= 0 else 255


def _copy(channel: paramiko.Channel, *, resize: bool) -> None:
    """Copy in both directions until the machine closes the channel and all that it sent was written."""
    if resize:
        signal.signal(signal.SIGWINCH, lambda _n, _f: channel.resize_pty(*os.get_terminal_size()))
    typing = True
    while True:
        readable, _, _ = select.select([channel, *([sys.stdin] if typing else [])], [], [], 0.2)
        if sys.stdin in readable:
            data = os.read(sys.stdin.fileno(), _CHUNK)
            typing = bool(data)
            if data:
                channel.sendall(data)
            else:
                channel.shutdown_write()
        moved = _pass_on(channel)
        if not moved and channel.exit_status_ready() and (channel.eof_received or channel.closed):
            return


def _pass_on(channel: paramiko.Channel) -> bool:
    """Write what has arrived to our own streams; return whether there was anything."""
    moved = False
    while channel.recv_ready():
        sys.stdout.buffer.write(channel.recv(_CHUNK))
        moved = True
    while channel.recv_stderr_ready():
        sys.stderr.buffer.write(channel.recv_stderr(_CHUNK))
        moved = True
    sys.stdout.buffer.flush()
    sys.stderr.buffer.flush()
    return moved


@contextmanager
def _raw() -> Iterator[None]:
    """Hand every key to the machine."""
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
