"""Drives runs: gathers facts, asks `decide`, does that one thing, and asks again.

Every step is safe to lose and to repeat: state changes are single transactions, outside calls come after the intent is in the
ledger, and a create is preceded by a look-up of its tag. No network call stands inside a transaction.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import CredentialsError, DiskError, LuminaError, NoCapacity, NotFound, OutcomeUnknown, ProviderError
from lumina_cloud.ledger import RentalRecord
from lumina_cloud.runs import caps, conclude, ingest, metering, shipping
from lumina_cloud.runs.decide import Decision, Facts, decide
from lumina_cloud.runs.lock import driving
from lumina_cloud.runs.states import ACTIVE, ENDINGS, next_rental_state, next_run_state
from providers.contract import LaunchSpec, OfferQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from lumina_cloud.ledger import RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.decide import Machine
    from lumina_cloud.runs.states import Reason, RentalEvent
    from providers.contract import Instance, Offer

POLL_SECONDS = 0.5
METRICS_CHUNK = 1 << 20
ASK_SECONDS = 5.0
"""How often the machine is asked whether its supervisor lives."""
MAX_PROVIDER_FAILURES = 40
OVERDUE_SECONDS = 15.0
"""How long after a cap the machine's own supervisor is waited for."""


class Controller:
    """Drives the runs of one ledger."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._offsets: dict[str, int] = {}
        self._asked_at: dict[str, float] = {}

    # --- what commands call ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Bring every run that nobody drives as far as it goes without waiting."""
        for run in self.context.ledger.runs(ACTIVE):
            with driving(self.context.home, run.run_id) as mine:
                if mine:
                    self._advance_until_waiting(run.run_id)

    def follow(self, run_id: str, until: Callable[[RunRecord], bool]) -> RunRecord:
        """Drive the run, or watch another process drive it, until `until` holds or it has ended. Returns the run."""
        with driving(self.context.home, run_id) as mine:
            while True:
                decision = self._step_patiently(run_id) if mine else self._watch(run_id)
                run = self._run(run_id)
                self.context.reporter.progressed(run)
                if run.state not in ACTIVE or until(run):
                    return run
                if decision.action in ("wait", "ask_to_stop"):
                    self.context.clock.sleep(POLL_SECONDS)
                if not mine and not self._is_driven(run_id):
                    break
        return self.follow(run_id, until)

    # --- one step -------------------------------------------------------------------------------------------------------

    def step(self, run_id: str) -> Decision:
        """Do the one next thing for the run and return what it was."""
        run = self._run(run_id)
        rental = self._rental(run_id)
        instance = self._instance(rental)
        box = self._box(instance)
        facts = self._facts(run, rental, instance, box)
        decision = decide(facts)
        self._do(decision, run, rental, instance, box)
        if box is not None and decision.action in ("wait", "mark_training", "ask_to_stop"):
            self._read_progress(run, box)
            conclude.meter(self.context, run, rental, instance)
        return decision

    def _do(self, decision: Decision, run: RunRecord, rental: RentalRecord | None, instance: Instance | None, box: Box | None) -> None:
        match decision.action:
            case "intend":
                self._intend(run)
            case "create" if rental is not None:
                self._create(run, rental)
            case "abandon" if rental is not None:
                self._abandon(run, rental)
            case "mark_ready" if rental is not None:
                self._mark_ready(run, rental)
            case "ship" if box is not None and rental is not None:
                self._ship(run, rental, box)
            case "mark_training":
                self._mark_training(run, rental)
            case "ask_to_stop" if box is not None:
                box.write("stop", b"")
            case "end" if decision.reason is not None:
                self.end(run, decision.reason)
            case "conclude":
                conclude.conclude(self.context, run, rental, instance, box)
            case _:
                pass

    def end(self, run: RunRecord, reason: Reason) -> None:
        """Record why the run's work is over; what remains is to bring results home and to end the rental."""
        state = next_run_state(run.state, "work_ended")
        rental = self._rental(run.run_id)
        with self.context.ledger.transaction() as tx:
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
            tx.add_event("run.work_ended", run_id=run.run_id, reason=reason)

    # --- the single actions ---------------------------------------------------------------------------------------------

    def _intend(self, run: RunRecord) -> None:
        offer = self._offer(run)
        if offer is None:
            self.end(run, "create_failed")
            return
        attempt = max((r.attempt for r in self.context.ledger.rentals(run.run_id)), default=0) + 1
        rental = RentalRecord(
            rental_id=f"{run.run_id}-{attempt}",
            run_id=run.run_id,
            attempt=attempt,
            tag=f"lumina-{run.run_id}-{attempt}",
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
        with self.context.ledger.transaction() as tx:
            tx.add_rental(rental)
            tx.add_event("rental.intended", run_id=run.run_id, rental_id=rental.rental_id, tag=rental.tag)

    def _offer(self, run: RunRecord) -> Offer | None:
        """Return the cheapest offer that is what the plan said, at no higher price."""
        offers = self.context.connect(run.provider).offers(OfferQuery(gpu=run.gpu, count=run.count))
        fitting = [o for o in offers if o.usd_per_hour <= run.usd_per_hour]
        return min(fitting, key=lambda o: o.usd_per_hour, default=None)

    def _create(self, run: RunRecord, rental: RentalRecord) -> None:
        """Rent, unless the tag shows that an earlier attempt already did."""
        provider = self.context.connect(rental.provider)
        found = provider.find(rental.tag)
        if not found:
            self._move_rental(rental, "create")
            offer = self._offer(run)
            if offer is None:
                self._move_rental(self._fresh(rental), "abandoned")
                self.end(run, "create_failed")
                return
            try:
                found = [provider.create(offer, LaunchSpec(), rental.tag)]
            except NoCapacity as error:
                self.context.reporter.said(run.run_id, error.message)
                self._move_rental(self._fresh(rental), "abandoned")
                self.end(run, "create_failed")
                return
            except OutcomeUnknown as error:
                # It may exist: the next step looks its tag up before anything is repeated.
                self.context.reporter.said(run.run_id, error.message)
                return
        self._adopt(self._fresh(rental), found[0])

    def _adopt(self, rental: RentalRecord, instance: Instance) -> None:
        if rental.state == "intended":
            self._move_rental(rental, "create")
            rental = self._fresh(rental)
        state = next_rental_state(rental.state, "created")
        with self.context.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, state=state, instance_id=instance.instance_id)
            clocks = metering.Reading.of(self.context.clock).as_data()
            tx.add_event("rental.created", run_id=rental.run_id, rental_id=rental.rental_id, instance=instance.instance_id, clocks=clocks)
        self.context.reporter.said(rental.run_id, f"rented {untrusted.line(instance.instance_id, 80)} from {rental.provider}")

    def _abandon(self, run: RunRecord, rental: RentalRecord) -> None:
        """Give up a rental that may or may not exist; one that does is taken over, so that it can be ended."""
        found = self.context.connect(rental.provider).find(rental.tag)
        if found:
            self._adopt(rental, found[0])
        else:
            self._move_rental(rental, "abandoned")
        self.end(run, "stopped_by_user")

    def _mark_ready(self, run: RunRecord, rental: RentalRecord) -> None:
        run_state = next_run_state(run.state, "machine_ready")
        rental_state = next_rental_state(rental.state, "ready")
        with self.context.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, state=rental_state, ready_at=self.context.clock.now())
            tx.update_run(run.run_id, state=run_state)
            tx.add_event("rental.ready", run_id=run.run_id, rental_id=rental.rental_id)

    def _ship(self, run: RunRecord, rental: RentalRecord, box: Box) -> None:
        try:
            shipping.ship(self.context, run, rental, box)
        except LuminaError as error:
            with self.context.ledger.transaction() as tx:
                tx.add_event("run.bootstrap_failed", run_id=run.run_id, message=error.message)
            self.context.reporter.said(run.run_id, error.message)
            self.end(run, "bootstrap_failed")

    def _mark_training(self, run: RunRecord, rental: RentalRecord | None) -> None:
        state = next_run_state(run.state, "training_began")
        now = self.context.clock.now()
        with self.context.ledger.transaction() as tx:
            tx.update_run(run.run_id, state=state, started_at=run.started_at or now)
            if rental is not None:
                tx.update_rental(rental.rental_id, training_at=now)
            tx.add_event("run.training_began", run_id=run.run_id)

    def _move_rental(self, rental: RentalRecord, event: RentalEvent) -> None:
        state = next_rental_state(rental.state, event)
        ended = {"ended_at": self.context.clock.now()} if state == "ended" else {}
        with self.context.ledger.transaction() as tx:
            tx.update_rental(rental.rental_id, state=state, **ended)
            tx.add_event(f"rental.{event}", run_id=rental.run_id, rental_id=rental.rental_id)

    # --- what is known --------------------------------------------------------------------------------------------------

    def _facts(self, run: RunRecord, rental: RentalRecord | None, instance: Instance | None, box: Box | None) -> Facts:
        heartbeat = ingest.heartbeat(box) if box is not None else {}
        started = box is not None and shipping.was_started(box)
        running = instance is not None and instance.state == "running"
        supervised = not (started and running and box is not None) or self._is_supervised(run.run_id, box)
        booting = (self.context.clock.now() - rental.intended_at).total_seconds() if rental is not None else 0.0
        return Facts(
            run=run.state,
            stop_requested=run.stop_requested_at is not None,
            rental=rental.state if rental is not None else None,
            machine=self._machine(rental, instance),
            booting_seconds=booting,
            started=started,
            training=heartbeat.get("step", 0) > 0,
            # Read after the supervisor was looked for: one that has just left has written how it ended.
            exit=ingest.exit_of(box) if box is not None else None,
            supervised=supervised,
            overdue=rental is not None and booting > self._allowed_seconds(run, rental) + OVERDUE_SECONDS,
        )

    def _is_supervised(self, run_id: str, box: Box) -> bool:
        """Whether the machine's supervisor is there, asked anew every few seconds."""
        asked_at = self._asked_at.get(run_id)
        if asked_at is not None and self.context.clock.monotonic() - asked_at < ASK_SECONDS:
            return True
        self._asked_at[run_id] = self.context.clock.monotonic()
        return shipping.is_supervised(box, self.context.python)

    def _allowed_seconds(self, run: RunRecord, rental: RentalRecord) -> float:
        """Return how long this rental may live under the run's cap, what earlier rentals cost taken off."""
        earlier = sum((c.usd for c in self.context.ledger.charges(run.run_id) if c.rental_id != rental.rental_id), Decimal(0))
        return min(run.seconds_cap, caps.seconds_for(max(Decimal(0), run.usd_cap - earlier), rental.usd_per_hour))

    @staticmethod
    def _machine(rental: RentalRecord | None, instance: Instance | None) -> Machine:
        if instance is not None:
            return "gone" if instance.state == "ended" else instance.state
        return "gone" if rental is not None and rental.instance_id is not None else "unknown"

    def _instance(self, rental: RentalRecord | None) -> Instance | None:
        if rental is None or rental.instance_id is None or rental.state in ("ended", "lost"):
            return None
        try:
            return self.context.connect(rental.provider).get(rental.instance_id)
        except NotFound:
            return None

    def _box(self, instance: Instance | None) -> Box | None:
        return self.context.open_box(instance.address) if instance is not None and instance.address is not None else None

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
        with driving(self.context.home, run_id) as free:
            return not free

    def _run(self, run_id: str) -> RunRecord:
        run = self.context.ledger.run(run_id)
        if run is None:
            raise LuminaError(f"run {run_id} is not in the ledger")
        return run

    def _rental(self, run_id: str) -> RentalRecord | None:
        return max(self.context.ledger.rentals(run_id), key=lambda r: r.attempt, default=None)

    def _fresh(self, rental: RentalRecord) -> RentalRecord:
        return next(r for r in self.context.ledger.rentals(rental.run_id) if r.rental_id == rental.rental_id)
