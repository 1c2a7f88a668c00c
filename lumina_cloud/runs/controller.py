"""Drives runs: gathers facts, asks `decide`, does that one thing, and asks again.

Every step is safe to lose and to repeat: state changes are single transactions, outside calls come after the intent is in the
ledger, and a create is preceded by a look-up of its tag. No network call stands inside a transaction.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core import money, units
from lumina_cloud.core.errors import (
    CredentialsError,
    DiskError,
    HostKeyChanged,
    LeaseLost,
    LuminaError,
    ProviderError,
    Unreachable,
)
from lumina_cloud.remote import results
from lumina_cloud.runs import conclude, drift, extending, ingest, moves, remembered, renting, rising_price, shipping
from lumina_cloud.runs.decide import Decision, decide
from lumina_cloud.runs.lease import holding, is_driven
from lumina_cloud.runs.observing import Observer
from lumina_cloud.runs.shipping import MachineUnfit
from lumina_cloud.runs.states import ACTIVE, next_run_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.lease import Lease
    from lumina_cloud.runs.observing import Seen
    from lumina_cloud.runs.states import Action, Reason

POLL_SECONDS = 0.5
RENTED_POLL_SECONDS = 2.0
METRICS_CHUNK = 1 << 20
MAX_PROVIDER_FAILURES = 40
CHECKPOINT_POLL_SECONDS = 10.0


class Controller:
    """Drives the runs of one ledger."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._observer = Observer(context)
        self._offsets: dict[str, int] = {}
        self._checkpoint_at: dict[str, float] = {}
        self._checkpoint_name: dict[str, str] = {}
        self._twins = renting.Twins(context)

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
        seen = self._observer.look(run, moves.newest_rental(self.context.ledger, run_id))
        price = rising_price.risen(run, seen.rental, seen.instance)
        if price is not None and seen.rental is not None:
            rising_price.take_down(self.context, run, seen.rental, price)
            seen = self._observer.look(run, moves.newest_rental(self.context.ledger, run_id))
        decision = decide(seen.facts)
        self._do(decision, seen)
        if seen.rental is not None and seen.rental.provider != "local":
            self._twins.end_in_time(seen.rental)
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
                renting.create(self.context, seen, rental)
            case "abandon" if rental is not None:
                renting.abandon(self.context, run, rental)
            case "mark_ready" if rental is not None:
                renting.mark_ready(self.context, seen, rental)
            case "mark_training":
                self._mark_training(run, rental)
            case "ship" | "ask_to_stop" | "tell_limits" if box is not None and rental is not None:
                self._do_there(decision.action, seen, rental, box)
            case "end" if decision.reason is not None:
                moves.end_work(self.context, run, decision.reason, _words(seen, decision.reason))
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

    # --- the single actions ---------------------------------------------------------------------------------------------

    def _intend(self, seen: Seen) -> None:
        # What was known of its last machine says nothing of the next.
        for kept in (self._offsets, self._checkpoint_at, self._checkpoint_name):
            kept.pop(seen.run.run_id, None)
        renting.intend(self.context, seen)

    def _ship(self, seen: Seen, rental: RentalRecord, box: Box) -> None:
        run = seen.run
        try:
            shipping.ship(self.context, seen.run, rental, seen.terms, box)
        except (Unreachable, HostKeyChanged, LeaseLost):
            # The next look says what became of the machine; what had arrived by now is not sent again.
            raise
        except MachineUnfit as error:
            remembered.remember(self.context.ledger, rental, seen.instance, error.message)
            moves.end_work(self.context, run, "machine_unfit", error.message)
        except LuminaError as error:
            with self.context.ledger.transaction() as tx:
                tx.add_event("run.bootstrap_failed", run_id=run.run_id, message=error.message)
            moves.end_work(self.context, run, "bootstrap_failed", error.message)

    def _ask_to_stop(self, run: RunRecord, box: Box) -> None:
        try:
            if box.read("stop") is None:
                box.write("stop", b"")
        except Unreachable:
            return
        except ProviderError as error:
            # A machine that cannot be asked, with a full disk say, is ended without a last checkpoint.
            moves.end_work(self.context, run, "stopped_by_user", error.message)

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
                # Of the last steps together: one slow step is no drift.
                tokens_per_second=p.get("recent_tokens_per_second") or p.get("tokens_per_second", 0.0),
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
                self._observer.let_go(moves.newest_rental(self.context.ledger, run_id))

    def _run(self, run_id: str) -> RunRecord:
        run = self.context.ledger.run(run_id)
        if run is None:
            raise LuminaError(f"run {run_id} is not in the ledger")
        return run


def _words(seen: Seen, reason: Reason) -> str:
    """Return the provider's own words about a machine that failed, empty where it has none."""
    rental, instance = seen.rental, seen.instance
    if rental is None or instance is None:
        return ""
    if reason == "price_rose":
        return f"{rental.provider} asks {money.show(instance.usd_per_hour)} an hour, and offered {money.show(rental.usd_per_hour)}"
    return instance.detail if reason in ("machine_lost", "interrupted", "boot_timeout", "machine_unreachable") else ""
