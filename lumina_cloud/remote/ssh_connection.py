"""One SSH connection to a machine that is not trusted: its host key is checked before anything of ours is sent.

paramiko's `Transport` is used below its `SSHClient`: there the key exchange ends before authentication begins, so a changed key
is seen before the user's name or any key of ours has left this computer. Nothing is forwarded, no password is ever answered,
and every wait has an end.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paramiko

from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import HostKeyChanged, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.remote.host_keys import Pins
    from lumina_cloud.remote.ssh_key import Identity

CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 20.0
KEEPALIVE_SECONDS = 15
WAIT_SECONDS = 60.0
"""The longest that one answer of the SFTP server is waited for."""
_FIRST_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True)
class Target:
    """Where a machine answers, and what is known of it."""

    host: str
    port: int
    user: str
    name: str
    """The rental's tag: pins are kept under it."""
    host_keys: tuple[str, ...] = ()
    """Host keys that came over a channel of the provider's; empty where there is none."""


class Connection:
    """A connection that is made when it is needed, and made again when it broke."""

    def __init__(self, target: Target, identity: Identity, pins: Pins) -> None:
        self._target = target
        self._identity = identity
        self._pins = pins
        self._transport: paramiko.Transport | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self.trusted_at_first_contact = False
        """No channel told the host key before: whoever answered first was believed."""

    def close(self) -> None:
        """Let go of the machine."""
        if self._transport is not None:
            self._transport.close()
        self._transport = self._sftp = None

    def transport(self) -> paramiko.Transport:
        """Return a live connection. Raises HostKeyChanged, or Unreachable when the machine does not answer or lets us not in."""
        if self._transport is None or not self._transport.is_active():
            self.close()
            with edge("ssh.connect"):
                self._transport = self._connect()
        return self._transport

    def sftp(self) -> paramiko.SFTPClient:
        """Return a file channel. Raises as `transport` does."""
        transport = self.transport()
        if self._sftp is None or self._sftp.sock.closed:
            with self.errors():
                channel = transport.open_session(timeout=HANDSHAKE_SECONDS)
                channel.settimeout(WAIT_SECONDS)
                channel.invoke_subsystem("sftp")
                self._sftp = paramiko.SFTPClient(channel)
        return self._sftp

    def session(self) -> paramiko.Channel:
        """Return a channel for one command. Raises as `transport` does."""
        transport = self.transport()
        with self.errors():
            return transport.open_session(timeout=HANDSHAKE_SECONDS)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn whatever breaks a connection into Unreachable, and let go of it, so that the next use makes a new one."""
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not is_of_the_way(error):
                raise
            self.close()
            raise Unreachable(
                f"the machine at {self.where} does not answer: {_words(error)}", "lumina status shows what its provider says"
            ) from error

    @property
    def where(self) -> str:
        """The address, safe to show."""
        return f"{untrusted.line(self._target.host, 80)}:{self._target.port}"

    # --- making one -----------------------------------------------------------------------------------------------------

    def _connect(self) -> paramiko.Transport:
        known = self._pins.of(self._target.name)
        with self.errors():
            wire = socket.create_connection((self._target.host, self._target.port), timeout=CONNECT_SECONDS)
            transport = paramiko.Transport(wire)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = HANDSHAKE_SECONDS
        try:
            with self.errors():
                _prefer(transport, known or self._target.host_keys)
                transport.start_client(timeout=HANDSHAKE_SECONDS)
                # A connection that breaks right here has no key to show any more.
                shown = transport.get_remote_server_key()
            self._check(shown, known)
            sent()
            with self.errors():
                transport.auth_publickey(self._target.user, self._identity.key())
                transport.set_keepalive(KEEPALIVE_SECONDS)
        except BaseException:
            transport.close()
            raise
        return transport

    def _check(self, key: paramiko.PKey, known: tuple[str, ...]) -> None:
        """Pin the key at first contact; afterwards refuse any other."""
        offered = f"{key.get_name()} {key.get_base64()}"
        if not known:
            self.trusted_at_first_contact = not self._target.host_keys
            known = self._pins.pin(self._target.name, self._target.host_keys or (offered,))
        if offered not in known:
            self._pins.check(self._target.name, offered)
            raise HostKeyChanged(f"the machine at {self.where} shows an unknown host key")


def _prefer(transport: paramiko.Transport, known: tuple[str, ...]) -> None:
    """Ask for a key of a type that is pinned: a machine has several keys, and shows the one that is asked for."""
    types = {key.split()[0] for key in known}
    wanted = [t for t in _FIRST_TYPES if not types or t in types or (t.startswith("rsa-") and "ssh-rsa" in types)]
    options = transport.get_security_options()
    options.key_types = [t for t in wanted if t in options.key_types] or options.key_types


_NO_WAY = (errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENOTCONN)


def is_of_the_way(error: BaseException | None) -> bool:
    """Whether an error is of the way to a machine, and not a refusal of its file system: both may be a plain OSError.

    A computer whose network is gone gets one from the first look on: taken for a refusal, it would end the run for its full disk.
    """
    if isinstance(error, paramiko.SSHException | EOFError | TimeoutError | ConnectionError | socket.gaierror):
        return True
    # paramiko's own words for a channel that is closed.
    return isinstance(error, OSError) and (error.errno in _NO_WAY or (error.errno is None and str(error) == "Socket is closed"))


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "its time is over"
    if isinstance(error, paramiko.AuthenticationException):
        return "it does not let our key in"
    return untrusted.line(str(error) or type(error).__name__, 200)


def reachable(connection: Connection, *, within: float) -> bool:
    """Whether the machine lets us in, tried until `within` seconds are over. Raises HostKeyChanged."""
    give_up = time.monotonic() + within
    while True:
        try:
            connection.transport()
        except Unreachable:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.5)
        else:
            return True
