"""Drives runs: gathers facts, asks `decide`, does that one thing, and asks again.

Every step is safe to lose and to repeat: state changes are single transactions, outside calls come after the intent is in the
ledger, and a create is preceded by a look-up of its tag. No network call stands inside a transaction.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core import money, units, untrusted
from lumina_cloud.core.errors import (
    CredentialsError,
    DiskError,
    HostKeyChanged,
    InsufficientBalance,
    InvalidRequest,
    LeaseLost,
    LedgerError,
    LuminaError,
    NoCapacity,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    Unreachable,
)
from lumina_cloud.ledger import RentalRecord, aside
from lumina_cloud.remote import results
from lumina_cloud.runs import conclude, drift, extending, holds, ingest, metering, offers, remembered, rising_price, shipping, tags
from lumina_cloud.runs.decide import Decision, decide
from lumina_cloud.runs.lease import holding, is_driven
from lumina_cloud.runs.observing import Observer
from lumina_cloud.runs.shipping import MachineUnfit
from lumina_cloud.runs.states import ACTIVE, ENDINGS, next_rental_state, next_run_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lumina_cloud.ledger import EventRecord, RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.lease import Lease
    from lumina_cloud.runs.observing import Seen
    from lumina_cloud.runs.states import Action, Reason, RentalEvent
    from providers.contract import Instance, Provider

POLL_SECONDS = 0.5
RENTED_POLL_SECONDS = 2.0
METRICS_CHUNK = 1 << 20
MAX_PROVIDER_FAILURES = 40
CHECKPOINT_POLL_SECONDS = 10.0
MOST_PAUSE_SECONDS = 20.0
"""Between a machine that came to nothing and the next."""
TWINS_SECONDS = 20.0
"""How often a new machine's tag is looked up for others that carry it, until lists cannot lag any more."""
LISTING_LAG_SECONDS = 100.0
"""How long a list may not show yet what a create that nobody heard of has made."""


class Controller:
    """Drives the runs of one ledger."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._observer = Observer(context)
        self._offsets: dict[str, int] = {}
        self._checkpoint_at: dict[str, float] = {}
        self._checkpoint_name: dict[str, str] = {}
        self._twins_at: dict[str, float] = {}

    # --- what commands call ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Bring every run that nobody drives as far as it goes without waiting."""
        for run in self.context.ledger.runs(ACTIVE):
            with self._holding(run.run_id) as lease, suppress(LeaseLost):
                if lease is not None:
                    self._advance_until_waiting(run.run_id)

    def follow(self, run_id: str, until: Callable[[RunRecord], bool]) -> RunRecord:
        """Drive the run, or watch another process drive it, until `until` holds or it has ended. Returns the run."""
        with self._holding(run_id) as lease:
            mine = lease is not None
            while True:
                try:
                    decision = self._step_patiently(run_id) if mine else self._watch(run_id)
                except LeaseLost as error:
                    self.context.reporter.said(run_id, error.message)
                    break
                run = self._run(run_id)
                self.context.reporter.progressed(run)
                if run.state not in ACTIVE or until(run):
                    return run
                if decision.action in ("wait", "ask_to_stop"):
                    self.context.clock.sleep(POLL_SECONDS if run.provider == "local" or not mine else RENTED_POLL_SECONDS)
                if not mine and not self._is_driven(run_id):
                    break
        return self.follow(run_id, until)

    def let_go(self) -> None:
        """Stop renewing leases: another process takes over."""
        self._observer.let_all_go()

    # --- one step -------------------------------------------------------------------------------------------------------

    def step(self, run_id: str) -> Decision:
        """Do the one next thing for the run and return what it was."""
        run = self._run(run_id)
        seen = self._observer.look(run, self._rental(run_id))
        price = rising_price.risen(run, seen.rental, seen.instance)
        if price is not None and seen.rental is not None:
            rising_price.take_down(self.context, run, seen.rental, price)
            seen = self._observer.look(run, self._rental(run_id))
        decision = decide(seen.facts)
        self._do(decision, seen)
        if seen.rental is not None and seen.rental.provider != "local":
            self._end_twins_in_time(seen.rental)
        if seen.box is not None and decision.action in ("wait", "mark_training", "ask_to_stop"):
            with suppress(Unreachable):
                self._read_progress(run, seen.box)
                self._watch_for_drift(run_id, seen.rental)
                self._bring_checkpoint_home(seen, seen.box)
            conclude.meter(self.context, run, seen.rental, seen.instance)
        return decision

    def _do(self, decision: Decision, seen: Seen) -> None:
        run, rental, box = seen.run, seen.rental, seen.box
        match decision.action:
            case "intend":
                self._intend(seen)
            case "create" if rental is not None:
                self._create(seen, rental)
            case "abandon" if rental is not None:
                self._abandon(run, rental)
            case "mark_ready" if rental is not None:
                self._mark_ready(seen, rental)
            case "mark_training":
                self._mark_training(run, rental)
            case "ship" | "ask_to_stop" | "tell_limits" if box is not None and rental is not None:
                self._do_there(decision.action, seen, rental, box)
            case "end" if decision.reason is not None:
                self.end(run, decision.reason, _words(seen, decision.reason))
            case "conclude":
                self._observer.let_go(rental)
                conclude.conclude(self.context, run, rental, seen.instance, box)
            case _:
                pass

    def _do_there(self, action: Action, seen: Seen, rental: RentalRecord, box: Box) -> None:
        match action:
            case "ship":
                self._ship(seen, rental, box)
            case "ask_to_stop":
                self._ask_to_stop(seen.run, box)
            case _:
                self._tell_limits(seen, rental, box)

    def end(self, run: RunRecord, reason: Reason, detail: str = "") -> None:
        """Record why the run's work is over, with the provider's or machine's own words.

        What remains is to bring results home and to end the rental.
        """
        rental = self._rental(run.run_id)
        with self.context.ledger.transaction() as tx:
            state = next_run_state(run.state, "work_ended")
            tx.update_run(run.run_id, state=state, reason=reason)
            if rental is not None and rental.ended_at is None:
                # A short run may be over before anybody saw it train.
                trained = reason == "finished" or bool(run.progress.get("step"))
                tx.update_rental(
                    rental.rental_id,
                    training_at=rental.training_at or (rental.ready_at if trained else None),
                    work_ended_at=self.context.clock.now(),
                    ending=ENDINGS.get(reason, "failed"),
                )
            tx.add_event("run.work_ended", run_id=run.run_id, reason=reason, detail=detail)
        if detail:
            self.context.reporter.said(run.run_id, detail)

    # --- the single actions ---------------------------------------------------------------------------------------------

    def _intend(self, seen: Seen) -> None:
        run = seen.run
        # What was known of its last machine says nothing of the next.
        for kept in (self._offsets, self._checkpoint_at, self._checkpoint_name):
            kept.pop(run.run_id, None)
        barren = _barren(self.context.ledger.rentals(run.run_id))
        if barren:
            # What could not be had a moment ago is not there yet.
            self.context.clock.sleep(min(MOST_PAUSE_SECONDS, 2.0 * barren))
        offer = offers.choose(self.context, run, seen.terms)
        if offer is None:
            self.end(run, "no_capacity")
            return
        attempt = max((r.attempt for r in self.context.ledger.rentals(run.run_id)), default=0) + 1
        rental = RentalRecord(
            rental_id=f"{run.run_id}-{attempt}",
            run_id=run.run_id,
            attempt=attempt,
            tag=tags.make(self.context.ledger.ledger_id(), run.run_id, attempt),
            provider=run.provider,
            gpu=run.gpu,
            count=run.count,
            usd_per_hour=offer.usd_per_hour,
            offer_id=offer.offer_id,
            instance_id=None,
            state="intended",
            intended_at=self.context.clock.now(),
            ready_at=None,
            ended_at=None,
            interruptible=offer.interruptible,
        )
        disk = offer.usd_per_hour_stopped
        with self.context.ledger.transaction() as tx:
            room = holds.reserve(tx, tx.run(run.run_id) or run, rental, self.context.clock.now())
            if room is not None:
                tx.add_event(
                    "rental.intended",
                    run_id=run.run_id,
                    rental_id=rental.rental_id,
                    tag=rental.tag,
                    machine=offer.machine_id,
                    gpu=offer.gpu,
                    disk_usd_per_hour=None if disk is None else money.text(disk),
                    usd_held=money.text(room.usd),
                )
        if room is None:
            self.end(
                run,
                "cap_reached",
                f"what is left of {money.show(run.usd_cap)} pays for no first step at {money.show(offer.usd_per_hour)}/h",
            )

    def _create(self, seen: Seen, rental: RentalRecord) -> None:
        """Rent, unless the tag shows that an earlier attempt already did."""
        run, provider = seen.run, self.context.connect(rental.provider)
        found = self._found(provider, rental)
        if not found:
            if self._may_still_appear(rental):
                self.context.clock.sleep(POLL_SECONDS * 2)
                return
            offer = offers.again(self.context, run, seen.terms, rental)
            if offer is None:
                self._give_up(run, rental, "no_capacity", "its offer is gone, and no other is as cheap", refused=0)
                return
            # Last before the create: from here on there may be a machine of which nobody heard.
            self._move_rental(rental, "create")
            seconds = self._observer.allowed_seconds(run, rental)
            try:
                found = [self.context.machines.create(provider, offer, rental, seen.terms, seconds)]
            except (NoCapacity, InsufficientBalance, InvalidRequest, CredentialsError) as error:
                self._give_up(run, rental, _REFUSALS.get(type(error), "create_failed"), error.message)
                return
            except OutcomeUnknown as error:
                # It may exist: the next step looks its tag up before anything is repeated.
                self.context.reporter.said(run.run_id, error.message)
                with self.context.ledger.transaction() as tx:
                    tx.add_event("rental.outcome_unknown", run_id=run.run_id, rental_id=rental.rental_id, instance=error.created_id)
                return
        try:
            self._adopt(self._fresh(rental), found[0])
        except LedgerError as error:
            at = self.context.clock.now().isoformat()
            machine = aside.Machine(at, rental.provider, found[0].instance_id, rental.rental_id, rental.tag)
            raise aside.keep(self.context.home, machine, error) from error

    def _found(self, provider: Provider, rental: RentalRecord) -> list[Instance]:
        """Return what carries the rental's tag, or what a failed create named, without those that ended: one of them.

        Of several, which one create may have made, the others are ended when this one is ready.
        """
        found = {i.instance_id: i for i in provider.find(rental.tag) if i.state != "ended" or provider.name == "local"}
        for event in self._events(rental, "rental.outcome_unknown"):
            named = event.data.get("instance")
            if isinstance(named, str) and named not in found:
                with suppress(NotFound):
                    found[named] = provider.get(named)
        live = sorted(found.values(), key=lambda i: (i.state != "running", i.created_at, i.instance_id))
        return live[:1]

    def _may_still_appear(self, rental: RentalRecord) -> bool:
        """Whether a create that may have happened is not yet to be repeated: lists lag."""
        unknown = self._events(rental, "rental.outcome_unknown")
        creates = self._events(rental, "rental.create")
        # A create whose controller died has neither reply nor error in the ledger.
        last = max((e.at for e in (*unknown, *creates)), default=None)
        if last is None or rental.provider == "local":
            return False
        return (self.context.clock.now() - last).total_seconds() < LISTING_LAG_SECONDS

    def _events(self, rental: RentalRecord, kind: str) -> list[EventRecord]:
        return [e for e in self.context.ledger.events(rental.run_id) if e.kind == kind and e.rental_id == rental.rental_id]

    def _give_up(self, run: RunRecord, rental: RentalRecord, reason: Reason, detail: str, *, refused: int = 1) -> None:
        # The last create was refused, if there was one; one before it, of which nobody heard, may yet have made something.
        unheard = len(self._events(rental, "rental.create")) > refused
        self._move_rental(self._fresh(rental), "lost_sight" if unheard else "abandoned")
        self.end(run, reason, detail)

    def _adopt(self, rental: RentalRecord, instance: Instance) -> None:
        if rental.state == "intended":
            self._move_rental(rental, "create")
            rental = self._fresh(rental)
        with self.context.ledger.transaction() as tx:
            # Asked for within: who lost the run meanwhile is told so first, and not that its machine is in another state.
            state = next_rental_state(rental.state, "created")
            # Prices move between an offer and a create: what is told to the machine, and how long it may live, go by what it really costs.
            price = max(rental.usd_per_hour, min(instance.usd_per_hour, rental.usd_per_hour * offers.PRICE_SLACK))
            tx.update_rental(rental.rental_id, state=state, instance_id=instance.instance_id, usd_per_hour=price.quantize(1 / money.MICROS))
            clocks = metering.Reading.of(self.context.clock).as_data()
            tx.add_event("rental.created", run_id=rental.run_id, rental_id=rental.rental_id, instance=instance.instance_id, clocks=clocks)
        self.context.reporter.said(rental.run_id, f"rented {untrusted.line(instance.instance_id, 80)} from {rental.provider}")

    def _abandon(self, run: RunRecord, rental: RentalRecord) -> None:
        """Give up a rental that may or may not exist; one that does is taken over, so that it can be ended.

        One that may yet turn up in its provider's list stays on record as lost: reconciling looks for it again.
        """
        found = self._found(self.context.connect(rental.provider), rental)
        if found:
            self._adopt(rental, found[0])
        elif self._may_still_appear(rental):
            self.context.clock.sleep(POLL_SECONDS * 2)
            return
        elif rental.state == "creating" and rental.provider != "local":
            self._move_rental(rental, "lost_sight")
        else:
            self._move_rental(rental, "abandoned")
        self.end(run, "stopped_by_user")

    def _end_twins_in_time(self, rental: RentalRecord) -> None:
        """End others of a new machine's tag, some of which a list shows late: they are billed all the while."""
        lived = (self.context.clock.now() - rental.intended_at).total_seconds()
        looked = self._twins_at.get(rental.tag, -TWINS_SECONDS)
        # A create may have been a repeated one: its machine is younger than its intent, and while it boots is looked for longer.
        late = looked < 2 * LISTING_LAG_SECONDS or rental.state == "booting"
        if rental.state in ("booting", "ready") and late and lived - looked >= TWINS_SECONDS:
            self._twins_at[rental.tag] = lived
            conclude.end_twins(self.context, rental)

    def _mark_ready(self, seen: Seen, rental: RentalRecord) -> None:
        run, instance = seen.run, seen.instance
        if instance is not None and rental.provider != "local" and instance.usd_per_hour > rental.usd_per_hour * offers.PRICE_SLACK:
            detail = f"{rental.provider} asks {money.show(instance.usd_per_hour)} an hour, and offered {money.show(rental.usd_per_hour)}"
            self.end(run, "price_rose", detail)
            return
        if rental.provider != "local":
            conclude.end_twins(self.context, rental)
        known = self.context.machines.known_before_contact(rental)
        with self.context.ledger.transaction() as tx:
            run_state = next_run_state(run.state, "machine_ready")
            rental_state = next_rental_state(rental.state, "ready")
            tx.update_rental(rental.rental_id, state=rental_state, ready_at=self.context.clock.now())
            tx.update_run(run.run_id, state=run_state)
            tx.add_event("rental.ready", run_id=run.run_id, rental_id=rental.rental_id, host_key_known_before=known)
        if not known:
            self.context.reporter.said(run.run_id, "nobody told its host key beforehand: the first contact was trusted, and is pinned")

    def _ship(self, seen: Seen, rental: RentalRecord, box: Box) -> None:
        run = seen.run
        try:
            shipping.ship(self.context, seen.run, rental, seen.terms, box)
        except (Unreachable, HostKeyChanged, LeaseLost):
            # The next look says what became of the machine; what had arrived by now is not sent again.
            raise
        except MachineUnfit as error:
            remembered.remember(self.context.ledger, rental, seen.instance, error.message)
            self.end(run, "machine_unfit", error.message)
        except LuminaError as error:
            with self.context.ledger.transaction() as tx:
                tx.add_event("run.bootstrap_failed", run_id=run.run_id, message=error.message)
            self.end(run, "bootstrap_failed", error.message)

    def _ask_to_stop(self, run: RunRecord, box: Box) -> None:
        try:
            if box.read("stop") is None:
                box.write("stop", b"")
        except Unreachable:
            return
        except ProviderError as error:
            # A machine that cannot be asked, with a full disk say, is ended without a last checkpoint.
            self.end(run, "stopped_by_user", error.message)

    def _tell_limits(self, seen: Seen, rental: RentalRecord, box: Box) -> None:
        """Tell a machine at work its limits as they are now."""
        n = extending.seq(self.context.ledger.events(rental.run_id))
        # Read after the number: what is told is never older than it.
        run = self._run(rental.run_id)
        seconds = shipping.tell_limits(self.context, run, rental, seen.terms, box, seq=n)
        with self.context.ledger.transaction() as tx:
            tx.add_event(extending.TOLD, run_id=run.run_id, rental_id=rental.rental_id, limits=n, seconds=seconds)
            extending.keep_back(tx, tx.run(run.run_id) or run, rental, no_less=False)
        self.context.reporter.said(run.run_id, f"the machine was told its limits: {units.duration(seconds)} of training are left")

    def _bring_checkpoint_home(self, seen: Seen, box: Box) -> None:
        """Fetch a new checkpoint of a rented machine while it trains: a machine that is taken away takes its disk along."""
        rental, run = seen.rental, seen.run
        if rental is None or rental.provider == "local" or seen.terms.store is not None or run.state != "training":
            return
        now = self.context.clock.monotonic()
        if now - self._checkpoint_at.get(run.run_id, -CHECKPOINT_POLL_SECONDS) < CHECKPOINT_POLL_SECONDS:
            return
        self._checkpoint_at[run.run_id] = now
        try:
            newest = results.newest_offered(box)
            if newest is None or newest[0] == self._checkpoint_name.get(run.run_id):
                return
            name = results.fetch_checkpoint(box, Path(run.folder))
        except Unreachable:
            raise
        except ProviderError as error:
            self.context.reporter.said(run.run_id, f"a checkpoint did not come home: {error.message}")
            return
        if name is not None:
            self._checkpoint_name[run.run_id] = name
            with self.context.ledger.transaction() as tx:
                tx.add_event("run.checkpoint_home", run_id=run.run_id, name=name)

    def _mark_training(self, run: RunRecord, rental: RentalRecord | None) -> None:
        now = self.context.clock.now()
        with self.context.ledger.transaction() as tx:
            state = next_run_state(run.state, "training_began")
            tx.update_run(run.run_id, state=state, started_at=run.started_at or now)
            if rental is not None:
                tx.update_rental(rental.rental_id, training_at=now)
            tx.add_event("run.training_began", run_id=run.run_id)

    def _move_rental(self, rental: RentalRecord, event: RentalEvent) -> None:
        with self.context.ledger.transaction() as tx:
            state = next_rental_state(rental.state, event)
            ended = {"ended_at": self.context.clock.now()} if state in ("ended", "lost") else {}
            tx.update_rental(rental.rental_id, state=state, **ended)
            if ended:
                holds.settle(tx, rental, ended["ended_at"])
            tx.add_event(f"rental.{event}", run_id=rental.run_id, rental_id=rental.rental_id)

    def _read_progress(self, run: RunRecord, box: Box) -> None:
        """Take the heartbeat and the new metrics into the ledger."""
        beat = ingest.heartbeat(box)
        if not beat:
            return
        offset = self._offsets.get(run.run_id, 0)
        chunk = box.read("out/metrics.jsonl", offset, METRICS_CHUNK) or b""
        whole, newline, _rest = chunk.rpartition(b"\n")
        records = ingest.metrics(run.run_id, whole.split(b"\n")) if newline else []
        self._offsets[run.run_id] = offset + len(whole) + len(newline)
        if beat == run.progress and not records:
            return
        with self.context.ledger.transaction() as tx:
            tx.update_run(run.run_id, progress=beat)
            tx.put_metrics(run.run_id, records)

    def _watch_for_drift(self, run_id: str, rental: RentalRecord | None) -> None:
        """Tell once of each way in which a run goes beyond its plan, and stop it where that was asked for."""
        run = self._run(run_id)
        if run.state != "training" or rental is None:
            return
        now, p = self.context.clock.now(), run.progress
        found = drift.drift(
            run.planned,
            drift.Standing(
                step=p.get("step", 0),
                steps=p.get("steps", 0),
                tokens=p.get("tokens", 0),
                tokens_per_second=p.get("tokens_per_second", 0.0),
                elapsed_seconds=(now - rental.intended_at).total_seconds(),
                spent_usd=self.context.ledger.spent(run_id),
                usd_per_hour=rental.usd_per_hour,
            ),
        )
        told = {e.data.get("what") for e in self.context.ledger.events(run_id) if e.kind == "run.drifted"} if found else set()
        new = tuple(d for d in found if d.kind not in told)
        if not new:
            return
        stop = run.planned.get("on_drift") == "stop" and run.stop_requested_at is None
        with self.context.ledger.transaction() as tx:
            for d in new:
                tx.add_event("run.drifted", run_id=run_id, what=d.kind, projected=d.projected, bound=d.bound)
            if stop:
                tx.update_run(run_id, stop_requested_at=now)
                tx.add_event("run.stop_requested", run_id=run_id, why="drift")
        self.context.reporter.said(run_id, f"drift: {drift.advice(new, run_id)}" + ("; stopping (--on-drift stop)" if stop else ""))

    # --- small things ---------------------------------------------------------------------------------------------------

    def _advance_until_waiting(self, run_id: str) -> None:
        while True:
            try:
                decision = self.step(run_id)
            except (ProviderError, CredentialsError, DiskError) as error:
                self.context.reporter.said(run_id, f"{error.message}; {error.hint}" if error.hint else error.message)
                return
            if decision.action in ("wait", "nothing", "ask_to_stop"):
                return

    def _step_patiently(self, run_id: str) -> Decision:
        """Step; a provider that fails is asked again, up to a limit. Raises the last ProviderError beyond it."""
        for attempt in range(MAX_PROVIDER_FAILURES):
            try:
                return self.step(run_id)
            except (ProviderError, DiskError) as error:
                if attempt + 1 == MAX_PROVIDER_FAILURES:
                    raise
                self.context.reporter.said(run_id, f"{error.message} (asking again)")
                self.context.clock.sleep(POLL_SECONDS * 2)
        raise AssertionError("unreachable")

    def _watch(self, run_id: str) -> Decision:
        return Decision("wait" if self._run(run_id).state in ACTIVE else "nothing")

    def _is_driven(self, run_id: str) -> bool:
        return is_driven(self.context.ledger, self.context.clock, self.context.home, run_id)

    @contextmanager
    def _holding(self, run_id: str) -> Iterator[Lease | None]:
        context = self.context
        with holding(context.ledger, context.clock, context.home, run_id, renewal=context.renewal) as lease:
            try:
                yield lease
            finally:
                # The machine's own lease is renewed by whoever holds the run's.
                self._observer.let_go(self._rental(run_id))

    def _run(self, run_id: str) -> RunRecord:
        run = self.context.ledger.run(run_id)
        if run is None:
            raise LuminaError(f"run {run_id} is not in the ledger")
        return run

    def _rental(self, run_id: str) -> RentalRecord | None:
        return max(self.context.ledger.rentals(run_id), key=lambda r: r.attempt, default=None)

    def _fresh(self, rental: RentalRecord) -> RentalRecord:
        return next(r for r in self.context.ledger.rentals(rental.run_id) if r.rental_id == rental.rental_id)


_REFUSALS: dict[type[LuminaError], Reason] = {NoCapacity: "no_capacity", InsufficientBalance: "no_balance"}


def _barren(rentals: Sequence[RentalRecord]) -> int:
    """Return how many of the last rentals in a row came to nothing."""
    return next((n for n, r in enumerate(reversed(rentals)) if r.training_at is not None), len(rentals))


def _words(seen: Seen, reason: Reason) -> str:
    """Return the provider's own words about a machine that failed, empty where it has none."""
    if reason in ("machine_lost", "interrupted", "boot_timeout", "machine_unreachable") and seen.instance is not None:
        return seen.instance.detail
    return ""
