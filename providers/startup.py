"""What a machine is told at its creation: checked here, so that it means over there what was meant here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import InvalidRequest

if TYPE_CHECKING:
    from providers.contract import LaunchSpec

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PUBLIC_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [\w@.+:-]+)?")


def check(spec: LaunchSpec, *, limit: int, title: str) -> None:
    """Raise InvalidRequest for a script that is too long, a name that is no variable's, or a key that is no public key.

    A name such as `-v` would be an option of the container engine over there, and a quote in a key would end it.
    """
    size = len(spec.startup_script.encode())
    if size > limit:
        raise InvalidRequest(f"the start-up script has {size:,} bytes, {title} takes {limit:,}", "fetch what is large over SSH")
    for name in spec.env:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name of a variable", "letters, digits and underscores")
    if spec.ssh_public_key and not _PUBLIC_KEY.fullmatch(spec.ssh_public_key.strip()):
        raise InvalidRequest(f"{spec.ssh_public_key[:40]!r} is no public key in OpenSSH's form", "e.g. ssh-ed25519 AAAA... name")
    if spec.disk_gb < 10:
        raise InvalidRequest(f"a disk of {spec.disk_gb} GB is too small", "10 GB at least")


def let_in(public_key: str) -> tuple[str, ...]:
    """Return shell lines that let the owner of a checked public key in."""
    return (
        'mkdir -p "$HOME/.ssh" && chmod 700 "$HOME/.ssh"',
        f"echo '{public_key.strip()}' >> \"$HOME/.ssh/authorized_keys\"",
    )
