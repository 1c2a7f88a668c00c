"""The user's computer in a simulation: its home with a real SQLite ledger, and the commands that run on it and are killed."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from lumina_cloud.api import launching, reconciling
from lumina_cloud.api.session import Session
from lumina_cloud.api.settings import Settings
from lumina_cloud.core.edge import watched_by
from lumina_cloud.core.errors import LeaseLost, LuminaError, ProviderError
from lumina_cloud.ledger import Ledger, RunRecord
from lumina_cloud.remote.host_keys import Pins
from lumina_cloud.remote.ssh_key import Identity
from lumina_cloud.runs import lease
from lumina_cloud.runs.context import Context
from lumina_cloud.runs.controller import Controller
from lumina_cloud.runs.states import ACTIVE
from providers import registry
from tests.chaos.machine import Net
from tests.chaos.virtual import Clock, Hub, Killed, Party
from tests.chaos.wires import PORTS, EmulatorTransport, SimMachines, SimRenewal

IDENTITY = Identity("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000 lumina", None)
KEYS = {"vastai": "VAST_API_KEY", "runpod": "RUNPOD_API_KEY", "lambda": "LAMBDA_API_KEY"}
URLS = {"vastai": "VAST_URL", "runpod": "RUNPOD_API_BASE_URL", "lambda": "LAMBDA_BASE_URL"}
LONGEST_PAUSE_SECONDS = 60.0
BILL_SECONDS = 3900.0
"""How long a user waits for bills: RunPod's may take an hour."""


class WatchedLedger(Ledger):
    """The real ledger, which knows whether a write transaction is open: nothing outside may be touched then."""

    writing = 0

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Give a write transaction."""
        self.writing += 1
        try:
            with super().transaction() as tx:
                yield tx
        finally:
            self.writing -= 1


@dataclass
class Plan:
    """When a process is killed or stopped: at its nth edge, or at the nth of one site."""

    kill_at: int = 0
    kill_site: str = ""
    when: str = "before"
    stop_at: int = 0
    stop_seconds: float = 0.0


@dataclass
class Computer:
    """A home, its ledger, and what happened on it."""

    hub: Hub
    home: Path
    net: Net
    seed: str
    api_key: str
    ledger: WatchedLedger
    trainer: Path
    log: list[str]
    ahead_seconds: float = 0.0
    offline: Callable[[], bool] = lambda: False
    altered: Callable[[Any], Any] = lambda provider: provider
    """What a sabotage makes of a provider's client."""
    reconciles: bool = True
    passed: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    disturbed: set[str] = field(default_factory=set)
    """Names of processes that were stopped or killed."""

    @property
    def env(self) -> dict[str, str]:
        """Return the variables that lead to the emulator."""
        urls = {variable: f"http://127.0.0.1:{PORTS[name]}" for name, variable in URLS.items()}
        return {"HOME": str(self.home), **dict.fromkeys(KEYS.values(), self.api_key), **urls}

    def settings(self) -> Settings:
        """Return the settings of this home."""
        return Settings(self.home, self.home / "config.toml", Decimal("0.05"))

    def start(self, verb: str, work: Callable[[Process], None], plan: Plan | None = None, after: float = 0.0) -> Process:
        """Let a command begin some seconds from now."""
        process = Process(self, f"{verb}#{len(self.processes)}", work, plan or Plan())
        self.processes.append(process)
        self.hub.spawn(process.party, process.run, after)
        return process

    def say(self, who: str, text: str) -> None:
        """Write a line of the campaign's log, which is the same for the same seed."""
        self.log.append(f"{self.hub.now:.3f} {who} {text}")


class Process:
    """One `lumina` command, or a background controller: everything that it holds is its own, but the ledger's file."""

    def __init__(self, computer: Computer, name: str, work: Callable[[Process], None], plan: Plan) -> None:
        self.computer = computer
        self.party = Party(name)
        self.plan = plan
        self.rng = random.Random(f"{computer.seed} {name}")
        self.over = False
        self.error = ""
        self._work = work
        self._edges = 0
        self._sites: Counter[str] = Counter()
        self._providers: dict[str, Any] = {}
        self.clock = Clock(computer.hub, computer.ahead_seconds, self._patience)

    # --- its life ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do its work, and note how it ended."""
        said = "done"
        try:
            with watched_by(self._watch):
                self.controller = self._controller()
                self._work(self)
        except Killed:
            said = "killed"
            raise
        except LuminaError as error:
            said = self.error = type(error).__name__
        except Exception:  # noqa: BLE001
            # Whatever is no error of ours is a bug: the campaign tells of it, with its seed.
            said = "crashed"
            self.computer.crashes.append(f"{self.party.name}: {traceback.format_exc()}")
        finally:
            self.over = True
            self.computer.say(self.party.name, said)
            self.computer.hub.kill(self.party)

    def go_beside(self, work: Callable[[], None]) -> None:
        """Let something go on beside, as a thread would: it sees what this task may do."""
        context = copy_context()
        task = self.computer.hub.spawn(self.party, work)
        task.green.gr_context = context

    def _watch(self, site: str, when: str) -> None:
        """Note an edge, and die there where that is planned."""
        computer, plan = self.computer, self.plan
        if self.party.dead:
            raise Killed
        if when == "before":
            if computer.ledger.writing and not site.startswith("ledger."):
                computer.crashes.append(f"{self.party.name}: {site} within a write transaction")
            self._edges += 1
            self._sites[site] += 1
            computer.passed[site] += 1
        if plan.when == when and (self._edges == plan.kill_at or (plan.kill_site == site and self._sites[site] == plan.kill_at)):
            computer.killed[site] += 1
            computer.disturbed.add(self.party.name)
            computer.say(self.party.name, f"is killed {when} {site}")
            computer.hub.kill(self.party)
            raise Killed
        if when == "before" and self._edges == plan.stop_at and not site.startswith("ledger."):
            computer.say(self.party.name, f"stops before {site}")
            self.party.stopped_until = computer.hub.now + plan.stop_seconds
            computer.disturbed.add(self.party.name)
            computer.hub.sleep(0)

    def _patience(self, seconds: float) -> float:
        """A busy computer wakes late."""
        return seconds * self.rng.choice((1.0, 2.0, 4.0, 8.0)) if seconds >= 0.5 else seconds

    # --- what it is made of -----------------------------------------------------------------------------------------------

    def provider(self, name: str) -> Any:
        """Return a provider's client."""
        if name not in self._providers:
            computer = self.computer
            made = registry.connect(
                name,
                home=computer.home,
                local_usd_per_hour=Decimal("0.05"),
                clock=self.clock,
                env=computer.env,
                transport=EmulatorTransport(computer.net, computer.hub, self.rng, computer.offline),
            )
            self._providers[name] = computer.altered(made)
        return self._providers[name]

    def _controller(self) -> Controller:
        home = self.computer.home
        machines = SimMachines(home=home, pins=Pins(home / "ssh" / "known_hosts"), identity=lambda: IDENTITY, clock=self.clock)
        machines.process, machines.net, machines.rng = self, self.computer.net, self.rng
        return Controller(
            Context(
                ledger=self.computer.ledger,
                connect=self.provider,
                machines=machines,
                clock=self.clock,
                home=home,
                python="python3",
                trainer=self.computer.trainer,
                reporter=_Reporter(self),
                renewal=lambda held: SimRenewal(self, held, lease.RENEW_SECONDS),
            )
        )

    @property
    def session(self) -> Session:
        """Return what the api's functions stand on."""
        return Session(self.computer.settings(), self.computer.ledger, self.clock, self.provider)

    # --- what the user types ------------------------------------------------------------------------------------------------

    def reconcile(self, wanted: reconciling.Wanted | None = None) -> None:
        """Reconcile, as every launch and stop does where anything was rented; with `wanted` everywhere, as `lumina reconcile` does."""
        if self.computer.reconciles:
            reconciling.reconcile(self.session, self.controller.context, wanted)

    def launch(self, run: Callable[[Process], RunRecord], terms: Any) -> None:
        """`lumina launch`: reconcile, plan at today's price, write down, follow."""
        self.controller.settle()
        self.reconcile()
        made = run(self)
        launching.write_down(self.computer.ledger, made, terms)
        self.follow(made.run_id)

    def follow(self, run_id: str) -> None:
        """Drive a run to its end: a provider that fails is asked again, less and less often, as a background controller does."""
        pause = 2.0
        while True:
            try:
                self.controller.follow(run_id, until=lambda _run: False)
            except ProviderError:
                self.clock.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            except LeaseLost:
                return
            else:
                return

    def status(self) -> None:
        """`lumina status`: settle, and reconcile after."""
        self.controller.settle()
        self.reconcile()

    def stop(self, run_id: str) -> None:
        """`lumina stop`: ask, follow to the end, reconcile."""
        ledger = self.computer.ledger
        run = ledger.run(run_id)
        if run is None or run.state not in ACTIVE:
            return
        with ledger.transaction() as tx:
            tx.update_run(run_id, stop_requested_at=self.clock.now())
            tx.add_event("run.stop_requested", run_id=run_id)
        self.follow(run_id)
        self.reconcile()

    def resume(self, run_id: str) -> None:
        """`lumina resume`: settle, reconcile, at today's price, follow."""
        ledger = self.computer.ledger
        self.controller.settle()
        self.reconcile()
        run = ledger.run(run_id)
        if run is None:
            return
        limits = launching.Limits()
        launching.resumed_cap(run, limits, ledger.spent(run_id))
        priced = launching.at_todays_price(self.session, run)
        launching.resume(self.session, priced, limits, ledger.spent(run_id))
        self.follow(run_id)

    def bring_to_rest(self) -> None:
        """Come back when all is over: settle, follow what goes on, reconcile, until nothing is open."""
        ledger = self.computer.ledger
        for _ in range(6):
            for run in ledger.runs(ACTIVE):
                self.follow(run.run_id)
            self.reconcile()
            # Lists and bills lag; the last look is taken when both have had their time.
            self.computer.hub.sleep(130.0 if ledger.runs(ACTIVE) or ledger.open_rentals() else BILL_SECONDS)
            self.reconcile(reconciling.Wanted())
            if not ledger.runs(ACTIVE) and not ledger.open_rentals():
                return


class _Reporter:
    def __init__(self, process: Process) -> None:
        self._process = process

    def said(self, run_id: str, text: str) -> None:
        self._process.computer.say(self._process.party.name, f"{run_id}: {text}")

    def progressed(self, run: RunRecord) -> None:
        """Progress is no news."""
