"""Vast.ai's side of a contract: renting an offer, its life cycle and its bill."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from providers.emulator.billing import Meter, TrafficLine, monthly
from providers.emulator.clock import SECOND
from providers.emulator.hardware import BY_NAME
from providers.emulator.machines import BoxSpec
from providers.emulator.vastai_market import Ask, Market
from providers.emulator.world import Instance

if TYPE_CHECKING:
    from providers.emulator.faults import Armed
    from providers.emulator.world import World


class Refused(Exception):
    """An error reply. `contract` is what the attempt left behind."""

    def __init__(self, status: int, error: str, msg: str, contract: int | None = None, ask_id: int | None = None) -> None:
        super().__init__(msg)
        self.status = status
        self.error = error
        self.msg = msg
        self.contract = contract
        self.ask_id = ask_id


@dataclass(frozen=True)
class Order:
    """What a create asks for."""

    image: str
    label: str
    disk_gb: Decimal
    runtype: str
    env: dict[str, str] = field(repr=False)
    onstart: str | None = None
    args: tuple[str, ...] | None = None
    price: Decimal | None = None
    cancel_unavail: bool = False


@dataclass(kw_only=True)
class Contract(Instance):
    """One of Vast.ai's instances."""

    ask: Ask
    order: Order
    bid: Decimal | None = None
    usd_per_hour: Decimal = Decimal(0)
    actual_status: str | None = None
    cur_state: str = "running"
    intended_status: str = "running"
    next_state: str = "running"
    status_msg: str | None = None
    freed_ask: int | None = None
    """The offer as which its GPU is back in the market while it is stopped."""
    ssh_keys: list[tuple[int, str]] = field(default_factory=list)
    doomed: bool = False


class VastaiCloud:
    """Vast.ai."""

    name = "vastai"

    def __init__(self, world: World) -> None:
        self.world = world
        self.market = Market(world.rng, world.now)
        self._ids = itertools.count(30_000_000 + (world.now // SECOND) % 10_000_000)
        self.key_ids = itertools.count(7001)
        world.clouds[self.name] = self

    def contract(self, number: str) -> Contract | None:
        """Return a contract that is still there."""
        found = self.world.instances[self.name].get(number)
        return found if isinstance(found, Contract) and found.live else None

    def contracts(self) -> list[Contract]:
        """Return all that are still there."""
        return [one for one in self.world.live(self.name) if isinstance(one, Contract)]

    # Renting

    def rent(self, ask_id: int, order: Order) -> Contract:
        """Rent an offer. Raises Refused."""
        unverified = self.world.options.unverified
        if self.world.credit(self.name) <= 0:
            raise Refused(unverified.vastai_credit_status, "insufficient_credit", "insufficient_credit: your balance is too low")
        offer = self.market.asks.get(ask_id)
        if offer is None:
            status = unverified.vastai_no_such_ask_status
            text = f"error {status}/3907: no_such_ask Instance type {ask_id} is no longer available."
            raise Refused(status, "no_such_ask" if status != 400 else "invalid_args", text, ask_id=ask_id)
        if order.disk_gb > Decimal(str(offer.disk_gb)):
            raise Refused(400, "invalid_args", "error 400/3472: Invalid args: disk is larger than the offer's disk_space", ask_id=ask_id)
        too_low = order.price is not None and (offer.min_bid is None or order.price < offer.min_bid)
        if too_low and order.cancel_unavail:
            text = f"error 410/3907: no_such_ask Instance type {ask_id} is no longer available."
            raise Refused(410, "no_such_ask", text, ask_id=ask_id)
        ask = self.market.take(ask_id, whole_machine=not unverified.vastai_same_machine_twice)
        if ask is None:  # pragma: no cover - it was there a line ago
            raise Refused(410, "no_such_ask", "no_such_ask")
        contract = self._sign(ask, order)
        if too_low:
            contract.freed_ask = self.market.give_back(ask).id
            self._mark_stopped(contract, "outbid before it began")
            raise Refused(
                400, "invalid_price", "error 400/3480: bid is below the current price, instance left stopped", int(contract.id), ask_id
            )
        self._boot(contract)
        return contract

    def _sign(self, ask: Ask, order: Order) -> Contract:
        world = self.world
        number = str(next(self._ids))
        troubles = world.afflict(self.name)
        key = world.token(64)
        keys = [(next(self.key_ids), text) for text in world.accounts[self.name].ssh_keys.values()]
        spec = self._spec(ask, order, number=number, key=key, keys=tuple(text for _, text in keys), troubles=troubles)
        meter = Meter(step_seconds=1, traffic={"bwd": TrafficLine("bwd", ask.inet_down_cost), "bwu": TrafficLine("bwu", ask.inet_up_cost)})
        price = ask.dph_base if order.price is None else order.price
        if order.price is not None and not world.options.unverified.vastai_bid_pays_bid and ask.min_bid is not None:
            price = ask.min_bid
        contract = Contract(
            provider=self.name,
            id=number,
            label=order.label,
            created=world.now,
            meter=meter,
            spec=spec,
            machine=world.maker(spec),
            key=key,
            troubles=troubles,
            ask=ask,
            order=order,
            bid=order.price,
            usd_per_hour=price,
            ssh_keys=keys,
        )
        meter.start("disk", monthly(order.disk_gb, ask.storage_cost), world.now)
        world.add(contract)
        return contract

    def _spec(self, ask: Ask, order: Order, *, number: str, key: str, keys: tuple[str, ...], troubles: list[Armed]) -> BoxSpec:
        names = {trouble.name for trouble in troubles}
        gpu = BY_NAME["NVIDIA GeForce RTX 3090"] if "wrong_gpu" in names and ask.gpu.vastai_name != "RTX 3090" else ask.gpu
        if "wrong_gpu" in names and gpu is ask.gpu:
            gpu = BY_NAME["NVIDIA A10"]
        env = {name: value for name, value in order.env.items() if not name.startswith("-")}
        env |= {
            "CONTAINER_ID": number,
            "VAST_CONTAINERLABEL": f"C.{number}",
            "CONTAINER_API_KEY": key,
            "GPU_COUNT": str(ask.num_gpus),
            "SSH_PUBLIC_KEY": keys[0] if keys else "",
            "PUBLIC_IPADDR": "127.0.0.1",
        }
        is_args = "args" in order.runtype
        start: tuple[str, ...] | None = None
        if is_args:
            start = ((order.onstart,) if order.onstart else ()) + (order.args or ()) or None
        elif order.onstart:
            start = ("/bin/sh", "-c", order.onstart)
        return BoxSpec(
            name=f"vastai-{number}",
            provider=self.name,
            user="root",
            gpu_name=gpu.name,
            gpu_memory_mib=gpu.memory_mib,
            gpu_count=ask.num_gpus,
            disk_gb=int(order.disk_gb),
            env=env,
            authorized_keys=() if is_args else keys,
            start=start,
            start_is_entrypoint=is_args,
            port_variable="VAST_TCP_PORT_22",
            cuda=str(ask.cuda),
            driver=ask.driver,
            clock_skew_seconds=next((int(one.by) for one in troubles if one.name == "box_clock_skew"), 0),
            download_kib_per_second=64 if "slow_download" in names else None,
        )

    # Life cycle

    def _boot(self, contract: Contract) -> None:
        none, created, loading = self.world.options.delays.vastai_steps
        contract.state = "creating"
        contract.cur_state = contract.intended_status = contract.next_state = "running"
        contract.generation += 1
        contract.actual_status = None if contract.running_since is None else "exited"
        slow = sum(one.lasting for one in contract.troubles if one.name == "slow_boot")
        self.world.later(contract, none, lambda: self._show(contract, "created", None))
        self.world.later(contract, none + created, lambda: self._load(contract))
        if not contract.has("never_boot"):
            self.world.later(contract, none + created + loading + slow, lambda: self._run(contract))

    def _load(self, contract: Contract) -> None:
        self._show(contract, "loading", f"{contract.order.image}: pulling")
        if not contract.has("never_boot"):
            contract.machine.boot()

    def _run(self, contract: Contract) -> None:
        self._show(contract, "running", f"success, running {contract.order.image}")
        contract.meter.start("gpu", contract.usd_per_hour, self.world.now)
        self.world.began_to_run(contract)

    def _show(self, contract: Contract, status: str, message: str | None) -> None:
        contract.actual_status, contract.status_msg = status, message

    def _mark_stopped(self, contract: Contract, why: str) -> None:
        contract.meter.stop("gpu", self.world.now)
        self.world.halted(contract, why)
        contract.cur_state = contract.intended_status = contract.next_state = "stopped"
        contract.actual_status = "exited" if contract.running_since is not None else "stopped"

    def stop(self, contract: Contract, why: str = "by its user") -> None:
        """Stop a contract: the GPU goes back to the market, the disk stays and is billed."""
        if contract.state == "stopped":
            contract.intended_status = contract.next_state = "stopped"
            return
        contract.freed_ask = self.market.give_back(contract.ask).id
        self._mark_stopped(contract, why)

    def start(self, contract: Contract) -> bool:
        """Start a stopped contract. Returns False when its GPU is taken: then it waits in line, and will start and bill when it is free."""
        if contract.state != "stopped":
            return True
        contract.intended_status = contract.next_state = "running"
        if self.world.credit(self.name) <= 0:
            contract.intended_status = contract.next_state = "stopped"
            raise Refused(self.world.options.unverified.vastai_credit_status, "insufficient_credit", "insufficient_credit")
        below = contract.bid is not None and contract.ask.min_bid is not None and contract.bid < contract.ask.min_bid
        if contract.freed_ask is None or contract.freed_ask not in self.market.asks or below or contract.host_dead:
            return False
        self.market.take(contract.freed_ask)
        contract.freed_ask = None
        self._boot(contract)
        return True

    def reboot(self, contract: Contract) -> None:
        """Restart the container in its place; the GPU is kept and billed."""
        if contract.state != "running":
            return
        contract.generation += 1
        contract.machine.halt()
        self._show(contract, "rebooting", None)
        contract.machine.boot()
        self.world.later(contract, self.world.options.delays.restart, lambda: self._show(contract, "running", "success, running"))

    def destroy(self, contract: Contract) -> None:
        """Destroy a contract; it vanishes a moment later."""
        if contract.doomed:
            return
        contract.doomed = True
        contract.generation += 1
        contract.next_state = contract.intended_status = "stopped"
        contract.machine.halt()
        contract.meter.stop("gpu", self.world.now)
        freed = contract.state != "stopped"
        self.world.after(self.world.options.delays.vastai_destroy, lambda: self._vanish(contract, freed))

    def _vanish(self, contract: Contract, freed: bool) -> None:
        self.world.end(contract, "destroyed")
        if freed and not contract.host_dead:
            self.market.give_back(contract.ask)

    def change_bid(self, contract: Contract, price: Decimal) -> None:
        """Set another bid. Raises Refused for an on-demand contract or a price out of range."""
        if contract.bid is None:
            raise Refused(400, "invalid_args", "error 400/3490: not an interruptible instance")
        if not Decimal("0.001") <= price <= 32 * contract.ask.num_gpus:
            raise Refused(400, "invalid_price", "error 400/3491: price out of range")
        contract.bid = contract.usd_per_hour = price
        if contract.state == "running":
            contract.meter.start("gpu", price, self.world.now)

    def attach_key(self, contract: Contract, text: str) -> int:
        """Let one more public key in."""
        number = next(self.key_ids)
        contract.ssh_keys.append((number, text))
        authorize = getattr(contract.machine, "authorize", None)
        if authorize is not None:
            authorize(tuple(key for _, key in contract.ssh_keys))
        return number

    # What the world asks of a cloud

    def market_tick(self, share: float) -> None:
        """Move the market, outbid, and serve who waits in line."""
        self.market.move(share, self.world.now)
        for contract in self.contracts():
            ask = contract.ask
            if ask.min_bid is not None and share > 0 and contract.bid is not None and contract.state == "running":
                rise = Decimal(str(round(1 + self.world.rng.uniform(-share / 3, share / 3), 4)))
                ask.min_bid = min(ask.dph_base, ask.min_bid * rise)
                if contract.bid < ask.min_bid:
                    self.preempt(contract)
            elif contract.state == "stopped" and contract.intended_status == "running" and contract.freed_ask in self.market.asks:
                self.start(contract)

    def preempt(self, instance: Instance) -> None:
        """Stop a contract because somebody pays more: the disk stays, and is billed."""
        assert isinstance(instance, Contract)
        self._mark_stopped(instance, "preempted")
        instance.freed_ask = None

    def host_dies(self, instance: Instance) -> None:
        """Show a contract as offline. Nothing is billed meanwhile, not even its disk."""
        assert isinstance(instance, Contract)
        instance.actual_status = "offline"
        instance.status_msg = None
        instance.meter.stop_all(self.world.now)

    def out_of_credit(self) -> None:
        """Stop what runs; the disks go on costing."""
        for contract in self.contracts():
            if contract.state in ("creating", "running"):
                self.stop(contract, "credit used up")

    def price_rise(self, factor: Decimal) -> None:
        """Raise every price, that of running contracts too."""
        self.market.reprice(factor)
        for contract in self.contracts():
            contract.usd_per_hour *= factor
            if contract.state == "running":
                contract.meter.start("gpu", contract.usd_per_hour, self.world.now)

    def duplicate(self, instance: Instance) -> None:
        """Rent once more what was just rented, as a request that arrived twice would."""
        contract = instance
        assert isinstance(contract, Contract)
        twin = next(
            (ask for ask in self.market.asks.values() if ask.gpu is contract.ask.gpu and ask.num_gpus == contract.ask.num_gpus), None
        )
        if twin is not None:
            # A market that gives it to nobody for that bid, or that disk, makes no second one.
            with suppress(Refused):
                self.rent(twin.id, contract.order)

    def spoil(self, instance: Instance) -> None:
        """Turn a contract that was just signed into a stopped one."""
        assert isinstance(instance, Contract)
        self.stop(instance, "create failed")
