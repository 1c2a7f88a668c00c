"""Where the contract suite rents: this computer, and the sandbox's clouds over loopback HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from lumina_cloud.core.clock import SystemClock
from providers import registry
from providers.local import LocalProvider

LUMINA = Path(sys.executable).with_name("lumina")


def local(home):
    """Return this computer as a provider."""
    return LocalProvider(home / "local", Decimal("0.05"), SystemClock())


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that is up, in a home of its own."""

    home: Path
    document: dict[str, object]

    def lumina(self, *args):
        """Run the command line in this home and return what it printed as JSON."""
        done = subprocess.run(
            [LUMINA, *args, "--json"], env=_environment(self.home), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def status(self):
        """Return the sandbox's own record, which is not ours."""
        return self.lumina("sandbox", "status")

    def env(self, **more):
        """Return the variables that lead a client there."""
        said, key = self.document, str(self.document["api_key"])
        return {
            "HOME": str(self.home),
            "VAST_URL": said["vastai_url"],
            "VAST_API_KEY": key,
            "RUNPOD_API_BASE_URL": said["runpod_url"],
            "RUNPOD_API_KEY": key,
            "LAMBDA_BASE_URL": said["lambda_url"],
            "LAMBDA_API_KEY": key,
            **more,
        }

    def connect(self, name, home=None, **more):
        """Return a client of one of its clouds."""
        return registry.connect(
            name, home=home or self.home / "client", local_usd_per_hour=Decimal("0.05"), clock=SystemClock(), env=self.env(**more)
        )


def _environment(home):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
    return {**kept, "LUMINA_HOME": str(home), "HOME": str(home), "NO_COLOR": "1"}


@contextmanager
def sandbox(home, *options):
    """Start a sandbox in a home, and end it with all that runs in it."""
    home.mkdir(parents=True, exist_ok=True)
    world = Sandbox(home, {})
    document = world.lumina("sandbox", "up", *options)
    try:
        yield Sandbox(home, document)
    finally:
        world.lumina("sandbox", "down")
