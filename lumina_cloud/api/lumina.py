"""`Lumina`: everything that the command line does, as a Python object.

    with Lumina() as lumina:
        plan = lumina.plan(WorkloadRequest(model="debug", archs=("mod",)))

Each verb first settles runs that were left alone, so that what it says is true now.
"""

from __future__ import annotations

import difflib
import shutil
import sys
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

# Planner, controller and providers are imported where they are used: a verb that only reads does not wait for them.
from lumina_cloud.api import rehearsing, settings
from lumina_cloud.api.reader import Reader
from lumina_cloud.api.session import Session
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import CredentialsError, LedgerError, LuminaError, NotFound, SandboxDown, Unreachable, UsageError
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal
    from types import TracebackType

    from lumina_cloud.api import beginning, market
    from lumina_cloud.api.documents import of_keeping, of_markets, of_money, of_plans, of_runs
    from lumina_cloud.api.following import Listener
    from lumina_cloud.api.launching import Limits, Prepared, Purpose
    from lumina_cloud.api.planning import MachineFilter, Planned
    from lumina_cloud.api.reconciling import Wanted
    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import RunRecord
    from lumina_cloud.planner.backwards import Goal
    from lumina_cloud.remote.ssh_connection import Connection
    from lumina_cloud.remote.ssh_key import Identity
    from lumina_cloud.runs.caps import Cap
    from lumina_cloud.runs.controller import Controller
    from lumina_cloud.runs.machines import Machines
    from lumina_cloud.runs.terms import Terms
    from lumina_cloud.runs.workloads import WorkloadRequest
    from providers.contract import OfferQuery, Provider

LEAST_FREE_BYTES = 64 << 20
"""Below this no run is started: its log and results could not be kept."""


class Lumina(Reader):
    """One ledger and its runs: what `Reader` reads, and everything that acts. Raises LedgerError when the ledger cannot be opened."""

    def __init__(self, listener: Listener | None = None, clock: Clock | None = None, *, settles: bool = True) -> None:
        """Open the ledger. Without `settles`, verbs that read say what the ledger holds, and wait for no provider."""
        self._settles = settles
        self.settings = settings.load()
        self._env = rehearsing.environment(self.settings)
        clock = clock or SystemClock()
        super().__init__(Ledger.open(self.settings.home, clock), clock)
        self._providers: dict[str, Provider] = {}
        self._listener = listener
        self.session = Session(self.settings, self.ledger, self.clock, self.provider)

    @cached_property
    def machines(self) -> Machines:
        """Return the rented machines of this installation."""
        from lumina_cloud.remote.host_keys import Pins
        from lumina_cloud.runs.machines import Machines

        return Machines(
            home=self.settings.home,
            pins=Pins(self.settings.home / "ssh" / "known_hosts"),
            identity=self._identity,
            clock=self.clock,
            rehearsal=self.settings.sandbox,
        )

    @cached_property
    def controller(self) -> Controller:
        """Return what drives this ledger's runs."""
        import trainer
        from lumina_cloud.api.following import Follower
        from lumina_cloud.runs.context import Context, Silent
        from lumina_cloud.runs.controller import Controller

        return Controller(
            Context(
                ledger=self.ledger,
                connect=self.provider,
                machines=self.machines,
                clock=self.clock,
                home=self.settings.home,
                python=sys.executable,
                # Another trainer that keeps the same files may be sent in ours' place.
                trainer=Path(self._env.get("LUMINA_TRAINER") or Path(trainer.__file__ or "").parent),
                secrets=self._env,
                reporter=Silent() if self._listener is None else Follower(self._listener, self.ledger, self.clock),
            )
        )

    def __enter__(self) -> Lumina:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(LuminaError):
            # Telling comes last: nothing waits for it, and nothing fails by it.
            self._tell()
        if "machines" in vars(self):
            self.machines.close()
        self.ledger.close()

    def _tell(self) -> None:
        """Send what the user is to be told, if there is a way and something to tell."""
        if self.settings.webhook:
            from lumina_cloud.api import notifying

            notifying.tell(self.session)

    def _identity(self) -> Identity:
        from lumina_cloud.remote import ssh_key

        return ssh_key.installation(self.settings.home) if self.settings.ssh_key is None else ssh_key.own(self.settings.ssh_key)

    def provider(self, name: str) -> Provider:
        """Return a provider's client. Raises UsageError for an unknown name, CredentialsError where its key is missing."""
        if name not in self._providers:
            self._providers[name] = self._connect(name)
        return self._providers[name]

    def _connect(self, name: str, *, need_key: bool = True) -> Provider:
        from providers import registry

        if name != "local":
            self._need_sandbox()
        return registry.connect(
            name,
            home=self.settings.home,
            local_usd_per_hour=self.settings.local_usd_per_hour,
            clock=self.clock,
            env=self._env,
            urls={} if self.settings.sandbox else self.settings.urls,
            need_key=need_key,
        )

    def _need_sandbox(self) -> None:
        """Raise SandboxDown for a rehearsal without a sandbox: its clouds are then nowhere, and must not seem to be out of reach."""
        if not self.settings.sandbox:
            return
        # Looked at anew: it may have come up, or gone down, since.
        self._env = rehearsing.environment(self.settings)
        if not rehearsing.is_up(self._env):
            raise SandboxDown()

    def _window(self, name: str) -> Provider:
        """Return a client that can at least look at offers."""
        return self._connect(name, need_key=False)

    # --- plan and launch ------------------------------------------------------------------------------------------------

    def plan(self, request: WorkloadRequest, wanted: MachineFilter | None = None, *, live: bool = False, taught: bool = True) -> Planned:
        """Plan a workload and keep the plan. With `live` on what the markets offer now; `taught` by finished runs.

        Raises UsageError, DataError, LedgerError.
        """
        from lumina_cloud.api import planning

        looked = self.look if live else None
        planned = planning.make_plan(self.session, request, wanted or planning.MachineFilter(), looked, measure=True, taught=taught)
        planning.keep(self.session, planned)
        return planned

    def prepare_probe(
        self, request: WorkloadRequest, planned: Planned, max_cost: Decimal | None = None, terms: Terms | None = None
    ) -> Prepared | None:
        """Plan the probe of what a plan recommends and pass every check before renting; None where it is measured on this computer.

        Raises UsageError where nothing is recommended, and what `prepare` raises.
        """
        from lumina_cloud.api import probing, probing_there
        from lumina_cloud.runs.terms import Terms

        row = probing.row_to_probe(planned.plan)
        if row.machine.provider == "local":
            return None
        with self._about_to_rent():
            return probing_there.prepare(self.session, request, row, terms or Terms(), max_cost=max_cost, look=self.look)

    def probe(
        self,
        request: WorkloadRequest,
        wanted: MachineFilter,
        planned: Planned,
        run: RunRecord | None = None,
        *,
        live: bool = False,
        taught: bool = True,
    ) -> Planned:
        """Plan again by what a probe measured: on this computer now, or in the run of a prepared probe, which has ended.

        Raises RunFailed for a run that measured nothing, RefusedError without the trainer, ProviderError when the probe fails.
        """
        from lumina_cloud.api import planning, probing, probing_here, probing_there
        from lumina_cloud.planner.plan import kind_of

        before = probing.row_to_probe(planned.plan)
        found = probing_here.probe(self.settings.home, before) if run is None else probing_there.require(self.ledger, run)
        where = probing_here.WHERE if run is None else f"on a rented {before.machine.count} x {before.machine.gpu.name} ({run.run_id})"
        probed = {kind_of(before.estimate.config, before.machine): found} if probing.is_believed(found, before.machine.provider) else {}
        again = planning.make_plan(self.session, request, wanted, self.look if live else None, taught=taught, probed=probed)
        made = probing.told(again, before, found, where)
        planning.keep(self.session, made)
        return made

    def plan_backwards(self, base: WorkloadRequest, model: str | None, wanted: MachineFilter, goal: Goal) -> of_plans.PlanDocument:
        """Answer what is best within a budget and a deadline, or cheapest for a loss. The answer's plan is kept. Raises UsageError."""
        from lumina_cloud.api import planning, turning

        made = turning.make_plan(self.session, base, model, wanted, goal)
        if not isinstance(made, planning.Planned):
            return made
        planning.keep(self.session, made)
        return made.document

    def offers(self, wanted: OfferQuery, provider: str | None = None) -> tuple[market.Market, of_markets.OffersDocument]:
        """Ask every cloud at once, or one provider, for what can be rented now. Raises UsageError for an unknown provider."""
        from lumina_cloud.api import market

        found = self.look(wanted, provider)
        return found, market.document(found, self.clock.now())

    def prices(self, gpu: str | None = None, provider: str | None = None, days: float = 30.0) -> of_markets.PricesDocument:
        """Return the price book beside what the markets asked whenever they were looked at."""
        from lumina_cloud.api import market

        return market.history(self.session, gpu, provider, days)

    def begin_at(self, where: str) -> of_markets.InitDocument:
        """Say whether one can begin at `where`: `sandbox`, `local` or a cloud. Raises UsageError for another word."""
        from lumina_cloud.api import beginning

        if where not in beginning.WAYS:
            near = difflib.get_close_matches(where, beginning.WAYS, n=1)
            hint = f"{f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(beginning.WAYS)}"
            raise UsageError(f"nobody can begin at {where!r}", hint)
        found = beginning.checks(where, self._connect, self._env)
        return beginning.document(where, found, beginning.cap_of_all(self.budget()))

    def key_place(self, provider: str) -> beginning.KeyPlace:
        """Return where a cloud's key is made and kept. The key itself is not looked at."""
        from lumina_cloud.api import beginning

        return beginning.key_place(provider, self._env)

    def doctor(self) -> of_markets.DoctorDocument:
        """Check providers, SSH, disk and clock."""
        from lumina_cloud.api import doctor

        return doctor.examine(
            self.settings, self._connect, self._env, sandbox_is_up=not self.settings.sandbox or rehearsing.is_up(self._env)
        )

    def look(self, wanted: OfferQuery, provider: str | None) -> market.Market:
        """Ask the markets, and remember what they ask."""
        from lumina_cloud.api import market

        if provider != "local":
            self._need_sandbox()
        found = market.ask(self._window, market.names_for(provider), wanted, self.clock.now())
        market.remember(self.ledger, found)
        return found

    def prepare(
        self,
        request: WorkloadRequest,
        wanted: MachineFilter,
        limits: Limits,
        purpose: Purpose | None = None,
        terms: Terms | None = None,
    ) -> Prepared:
        """Plan a launch and pass every check before renting; nothing is rented."""
        from lumina_cloud.api import launching, planning

        with self._about_to_rent():
            prepared = launching.prepare(self.session, request, wanted, limits, look=self.look, purpose=purpose, terms=terms)
        # Only now: what was refused is not what `lumina launch` without a model should take.
        planning.keep(self.session, prepared.planned)
        return prepared

    @contextmanager
    def _about_to_rent(self) -> Iterator[None]:
        """See to what has to hold before anything is rented. Raises LedgerError without disk, CredentialsError with where keys are made."""
        self._need_disk()
        self.settle()
        self.tidy()
        try:
            yield
        except CredentialsError as error:
            from lumina_cloud.api import beginning

            raise beginning.without_account(error, self._env) from error

    def request_from_plan(self, plan_id: str | None) -> tuple[WorkloadRequest, MachineFilter]:
        """Return what a kept plan, by default the last, asked for."""
        from lumina_cloud.api import launching

        return launching.request_from_plan(self.ledger, plan_id)

    def launch(self, prepared: Prepared) -> RunRecord:
        """Write the run down and drive it until its trainer works on the machine. Returns the run."""
        return self.start(self.begin(prepared).run_id)

    def begin(self, prepared: Prepared, intent: str = "") -> RunRecord:
        """Write the run down; nothing is rented before `start`, or any other command, drives it.

        An `intent`, any word of the caller's own, is begun once: who asks for it again gets the run that there is.
        """
        from lumina_cloud.api import launching

        return launching.begin(self.session, prepared, intent)

    def begun_for(self, intent: str) -> RunRecord | None:
        """Return the run that an intent has begun, None where there is none yet."""
        from lumina_cloud.api import launching

        return launching.begun_for(self.ledger, intent)

    def start(self, run_id: str) -> RunRecord:
        """Drive a run until its trainer works on the machine. Returns it."""
        return self.controller.follow(run_id, until=_at_work)

    def take_up(self, run_id: str, limits: Limits) -> RunRecord:
        """Write down that a failed or stopped run goes on from its last checkpoint, in a new rental. Returns the run."""
        from lumina_cloud.api import launching

        self._need_disk()
        self.settle()
        self.tidy()
        run = self.check_resumable(self.find(run_id), limits)
        launching.resume(self.session, run, limits, self.ledger.spent(run.run_id))
        return self.find(run.run_id)

    def resume(self, run_id: str, limits: Limits) -> RunRecord:
        """Take a failed or stopped run up again, and drive it until its trainer works on the machine."""
        return self.start(self.take_up(run_id, limits).run_id)

    def check_extendable(self, run: RunRecord, limits: Limits) -> Cap:
        """Return what the limits of a run at work would become. Raises UsageError, RefusedError when `extend` would refuse."""
        from lumina_cloud.api import extending

        return extending.new_cap(self.session, run, limits)

    def extend(self, run_id: str, limits: Limits) -> of_runs.ExtendDocument:
        """Change the limits of a run at work, in the ledger and on its machine. Raises UsageError, RefusedError."""
        from lumina_cloud.api import extending, views

        run = self.find(run_id)
        extending.extend(self.session, run, self.check_extendable(run, limits))
        # Where nobody drives it, this does.
        self.settle()
        give_up = self.clock.monotonic() + extending.TELL_SECONDS
        while not (told := extending.is_told(self.ledger, run)) and self.clock.monotonic() < give_up:
            self.clock.sleep(0.5)
        return views.extended(run, self.find(run.run_id), self.ledger.spent(run.run_id), told=told)

    def hand_over(self, run_id: str) -> bool:
        """Leave a rented machine's run to a small process of its own; return whether there was something to leave.

        A run on this computer needs none: its machine ends by itself, and any later command settles it.
        """
        run = self.find(run_id)
        if run.state not in ACTIVE or run.provider == "local":
            return False
        return self.detach(run_id)

    def detach(self, run_id: str) -> bool:
        """Leave a run, wherever it is to train, to the controller of this home, or to a small process of its own. Returns True.

        Raises LuminaError, which names the run, where no process can be started: it is begun all the same.
        """
        from lumina_cloud.api import background, service

        self.controller.let_go()
        try:
            if not service.is_served(self.settings.home):
                background.start(self.settings, run_id)
        except (OSError, LuminaError) as error:
            raise LuminaError(
                f"{run_id} is begun, and no process could be started that drives it: {error}",
                f"lumina logs -f {run_id} drives it to its end, and lumina stop {run_id} ends it; launched again, it would be a second run",
            ) from error
        return True

    def ssh(self, run_id: str) -> Connection:
        """Return a connection to a run's machine. Raises UsageError when it has none, ProviderError when it is not reached."""
        for rental in reversed(self.ledger.rentals(run_id)):
            if rental.instance_id is None or rental.state in ("ended", "lost"):
                continue
            if rental.provider == "local":
                raise UsageError(f"{run_id} runs on this computer", f"its folder is below {self.settings.home / 'local'}")
            provider = self.provider(rental.provider)
            return self.machines.connection(provider, provider.get(rental.instance_id), rental)
        raise UsageError(f"{run_id} has no machine now", "lumina status shows what is rented")

    def check_resumable(self, run: RunRecord, limits: Limits) -> RunRecord:
        """Return the run at today's price. Raises UsageError, RefusedError or NoCapacity when `resume` would refuse."""
        from lumina_cloud.api import launching

        launching.resumed_cap(run, limits, self.ledger.spent(run.run_id))
        priced = launching.at_todays_price(self.session, run)
        launching.resumed_cap(priced, limits, self.ledger.spent(run.run_id))
        return priced

    def follow(self, run_id: str) -> RunRecord:
        """Follow a run to its end. Returns it."""
        if self.find(run_id).provider != "local":
            self._need_sandbox()
        return self.controller.follow(run_id, until=lambda _run: False)

    def stop(self, run_id: str) -> RunRecord:
        """End a run in good order: checkpoint, results home, rental over. Returns it when it has ended."""
        ended = self.follow(self.ask_to_stop(run_id).run_id)
        self.tidy()
        return ended

    def reconcile(self, wanted: Wanted | None = None) -> of_keeping.ReconcileDocument:
        """Compare what is rented with what the ledger knows, and end what no run needs. Raises UsageError for an unknown instance."""
        from lumina_cloud.api import reconciling

        self._need_sandbox()
        self.settle()
        return reconciling.reconcile(self.session, self.controller.context, wanted or reconciling.Wanted())

    def tidy(self) -> None:
        """Reconcile before a launch and with a stop: what was left behind ends, and is told; nobody who does not answer is in the way."""
        from lumina_cloud.api import reconciling

        for line in reconciling.said(reconciling.reconcile(self.session, self.controller.context)):
            if self._listener is not None:
                self._listener.line(line)

    def ask_to_stop(self, run_id: str) -> RunRecord:
        """Write down that a run is to end; whoever drives it ends it. Returns the run. Raises UsageError for one that has ended."""
        run = self.find(run_id)
        if run.state not in ACTIVE:
            raise UsageError(f"run {run.run_id} is {run.state} already", f"lumina results {run.run_id}")
        with self.ledger.transaction() as tx:
            tx.update_run(run.run_id, stop_requested_at=self.clock.now())
            tx.add_event("run.stop_requested", run_id=run.run_id)
        return run

    # --- read -----------------------------------------------------------------------------------------------------------

    def sample(
        self, name: str, prompt: str, *, max_new_tokens: int = 100, temperature: float = 0.0, seed: int = 0
    ) -> of_runs.SampleDocument:
        """Return what a run's model writes after a prompt. `name` may also be a results folder or a checkpoint."""
        from lumina_cloud.api import weights
        from lumina_cloud.api.documents import of_runs

        folder = self._weights_folder(name)
        text = weights.sample(folder, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return of_runs.SampleDocument(run=name, prompt=prompt, text=text)

    def weights(self, name: str, target: Path, *, dtype: str = "float32") -> of_runs.WeightsDocument:
        """Write a run's model and its card for `transformers` into a new folder. `name` may also be a results folder or a checkpoint."""
        from lumina_cloud.api import weights
        from lumina_cloud.api.documents import of_runs

        folder = self._weights_folder(name)
        said = weights.export(folder, target, dtype=dtype)
        weights.describe(self.ledger, folder, target, said)
        return of_runs.WeightsDocument(run=name, path=str(target), load=said)

    def _weights_folder(self, name: str) -> Path:
        if (Path(name) / "run.json").is_file():
            return Path(name)
        from lumina_cloud.api import weights

        self.controller.settle()
        return weights.folder_of(self.find(name))

    def check_costs(self, since: str | None = None) -> of_money.CheckDocument:
        """Compare the ledger with what the providers have billed. Raises UsageError for a malformed day, ProviderError."""
        from lumina_cloud.api import checking

        self.settle()
        return checking.check(self.session, checking.first_day(since, self.clock.now()))

    def log_chunk(self, run: RunRecord, offset: int) -> bytes:
        """Return more of a run's log from byte `offset`: from its machine while that answers, else from its folder."""
        from lumina_cloud.api import views

        # A machine that boots, is out of reach or has just gone says nothing now: that is no reason not to follow its run.
        with suppress(Unreachable, NotFound, SandboxDown):
            return self._log_there(run, offset)
        return views.read_log(run, offset) if offset == 0 else b""

    def _log_there(self, run: RunRecord, offset: int) -> bytes:
        from lumina_cloud.api import views

        for rental in self.ledger.rentals(run.run_id):
            if rental.instance_id is not None and rental.state not in ("ended", "lost"):
                provider = self.provider(rental.provider)
                box = self.machines.box(provider, provider.get(rental.instance_id), rental)
                if box is not None:
                    return box.read("log.txt", offset, 1 << 20) or b""
        return views.read_log(run, offset)

    def settle(self) -> None:
        """Bring runs that nobody drives as far as they go without waiting."""
        if self._settles and self.ledger.has_runs(ACTIVE):
            self.controller.settle()

    # --- small things ---------------------------------------------------------------------------------------------------

    def _need_disk(self) -> None:
        with suppress(OSError):
            if shutil.disk_usage(self.settings.home).free < LEAST_FREE_BYTES:
                raise LedgerError(
                    f"less than 64 MiB of disk are free at {self.settings.home}", "free some, or set LUMINA_HOME to another disk"
                )


def _at_work(run: RunRecord) -> bool:
    """Whether a launch may return: the trainer works. A run that is ending is followed until its machine is gone."""
    return run.state == "training" or (run.state == "preparing" and bool(run.progress))
