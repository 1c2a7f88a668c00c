"""The script that a rented machine runs at its first boot: it starts the guard, and tells the host keys by the boot log.

It goes into the create call itself, so a machine guards its rental before we can log in. It holds no secret but, where
the provider has no boot log for us, the host key that this one machine is to show.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lumina_cloud.core import templates
from lumina_cloud.remote import guard

LIMITS_FILE = "limits.json"
LEASE_FILE = "lease"


@dataclass(frozen=True)
class EndCall:
    """The HTTP request by which a machine ends itself, with the names of the variables that hold its id and its own key."""

    id_variable: str
    key_variable: str
    method: str
    url: str


@dataclass(frozen=True)
class Limits:
    """When a machine is to end its own rental. Spans are in seconds, from the moment at which the guard learns of them."""

    deadline_seconds: float
    """How long the machine may live."""
    budget_seconds: float
    """How long the money lasts."""
    lease_seconds: float
    """How long it goes on without hearing from a controller."""
    grace_seconds: float
    """How long the trainer may take to save."""
    home_seconds: float
    """How long that and the way home of its results may take together, when time or money is over."""
    api: EndCall | None
    """None where a machine cannot end itself."""
    power_off: tuple[str, ...] | None = None
    """What switches the machine off when its provider cannot be reached; None where that would not end the bill."""
    store: bool = False
    """Whether results are saved to an object store, which is then waited for."""
    seq: int = 0
    """Of two limits the later one holds."""

    def as_json(self) -> str:
        """Return them as the guard reads them."""
        return json.dumps(asdict(self))


def script(limits: Limits, host_key: str | None = None) -> str:
    """Return the start-up script, in POSIX shell; with a private host key for the machine to show, or else one that tells its own."""
    template = shell_template("startup.sh.j2")
    source = Path(guard.__file__).read_text(encoding="utf-8")
    return template.render(
        guard=_packed(_lean(source)),
        loop=_packed(loop()),
        limits=base64.b64encode(limits.as_json().encode()).decode(),
        host_key=None if host_key is None else base64.b64encode(host_key.encode()).decode(),
    )


def make_host_key() -> tuple[str, str]:
    """Return a fresh ed25519 host key: its private half as sshd reads it, and its public `TYPE BASE64`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def loop() -> str:
    """Return the shell loop that keeps the guard alive."""
    return shell_template("guard.sh.j2").render()


def _lean(source: str) -> str:
    """Return a program without its blank lines: providers limit the length of start-up scripts."""
    return "\n".join(row for row in source.splitlines() if row.strip()) + "\n"


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def shell_template(name: str) -> Template:
    """Return a template of a shell script. What goes into it has to be quoted for the shell."""
    environment = Environment(
        loader=FileSystemLoader(templates.folder()),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  # a shell script, not a page: every value is quoted for the shell
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
