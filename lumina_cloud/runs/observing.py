"""What is known about a run at a moment: its provider's word on the machine, and the machine's own, none of it trusted."""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import HostKeyChanged, NotFound, ProviderError, Unreachable
from lumina_cloud.runs import caps, extending, ingest, machines, offers, shipping, terms
from lumina_cloud.runs.decide import Facts
from lumina_cloud.runs.states import WAITED_FOR

if TYPE_CHECKING:
    from datetime import datetime

    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.decide import Exit, Machine
    from lumina_cloud.runs.machines import LeaseKeeper
    from lumina_cloud.runs.terms import Terms
    from providers.contract import Instance

OVERDUE_SECONDS = 15.0
"""How long after a cap the machine's own supervisor is waited for."""
UNSEEN_SECONDS = 60.0
"""How long a new instance may be missing from its provider's answers."""
ASK_SECONDS = 5.0
"""How often a machine is asked whether its supervisor lives."""
PROBE_FILE = "disk-probe"
REFUSALS = 3
"""A machine that refuses so many writes in a row has no disk left."""


@dataclass(frozen=True)
class Seen:
    """A run as it stands, and the ways to its machine."""

    run: RunRecord
    rental: RentalRecord | None
    terms: Terms
    instance: Instance | None
    box: Box | None
    """None while the machine cannot be used: it boots, does not answer, or is not the one that it was."""
    facts: Facts


@dataclass
class _Contact:
    """What a controller remembers of one machine between two looks."""

    lost_at: float | None = None
    beat: object = None
    beat_at: float = 0.0
    keeper: LeaseKeeper | None = None
    ready: bool = False
    asked_at: float = -ASK_SECONDS
    present: bool = False
    """It was there at an earlier look: whoever looks keeps its lease, as soon as it can be reached."""


@dataclass
class Observer:
    """Looks at runs. Remembers only what a new controller can do without."""

    context: Context
    _contacts: dict[str, _Contact] = field(default_factory=dict)

    def look(self, run: RunRecord, rental: RentalRecord | None) -> Seen:
        """Gather what is known. Raises ProviderError when the provider does not say how the machine is."""
        of_run = terms.of(self.context.ledger, run.run_id)
        instance = self._instance(rental)
        box: Box | None = None
        key_changed, started, training, supervised, ended = False, False, False, True, None
        contact = self._contacts.setdefault(rental.tag, _Contact()) if rental is not None else _Contact()
        now = self.context.clock.monotonic()
        try:
            box = self._box(run, rental, instance, contact)
            if box is not None:
                started, training, supervised, ended = self._word(rental, instance, box, contact)
                contact.lost_at = None
        except HostKeyChanged:
            key_changed, box = True, None
        except Unreachable as error:
            box = None
            if contact.lost_at is None:
                contact.lost_at = now
                self._say_lost(run, rental, error)
        facts = self._facts(run, rental, instance, of_run, contact)
        contact.present = contact.present or instance is not None
        facts = Facts(
            **{
                **vars(facts),
                "key_changed": key_changed,
                "unreachable_seconds": 0.0 if contact.lost_at is None else max(0.001, now - contact.lost_at),
                "refuses_writes": self._refuses_writes(contact) or (not supervised and ended is None and _refuses(box)),
                "silent_seconds": now - contact.beat_at if started and contact.beat_at else 0.0,
                "started": started,
                "training": training,
                "supervised": supervised,
                "exit": ended,
            }
        )
        if box is not None and rental is not None and rental.provider != "local":
            self._keep_lease(rental, instance, of_run, contact)
        return Seen(run, rental, of_run, instance, box, facts)

    def let_go(self, rental: RentalRecord | None) -> None:
        """Stop renewing a machine's lease: its rental is being ended, or another process drives its run."""
        contact = self._contacts.get(rental.tag) if rental is not None else None
        if contact is not None and contact.keeper is not None:
            contact.keeper.stop()
            contact.keeper = None

    def let_all_go(self) -> None:
        """Stop renewing every lease."""
        for contact in self._contacts.values():
            if contact.keeper is not None:
                contact.keeper.stop()
                contact.keeper = None

    @staticmethod
    def _refuses_writes(contact: _Contact) -> bool:
        return contact.keeper is not None and contact.keeper.refusals >= REFUSALS

    # --- the machine's word ---------------------------------------------------------------------------------------------

    def _box(self, run: RunRecord, rental: RentalRecord | None, instance: Instance | None, contact: _Contact) -> Box | None:
        """Return the way to a machine that runs and answers. Raises HostKeyChanged, Unreachable."""
        if rental is None or instance is None or rental.state not in ("booting", "ready", "terminating"):
            return None
        if run.state == "finishing" and run.reason == "host_key_changed":
            return None
        if rental.state == "ready" and rental.provider != "local" and instance.state in ("running", "creating") and not instance.address:
            raise Unreachable(f"{rental.provider} names no address of the machine any more", "it is asked again")
        usable = instance.state == "running" or rental.provider == "local"
        if not usable or instance.address is None:
            contact.lost_at = None
            return None
        box = self.context.machines.box(self.context.connect(rental.provider), instance, rental)
        if box is not None and not contact.ready and rental.provider != "local":
            # A running machine's SSH server comes up last.
            box.run(["true"], timeout=30.0)
            contact.ready = True
        return box

    def _word(
        self, rental: RentalRecord | None, instance: Instance | None, box: Box, contact: _Contact
    ) -> tuple[bool, bool, bool, Exit | None]:
        """Return whether the supervisor was started, whether a first step was made, whether it lives, and how the trainer ended."""
        now = self.context.clock.monotonic()
        beat = ingest.heartbeat(box)
        raw = beat or box.read("out/heartbeat.json")
        if raw != contact.beat or not contact.beat_at:
            contact.beat, contact.beat_at = raw, now
        started = shipping.was_started(box)
        supervised = True
        running = instance is not None and instance.state == "running"
        if started and running and rental is not None and now - contact.asked_at >= ASK_SECONDS:
            contact.asked_at = now
            supervised = shipping.is_supervised(box, shipping.python_of(self.context, rental.provider))
        # Read after the supervisor was looked for: one that has just left has written how it ended.
        return started, beat.get("step", 0) > 0, supervised, ingest.exit_of(box)

    def _keep_lease(self, rental: RentalRecord, instance: Instance | None, of_run: Terms, contact: _Contact) -> None:
        if contact.keeper is not None or instance is None or rental.state not in ("booting", "ready"):
            return
        with suppress(ProviderError):
            provider = self.context.connect(rental.provider)
            contact.keeper = self.context.machines.keep_lease(provider, instance, rental, of_run.lease_seconds)

    def _say_lost(self, run: RunRecord, rental: RentalRecord | None, error: Unreachable) -> None:
        if rental is not None:
            more = ": it trains on, and is asked again" if rental.state == "ready" else ""
            self.context.reporter.said(run.run_id, f"{error.message}{more}")

    # --- the provider's word --------------------------------------------------------------------------------------------

    def _instance(self, rental: RentalRecord | None) -> Instance | None:
        if rental is None or rental.instance_id is None or rental.state in ("ended", "lost"):
            return None
        try:
            return self.context.connect(rental.provider).get(rental.instance_id)
        except NotFound:
            return None

    def _facts(self, run: RunRecord, rental: RentalRecord | None, instance: Instance | None, of_run: Terms, contact: _Contact) -> Facts:
        lived = (self.context.clock.now() - rental.intended_at).total_seconds() if rental is not None else 0.0
        boot = machines.boot_seconds(run.provider, run.count, of_run, rehearsal=self.context.machines.rehearsal)
        machine = self._machine(rental, instance, lived)
        allowed = math.inf if rental is None else allowed_seconds(self.context, run, rental)
        events = self.context.ledger.events(run.run_id) if rental is not None else []
        behind = rental is not None and extending.is_behind(events, rental.rental_id)
        told = extending.told_at(events, rental.rental_id) if rental is not None else None
        # Limits that fell may have passed already: from when the machine hears of them it has its time to save and end.
        ends_by = allowed if rental is None or told is None else max(allowed, _end_after(told, rental, run))
        return Facts(
            run=run.state,
            stop_requested=run.stop_requested_at is not None,
            rental=rental.state if rental is not None else None,
            machine=machine,
            interrupted=instance is not None and instance.interrupted,
            price_rose=instance is not None and rental is not None and offers.is_dearer(rental, instance.usd_per_hour),
            booting_seconds=lived,
            boot_deadline_seconds=boot,
            lease_ran_out=rental is not None and not contact.present and self._unheard(rental) > of_run.lease_seconds,
            cap_near=lived > allowed - caps.grace_seconds(run.provider) - OVERDUE_SECONDS,
            results_seconds=self._results_wait(run, rental),
            # One that is to be told yet gets as long for that as for its end, whether that succeeds or not.
            overdue=lived > ends_by + OVERDUE_SECONDS + (caps.grace_seconds(run.provider) if behind else 0.0),
            limits_behind=behind,
        )

    def _unheard(self, rental: RentalRecord) -> float:
        """Return how long ago a controller last looked at the machine: whoever does so meters it."""
        times = [c.until for c in self.context.ledger.charges(rental.run_id) if c.rental_id == rental.rental_id]
        last = max([rental.ready_at or rental.intended_at, *times])
        return (self.context.clock.now() - last).total_seconds()

    def _results_wait(self, run: RunRecord, rental: RentalRecord | None) -> float | None:
        """Return how long results that the user wants have waited on their machine, by the ledger: controllers come and go."""
        if rental is None or rental.state != "ready" or rental.work_ended_at is None or run.reason not in WAITED_FOR:
            return None
        return (self.context.clock.now() - rental.work_ended_at).total_seconds()

    @staticmethod
    def _machine(rental: RentalRecord | None, instance: Instance | None, lived: float) -> Machine:
        if instance is None:
            # A new instance may be missing from its provider's answers for some seconds.
            fresh = rental is not None and rental.state == "booting" and rental.provider != "local" and lived < UNSEEN_SECONDS
            return "creating" if fresh else "gone" if rental is not None and rental.instance_id is not None else "unknown"
        if instance.state == "ended":
            return "gone"
        return "creating" if instance.state == "running" and instance.address is None else instance.state


def allowed_seconds(context: Context, run: RunRecord, rental: RentalRecord) -> float:
    """Return how long a rental may live under its run's cap, what earlier rentals cost taken off."""
    earlier = sum((c.usd for c in context.ledger.charges(run.run_id) if c.rental_id != rental.rental_id), Decimal(0))
    return caps.longest_seconds(run.seconds_cap, run.usd_cap, earlier, rental.usd_per_hour)


def _end_after(told: datetime, rental: RentalRecord, run: RunRecord) -> float:
    """Return the age at which a machine is over that was told at `told` to end at once."""
    return (told - rental.intended_at).total_seconds() + caps.grace_seconds(run.provider)


def _refuses(box: Box | None) -> bool:
    """Whether a machine whose supervisor is gone takes not even a small file: a full disk ended it before it could say so.

    SFTP names no error of its own for a full disk, so any refusal of a write into the work folder counts.
    """
    if box is None:
        return False
    try:
        box.write(PROBE_FILE, secrets.token_hex(8).encode())
    except (HostKeyChanged, Unreachable):
        return False
    except ProviderError:
        return True
    return False
