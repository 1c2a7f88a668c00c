"""Where the contract suite rents: this computer, and the sandbox's clouds over loopback HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx

from lumina_cloud.core.clock import SystemClock
from providers import registry
from providers.emulator import sandbox as control
from providers.local import LocalProvider
from providers.transport import SECONDS, DeadlineTransport

LUMINA = Path(sys.executable).with_name("lumina")


def local(home):
    """Return this computer as a provider."""
    return LocalProvider(home / "local", Decimal("0.05"), SystemClock())


class ScaledClock:
    """A clock that runs some times as fast as ours: limits and time-outs pass sooner, in the sandbox and in its clients alike."""

    def __init__(self, scale):
        self._scale, self._began, self._at = scale, time.monotonic(), datetime.now(UTC)

    def now(self):
        return self._at + timedelta(seconds=self.monotonic())

    def monotonic(self):
        return (time.monotonic() - self._began) * self._scale

    def sleep(self, seconds):
        time.sleep(max(0.0, seconds) / self._scale)


class Hurried(httpx.BaseTransport):
    """The real transport, whose deadlines are seconds of a scaled clock."""

    def __init__(self, scale):
        self._scale, self._inner = scale, DeadlineTransport()
        self.sent = []

    def handle_request(self, request):
        request.extensions[SECONDS] /= self._scale
        self.sent.append((request.method, request.url.path))
        return self._inner.handle_request(request)


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that is up, in a home of its own, whose time runs `scale` times as fast as ours."""

    home: Path
    document: dict[str, object]
    scale: float
    clock: object

    def lumina(self, *args):
        """Run the command line in this home and return what it printed as JSON."""
        done = subprocess.run(
            [LUMINA, *args, "--json"], env=_environment(self.home), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def instances(self, tag=None):
        """Return the sandbox's own record of instances, which is not ours."""
        found = control.ask(self.home, "GET", "/status")["instances"]
        return [one for one in found if tag in (None, one["tag"])]

    def arm(self, name, **more):
        """Let a fault strike, as often as it can."""
        control.ask(self.home, "POST", "/faults", {"faults": [{"name": name, "times": -1, **more}]})

    def disarm(self):
        """Let no fault strike any more."""
        control.ask(self.home, "DELETE", "/faults")

    def env(self, **more):
        """Return the variables that lead a client there."""
        return {"HOME": str(self.home), **control.environment(self.home), **more}

    def connect(self, name, home=None, **more):
        """Return a client of one of its clouds."""
        return registry.connect(
            name,
            home=home or self.home / "client",
            local_usd_per_hour=Decimal("0.05"),
            clock=self.clock,
            env=self.env(**more),
            transport=Hurried(self.scale),
        )


def _environment(home):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
    return {**kept, "LUMINA_HOME": str(home), "HOME": str(home), "NO_COLOR": "1"}


@contextmanager
def sandbox(home, scale):
    """Start a sandbox in a home, and end it with all that runs in it."""
    home.mkdir(parents=True, exist_ok=True)
    clock = ScaledClock(scale)
    world = Sandbox(home, {}, scale, clock)
    document = world.lumina("sandbox", "up", "--time-scale", str(scale))
    try:
        yield Sandbox(home, document, scale, clock)
    finally:
        world.lumina("sandbox", "down")
