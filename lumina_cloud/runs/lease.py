"""One controller for a run: a lease in the ledger with a fencing number, and a file lock that its holder's death releases.

Whoever takes a run over raises its number. Every write and every touch of the outside asks first whether the number is still its own,
so a controller that was stopped past its lease and wakes up again finds that it has lost the run, and does nothing more with it.

A lease that is not renewed runs out. In the same place (this computer since its start, this home) a dead holder's file lock is free, and
nobody has to wait for that.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from lumina_cloud.core import edge
from lumina_cloud.core.clock import boot_of
from lumina_cloud.core.errors import LeaseLost, LedgerError
from lumina_cloud.ledger import LeaseRecord
from lumina_cloud.ledger.ledger import fenced_by
from lumina_cloud.runs.lock import driving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import Ledger
    from lumina_cloud.ledger.transaction import Transaction

SECONDS = 60.0
"""How long a controller may go unheard of before another takes its run."""
RENEW_SECONDS = 15.0


@dataclass
class Lease:
    """The right to drive a run."""

    ledger: Ledger
    clock: Clock
    run_id: str
    fence: int

    def check(self) -> None:
        """Raise LeaseLost when another controller has taken the run over."""
        self._own(self.ledger.lease(self.run_id))

    def check_within(self, tx: Transaction) -> None:
        """As `check`, within a write transaction: what it finds is true until the commit."""
        self._own(tx.lease(self.run_id))

    def renew(self) -> None:
        """Hold on to the run. Raises LeaseLost, LedgerError."""
        with self.ledger.transaction() as tx:
            known = self._own(tx.lease(self.run_id))
            tx.put_lease(replace(known, until=self.clock.now() + timedelta(seconds=SECONDS)))

    def release(self) -> None:
        """Let go of the run, if it is still held."""
        with suppress(LeaseLost, LedgerError), self.ledger.transaction() as tx:
            tx.put_lease(replace(self._own(tx.lease(self.run_id)), holder="", until=self.clock.now()))

    def _own(self, known: LeaseRecord | None) -> LeaseRecord:
        if known is None or known.fence != self.fence:
            raise LeaseLost(f"another controller drives run {self.run_id} now", f"lumina logs -f {self.run_id} watches it")
        return known


def place_of(clock: Clock, home: Path) -> str:
    """Return a name of this computer since its start, and of a home on it; of nowhere where the system does not tell."""
    return f"{boot_of(clock) or secrets.token_hex(8)} {home}"[:200]


def is_free(known: LeaseRecord | None, now: datetime, place: str, *, lock_is_free: bool) -> bool:
    """Whether a run may be taken over: nobody drives it, its driver is dead, or was not heard of for too long."""
    if known is None or not known.holder:
        return True
    # A lease that runs for longer than leases do was written before a clock was set back.
    if known.until <= now or known.until - now > timedelta(seconds=2 * SECONDS):
        return True
    return lock_is_free and known.place == place


def acquire(ledger: Ledger, clock: Clock, run_id: str, place: str, *, lock_is_free: bool) -> Lease | None:
    """Take a run, None when another controller has it. Raises LedgerError."""
    with ledger.transaction() as tx:
        known, now = tx.lease(run_id), clock.now()
        if not is_free(known, now, place, lock_is_free=lock_is_free):
            return None
        fence = 1 if known is None else known.fence + 1
        holder = secrets.token_hex(6)
        # A lease that ran out is taken while its sleeping holder still has the file: who holds no lock is not dead when it is free.
        held_at = place if lock_is_free else ""
        tx.put_lease(LeaseRecord(run_id, fence, holder, held_at, now + timedelta(seconds=SECONDS)))
        if known is not None and known.holder:
            tx.add_event("run.taken_over", run_id=run_id, fence=fence, after=known.holder)
    return Lease(ledger, clock, run_id, fence)


class Renewing(Protocol):
    """Renews a lease for as long as its holder lives."""

    def stop(self) -> None:
        """End it; a renewal under way is waited for."""
        ...


class Renewal:
    """Renews a lease in a thread, whatever a step takes, as long as its process runs."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            try:
                self._lease.renew()
            except LeaseLost:
                return
            except LedgerError:
                # The ledger was busy or its disk full: asked again; should that last, another controller takes over.
                continue

    def stop(self) -> None:
        """End it; a renewal under way is waited for."""
        self._over.set()
        self._thread.join()


@contextmanager
def holding(
    ledger: Ledger, clock: Clock, home: Path, run_id: str, *, renewal: Callable[[Lease], Renewing] | None = Renewal
) -> Iterator[Lease | None]:
    """Yield the right to drive a run, None when another controller has it. Inside, whatever is written or touched asks for it first.

    `renewal` keeps it meanwhile; with None the caller renews it. Raises LedgerError.
    """
    with driving(home, run_id) as free:
        lease = acquire(ledger, clock, run_id, place_of(clock, home), lock_is_free=free)
        if lease is None:
            yield None
            return
        with ExitStack() as stack:
            # Last to leave: what was done under the lease is done.
            stack.callback(lease.release)
            if renewal is not None:
                stack.callback(renewal(lease).stop)
            stack.enter_context(fenced_by(lease.check_within))
            stack.enter_context(edge.allowed_by(lease.check))
            yield lease


def is_driven(ledger: Ledger, clock: Clock, home: Path, run_id: str) -> bool:
    """Whether a controller drives the run now."""
    with driving(home, run_id) as free:
        return not is_free(ledger.lease(run_id), clock.now(), place_of(clock, home), lock_is_free=free)
