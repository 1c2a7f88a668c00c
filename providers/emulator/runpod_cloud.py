"""RunPod's side of a pod: stock, deployment, life cycle and bill."""

from __future__ import annotations

import string
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from providers.emulator.billing import Meter, monthly
from providers.emulator.clock import SECOND, Moment, utc
from providers.emulator.hardware import BY_NAME, GPUS, RUNPOD_DATA_CENTERS, Gpu
from providers.emulator.machines import BoxSpec
from providers.emulator.world import Instance

if TYPE_CHECKING:
    from collections.abc import Callable

    from providers.emulator.faults import Armed
    from providers.emulator.world import World

Tier = Literal["SECURE", "COMMUNITY"]
NO_CAPACITY = "There are no longer any instances available with the requested specifications. Please refresh and try again."
DISK_USD_PER_GB_MONTH = Decimal("0.10")
STOPPED_VOLUME_USD_PER_GB_MONTH = Decimal("0.20")
MAX_COUNT = {"SECURE": 8, "COMMUNITY": 4}
ALPHABET = string.ascii_lowercase + string.digits


class NoCapacity(Exception):
    """Nothing of that kind is free; RunPod says so in words only."""

    def __init__(self) -> None:
        super().__init__(NO_CAPACITY)


class NoBalance(Exception):
    """The credit does not last for an hour of that pod."""


class NotAllowed(Exception):
    """The pod's status does not allow that."""


@dataclass(frozen=True)
class Deployment:
    """What a create asks for, in whatever dialect."""

    name: str
    image: str
    gpu_id: str
    count: int = 1
    tiers: tuple[Tier, ...] = ("SECURE",)
    data_centers: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    disk_gb: int = 50
    volume_gb: int = 0
    mount_path: str = "/workspace"
    ports: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    command: tuple[str, ...] = ()
    args_text: str = ""
    start_ssh: bool = False
    spot: bool = False
    bid_per_gpu: Decimal | None = None
    min_cuda: str | None = None
    allowed_cuda: tuple[str, ...] = ()
    stop_after: Moment | None = None
    terminate_after: Moment | None = None


@dataclass(kw_only=True)
class Pod(Instance):
    """One pod."""

    order: Deployment
    gpu: Gpu
    tier: Tier
    data_center: str
    usd_per_hour: Decimal
    machine_id: str
    host_suffix: str
    phase: str = "PROVISIONING"
    runtime_since: Moment | None = None
    started_at: Moment | None = None
    last_status_change: str = ""
    locked: bool = False
    cuda: str = "12.8"


class RunpodCloud:
    """RunPod."""

    name = "runpod"

    def __init__(self, world: World) -> None:
        self.world = world
        self.prices: dict[tuple[str, Tier], Decimal] = {}
        self.stock: dict[tuple[str, Tier, str], int] = {}
        for gpu in (one for one in GPUS if one.runpod_display):
            for tier, price in (("SECURE", gpu.runpod_secure_usd), ("COMMUNITY", gpu.runpod_community_usd)):
                if price:
                    self._stock(gpu, tier, price)  # type: ignore[arg-type]
        self.keep_anchors()
        world.clouds[self.name] = self

    def _stock(self, gpu: Gpu, tier: Tier, price: Decimal) -> None:
        self.prices[gpu.name, tier] = price
        for data_center in RUNPOD_DATA_CENTERS:
            self.stock[gpu.name, tier, data_center] = self.world.rng.choice((0, 2, 8, 16, 24))

    def keep_anchors(self) -> None:
        """See to it that an RTX 4090 can be had."""
        anchor = ("NVIDIA GeForce RTX 4090", "SECURE", "US-KS-2")
        self.stock[anchor] = max(8, self.stock[anchor])  # type: ignore[index]
        community = ("NVIDIA GeForce RTX 4090", "COMMUNITY", "US-TX-3")
        self.stock[community] = max(4, self.stock[community])  # type: ignore[index]

    def pod(self, pod_id: str) -> Pod | None:
        """Return a pod that is still there."""
        found = self.world.instances[self.name].get(pod_id)
        return found if isinstance(found, Pod) and found.live else None

    def pods(self) -> list[Pod]:
        """Return all that are still there."""
        return [one for one in self.world.live(self.name) if isinstance(one, Pod)]

    def free(self, gpu: str, tier: Tier, data_center: str) -> int:
        """Return how many GPUs of a kind are free."""
        return self.stock.get((gpu, tier, data_center), 0)

    def spot_price(self, gpu: str, tier: Tier) -> Decimal | None:
        """Return the least bid per GPU and hour."""
        price = self.prices.get((gpu, tier))
        return None if price is None or not self.world.options.unverified.runpod_spot_sold else (price / 2).quantize(Decimal("0.01"))

    # Deploying

    def deploy(self, order: Deployment) -> Pod:
        """Create a pod. Raises NoCapacity, NoBalance."""
        place = self._place(order)
        if place is None:
            raise NoCapacity
        tier, data_center = place
        gpu = BY_NAME[order.gpu_id]
        per_gpu = self.prices[gpu.name, tier]
        if order.spot:
            per_gpu = order.bid_per_gpu or self.spot_price(gpu.name, tier) or per_gpu
        usd_per_hour = per_gpu * order.count
        if self.world.credit(self.name) < usd_per_hour:
            raise NoBalance
        pod = self._make(order, gpu, tier, data_center, usd_per_hour)
        self.stock[gpu.name, tier, data_center] -= order.count
        self.keep_anchors()
        self.world.add(pod)
        self._allocate(pod)
        for at, act in ((order.stop_after, self.stop), (order.terminate_after, self.terminate)):
            if at is not None:
                lag = self.world.options.unverified.runpod_terminate_after_lag_seconds
                self._at(pod, at + round(lag * SECOND), act)
        return pod

    def _at(self, pod: Pod, moment: Moment, act: Callable[[Pod, str], None]) -> None:
        def strike() -> None:
            with suppress(NotAllowed):
                if pod.live:
                    act(pod, "by its own deadline")

        self.world.after(max(0, moment - self.world.now) / SECOND, strike)

    def _place(self, order: Deployment) -> tuple[Tier, str] | None:
        if order.gpu_id not in BY_NAME or not BY_NAME[order.gpu_id].runpod_display:
            return None
        cuda = "12.8"
        if (order.min_cuda and _version(order.min_cuda) > _version(cuda)) or (order.allowed_cuda and cuda not in order.allowed_cuda):
            return None
        for tier in order.tiers:
            if order.count > MAX_COUNT[tier] or not self._bid_wins(order, tier):
                continue
            for data_center, (_, _, country) in RUNPOD_DATA_CENTERS.items():
                fits = not order.data_centers or data_center in order.data_centers
                fits = fits and (not order.countries or country in order.countries)
                if fits and self.free(order.gpu_id, tier, data_center) >= order.count:
                    return tier, data_center
        return None

    def _bid_wins(self, order: Deployment, tier: Tier) -> bool:
        if not order.spot:
            return True
        least = self.spot_price(order.gpu_id, tier)
        return least is not None and (order.bid_per_gpu is None or order.bid_per_gpu >= least)

    def _make(self, order: Deployment, gpu: Gpu, tier: Tier, data_center: str, usd_per_hour: Decimal) -> Pod:
        world = self.world
        pod_id = world.token(14, ALPHABET)
        troubles = world.afflict(self.name)
        key = "rpa_" + world.token(40, string.ascii_uppercase + string.digits)
        suffix = world.token(8)
        spec = self._spec(order, gpu, pod_id=pod_id, suffix=suffix, data_center=data_center, key=key, troubles=troubles)
        return Pod(
            provider=self.name,
            id=pod_id,
            label=order.name,
            created=world.now,
            meter=Meter(step_seconds=1),
            spec=spec,
            machine=world.maker(spec),
            key=key,
            troubles=troubles,
            order=order,
            gpu=gpu,
            tier=tier,
            data_center=data_center,
            usd_per_hour=usd_per_hour,
            machine_id=world.token(12, ALPHABET),
            host_suffix=suffix,
        )

    def _spec(self, order: Deployment, gpu: Gpu, *, pod_id: str, suffix: str, data_center: str, key: str, troubles: list[Armed]) -> BoxSpec:
        names = {trouble.name for trouble in troubles}
        other = "NVIDIA GeForce RTX 3090" if gpu.name != "NVIDIA GeForce RTX 3090" else "NVIDIA A10"
        shown = BY_NAME[other] if "wrong_gpu" in names else gpu
        env = dict(order.env)
        account_keys = self.world.accounts[self.name].ssh_keys
        if order.start_ssh and account_keys and "PUBLIC_KEY" not in env:
            env["PUBLIC_KEY"] = "\n".join(account_keys.values())
        env |= {
            "RUNPOD_POD_ID": pod_id,
            "RUNPOD_API_KEY": key,
            "RUNPOD_DC_ID": data_center,
            "RUNPOD_POD_HOSTNAME": f"{pod_id}-{suffix}",
            "RUNPOD_GPU_COUNT": str(order.count),
            "RUNPOD_CPU_COUNT": str(8 * order.count),
            "RUNPOD_PUBLIC_IP": "127.0.0.1",
        }
        keys = f"{env.get('PUBLIC_KEY', '')}\n{env.get('SSH_PUBLIC_KEY', '')}".splitlines()
        return BoxSpec(
            name=f"runpod-{pod_id}",
            provider=self.name,
            user="root",
            gpu_name=shown.name,
            gpu_memory_mib=shown.memory_mib,
            gpu_count=order.count,
            disk_gb=order.disk_gb + order.volume_gb,
            env=env,
            authorized_keys=tuple(line.strip() for line in keys if line.strip()) if "22/tcp" in order.ports else (),
            start=order.command or None,
            start_is_entrypoint=True,
            port_variable="RUNPOD_TCP_PORT_22",
            login_sees_env=order.image.startswith("runpod/"),
            clock_skew_seconds=next((int(one.by) for one in troubles if one.name == "box_clock_skew"), 0),
            download_kib_per_second=64 if "slow_download" in names else None,
        )

    # Life cycle

    def _allocate(self, pod: Pod) -> None:
        provisioning, starting, pulling = self.world.options.delays.runpod_steps
        pod.generation += 1
        pod.state, pod.phase, pod.runtime_since = "creating", "PROVISIONING", None
        pod.started_at = self.world.now
        self._note(pod, "Rented by User")
        if self.world.options.unverified.runpod_billing_starts_at == "create":
            self._bill_running(pod)
        slow = sum(one.lasting for one in pod.troubles if one.name == "slow_boot")
        never = pod.has("never_boot")
        self.world.later(pod, provisioning, lambda: self._phase(pod, "STARTING"))
        self.world.later(pod, provisioning + starting, lambda: self._desired_running(pod))
        if not never:
            self.world.later(pod, provisioning + starting + pulling + slow, lambda: self._run(pod))

    def _bill_running(self, pod: Pod) -> None:
        now = self.world.now
        pod.meter.start("gpu", pod.usd_per_hour, now)
        pod.meter.start("disk", monthly(Decimal(pod.order.disk_gb), DISK_USD_PER_GB_MONTH), now)
        if pod.order.volume_gb:
            pod.meter.start("volume", monthly(Decimal(pod.order.volume_gb), DISK_USD_PER_GB_MONTH), now)

    def _phase(self, pod: Pod, phase: str) -> None:
        pod.phase = phase

    def _desired_running(self, pod: Pod) -> None:
        """Show RUNNING while the image is still being pulled: it is what is wanted, not what is."""
        pod.phase = "RUNNING"
        if not pod.has("never_boot"):
            pod.machine.boot()

    def _run(self, pod: Pod) -> None:
        pod.runtime_since = self.world.now
        if self.world.options.unverified.runpod_billing_starts_at == "running":
            self._bill_running(pod)
        self.world.began_to_run(pod)

    def _note(self, pod: Pod, text: str) -> None:
        pod.last_status_change = f"{text}: {utc(self.world.now):%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"

    def _exit(self, pod: Pod, who: str, why: str) -> None:
        now = self.world.now
        self.world.halted(pod, why)
        pod.phase, pod.runtime_since = "EXITED", None
        self._note(pod, f"Exited by {who}")
        pod.meter.stop("gpu", now)
        pod.meter.stop("disk", now)
        if pod.order.volume_gb:
            pod.meter.start("volume", monthly(Decimal(pod.order.volume_gb), STOPPED_VOLUME_USD_PER_GB_MONTH), now)
        if not pod.host_dead:
            self.stock[pod.gpu.name, pod.tier, pod.data_center] += pod.order.count

    def stop(self, pod: Pod, why: str = "by its user") -> None:
        """Stop a pod: its GPU goes back, its volume stays and costs twice as much. Raises NotAllowed."""
        if pod.locked or pod.phase not in ("RUNNING", "PROVISIONING", "STARTING"):
            raise NotAllowed(f"pod is {pod.phase}{' and locked' if pod.locked else ''}")
        self._exit(pod, "user" if why == "by its user" else "Runpod", why)

    def start(self, pod: Pod) -> None:
        """Start a stopped pod. Raises NotAllowed, NoCapacity."""
        if pod.phase not in ("EXITED", "ERROR"):
            raise NotAllowed(f"pod is {pod.phase}")
        if self.free(pod.gpu.name, pod.tier, pod.data_center) < pod.order.count or pod.host_dead:
            raise NoCapacity
        self.stock[pod.gpu.name, pod.tier, pod.data_center] -= pod.order.count
        self._allocate(pod)

    def restart(self, pod: Pod) -> None:
        """Restart the container. Raises NotAllowed."""
        if pod.phase != "RUNNING":
            raise NotAllowed(f"pod is {pod.phase}")
        pod.machine.halt()
        pod.runtime_since = None
        pod.machine.boot()

        def up() -> None:
            pod.runtime_since = self.world.now

        self.world.later(pod, self.world.options.delays.restart, up)

    def terminate(self, pod: Pod, why: str = "by its user") -> None:
        """End a pod; it is gone at once."""
        if pod.phase != "EXITED" and not pod.host_dead:
            self.stock[pod.gpu.name, pod.tier, pod.data_center] += pod.order.count
        pod.phase = "TERMINATED"
        self.world.end(pod, why)

    # What the world asks of a cloud

    def market_tick(self, share: float) -> None:
        """Move the stock."""
        for place in self.stock:
            if self.world.rng.random() < share:
                self.stock[place] = self.world.rng.choice((0, 0, 2, 8, 16))
        self.keep_anchors()

    def preempt(self, instance: Instance) -> None:
        """Take a pod away: it exits, its volume stays."""
        assert isinstance(instance, Pod)
        self._exit(instance, "Runpod", "preempted")

    def host_dies(self, instance: Instance) -> None:
        """Leave a pod in RUNNING, without a runtime."""
        assert isinstance(instance, Pod)
        instance.runtime_since = None
        if not self.world.options.unverified.runpod_host_loss_bills:
            instance.meter.stop_all(self.world.now)

    def out_of_credit(self) -> None:
        """Stop all pods. Those without a network volume are terminated, and no pod here has one."""
        for pod in self.pods():
            self.terminate(pod, "credit used up")

    def price_rise(self, factor: Decimal) -> None:
        """Raise every price, that of running pods too."""
        self.prices = {place: price * factor for place, price in self.prices.items()}
        for pod in self.pods():
            pod.usd_per_hour *= factor
            if pod.meter.rate("gpu"):
                pod.meter.start("gpu", pod.usd_per_hour, self.world.now)

    def duplicate(self, instance: Instance) -> None:
        """Create what was just created once more."""
        assert isinstance(instance, Pod)
        self.deploy(instance.order)

    def spoil(self, instance: Instance) -> None:
        """Leave a pod that was just created exited."""
        assert isinstance(instance, Pod)
        self._exit(instance, "Runpod", "create failed")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
