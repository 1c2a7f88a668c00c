"""The SSH server of a box: public keys only, commands, shells with and without a terminal, SFTP and SCP."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 64 << 10
OWN_CHILDREN: set[int] = set()
"""Processes that somebody here waits for."""


class Login(asyncssh.SSHServer):
    """Lets in who holds a key of the box's `authorized_keys`, which is read anew at every attempt, as sshd does."""

    def __init__(self, user: str, keys_file: Path) -> None:
        self._user = user
        self._keys_file = keys_file

    def begin_auth(self, username: str) -> bool:
        """Ask everybody for a key."""
        return True

    def public_key_auth_supported(self) -> bool:
        """Accept public keys."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Tell whether a key is among the authorized ones."""
        try:
            lines = self._keys_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return False
        for line in lines:
            with contextlib.suppress(asyncssh.KeyImportError, ValueError):
                if username == self._user and line.strip() and asyncssh.import_public_key(line) == key:
                    return True
        return False


class Files(asyncssh.SFTPServer):
    """SFTP below the box: relative paths start at its home, and its well-known folders are its own."""

    redirect: Callable[[str], str]

    def map_path(self, path: bytes) -> bytes:
        """Return where a path lies on this machine."""
        text = os.fsdecode(path)
        return os.fsencode(type(self).redirect(text))

    def reverse_map_path(self, path: bytes) -> bytes:
        """Return a path as it is."""
        return path


class Sessions:
    """Starts what a client asks for, in the box's home and environment."""

    def __init__(self, home: Path, env: Callable[[], dict[str, str]], redirect: Callable[[str], str]) -> None:
        self._home = home
        self._env = env
        self._redirect = redirect

    async def handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Serve one session to its end."""
        command = process.command
        shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
        argv = [shell, "-c", self._redirect(command)] if command is not None else [shell, "-l"]
        env = {**self._env(), **{name: value for name, value in process.env.items() if name in ("LANG", "TERM") or name.startswith("LC_")}}
        try:
            if process.term_type:
                await self._with_terminal(process, argv, env)
            else:
                await self._with_pipes(process, argv, env)
        except (OSError, asyncssh.Error) as error:
            with contextlib.suppress(OSError, asyncssh.Error):
                process.stderr.write(f"{error}\n".encode())
                process.exit(255)

    async def _with_pipes(self, process: asyncssh.SSHServerProcess[bytes], argv: list[str], env: dict[str, str]) -> None:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._home,
            env=env,
            start_new_session=True,
            restore_signals=False,
        )
        OWN_CHILDREN.add(child.pid)
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        feeding = asyncio.create_task(_feed(process, child.stdin))
        try:
            await asyncio.gather(_drain(child.stdout, process.stdout), _drain(child.stderr, process.stderr))
            _leave(process, await child.wait())
        finally:
            feeding.cancel()

    async def _with_terminal(self, process: asyncssh.SSHServerProcess[bytes], argv: list[str], env: dict[str, str]) -> None:
        master, slave = pty.openpty()
        _resize(master, process.term_size)
        try:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=self._home,
                env={**env, "TERM": process.term_type or "xterm"},
                start_new_session=True,
                restore_signals=False,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        finally:
            os.close(slave)
        OWN_CHILDREN.add(child.pid)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(master), "rb", 0))
        typing = asyncio.create_task(_type(process, master))
        try:
            with contextlib.suppress(OSError):
                await _drain(reader, process.stdout)
            _leave(process, await child.wait())
        finally:
            typing.cancel()
            transport.close()
            os.close(master)
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGHUP)


async def _feed(process: asyncssh.SSHServerProcess[bytes], stdin: asyncio.StreamWriter) -> None:
    """Pass the client's input on until its end; a signal of the client is not passed on, as sshd does not by default."""
    with contextlib.suppress(OSError, asyncssh.Error):
        while True:
            try:
                data = await process.stdin.read(CHUNK)
            except (asyncssh.SignalReceived, asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
                continue
            if not data:
                break
            stdin.write(data)
            await stdin.drain()
    with contextlib.suppress(OSError):
        stdin.close()


async def _type(process: asyncssh.SSHServerProcess[bytes], master: int) -> None:
    while True:
        try:
            data = await process.stdin.read(CHUNK)
        except asyncssh.TerminalSizeChanged as change:
            _resize(master, (change.width, change.height, change.pixwidth, change.pixheight))
            continue
        except (asyncssh.SignalReceived, asyncssh.BreakReceived):
            os.write(master, b"\x03")
            continue
        if not data:
            os.write(master, b"\x04")
            return
        os.write(master, data)


async def _drain(reader: asyncio.StreamReader, writer: asyncssh.SSHWriter[bytes]) -> None:
    """Copy to the end. When the client is gone the rest is read and dropped, so that the program can go on."""
    gone = False
    while data := await reader.read(CHUNK):
        if gone:
            continue
        try:
            writer.write(data)
            await writer.drain()
        except (OSError, asyncssh.Error):
            gone = True


def _leave(process: asyncssh.SSHServerProcess[bytes], code: int) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        if code < 0:
            process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            process.exit(code)


def _resize(master: int, size: tuple[int, int, int, int]) -> None:
    width, height, pixels_x, pixels_y = size
    with contextlib.suppress(OSError):
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, pixels_x, pixels_y))


class Server:
    """An SSH server on an inner port, which can come back with another host key."""

    def __init__(self, login: Callable[[], Login], sessions: Sessions, redirect: Callable[[str], str]) -> None:
        self._login = login
        self._sessions = sessions
        self._files: Any = type("BoxFiles", (Files,), {"redirect": staticmethod(redirect)})
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.port = 0

    async def show(self, key_file: Path) -> str:
        """Answer with the host key of a file from now on. Returns its public half."""
        key = asyncssh.read_private_key(str(key_file))
        old = self._acceptor
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=self._login,
            server_host_keys=[key],
            process_factory=self._sessions.handle,
            sftp_factory=self._files,
            allow_scp=True,
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            keepalive_interval=0,
            login_timeout=30,
        )
        self.port = self._acceptor.get_port()
        if old is not None:
            old.close()
        return key.export_public_key().decode().strip()


def redirector(root: Path) -> Callable[[str], str]:
    """Return what puts a box's own folder in place of the well-known paths that a text names."""
    places = {
        "/workspace": root / "workspace",
        "/start.sh": root / "bin" / "start.sh",
        "/etc/environment": root / "etc" / "environment",
        "/etc/ssh": root / "etc" / "ssh",
        "/proc/1/environ": root / "etc" / "environ",
    }
    pattern = re.compile(r"(?<![\w./~-])(" + "|".join(re.escape(one) for one in places) + r")(?![\w.-])")
    return lambda text: pattern.sub(lambda match: str(places[match.group(1)]), text)
