"""Host keys that we know. Each machine has pins of its own, named by its rental's tag, never by its address.

Addresses are handed on to the next customer: a pin by address would call the next machine a changed one, or take a changed one
for the next. What a pin buys: nobody on the way and no later tenant of that address can pose as the machine. It does not keep out
the machine's owner, who reads its disk and memory: nothing on a rented machine may be worth more than the run.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import HostKeyChanged, LedgerError

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521)|ssh-rsa) ([A-Za-z0-9+/]{20,1400}={0,2})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
PRINTED = "lumina-host-key"
"""How a start-up script marks its lines with host keys in a machine's boot log."""


def key_line(text: str) -> str | None:
    """Return `TYPE BASE64` of a host key in OpenSSH's form, None for anything else."""
    match = _LINE.match(text.strip())
    return f"{match[1]} {match[2]}" if match else None


def printed(boot_log: str) -> tuple[str, ...]:
    """Return the host keys that a start-up script printed into a boot log, the last start's."""
    found: dict[str, str] = {}
    for row in boot_log.splitlines():
        _, marked, rest = row.partition(f"{PRINTED} ")
        key = key_line(rest) if marked else None
        if key is not None:
            found[key.split()[0]] = key
    return tuple(found.values())


@dataclass(frozen=True)
class Pins:
    """The pinned host keys of this installation, a file a machine, in OpenSSH's `known_hosts` form."""

    folder: Path

    def of(self, name: str) -> tuple[str, ...]:
        """Return a machine's pinned keys, empty before first contact. Raises LedgerError for a file that cannot be read."""
        try:
            text = self.path(name).read_text(encoding="ascii")
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise LedgerError(f"the pinned host keys in {self.path(name)} cannot be read: {error}", "restore the file") from error
        return tuple(key for row in text.splitlines() if (key := key_line(row.partition(" ")[2])))

    def pin(self, name: str, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Pin a machine's keys, unless some are pinned already; return those that hold. Raises LedgerError."""
        path = self.path(name)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with edge("pins.keep"):
                staged.write_text("".join(f"{name} {key}\n" for key in keys), encoding="ascii")
                try:
                    os.link(staged, path)
                    sent()
                except FileExistsError:
                    return self.of(name)
                finally:
                    staged.unlink()
        except OSError as error:
            raise LedgerError(f"the host key cannot be kept in {path.parent}: {error.strerror}", "make the folder writable") from error
        return keys

    def announce(self, name: str, keys: tuple[str, ...]) -> None:
        """Pin the keys of a machine that does not exist yet, in place of what an earlier attempt announced. Raises LedgerError."""
        path = self.path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LedgerError(f"the host key cannot be kept in {path.parent}: {error.strerror}", "make the folder writable") from error
        self.pin(name, keys)

    def check(self, name: str, offered: str) -> None:
        """Raise HostKeyChanged unless `offered` is pinned for this machine."""
        known = self.of(name)
        if offered not in known:
            raise HostKeyChanged(
                f"the machine of {name} shows another SSH host key than before: nothing was sent to it",
                "somebody may sit in between, or the address went to another machine: lumina resume rents a new one",
            )

    def path(self, name: str) -> Path:
        """Return the file of a machine's pins."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a machine's name: {name!r}")
        return self.folder / name
