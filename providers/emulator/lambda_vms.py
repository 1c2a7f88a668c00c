"""Lambda's side of a virtual machine: capacity per region, launch, life cycle and bill."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from providers.emulator.billing import Meter
from providers.emulator.hardware import LAMBDA_REGIONS, LAMBDA_TYPES, LambdaType, memory_mib
from providers.emulator.machines import BoxSpec
from providers.emulator.world import Instance

if TYPE_CHECKING:
    from providers.emulator.clock import Moment
    from providers.emulator.wire import Json
    from providers.emulator.world import World

ANCHOR = ("gpu_1x_a10", "us-east-1")


class NoCapacity(Exception):
    """No machine of that type is free in that region."""


class Inactive(Exception):
    """The account may not launch."""


@dataclass(frozen=True)
class Launch:
    """What a launch asks for."""

    type: LambdaType
    region: str
    key_name: str
    name: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    hostname: str = ""
    user_data: str = field(default="", repr=False)


@dataclass(kw_only=True)
class Vm(Instance):
    """One virtual machine."""

    order: Launch
    status: str = "booting"
    has_address: bool = False
    cents_per_hour: Decimal = Decimal(0)
    jupyter_token: str = ""
    vanished: bool = False


class LambdaVms:
    """Lambda."""

    name = "lambda"

    def __init__(self, world: World) -> None:
        self.world = world
        self.types = {kind.name: kind for kind in LAMBDA_TYPES}
        self.cents = {kind.name: Decimal(kind.cents_per_hour) for kind in LAMBDA_TYPES}
        self.capacity: dict[str, set[str]] = {}
        for kind in LAMBDA_TYPES:
            self.capacity[kind.name] = {region for region in LAMBDA_REGIONS if world.rng.random() < 0.12}
        self.keep_anchor()
        self.events: list[Json] = []
        self.key_ids: dict[str, str] = {}
        world.clouds[self.name] = self

    def keep_anchor(self) -> None:
        """See to it that an A10 can be had."""
        self.capacity[ANCHOR[0]].add(ANCHOR[1])

    def vm(self, vm_id: str) -> Vm | None:
        """Return a machine that is still listed."""
        found = self.world.instances[self.name].get(vm_id)
        return found if isinstance(found, Vm) and not found.vanished else None

    def vms(self) -> list[Vm]:
        """Return all that are still listed."""
        return [one for one in self.world.instances[self.name].values() if isinstance(one, Vm) and not one.vanished]

    # Launching

    def launch(self, order: Launch) -> Vm:
        """Launch a machine. Raises NoCapacity, Inactive."""
        if self.world.credit(self.name) <= 0:
            raise Inactive
        if order.region not in self.capacity[order.type.name]:
            raise NoCapacity
        world = self.world
        vm_id = world.token(32)
        troubles = world.afflict(self.name)
        names = {trouble.name for trouble in troubles}
        shown = order.type.gpu
        if "wrong_gpu" in names:
            shown = "NVIDIA RTX A6000" if shown != "NVIDIA RTX A6000" else "NVIDIA A10"
        spec = BoxSpec(
            name=f"lambda-{vm_id}",
            provider=self.name,
            user="ubuntu",
            gpu_name=shown,
            gpu_memory_mib=memory_mib(shown),
            gpu_count=order.type.count,
            disk_gb=order.type.storage_gib,
            env={},
            authorized_keys=(world.accounts[self.name].ssh_keys[order.key_name],),
            user_data=order.user_data,
            own_address=True,
            clock_skew_seconds=next((int(one.by) for one in troubles if one.name == "box_clock_skew"), 0),
            download_kib_per_second=64 if "slow_download" in names else None,
        )
        vm = Vm(
            provider=self.name,
            id=vm_id,
            label=order.name,
            created=world.now,
            meter=Meter(step_seconds=60),
            spec=spec,
            machine=world.maker(spec),
            key="",
            troubles=troubles,
            order=order,
            cents_per_hour=self.cents[order.type.name],
            jupyter_token=world.token(32),
        )
        if world.options.unverified.lambda_billing_starts_at == "launch":
            self._bill(vm)
        world.add(vm)
        self.event(vm, "launched")
        self._boot(vm)
        return vm

    def _bill(self, vm: Vm) -> None:
        vm.meter.start("instance", vm.cents_per_hour / 100, self.world.now)

    def _boot(self, vm: Vm) -> None:
        delays = self.world.options.delays
        slow = sum(one.lasting for one in vm.troubles if one.name == "slow_boot")
        if vm.has("never_boot"):
            return
        self.world.later(vm, delays.lambda_address, lambda: self._address(vm))
        self.world.later(vm, delays.lambda_boot + slow, lambda: self._active(vm))

    def _address(self, vm: Vm) -> None:
        vm.has_address = True
        vm.machine.boot()

    def _active(self, vm: Vm) -> None:
        vm.status = "active"
        if not vm.meter.times:
            self._bill(vm)
        self.world.began_to_run(vm)

    # Life cycle

    def restart(self, vm: Vm) -> None:
        """Restart a machine; it is billed all the while."""
        vm.generation += 1
        vm.machine.halt()
        vm.status = "booting"
        vm.machine.boot()

        def up() -> None:
            vm.status = "active"

        self.world.later(vm, self.world.options.delays.restart, up)

    def terminate(self, vm: Vm, why: str = "by its user") -> None:
        """Begin to terminate a machine. Its bill ends now, its entry in the list some time later."""
        if vm.status in ("terminating", "terminated", "preempted"):
            return
        delays = self.world.options.delays
        vm.status = "terminating"
        vm.generation += 1
        vm.machine.halt()
        vm.meter.stop_all(self.world.now)
        self.event(vm, "terminated")
        self.world.after(delays.lambda_terminate, lambda: self._terminated(vm, "terminated", why))

    def _terminated(self, vm: Vm, status: str, why: str) -> None:
        unverified = self.world.options.unverified
        listed = self.world.options.delays.lambda_listed if unverified.lambda_listed_seconds is None else unverified.lambda_listed_seconds
        vm.status = status
        self.world.end(vm, why)

        def vanish() -> None:
            vm.vanished = True

        self.world.after(listed, vanish)

    def powered_off(self, vm: Vm) -> None:
        """Do what happens when the guest shuts itself down: it is not reached any more, and is billed on."""
        vm.status = "unhealthy"
        vm.machine.halt()
        self.world.record(vm, "powered off")
        if not self.world.options.unverified.lambda_shutdown_bills:
            vm.meter.stop_all(self.world.now)

    def event(self, vm: Vm, action: str) -> None:
        """Write a line of the account's audit log."""
        self.events.append({"at": self.world.now, "action": action, "id": vm.id, "number": len(self.events)})

    # What the world asks of a cloud

    def market_tick(self, share: float) -> None:
        """Move the capacity."""
        for regions in self.capacity.values():
            for region in LAMBDA_REGIONS:
                if self.world.rng.random() < share:
                    regions.symmetric_difference_update({region})
        self.keep_anchor()

    def preempt(self, instance: Instance) -> None:
        """Take a machine away: nothing of it is left."""
        assert isinstance(instance, Vm)
        instance.generation += 1
        instance.machine.halt()
        instance.meter.stop_all(self.world.now)
        self.event(instance, "terminated")
        self._terminated(instance, "preempted", "preempted")

    def host_dies(self, instance: Instance) -> None:
        """Show a machine as unhealthy; it is billed until it is terminated."""
        assert isinstance(instance, Vm)
        instance.status = "unhealthy"

    def out_of_credit(self) -> None:
        """Terminate what runs: an unpaid invoice may end instances."""
        for vm in self.vms():
            self.terminate(vm, "unpaid")

    def price_rise(self, factor: Decimal) -> None:
        """Raise every price, that of running machines too."""
        self.cents = {name: _whole(cents * factor) for name, cents in self.cents.items()}
        for vm in self.vms():
            vm.cents_per_hour = _whole(vm.cents_per_hour * factor)
            if vm.meter.rate("instance"):
                self._bill(vm)

    def duplicate(self, instance: Instance) -> None:
        """Launch what was just launched once more."""
        assert isinstance(instance, Vm)
        self.launch(instance.order)

    def spoil(self, instance: Instance) -> None:
        """Leave a machine that was just launched unhealthy: Lambda knows no stopped ones, it is billed until it is terminated."""
        assert isinstance(instance, Vm)
        instance.generation += 1
        instance.status = "unhealthy"
        self.world.record(instance, "unhealthy")


def _whole(cents: Decimal) -> Decimal:
    """Return whole cents, as Lambda's API tells prices."""
    return cents.to_integral_value(ROUND_CEILING)


def moment_of(event: Json) -> Moment:
    """Return when an event of the audit log was."""
    return int(event["at"])
