"""The whole emulator without sockets: a world, three clouds, their dialects and the gateway before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from providers.emulator.gateway import Gateway
from providers.emulator.lambda_api import LambdaApi
from providers.emulator.lambda_vms import LambdaVms
from providers.emulator.machines import StubMaker
from providers.emulator.runpod_cloud import RunpodCloud
from providers.emulator.runpod_rest import RunpodApi
from providers.emulator.switches import Options
from providers.emulator.vastai_api import VastaiApi
from providers.emulator.vastai_cloud import VastaiCloud
from providers.emulator.world import World

if TYPE_CHECKING:
    from providers.emulator.clock import Clock
    from providers.emulator.faults import Armed
    from providers.emulator.machines import MachineMaker
    from providers.emulator.wire import Json, Reply, Request


class Emulator:
    """Three clouds in one process."""

    def __init__(self, clock: Clock, options: Options | None = None, maker: MachineMaker | None = None, api_key: str = "") -> None:
        self.world = World(options or Options(), clock, maker or StubMaker(), api_key)
        self.vastai = VastaiCloud(self.world)
        self.runpod = RunpodCloud(self.world)
        self.lambda_ = LambdaVms(self.world)
        self.gateway = Gateway(self.world, [VastaiApi(self.vastai), RunpodApi(self.runpod), LambdaApi(self.lambda_)])

    def handle(self, provider: str, request: Request) -> Reply:
        """Answer one API request."""
        return self.gateway.handle(provider, request)

    def status(self) -> Json:
        """Return every instance that ever was, and the invoice."""
        with self.gateway.lock:
            self.world.advance()
            return self.world.status()

    def arm(self, faults: list[Armed], *, now: bool = False) -> None:
        """Arm faults. Those that strike at once do so; with `now`, an instance fault strikes what runs already."""
        with self.gateway.lock:
            self.world.advance()
            for armed in faults:
                if armed.fault.kind == "at once":
                    self.world.start_fault(armed)
                elif now and armed.fault.kind == "instance":
                    self.world.strike_running(armed)
                else:
                    self.world.faults.arm([armed])
            self.world.advance()
