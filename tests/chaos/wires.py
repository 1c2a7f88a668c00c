"""The two wires of a simulation: HTTP to the emulator and SSH to its machines, both without a socket, both on virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import BadReply, HostKeyChanged, LeaseLost, LedgerError, ProviderError, Unreachable
from lumina_cloud.remote.box import CHUNK, Completed, Entry
from lumina_cloud.remote.startup import LEASE_FILE
from lumina_cloud.runs.machines import Machines
from providers.contract import SshAddress
from providers.emulator.wire import Request
from providers.transport import SECONDS
from tests.chaos.machine import Net, SimMachine
from tests.chaos.virtual import Hub

if TYPE_CHECKING:
    from lumina_cloud.ledger import RentalRecord
    from providers.contract import Instance, Provider
    from tests.chaos.computer import Process

PORTS = {"vastai": 1001, "runpod": 1002, "lambda": 1003}
"""By which the wire tells the providers apart. Nobody listens there, and nothing is sent."""
UNANSWERED_SECONDS = 20.0
"""How long a connection to a machine that is cut off is tried."""


class EmulatorTransport(httpx.BaseTransport):
    """Hands requests to the emulator and plays how its replies travel. A laptop without a network reaches nobody."""

    def __init__(self, net: Net, hub: Hub, rng: random.Random, offline: Any) -> None:
        self._net, self._hub, self._rng, self._offline = net, hub, rng, offline

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises httpx.TransportError."""
        seconds = request.extensions[SECONDS]
        if self._offline():
            self._hub.sleep(self._rng.uniform(0.1, 6.0))
            raise httpx.ConnectError("no network", request=request)
        self._hub.sleep(self._rng.uniform(0.02, 0.4))
        provider = next(name for name, port in PORTS.items() if port == request.url.port)
        sent = Request.of(request.method, request.url.raw_path.decode(), dict(request.headers), request.read(), "192.0.2.1")
        reply = self._net.handle(provider, sent)
        self._hub.sleep(self._rng.uniform(0.02, 0.4))
        if reply.delivery in ("hung", "dribbled"):
            self._hub.sleep(min(seconds, reply.seconds))
            raise httpx.ReadTimeout("too late", request=request)
        if reply.delivery != "whole":
            raise httpx.ReadError("connection reset", request=request)
        return httpx.Response(reply.status, headers=reply.headers, content=reply.body, request=request)


class SimBox:
    """A way to a simulated machine: what `SshBox` does, with the same edges around it."""

    def __init__(self, machines: SimMachines, machine: SimMachine, name: str, told: tuple[str, ...]) -> None:
        self._machines, self._machine, self._name, self._told = machines, machine, name, told
        self._hub, self._rng = machines.process.computer.hub, machines.rng
        self._connected_at: float | None = None
        self.trusted_at_first_contact = False

    def close(self) -> None:
        """Let go of the machine."""
        self._connected_at = None

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """Run a command."""
        with edge("box.run"):
            self._connect()
            self._reach()
            try:
                done = self._machine.command(list(argv))
            except OSError as error:
                return Completed(1, "", str(error))
            self._reach()
            return done

    def put(self, source: Path, target: str) -> None:
        """Send a file."""
        self.write(target, source.read_bytes(), "box.put")

    def write(self, target: str, data: bytes, site: str = "box.write") -> None:
        """Write a file."""
        path = _checked(target)
        with edge(site):
            self._connect()
            self._reach()
            try:
                self._machine.files.write(path, data)
            except OSError as error:
                raise ProviderError(f"the machine refused a file operation: {error}", "its disk may be full") from error
            self._machine.moved(len(data) + 400, 200)

    def read(self, path: str, offset: int = 0, limit: int = CHUNK) -> bytes | None:
        """Return part of a file."""
        where = _checked(path)
        with edge("box.read"):
            self._connect()
            self._reach()
            whole = self._machine.files.content.get(where)
            self._machine.moved(300, 300 + (0 if whole is None else len(whole[offset : offset + limit])))
            return None if whole is None else whole[offset : offset + limit]

    def listing(self, folder: str) -> list[Entry]:
        """Return the files below a folder."""
        where = _checked(folder)
        with edge("box.listing"):
            self._connect()
            self._reach()
            return [Entry(path, len(self._machine.files.content[path])) for path in self._machine.files.below(where)]

    def _connect(self) -> None:
        """Shake hands, once: who pins what is `lumina_cloud.remote.ssh_connection`'s rule."""
        if self._connected_at == self._machine.booted and self._machine.on:
            return
        with edge("ssh.connect"):
            self._reach()
            pins, offered = self._machines.pins, self._machine.key
            known = pins.of(self._name)
            if not known:
                self.trusted_at_first_contact = not self._told
                known = pins.pin(self._name, self._told or (offered,))
            if offered not in known:
                raise HostKeyChanged(f"the machine of {self._name} shows another host key")
            self._connected_at = self._machine.booted

    def _reach(self) -> None:
        """Take the time that the way takes. Raises Unreachable."""
        machine = self._machine
        if machine.mode == "partitioned" or self._machines.offline():
            self._hub.sleep(UNANSWERED_SECONDS)
            self._connected_at = None
            raise Unreachable("the machine does not answer: its time is over", "lumina status")
        self._hub.sleep(self._rng.uniform(0.005, 0.05))
        if not machine.on or machine.mode != "open":
            self._connected_at = None
            raise Unreachable("the machine does not answer: connection refused", "lumina status")


def _checked(path: str) -> str:
    if untrusted.file_name(path) is None:
        raise BadReply(f"not a path on a machine: {path!r}")
    return path


class SimMachines(Machines):
    """`Machines` whose ways lead to simulated machines. What is decided about them is the product's own."""

    process: Process
    net: Net
    rng: random.Random

    def offline(self) -> bool:
        """Whether this computer reaches nobody."""
        return self.process.computer.offline()

    def _connect(self, provider: Provider, instance: Instance, rental: RentalRecord) -> Any:
        address = instance.address
        machine = self.net.by_host.get(address.host) if isinstance(address, SshAddress) else None
        if not isinstance(address, SshAddress) or machine is None:
            raise Unreachable(f"the machine of {rental.tag} has no SSH address", "lumina status")
        told = address.host_keys or self._told_key(provider, instance, rental)
        return SimBox(self, machine, rental.tag, told)

    def keep_lease(self, provider: Provider, instance: Instance, rental: RentalRecord, lease_seconds: float) -> Any:
        """Renew a machine's lease in a task of its own."""
        return SimKeeper(self._connect(provider, instance, rental), lease_seconds, self.process)


class SimKeeper:
    """`LeaseKeeper` without a thread."""

    def __init__(self, box: SimBox, lease_seconds: float, process: Process) -> None:
        self._box, self._process = box, process
        self._every = min(60.0, lease_seconds / 5)
        self._over = False
        self.refusals = 0
        process.go_beside(self._keep)

    def _keep(self) -> None:
        n = 0
        while not self._over:
            n += 1
            pause = self._every
            try:
                self._box.write(LEASE_FILE, f"{self._process.party.name}-{n}".encode())
                self.refusals = 0
            except (Unreachable, HostKeyChanged):
                pass
            except (LeaseLost, LedgerError):
                return
            except ProviderError:
                self.refusals += 1
                pause = min(pause, 3.0)
            self._process.computer.hub.sleep(pause)

    def stop(self) -> None:
        """Stop renewing."""
        self._over = True


class SimRenewal:
    """`lease.Renewal` without a thread."""

    def __init__(self, process: Process, lease: Any, every: float) -> None:
        self._process, self._lease, self._every = process, lease, every
        self._over = False
        process.go_beside(self._keep)

    def _keep(self) -> None:
        while True:
            self._process.computer.hub.sleep(self._every)
            if self._over:
                return
            try:
                self._lease.renew()
            except LeaseLost:
                return
            except LedgerError:
                continue

    def stop(self) -> None:
        """End it."""
        self._over = True
