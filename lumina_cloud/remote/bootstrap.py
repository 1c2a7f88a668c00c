"""Makes a machine ready and starts the trainer there: a script in plain POSIX shell, made from a template, that may be run twice."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lumina_cloud.core import templates, untrusted
from lumina_cloud.core.errors import BadReply, ProviderError
from lumina_cloud.remote.startup import shell_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.remote.box import Box, Completed

STARTED_MARKER = "started"
"""Exists on the machine from the moment at which the supervisor was started."""

CHECK_SECONDS = 120.0
START_SECONDS = 60.0
INSTALL_SECONDS = 1800.0

FIND_PYTHON = ("sh", "bundle/python.sh")
"""How a rented machine's interpreter is called: it is looked for there."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the machine's driver reports it."""

    name: str
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class MachineFacts:
    """What a machine says of itself: text and figures within bounds, and for all that its own word."""

    disk_mib: int = 0
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    """The newest CUDA that its driver can run."""
    guarded: bool = False
    python: str = ""
    torch: str | None = None
    torch_cuda: str | None = None
    cuda_devices: int = 0
    """GPUs that its torch can use."""
    missing: tuple[str, ...] = field(default_factory=tuple)
    """Packages that the trainer needs and that are not installed."""


def script(python: Sequence[str], *, power_off: str = ":") -> str:
    """Return the bootstrap for a machine whose interpreter is called by `python`."""
    template = shell_template("bootstrap.sh.j2")
    return template.render(python=shlex.join(python), marker=STARTED_MARKER, power_off=power_off)


def send(box: Box, python: Sequence[str], *, power_off: str = ":") -> None:
    """Put the bootstrap onto the machine."""
    box.write("bundle/python.sh", (templates.folder() / "python.sh").read_bytes())
    box.write("bundle/requirements.txt", (templates.folder() / "requirements.txt").read_bytes())
    box.write("bundle/bootstrap.sh", script(python, power_off=power_off).encode())


def check(box: Box) -> MachineFacts:
    """Return what the machine is. Raises ProviderError when it cannot say."""
    done = box.run(["sh", "bundle/bootstrap.sh", "check"], timeout=CHECK_SECONDS)
    if done.returncode != 0:
        raise ProviderError(f"the machine cannot be examined: {_said(done)}", "lumina resume rents another one")
    return facts(done.stdout)


def install(box: Box, *, torch_too: bool, timeout: float = INSTALL_SECONDS) -> None:
    """Install what the trainer needs; torch as well where the image's own does not fit. Raises ProviderError."""
    if torch_too:
        text = (templates.folder() / "requirements.txt").read_bytes() + b"torch>=2.6\n"
        box.write("bundle/requirements.txt", text)
    done = box.run(["sh", "bundle/bootstrap.sh", "install"], timeout=timeout)
    if done.returncode != 0:
        raise ProviderError(f"what the trainer needs cannot be installed there: {_said(done)}", "lumina resume rents another one")


def start(box: Box) -> None:
    """Start guard and trainer. Raises ProviderError with what the machine said when it cannot."""
    done = box.run(["sh", "bundle/bootstrap.sh", "start"], timeout=START_SECONDS)
    if done.returncode != 0:
        raise ProviderError(f"the machine cannot train: {_said(done)}", "lumina resume rents another one")


def _said(done: Completed) -> str:
    return untrusted.block(done.stderr.strip() or done.stdout.strip(), max_lines=5) or f"exit code {done.returncode}"


# --- what it says ----------------------------------------------------------------------------------------------------------


def facts(text: str) -> MachineFacts:
    """Read what `check` printed. Raises BadReply when the interpreter's own facts are not among it."""
    gpus, disk, cuda, guarded = [], 0, None, False
    inner = None
    for row in text.splitlines()[:200]:
        kind, _, rest = row.partition(" ")
        match kind:
            case "gpu":
                gpus += [gpu] if (gpu := _gpu(rest)) is not None else []
            case "disk_mib":
                disk = _whole(rest)
            case "cuda":
                cuda = untrusted.line(rest, 12)
            case "guard":
                guarded = True
            case "facts":
                inner = untrusted.json_object(rest)
            case _:
                continue
    if inner is None:
        raise BadReply(f"the machine does not say what it is: {untrusted.line(text, 200)}")
    missing = inner.get("missing")
    return MachineFacts(
        disk_mib=disk,
        gpus=tuple(gpus[:64]),
        cuda=cuda,
        guarded=guarded,
        python=untrusted.line(inner.get("python"), 20),
        torch=_text(inner.get("torch")),
        torch_cuda=_text(inner.get("torch_cuda")),
        cuda_devices=untrusted.whole(inner.get("cuda_devices"), 0, 64) or 0,
        missing=tuple(untrusted.line(name, 40) for name in missing[:20]) if isinstance(missing, list) else (),
    )


def _gpu(row: str) -> Gpu | None:
    parts = [untrusted.line(part.strip(), 80) for part in row.split(",")]
    return Gpu(parts[0], _whole(parts[1]), parts[2]) if len(parts) == 3 and parts[0] else None


def _whole(text: str) -> int:
    try:
        return untrusted.whole(json.loads(text.strip() or "0"), 0, 1 << 40) or 0
    except ValueError:
        return 0


def _text(value: object) -> str | None:
    return untrusted.line(value, 40) if isinstance(value, str) and value else None
