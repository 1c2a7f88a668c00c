"""The key with which rented machines let us in: one of this installation's own, or one that the user names.

The private half stays in its file (or in the user's agent) and is sent nowhere; machines are given the public line.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import CredentialsError

if TYPE_CHECKING:
    import paramiko

KEY_NAME = "id_ed25519"
COMMENT = "lumina"


@dataclass(frozen=True)
class Identity:
    """Whom we are to a machine. The private key is read when it is needed, and kept in no field."""

    public_line: str
    """`ssh-ed25519 AAAA... comment`."""
    private_path: Path | None
    """None when only an agent holds the private half."""

    def key(self) -> paramiko.PKey:
        """Return the private key, from its file or from the user's agent. Raises CredentialsError."""
        import paramiko

        if self.private_path is not None:
            try:
                return paramiko.PKey.from_path(self.private_path)
            except paramiko.PasswordRequiredException:
                pass
            except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
                raise CredentialsError(f"{self.private_path} is no private key that can be read: {error}", _OWN_KEY) from error
        wanted = self.public_line.split()[1]
        for held in paramiko.Agent().get_keys():
            if held.get_base64() == wanted:
                return held
        where = self.private_path or "the agent"
        raise CredentialsError(
            f"the SSH key of {where} is locked, and no agent holds it", "ssh-add it, or leave [ssh] key out of config.toml"
        )


_OWN_KEY = 'in config.toml: [ssh] key = "~/.ssh/id_ed25519"; without it Lumina makes one of its own'


def own(path: Path) -> Identity:
    """Return the user's own key: a private key's path, with its `.pub` beside it. Raises CredentialsError."""
    import paramiko

    private = path.expanduser()
    public = private.with_name(private.name + ".pub")
    try:
        words = public.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        words = []
    if len(words) >= 2:
        return Identity(f"{words[0]} {words[1]} {COMMENT}", private if private.is_file() else None)
    try:
        key = paramiko.PKey.from_path(private)
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise CredentialsError(f"no SSH key at {private}: {error}", _OWN_KEY) from error
    return Identity(f"{key.get_name()} {key.get_base64()} {COMMENT}", private)


def installation(home: Path) -> Identity:
    """Return this installation's own ed25519 key, made at first use. Raises CredentialsError when it cannot be kept."""
    path = home / "ssh" / KEY_NAME
    try:
        if not path.exists():
            with edge("key.make"):
                _make(path)
    except OSError as error:
        raise CredentialsError(f"no SSH key can be kept in {path.parent}: {error.strerror}", "make the folder writable") from error
    return own(path)


def _make(path: Path) -> None:
    """Make a key pair; of two processes that do so at once, one wins and both use its key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    handle, staged = tempfile.mkstemp(dir=path.parent, prefix=".key-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(private)
        try:
            os.link(staged, path)
            sent()
        except FileExistsError:
            return
    finally:
        Path(staged).unlink()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    # Whoever reads before this line is written derives it from the private key.
    path.with_name(path.name + ".pub").write_bytes(public + f" {COMMENT}\n".encode())
