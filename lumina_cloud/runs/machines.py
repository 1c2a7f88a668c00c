"""Rented machines: what one is told at its creation, and how it is reached afterwards.

A machine's host key is known before first contact wherever its provider allows: it is printed into the boot log that the provider's
API hands over, or it is one of ours that the start-up script puts in place. Elsewhere the first contact is trusted, and that is said.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import BadReply, HostKeyChanged, LeaseLost, LedgerError, NotFound, ProviderDown, ProviderError, Unreachable
from lumina_cloud.remote import startup
from lumina_cloud.runs import caps
from providers.contract import HasClock, HostKeyChannel, InstanceScopedKey, LaunchSpec, LocalAddress, ProviderDeadline, StartupScript

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import RentalRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.remote.host_keys import Pins
    from lumina_cloud.remote.ssh_box import SshBox
    from lumina_cloud.remote.ssh_connection import Connection
    from lumina_cloud.remote.ssh_key import Identity
    from lumina_cloud.runs.terms import Terms
    from providers.contract import Instance, Offer, Provider

HOST_KEYS_VARIABLE = "LUMINA_HOST_KEYS"
HOST_KEYS_FOLDER = "/etc/ssh"
TELL_SECONDS = 45.0
"""How long a running machine may take to print its host key before its first contact is trusted."""

BOOT_SECONDS = {"local": 300.0, "vastai": 900.0, "runpod": 900.0, "lambda": 1200.0}
"""How long a machine may take until it can be used: its image is pulled first. Large Lambda machines take longest."""
BOOT_SECONDS_PER_GPU = 90.0
REHEARSAL_BOOT_SECONDS = 150.0


def boot_seconds(provider: str, count: int, terms: Terms, *, rehearsal: bool) -> float:
    """Return how long a machine of `count` GPUs may take to come up before it is given back."""
    if terms.boot_seconds is not None:
        return terms.boot_seconds
    if rehearsal and provider != "local":
        return REHEARSAL_BOOT_SECONDS
    return BOOT_SECONDS.get(provider, 900.0) + BOOT_SECONDS_PER_GPU * (count - 1)


def is_guarded(provider: Provider) -> bool:
    """Whether a machine of this provider can end itself: with a key of its own, or since it is this computer."""
    return provider.name == "local" or isinstance(provider, InstanceScopedKey)


def limits(provider: Provider, terms: Terms, *, seconds: float, seq: int = 0, rehearsal: bool = False) -> startup.Limits:
    """Return what the guard is told: `seconds` is how long the machine may still live, by money and by time."""
    key = provider.box_key() if isinstance(provider, InstanceScopedKey) else None
    return startup.Limits(
        deadline_seconds=max(1.0, seconds - caps.grace_seconds(provider.name)),
        budget_seconds=max(1.0, seconds - caps.grace_seconds(provider.name)),
        lease_seconds=terms.lease_seconds,
        grace_seconds=caps.SAVE_SECONDS,
        home_seconds=caps.home_seconds(provider.name),
        api=None if key is None else startup.EndCall(key.id_variable, key.key_variable, key.method, key.url),
        # A container that is off costs its disk only; a sandbox's shares its first process with this computer.
        power_off=("kill", "1") if provider.name == "vastai" and not rehearsal else None,
        store=terms.store is not None,
        seq=seq,
    )


@dataclass
class Machines:
    """The machines of one installation. Connections are kept open between uses."""

    home: Path
    pins: Pins
    identity: Callable[[], Identity]
    clock: Clock
    rehearsal: bool = False
    """In the sandbox machines have their GPUs in name only."""
    _open: dict[str, SshBox] = field(default_factory=dict)
    _first_tried: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # --- creation -------------------------------------------------------------------------------------------------------

    def create(self, provider: Provider, offer: Offer, rental: RentalRecord, terms: Terms, seconds: float) -> Instance:
        """Rent a machine that guards itself from its first second. Raises what `Provider.create` raises."""
        spec = self.spec(provider, rental, terms, seconds)
        if isinstance(provider, ProviderDeadline):
            # Where the provider ends machines by itself, that is a belt beside the guard, for a guard that could not: at the cap's very
            # end, where the guard's deadline leaves what is kept back for ending in good order.
            # It goes by its own clock: told by ours, a wrong one would end the machine at once, or never.
            ahead = (provider.clock_skew() if isinstance(provider, HasClock) else None) or 0.0
            ends_at = self.clock.now() + timedelta(seconds=seconds - ahead)
            return provider.create_until(offer, spec, rental.tag, ends_at)
        return provider.create(offer, spec, rental.tag)

    def spec(self, provider: Provider, rental: RentalRecord, terms: Terms, seconds: float) -> LaunchSpec:
        """Return what a machine is told at its creation."""
        if provider.name == "local":
            return LaunchSpec()
        script = ""
        if isinstance(provider, StartupScript):
            # One that is too long is refused by the client: without its guard no machine is rented.
            script = startup.script(
                limits(provider, terms, seconds=seconds, rehearsal=self.rehearsal),
                host_key=None if isinstance(provider, HostKeyChannel) else self._announced_key(rental.tag),
            )
        return LaunchSpec(
            ssh_public_key=self.identity().public_line,
            startup_script=script,
            env={HOST_KEYS_VARIABLE: HOST_KEYS_FOLDER},
            disk_gb=terms.disk_gb,
        )

    def _announced_key(self, tag: str) -> str:
        """Make a host key for a machine, pin it, and return its private half for the start-up script alone."""
        private, public = startup.make_host_key()
        self.pins.announce(tag, (public,))
        return private

    # --- contact --------------------------------------------------------------------------------------------------------

    def box(self, provider: Provider, instance: Instance, rental: RentalRecord) -> Box | None:
        """Return the way to a machine, None while its address is not known. Nothing is connected yet.

        Raises Unreachable while the host key that it is to show is not known.
        """
        address = instance.address
        if address is None:
            return None
        if isinstance(address, LocalAddress):
            from lumina_cloud.remote.local_box import LocalBox

            return LocalBox(address.folder)
        where = f"{rental.tag} {address.user}@{address.host}:{address.port}"
        with self._lock:
            if where not in self._open:
                # An address changes when a machine was stopped: the old way is closed.
                for old in [w for w in self._open if w.startswith(f"{rental.tag} ")]:
                    self._open.pop(old).close()
                self._open[where] = self._connect(provider, instance, rental)
            return self._open[where]

    def _connect(self, provider: Provider, instance: Instance, rental: RentalRecord) -> SshBox:
        from lumina_cloud.remote.ssh_box import SshBox

        return SshBox(self.connection(provider, instance, rental))

    def connection(self, provider: Provider, instance: Instance, rental: RentalRecord) -> Connection:
        """Return a connection of its own to a machine, for a second thread or a shell."""
        from lumina_cloud.remote.ssh_connection import Connection, Target
        from providers.contract import SshAddress

        address = instance.address
        if not isinstance(address, SshAddress):
            raise Unreachable(f"the machine of {rental.tag} has no SSH address", "lumina status")
        keys = address.host_keys or self._told_key(provider, instance, rental)
        return Connection(Target(address.host, address.port, address.user, rental.tag, keys), self.identity(), self.pins)

    def keep_lease(self, provider: Provider, instance: Instance, rental: RentalRecord, lease_seconds: float) -> LeaseKeeper:
        """Renew a machine's own lease from now on. Raises Unreachable."""
        from lumina_cloud.remote.ssh_box import SshBox

        return LeaseKeeper(SshBox(self.connection(provider, instance, rental)), startup.LEASE_FILE, lease_seconds)

    def _told_key(self, provider: Provider, instance: Instance, rental: RentalRecord) -> tuple[str, ...]:
        """Return the host keys that the machine told over its provider's own channel, empty where there is none.

        Raises Unreachable while they may still come.
        """
        if self.pins.of(rental.tag) or not isinstance(provider, HostKeyChannel):
            return ()
        from lumina_cloud.remote import host_keys

        now = self.clock.monotonic()
        first = self._first_tried.setdefault(rental.tag, now)
        # A log that cannot be had, or is none, keeps nobody out for longer than one that is late.
        with suppress(BadReply, NotFound, ProviderDown):
            told = host_keys.printed(provider.boot_log(instance.instance_id))
            if told:
                return told
        if now - first < TELL_SECONDS:
            raise Unreachable(f"the machine of {rental.tag} has not told its host key yet", "it boots")
        return ()

    def known_before_contact(self, rental: RentalRecord) -> bool:
        """Whether the host key was known before the first contact, as far as this process saw."""
        return all(not box.trusted_at_first_contact for where, box in self._open.items() if where.startswith(f"{rental.tag} "))

    def close(self) -> None:
        """Let go of all machines."""
        with self._lock:
            for box in self._open.values():
                box.close()
            self._open.clear()


class LeaseKeeper:
    """Renews a machine's lease in a thread with a connection of its own, as long as its holder lives: transfers take their time."""

    def __init__(self, box: SshBox, file: str, lease_seconds: float) -> None:
        self._box = box
        self._file = file
        self._every = min(60.0, lease_seconds / 5)
        self._stop = threading.Event()
        self.refusals = 0
        """How many writes in a row the machine refused, though it answered."""
        # The thread asks for the run's lease before it writes, as whoever started it does.
        self._thread = threading.Thread(target=copy_context().run, args=(self._keep,), daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            pause = self._every
            try:
                self._box.write(self._file, f"{secrets.token_hex(6)}-{n}".encode())
                self.refusals = 0
            except (Unreachable, HostKeyChanged):
                pass
            except (LeaseLost, LedgerError):
                break
            except ProviderError:
                self.refusals += 1
                pause = min(pause, 3.0)
            self._stop.wait(pause)
        self._box.close()

    def stop(self) -> None:
        """Stop renewing."""
        self._stop.set()
