"""What stands behind an instance: the seam between the world, which is pure, and real processes.

The world hands a `BoxSpec` to whoever makes machines: real process groups with SSH servers (`boxes.py`), or `StubMachine` in a
simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Network = Literal["open", "refused", "partitioned"]


@dataclass(frozen=True)
class BoxSpec:
    """All that a machine is made of."""

    name: str
    """Unique, fit for a folder."""
    provider: str
    user: str
    gpu_name: str
    gpu_memory_mib: int
    gpu_count: int
    disk_gb: int
    env: Mapping[str, str] = field(repr=False)
    authorized_keys: tuple[str, ...] = ()
    start: tuple[str, ...] | None = None
    """Program and arguments that run at each boot."""
    user_data: str = field(default="", repr=False)
    """Of a virtual machine: cloud-init's user data, a script or a `#cloud-config`, done at the first boot only."""
    start_is_entrypoint: bool = False
    """Whether the provider runs it again when it exits (a container's entrypoint) or not (an on-start script)."""
    own_address: bool = False
    """Whether the machine has an address of its own, with SSH at the usual port, or a mapped port of a shared one."""
    port_variable: str = ""
    """The environment variable that tells the box its public SSH port."""
    login_sees_env: bool = False
    """Whether an SSH login finds the instance's environment, or only what the start-up program wrote down for it."""
    cuda: str = "12.8"
    driver: str = "570.86.10"
    clock_skew_seconds: int = 0
    download_kib_per_second: int | None = None


class Machine(Protocol):
    """A rented machine. No call of it may fail because it was made before."""

    host: str
    port: int
    """Where SSH is reached directly."""
    proxy_port: int
    """Where SSH is reached through the provider's proxy, on the same host."""
    key: str
    """The public host key that it shows, once it has booted."""

    def boot(self) -> None:
        """Start its processes, without waiting for them."""
        ...

    def warn(self) -> None:
        """Ask all its processes to end."""
        ...

    def halt(self) -> None:
        """Kill all its processes; the disk stays."""
        ...

    def destroy(self) -> None:
        """Kill all its processes and wipe the disk."""
        ...

    def network(self, mode: Network) -> None:
        """Cut it off, or connect it again."""
        ...

    def rotate_host_key(self) -> None:
        """Show another host key from now on, as another machine at that address would."""
        ...

    def fill_disk(self) -> None:
        """Let every further write fail."""
        ...

    def traffic(self) -> tuple[int, int]:
        """Return bytes received and sent over its public address so far."""
        ...

    def log(self) -> str:
        """Return what the start-up script and the machine itself printed."""
        ...


MachineMaker = Callable[[BoxSpec], Machine]


class StubMachine:
    """A machine without processes, which remembers what was asked of it."""

    def __init__(self, spec: BoxSpec, port: int = 22000) -> None:
        self.spec = spec
        self.host = "127.0.0.1"
        self.port = port
        self.proxy_port = port + 1
        self.key = f"ssh-ed25519 stub-{spec.name}-1"
        self.running = False
        self.destroyed = False
        self.mode: Network = "open"
        self.disk_full = False
        self.received = 0
        self.sent = 0
        self.calls: list[str] = []

    def boot(self) -> None:
        """Mark it as running."""
        self.calls.append("boot")
        self.running = not self.destroyed

    def warn(self) -> None:
        """Remember the warning."""
        self.calls.append("warn")

    def halt(self) -> None:
        """Mark it as off."""
        self.calls.append("halt")
        self.running = False

    def destroy(self) -> None:
        """Mark it as gone."""
        self.calls.append("destroy")
        self.running, self.destroyed = False, True

    def network(self, mode: Network) -> None:
        """Remember the mode."""
        self.calls.append(f"network {mode}")
        self.mode = mode

    def rotate_host_key(self) -> None:
        """Change the key."""
        self.calls.append("rotate_host_key")
        self.key = f"ssh-ed25519 stub-{self.spec.name}-{len(self.calls) + 1}"

    def fill_disk(self) -> None:
        """Remember that writes fail."""
        self.calls.append("fill_disk")
        self.disk_full = True

    def traffic(self) -> tuple[int, int]:
        """Return what the test set."""
        return self.received, self.sent

    def log(self) -> str:
        """Return nothing."""
        return ""


class StubMaker:
    """Makes stub machines and keeps them by name."""

    def __init__(self) -> None:
        self.made: dict[str, StubMachine] = {}

    def __call__(self, spec: BoxSpec) -> StubMachine:
        """Make one."""
        machine = StubMachine(spec, 22000 + 2 * len(self.made))
        self.made[spec.name] = machine
        return machine
