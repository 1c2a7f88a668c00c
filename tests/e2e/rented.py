"""Renting in the sandbox by the real command: a sandbox of a test's own, and the judge, who asks the emulator."""

import json
import subprocess
import time
from decimal import Decimal
from pathlib import Path

from tests.e2e.conftest import LUMINA, TINY

STAND_IN = Path(__file__).with_name("stand_in")
GPUS = {"vastai": "4090", "runpod": "4090", "lambda": "a10"}
REASONS = {
    "create_failed", "no_capacity", "no_balance", "price_rose", "boot_timeout", "bootstrap_failed", "machine_unfit", "machine_lost",
    "machine_unreachable", "interrupted", "host_key_changed", "disk_full", "trainer_stalled", "trainer_crashed", "lease_ran_out",
}  # fmt: skip


class Sandbox:
    """`lumina` with a sandbox of its own, and a stand-in for the trainer."""

    def __init__(self, cli, boot_minutes=0.35):
        self.cli = cli
        cli.home.mkdir(parents=True, exist_ok=True)
        (cli.home / "config.toml").write_text(f"[renting]\nboot_minutes = {boot_minutes}\n")

    def __call__(self, *args, trainer=STAND_IN, **more):
        extra = {"LUMINA_TRAINER": str(trainer)} if trainer else {}
        return self.cli(*args, LUMINA_SANDBOX="1", **extra, **more)

    def up(self, *options):
        done = self.cli("sandbox", "up", "--json", *options)
        assert done.returncode == 0, done.stderr

    def down(self):
        self.cli("sandbox", "down")

    def launch(self, provider, *more, tokens="40960", **extra):
        return self(*self.words(provider, *more, tokens=tokens), **extra)

    def words(self, provider, *more, tokens="40960", follow=("--follow",)):
        unguarded = ("--accept-unguarded",) if provider == "lambda" else ()
        work = ("launch", "debug", "--arch", "dense", "--tokens", tokens, "--global-batch", "1024", *TINY)
        return (*work, "--provider", provider, "--gpu", GPUS[provider], "--max-cost", "2", *unguarded, *follow, "--yes", "--json", *more)

    def start(self, *args, trainer=STAND_IN, **extra):
        env = {"LUMINA_TRAINER": str(trainer)} if trainer else {}
        return self.cli.start(*args, LUMINA_SANDBOX="1", **env, **extra)

    def controller(self):
        """Start a controller whose words go to a file: nobody reads a pipe while it works."""
        environment = self.cli.environment(LUMINA_SANDBOX="1", LUMINA_TRAINER=str(STAND_IN))
        with (self.cli.home / "controller.log").open("ab") as log:
            return subprocess.Popen([LUMINA, "controller"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def status(self):
        return json.loads(self.cli("sandbox", "status", "--json").stdout)

    def fault(self, name, *options):
        done = self.cli("sandbox", "faults", name, *options)
        assert done.returncode == 0, done.stderr + done.stdout

    def outcome(self, done):
        return json.loads(done.stdout.splitlines()[-1])

    def runs(self):
        return json.loads(self("status", "--json").stdout)["runs"]

    def training(self):
        """How many runs train now."""
        return sum(run["state"] == "training" for run in self.runs())

    def spent(self):
        return Decimal(json.loads(self("costs", "--json").stdout)["total_usd"])

    def live(self):
        return [i for i in self.status()["instances"] if i["state"] != "ended"]

    def wait_all_ended(self, seconds):
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if not self.live():
                return True
            time.sleep(0.5)
        return False

    def judge(self):
        """Nothing is left running, and the ledger is the invoice to the cent."""
        assert self.live() == []
        assert abs(self.spent() - Decimal(self.status()["invoice_usd"])) < Decimal("0.01")
