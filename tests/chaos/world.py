"""One simulated world: an emulator, a computer, a few launches, and what befalls them. All chance comes from the world's seed."""

from __future__ import annotations

import math
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import trainer.config
from lumina_cloud.ledger import Ledger, RunRecord
from lumina_cloud.ledger.records import FactRecord
from lumina_cloud.runs import caps, tags
from lumina_cloud.runs.states import ACTIVE, RESUMABLE
from lumina_cloud.runs.terms import Terms
from providers.contract import OfferQuery
from providers.emulator.emulator import Emulator
from providers.emulator.faults import BY_NAME, Armed
from providers.emulator.switches import QUICK, REAL, Options
from providers.emulator.wire import Request
from tests.chaos import sabotage
from tests.chaos.computer import Computer, Plan, Process, WatchedLedger
from tests.chaos.judge import Abandoned, Evidence, Verdict, judge, of_ledger
from tests.chaos.machine import Net, SimMachine
from tests.chaos.virtual import BEGAN, Clock, EmulatorClock, Hub, Party

API_KEY = "0123456789abcdef" * 4
LEDGER_ID = "c0ffee" * 4
GPUS = {"vastai": "RTX4090", "runpod": "RTX4090", "lambda": "A10"}
SITES = {
    "vastai": ("search", "create", "list", "get", "destroy", "charges", "log"),
    "runpod": ("search", "create", "list", "get", "destroy", "charges", "log"),
    "lambda": ("search", "create", "list", "get", "destroy", "keys", "events"),
}
COMMON_SITES = ("ledger.commit", "box.run", "box.put", "box.write", "box.read", "box.listing", "ssh.connect")
REQUEST_FAULTS = tuple(name for name, fault in BY_NAME.items() if fault.kind == "request" and name != "retired_endpoint")
INSTANCE_FAULTS = tuple(name for name, fault in BY_NAME.items() if fault.kind == "instance")
LOSING_FAULTS = (
    "lost_create_before", "lost_create_after", "create_fails_leaves_stopped", "duplicated_create", "error_500", "error_500_after_effect",
    "timeout", "timeout_before", "slow_loris", "malformed_body", "html_200",
)  # fmt: skip
"""What can become of a create whose reply is lost, or lies."""
PAIRS = (
    ("duplicated_create", "listing_lag"),
    ("lost_create_after", "listing_lag"),
    ("timeout", "listing_lag"),
    ("host_death", "terminate_lies"),
    ("network_partition", "preempted"),
    ("error_500_after_effect", "rate_limit_storm"),
    ("slow_boot", "network_partition"),
)
"""Troubles that seldom come together by chance, and are worse together."""
OTHER_FAULTS = ("listing_lag", "clock_skew", "price_rise", "balance_gone", "retired_endpoint")
MOST_HOURS = 8.0
"""How long the user looks after the launches of a world."""
AWAY_SECONDS = 5400.0
"""How long a closed laptop stays closed."""


@dataclass
class Launch:
    """One launch of a world."""

    number: int
    provider: str
    terms: Terms
    cap_hours: float
    steps: int
    offset: float
    run_id: str = ""


@dataclass
class Outcome:
    """What came of a world."""

    seed: str
    launches: int
    verdict: Verdict
    log: list[str]
    faults: Counter[str]
    killed: Counter[str]
    passed: Counter[str]
    crashes: list[str]
    endings: Counter[str]
    virtual_seconds: float
    lost_creates: int
    findings: list[str] = field(default_factory=list)


class World:
    """A world, from its seed to its judge."""

    def __init__(self, seed: str, home: Path, template: Path, launches: int, broken: str = "", *, losing: bool = False) -> None:
        self.seed, self.broken, self.losing = seed, broken, losing
        self.rng = random.Random(f"lumina {seed}")
        self.hub = Hub()
        self.net = Net(self.hub, seed, self._handle, guarded=broken != "no-guard")
        options = Options(seed=self.rng.randrange(1 << 30), delays=self.rng.choice((QUICK, REAL, REAL)), market=self._market())
        self.emulator = Emulator(EmulatorClock(self.hub), options, self.net, API_KEY)
        self.net.run_of = self._run_of
        self.net.powered_off = self._powered_off
        self.user, self.nature = Party("user"), Party("nature")
        self.turn_at = math.inf
        self.outages = [(at := BEGAN + self.rng.uniform(0, 2000), at + self.rng.uniform(5, 400)) for _ in range(self.rng.choice((0, 0, 1)))]
        if losing:
            # Nothing but a lost reply befalls such a launch: without a network nobody could look anything up.
            self.outages.clear()
        self.calm = False
        self.faults: Counter[str] = Counter()
        self.caps: dict[str, Decimal] = {}
        self.abandoned: list[Abandoned] = []
        self.foreign: list[str] = []
        self.forgotten: list[str] = []
        self.computer = self._computer(home, template)
        self.launches = [self._launch(n) for n in range(launches)]

    def _market(self) -> str:
        return self.rng.choice(("still", "calm", "calm", "wild"))

    def _computer(self, home: Path, template: Path) -> Computer:
        shutil.copytree(template, home)
        ahead = self.rng.choice((0.0, 0.0, 0.0, self.rng.uniform(-86400, 86400), self.rng.uniform(-90, 90)))
        return Computer(
            hub=self.hub,
            home=home,
            net=self.net,
            seed=self.seed,
            api_key=API_KEY,
            ledger=WatchedLedger.open(home, Clock(self.hub, ahead)),  # type: ignore[arg-type]
            trainer=home / "trainer",
            log=[],
            ahead_seconds=ahead,
            offline=self._offline,
            altered=sabotage.ALTERED.get(self.broken, lambda provider: provider),
            reconciles=self.broken != "no-reconcile",
        )

    def _launch(self, number: int) -> Launch:
        rng = self.rng
        provider = rng.choice(("vastai", "vastai", "runpod", "runpod", "lambda"))
        terms = Terms(
            lease_seconds=rng.choice((120.0, 300.0, 900.0)),
            accept_unguarded=True,
            interruptible=provider == "vastai" and rng.random() < 0.4,
        )
        hours = rng.choice((rng.uniform(0.15, 0.3), rng.uniform(0.3, 1.5)))
        return Launch(number, provider, terms, hours, rng.randrange(6, 40), rng.uniform(0, 900))

    # --- the world and the wire ---------------------------------------------------------------------------------------------

    def _handle(self, provider: str, request: Request) -> Any:
        reply = self.emulator.handle(provider, request)
        self._plan_turn()
        return reply

    def _offline(self) -> bool:
        return not self.calm and any(begin <= self.hub.now < end for begin, end in self.outages)

    def _instance_of(self, machine: SimMachine) -> Any:
        number = machine.spec.name.partition("-")[2]
        return self.emulator.world.instances[machine.spec.provider].get(number)

    def _run_of(self, machine: SimMachine) -> str:
        tag = tags.read(self._instance_of(machine).label)
        return "" if tag is None else tag.run_id

    def _powered_off(self, machine: SimMachine) -> None:
        instance = self._instance_of(machine)
        if machine.spec.provider == "vastai":
            self.emulator.vastai.stop(instance, "powered off")

    def _plan_turn(self) -> None:
        """Let what is due next in the emulator happen when it is due, whoever asks or not."""
        due = self.emulator.world.next_due() / 1000 + 0.001
        if due < self.turn_at:
            self.turn_at = due
            self.hub.spawn(self.nature, self._turn, max(0.0, due - self.hub.now))

    def _turn(self) -> None:
        self.turn_at = math.inf
        with self.emulator.gateway.lock:
            self.emulator.world.advance()
        self._plan_turn()

    # --- what befalls it ----------------------------------------------------------------------------------------------------

    def _befall(self) -> None:
        """Arm a few faults, each at its time."""
        used = sorted({launch.provider for launch in self.launches})
        for name in self.rng.choice(PAIRS) if self.rng.random() < 0.3 else ():
            armed = self._armed(name, self.rng.choice(used))
            self.hub.spawn(self.nature, lambda armed=armed: self._strike(armed))
        for _ in range(self.rng.randrange(0, 7)):
            kind = self.rng.choice((REQUEST_FAULTS, REQUEST_FAULTS, INSTANCE_FAULTS, INSTANCE_FAULTS, OTHER_FAULTS))
            armed = self._armed(self.rng.choice(kind), self.rng.choice(used))
            # Lambda has no bill to ask for: a price that rises under a running machine could only be guessed at.
            late = not (armed.name == "price_rise" and armed.provider == "lambda")
            at = self.rng.choice((0.0, self.rng.uniform(0, 1500))) if late else 0.0
            self.hub.spawn(self.nature, lambda armed=armed: self._strike(armed), at)

    def _armed(self, name: str, provider: str) -> Armed:
        rng, fault = self.rng, BY_NAME[name]
        more: dict[str, Any] = {}
        if fault.kind == "request":
            more["times"] = rng.choice((1, 1, 2, 4)) if fault.times == 1 else fault.times
            more["after"] = rng.choice((0, 0, 0, rng.randrange(30)))
            if not fault.calls:
                more["call"] = rng.choice((None, "create", "list", "get", "terminate", "offers", "charges"))
        elif fault.kind == "instance":
            more["at_seconds"] = rng.uniform(1, 400)
            more["times"] = rng.choice((1, 1, 2))
        match name:
            case "listing_lag":
                more["seconds"] = rng.uniform(2, 90)
            case "clock_skew":
                more["seconds"] = rng.choice((-1, 1)) * rng.choice((30, 3600, 86400))
            case "price_rise":
                more["factor"] = round(rng.uniform(1.01, 2.5), 2)
            case "retired_endpoint":
                more["call"] = rng.choice(("create", "charges", "list"))
        return Armed(name, provider, **more)

    def _strike(self, armed: Armed) -> None:
        if self.calm:
            return
        self.faults[armed.name] += 1
        self.computer.say("nature", f"arms {armed}")
        self.emulator.arm([armed])
        if armed.fault.kind == "standing" or armed.name == "retired_endpoint":
            self.hub.sleep(self.rng.uniform(100, 900))
            self.emulator.world.faults.clear(armed.name)
        elif armed.name == "balance_gone":
            self.hub.sleep(self.rng.uniform(100, 900))
            self._top_up()

    def _top_up(self) -> None:
        for account in self.emulator.world.accounts.values():
            account.deposit += 1000

    def _others(self) -> None:
        """Rent what is not ours: somebody else's by any name, another ledger's by its tag, and one that imitates a tag of ours.

        And one that is, of which the ledger knows nothing any more.
        """
        lost = tags.make(LEDGER_ID, "debug-dense-lost", 1)
        labels = ["my-own-pod", f"lumina-{self._run_id(self.launches[0])}-1-00000000", tags.make("another ledger", "theirs-1", 1)]
        for label in [*labels[: self.rng.randrange(0, 3)], *([lost] if self.rng.random() < 0.3 else [])]:
            body = {"name": label, "image": "runpod/pytorch:x", "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1}, "disk": 20}
            reply = self.emulator.handle("runpod", _request("POST", "/v2/pods", {**body, "ports": ["22/tcp"], "env": {}}))
            if reply.status < 300:
                (self.forgotten if label == lost else self.foreign).append(reply.document()["id"])

    # --- the user -----------------------------------------------------------------------------------------------------------

    def _run_id(self, launch: Launch) -> str:
        return f"debug-dense-{launch.number}"

    def _make_run(self, launch: Launch, process: Process) -> RunRecord:
        """Plan at today's price, as `lumina launch` does. Raises ProviderError."""
        query = OfferQuery(gpu=GPUS[launch.provider], count=1, disk_gb=50, interruptible=launch.terms.interruptible)
        offers = process.provider(launch.provider).offers(query)
        if not offers:
            raise LookupError("nothing is offered")
        price = min(o.usd_per_hour for o in offers)
        usd = (price * Decimal(repr(round(launch.cap_hours, 3)))).quantize(Decimal("0.0001"))
        config = trainer.config.preset("debug", "dense")
        training = replace(config.training, tokens=launch.steps * config.training.global_batch_tokens)
        run_id = self._run_id(launch)
        self.caps[run_id] = usd
        launch.run_id = run_id
        return RunRecord(
            run_id=run_id,
            created_at=process.clock.now(),
            model="debug",
            arch="dense",
            state="planned",
            reason="",
            config_json=replace(config, training=training, device="cuda").to_json(),
            plan_id=None,
            provider=launch.provider,
            gpu=GPUS[launch.provider],
            count=1,
            usd_per_hour=price,
            planned={"seconds": {"low": 60.0, "mid": 300.0, "high": 1e6}, "usd": {"high": "1000"}},
            usd_cap=usd,
            seconds_cap=caps.seconds_for(usd, price),
            data_path=None,
            folder=str(self.computer.home / "runs" / run_id),
            started_at=None,
            ended_at=None,
            stop_requested_at=None,
            progress={},
            result={},
        )

    def _plan(self, provider: str, chance: float) -> Plan:
        """Return whether, and where, a command is killed or stopped."""
        rng, plan = self.rng, Plan()
        if self.losing:
            return plan
        if rng.random() < chance:
            plan.when = rng.choice(("before", "after"))
            if rng.random() < 0.5:
                plan.kill_at = int(math.exp(rng.uniform(0, math.log(400))))
            else:
                plan.kill_site = rng.choice((*COMMON_SITES, *(f"{provider}.{site}" for site in SITES[provider])))
                plan.kill_at = rng.choice((1, 1, 2, 3, 8))
        if rng.random() < 0.15:
            plan.stop_at = int(math.exp(rng.uniform(0, math.log(300))))
            plan.stop_seconds = rng.choice((20.0, 90.0, 400.0))
        return plan

    def _story(self, launch: Launch) -> None:
        """Launch, and look after it: what was killed is started anew, now and then something is stopped, resumed or driven twice."""
        rng, computer = self.rng, self.computer
        current = self._typed("launch", lambda p: self._typed_launch(p, launch), launch, 0.6)
        for chance in (0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0):
            self._wait(current, rng.uniform(20, 1800))
            run = computer.ledger.run(launch.run_id) if launch.run_id else None
            if run is None:
                if not current.over or rng.random() < 0.3:
                    return
                current = self._typed("launch", lambda p: self._typed_launch(p, launch), launch, chance)
            elif run.state in ACTIVE:
                verb = rng.choice(("status", "follow", "follow", "stop") if current.over else ("status", "follow", "stop", ""))
                if verb:
                    started = self._typed(verb, self._work(verb, run.run_id), launch, chance)
                    current = started if current.over or verb == "stop" else current
            elif run.state in RESUMABLE and rng.random() < 0.5:
                current = self._typed("resume", self._work("resume", run.run_id), launch, chance)
            else:
                break
            self.hub.sleep(rng.choice((0.0, 5.0, 60.0, 400.0)))
        self._wait(current, 600.0)

    def _short_story(self, launch: Launch) -> None:
        """Launch with one create of which the reply is lost or lies, and stop what came of it some minutes later."""
        lag = self.emulator.world.faults.standing("listing_lag", launch.provider)
        # What a provider doubles by itself is found when its lists show it and nothing is being installed: not within 120 s of such lags.
        twins_too = lag is None or lag.lasting <= 45
        fault = self.rng.choice([name for name in LOSING_FAULTS if twins_too or name != "duplicated_create"])
        self._strike(Armed(fault, launch.provider, call="create", times=1))
        current = self._typed("launch", lambda p: self._typed_launch(p, launch), launch, 0.0)
        self._wait(current, self.rng.uniform(130, 400))
        if launch.run_id:
            self._wait(self._typed("stop", self._work("stop", launch.run_id), launch, 0.0), 1200.0)

    def _typed_launch(self, process: Process, launch: Launch) -> None:
        if self.computer.ledger.run(self._run_id(launch)) is not None:
            return
        try:
            process.launch(lambda p: self._make_run(launch, p), launch.terms)
        except LookupError as error:
            self.computer.say(process.party.name, str(error))

    @staticmethod
    def _work(verb: str, run_id: str) -> Any:
        return (lambda p: p.status()) if verb == "status" else lambda p: getattr(p, verb)(run_id)

    def _typed(self, verb: str, work: Any, launch: Launch, chance: float) -> Process:
        return self.computer.start(f"{verb} {launch.number}", work, self._plan(launch.provider, chance))

    def _wait(self, process: Process, seconds: float) -> None:
        give_up = self.hub.now + seconds
        while not process.over and not process.party.dead and self.hub.now < give_up:
            self.hub.sleep(5.0)

    def _close_laptop(self) -> None:
        """Kill everything on the computer: nobody comes back for a long time."""
        self.hub.sleep(self.rng.uniform(60, 1500))
        self.hub.kill(self.user)
        for process in self.computer.processes:
            if not process.over:
                self.hub.kill(process.party)
        self.computer.say("nature", "the laptop dies")
        self.computer.killed["laptop"] += 1
        until = self.hub.now + AWAY_SECONDS
        for launch in self.launches:
            if launch.run_id:
                self.abandoned.append(Abandoned(launch.run_id, self.hub.now, until, launch.terms.lease_seconds))
        self.hub.sleep(AWAY_SECONDS)

    # --- from beginning to end ------------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        """Let it all happen, bring it to rest, and judge."""
        self._plan_turn()
        story = self._short_story if self.losing else self._story
        if not self.losing:
            self._others()
            self._befall()
        elif self.rng.random() < 0.5:
            # For as long as the world lasts, and longer than any list is known to lag.
            self.emulator.arm([Armed("listing_lag", seconds=self.rng.uniform(2, 90))])
        # Guards matter where nobody comes back: a campaign without them lets that happen often.
        dying = 0.8 if self.broken == "no-guard" else 0.3
        stories = [self.hub.spawn(self.user, lambda launch=launch: story(launch), launch.offset) for launch in self.launches]
        closing = [self.hub.spawn(self.nature, self._close_laptop)] if self.rng.random() < dying and not self.losing else []
        give_up = BEGAN + MOST_HOURS * 3600
        self.hub.run(lambda: self.hub.now > give_up or (all(t.over or t.party.dead for t in stories) and all(t.over for t in closing)))
        self._rest()
        outcome = self._judged()
        self.hub.close()
        self.computer.ledger.close()
        return outcome

    def _rest(self) -> None:
        """Let the trouble pass, and the user come back."""
        self.hub.kill(self.user)
        self.calm = True
        self.emulator.world.faults.clear()
        self._top_up()
        last = self.computer.start("rest", lambda p: p.bring_to_rest())
        give_up = self.hub.now + MOST_HOURS * 3600
        self.hub.run(lambda: last.over or self.hub.now > give_up)
        for process in self.computer.processes:
            self.hub.kill(process.party)
        if last.error:
            self.computer.crashes.append(f"rest: {last.error}")
        # Whatever was still to happen by itself happens: a terminate that lags, a bill that is late.
        later = self.hub.now + 120
        self.hub.run(lambda: self.hub.now > later)

    def _unattended(self) -> list[Abandoned]:
        """Return the runs whose controllers were killed, stopped, or without a network at times.

        On machines that cannot end themselves no cap holds then, nor on any whose price rises meanwhile.
        """
        numbers = {name.partition("#")[0].rpartition(" ")[2] for name in self.computer.disturbed}
        alone = [one for one in self.launches if self.outages or str(one.number) in numbers]
        return [Abandoned(one.run_id, BEGAN, BEGAN, one.terms.lease_seconds) for one in alone if one.run_id]

    def _judged(self) -> Outcome:
        status, ledger = self.emulator.status(), self.computer.ledger
        evidence = Evidence(
            instances=status["instances"],
            history=self.emulator.world.history,
            invoice_usd=Decimal(status["invoice_usd"]),
            **of_ledger(ledger),
            caps=self.caps,
            foreign=self.foreign,
            forgotten=self.forgotten,
            starts=self.net.starts,
            abandoned=self.abandoned,
            clock_ahead_seconds=self.computer.ahead_seconds,
            attended=self.losing,
        )
        verdict = judge(replace(evidence, abandoned=[*self.abandoned, *self._unattended()]))
        runs = ledger.runs()
        log = [
            *self.computer.log,
            *(f"{line}" for line in self.emulator.world.history),
            *(f"{line}" for line in self.emulator.gateway.requests),
        ]
        log += sorted(f"{r.run_id} {r.state} {r.reason} {ledger.spent(r.run_id)}" for r in runs)
        return Outcome(
            seed=self.seed,
            launches=len(self.launches),
            verdict=verdict,
            log=log,
            faults=self.faults,
            killed=self.computer.killed,
            passed=self.computer.passed,
            crashes=self.computer.crashes,
            endings=Counter(f"{r.state} {r.reason}" for r in runs),
            virtual_seconds=self.hub.now - BEGAN,
            lost_creates=sum(line["call"] == "create" and line["fault"] is not None for line in self.emulator.gateway.requests),
            findings=[f"{f.invariant} {f.about}: {f.text}" for f in verdict.findings] + self.computer.crashes,
        )


def template(folder: Path) -> Path:
    """Make a home with an empty ledger, whose own name is always the same, and a trainer to ship. Return it."""
    home = folder / "template"
    ledger = Ledger.open(home, Clock(Hub()))
    with ledger.transaction() as tx:
        # A ledger's name is drawn when it is made; tags are made of it, and a simulation's are to be the same each time.
        tx._put(FactRecord("ledger", LEDGER_ID))
        tx._facts["ledger"] = LEDGER_ID
    ledger.close()
    (home / "trainer").mkdir()
    (home / "trainer" / "__main__.py").write_text("# A stub's: nothing of it is ever run.\n", encoding="utf-8")
    return home


def _request(method: str, path: str, body: Any) -> Request:
    import json

    return Request.of(method, path, {"authorization": f"Bearer {API_KEY}"}, json.dumps(body).encode())


def split(launches: int, rng: random.Random) -> Sequence[int]:
    """Return how many launches each world gets: one to five."""
    sizes = []
    while (left := launches - sum(sizes)) > 0:
        sizes.append(min(left, rng.choice((1, 2, 3, 4, 5))))
    return sizes
