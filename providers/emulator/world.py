"""The world: time, instances, accounts and their history, for all three clouds.

It is pure: a clock and a maker of machines are handed in, nothing happens but in `advance`, and all chance comes from the seed. What
is due is done in order, at the very moment at which it was due, so that a bill does not depend on when somebody looks.
"""

from __future__ import annotations

import heapq
import random
import secrets
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol

from providers.emulator.clock import SECOND, Clock, Moment, rfc3339
from providers.emulator.faults import FaultBook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from providers.emulator.billing import Meter
    from providers.emulator.faults import Armed
    from providers.emulator.machines import BoxSpec, Machine, MachineMaker
    from providers.emulator.switches import Options
    from providers.emulator.wire import Json

State = Literal["creating", "running", "stopped", "ended"]


@dataclass(kw_only=True)
class Instance:
    """What a provider bills: a contract, a pod or a virtual machine."""

    provider: str
    id: str
    label: str
    created: Moment
    meter: Meter
    spec: BoxSpec
    machine: Machine
    key: str
    """The key that its box holds, good for this instance alone; empty where the provider gives none."""
    state: State = "creating"
    running_since: Moment | None = None
    ended: Moment | None = None
    generation: int = 0
    """Counts boots and halts, so that what was planned for an earlier one is dropped."""
    troubles: list[Armed] = field(default_factory=list)
    partitioned_until: Moment = 0
    host_dead: bool = False

    def has(self, fault: str) -> bool:
        """Tell whether a fault is on it."""
        return any(trouble.name == fault for trouble in self.troubles)

    @property
    def live(self) -> bool:
        """Tell whether it may still cost money."""
        return self.state != "ended"


@dataclass
class Account:
    """What the user has with one provider."""

    provider: str
    deposit: Decimal
    key: str
    read_only_key: str
    ssh_keys: dict[str, str] = field(default_factory=dict)
    """Public keys by name or number."""
    settled: Decimal = Decimal(0)
    """What ended instances have cost."""


class Cloud(Protocol):
    """What the world asks of each of the three."""

    name: str

    def market_tick(self, share: float) -> None:
        """Move a share of the market."""
        ...

    def preempt(self, instance: Instance) -> None:
        """Take an instance away from its user."""
        ...

    def host_dies(self, instance: Instance) -> None:
        """Let the host of an instance die."""
        ...

    def out_of_credit(self) -> None:
        """Do what the provider does when the credit is used up."""
        ...

    def price_rise(self, factor: Decimal) -> None:
        """Raise every price."""
        ...

    def duplicate(self, instance: Instance) -> None:
        """Create what was just created once more."""
        ...

    def spoil(self, instance: Instance) -> None:
        """Leave an instance that was just created stopped, or as near to it as the provider knows."""
        ...


class World:
    """Everything that the emulator knows."""

    def __init__(self, options: Options, clock: Clock, maker: MachineMaker, api_key: str = "") -> None:
        self.options = options
        self.clock = clock
        self.maker = maker
        self.rng = random.Random(options.seed)
        self.ids = random.Random(f"{options.seed} {clock.now()}")
        """Makes ids and keys: the same in every run of a simulation, never those of an earlier sandbox."""
        self.faults = FaultBook(random.Random(options.seed + 1))
        self.instances: dict[str, dict[str, Instance]] = {"vastai": {}, "runpod": {}, "lambda": {}}
        self.clouds: dict[str, Cloud] = {}
        self.history: list[Json] = []
        self.started = clock.now()
        self.api_key = api_key or secrets.token_hex(32)
        read_only = f"{self.api_key}ro"
        deposit = Decimal(options.deposit_usd)
        self.accounts = {name: Account(name, deposit, self.api_key, read_only) for name in self.instances}
        self._queue: list[tuple[Moment, int, Callable[[], None]]] = []
        self._sequence = 0
        self._moment: Moment | None = None
        self._last = self.started
        self._broke: set[str] = set()
        self.after(options.delays.market_tick, self._market_tick)

    # Time

    @property
    def now(self) -> Moment:
        """Return the moment at which something happens; between events, the clock's."""
        if self._moment is not None:
            return self._moment
        self._last = max(self._last, self.clock.now())
        return self._last

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan something."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + round(seconds * SECOND), self._sequence, action))

    def advance(self) -> None:
        """Do all that is due."""
        until = self.now
        while self._queue and self._queue[0][0] <= until:
            due, _, action = heapq.heappop(self._queue)
            self._moment = due
            try:
                action()
            finally:
                self._moment = None
        self._check_credit()

    def next_due(self) -> Moment:
        """Return the moment of the next thing that will happen by itself."""
        return self._queue[0][0]

    # Instances

    def add(self, instance: Instance) -> None:
        """Take in a new instance, with the faults that await it."""
        self.instances[instance.provider][instance.id] = instance
        self.record(instance, "created")

    def afflict(self, provider: str) -> list[Armed]:
        """Return the faults of the next instance of a provider."""
        return self.faults.afflict(provider)

    def live(self, provider: str) -> Iterator[Instance]:
        """Return the instances that have not ended."""
        return (one for one in list(self.instances[provider].values()) if one.live)

    def began_to_run(self, instance: Instance) -> None:
        """Mark an instance as running, and set the clocks of its faults."""
        instance.state = "running"
        instance.running_since = self.now
        self.record(instance, "running")
        if instance.has("ssh_refused"):
            instance.machine.network("refused")
        for trouble in instance.troubles:
            action = self._striking(instance, trouble)
            if action is not None:
                self.after(trouble.delay, action)
        instance.troubles = [one for one in instance.troubles if one.name not in _TIMED]

    def halted(self, instance: Instance, why: str) -> None:
        """Mark an instance as stopped: its processes are dead, its disk stays."""
        instance.generation += 1
        instance.machine.halt()
        self.measure(instance)
        instance.state = "stopped"
        self.record(instance, "stopped", why=why)

    def end(self, instance: Instance, why: str) -> None:
        """End an instance: wipe it, close its meter, settle."""
        if not instance.live:
            return
        self.measure(instance)
        instance.generation += 1
        instance.machine.destroy()
        instance.meter.stop_all(self.now)
        instance.state, instance.ended = "ended", self.now
        self.accounts[instance.provider].settled += instance.meter.total(self.now)
        self.record(instance, "ended", why=why, usd=f"{instance.meter.total(self.now):f}")

    def measure(self, instance: Instance) -> None:
        """Read the traffic of a machine into its meter, where traffic is billed."""
        received, sent = instance.machine.traffic()
        for line, count in (("bwd", received), ("bwu", sent)):
            if line in instance.meter.traffic:
                instance.meter.traffic[line].count = max(instance.meter.traffic[line].count, count)

    def later(self, instance: Instance, seconds: float, action: Callable[[], None]) -> None:
        """Plan something for an instance that is dropped when it is halted, restarted or ended before."""
        generation = instance.generation

        def act() -> None:
            if instance.live and instance.generation == generation:
                action()

        self.after(seconds, act)

    # Money

    def billed(self, provider: str) -> Decimal:
        """Return what all instances of a provider have cost so far."""
        now = self.now
        total = self.accounts[provider].settled
        for instance in self.live(provider):
            self.measure(instance)
            total += instance.meter.total(now)
        return total

    def credit(self, provider: str) -> Decimal:
        """Return what is left of the deposit; it may be negative."""
        return self.accounts[provider].deposit - self.billed(provider)

    def take_credit(self, provider: str) -> None:
        """Use up the account's credit."""
        self.accounts[provider].deposit = self.billed(provider)
        self._check_credit()

    def status(self) -> Json:
        """Return every instance that ever was, and the invoice."""
        now = self.now
        rows = []
        for of_provider in self.instances.values():
            for one in of_provider.values():
                if one.live:
                    self.measure(one)
                usd = f"{one.meter.total(now):f}"
                rows.append({"provider": one.provider, "id": one.id, "state": one.state, "tag": one.label, "usd_billed": usd})
        return {"instances": rows, "invoice_usd": f"{sum((self.billed(name) for name in self.instances), Decimal(0)):f}"}

    def token(self, length: int, alphabet: str = "0123456789abcdef") -> str:
        """Return an id or a key that was never given."""
        return "".join(self.ids.choice(alphabet) for _ in range(length))

    def record(self, instance: Instance, what: str, **more: str) -> None:
        """Write a line of history."""
        line = {"at": rfc3339(self.now), "provider": instance.provider, "id": instance.id, "tag": instance.label, "what": what, **more}
        self.history.append(line)

    # Faults of instances

    def start_fault(self, armed: Armed) -> None:
        """Let a fault strike at once."""
        for name, cloud in self.clouds.items():
            if armed.provider not in (None, name):
                continue
            if armed.name == "price_rise":
                cloud.price_rise(Decimal(str(armed.by)))
            elif armed.name == "balance_gone":
                self.take_credit(name)

    def strike_running(self, armed: Armed) -> None:
        """Let an instance fault strike the instances that run already."""
        for name in self.instances:
            for instance in self.live(name):
                action = self._striking(instance, armed) if armed.provider in (None, name) and instance.state == "running" else None
                if action is not None:
                    self.after(0, action)

    def _striking(self, instance: Instance, trouble: Armed) -> Callable[[], None] | None:
        generation = instance.generation

        def strike() -> None:
            if instance.live and instance.generation == generation:
                self.record(instance, trouble.name)
                self._strike(instance, trouble)

        return strike if trouble.name in _TIMED else None

    def _strike(self, instance: Instance, trouble: Armed) -> None:
        machine, cloud = instance.machine, self.clouds[instance.provider]
        if trouble.name == "host_key_changed":
            machine.rotate_host_key()
        elif trouble.name == "disk_full":
            machine.fill_disk()
        elif trouble.name == "preempted":
            cloud.preempt(instance)
        elif trouble.name == "preempted_with_warning":
            machine.warn()
            self.later(instance, trouble.lasting, lambda: cloud.preempt(instance))
        elif trouble.name == "host_death":
            instance.host_dead = True
            machine.halt()
            cloud.host_dies(instance)
        elif trouble.name == "network_partition":
            machine.network("partitioned")
            instance.partitioned_until = self.now + round(trouble.lasting * SECOND)
            self.later(instance, trouble.lasting, lambda: machine.network("open"))

    # What goes on by itself

    def _market_tick(self) -> None:
        from providers.emulator.switches import MARKETS

        for cloud in self.clouds.values():
            cloud.market_tick(MARKETS[self.options.market])
        self.after(self.options.delays.market_tick, self._market_tick)

    def _check_credit(self) -> None:
        for name, cloud in self.clouds.items():
            if self.credit(name) > 0:
                self._broke.discard(name)
            elif name not in self._broke:
                self._broke.add(name)
                cloud.out_of_credit()


_TIMED = {"host_key_changed", "disk_full", "preempted", "preempted_with_warning", "host_death", "network_partition"}
