"""Rentals whose controllers are killed and never come back: `python -m tests.e2e.guards --count 20` prints what became of them.

Half of them at vastai, half at runpod, each with a lease of 45 seconds and a stand-in for the trainer that would work on for hours. One
`lumina controller` drives them all; once all work, every process of ours on this side is killed. The judge is the emulator: how long each
machine then lived, what is left, and whether its invoice is the ledger's sum.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import psutil

from tests.e2e.conftest import Cli
from tests.e2e.rented import Sandbox

LEASE, GRACE, SLACK = 45.0, 60.0, 30.0
"""Seconds: the lease, what a trainer gets to save, and what a busy machine is allowed beside."""


def main() -> None:
    """Do it and print one line of JSON; leave with 1 where a rental outlived its guard."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.guards", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="rentals")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(Cli(Path(folder, "home")), boot_minutes=3)
        sandbox.up()
        try:
            found = abandoned(sandbox, options.count)
        finally:
            sandbox.down()
    sys.stdout.write(json.dumps(found) + "\n")
    raise SystemExit(0 if found["left_running"] == 0 and found["ledger_minus_invoice_usd"] == "0" else 1)


def abandoned(sandbox: Sandbox, count: int, lease: float = LEASE) -> dict[str, object]:
    """Rent, kill every controller, wait for the guards, and return what the emulator says."""
    controller = sandbox.controller()
    for number in range(count):
        provider = ("vastai", "runpod")[number % 2]
        done = sandbox(*sandbox.words(provider, "--lease", f"{lease:.0f}s", tokens="40960000", follow=("--detach",)))
        assert done.returncode == 0, done.stderr
    give_up = time.monotonic() + 60 + 15 * count
    while time.monotonic() < give_up and sandbox.training() < count:
        time.sleep(1)
    working = sandbox.training()
    killed, at = _kill_controllers(sandbox), time.monotonic()
    controller.wait()
    lives, left = [], len(sandbox.live())
    while left and time.monotonic() - at < lease + GRACE + SLACK + 2 * count:
        now_left = len(sandbox.live())
        lives += [time.monotonic() - at] * (left - now_left)
        left = now_left
        time.sleep(0.5)
    # The next command settles what was left alone.
    settled = sandbox("status", "--json", timeout=60 + 10 * count)
    assert settled.returncode == 0, settled.stderr
    invoice = Decimal(sandbox.status()["invoice_usd"])
    return {
        "rentals": len(sandbox.status()["instances"]),
        "working_when_killed": working,
        "controllers_killed": killed,
        "left_running": left,
        "longest_seconds": round(max(lives, default=0.0), 1),
        "ledger_minus_invoice_usd": str((sandbox.spent() - invoice).quantize(Decimal("0.01")).normalize() + 0),
    }


def _kill_controllers(sandbox: Sandbox) -> int:
    """Kill each `lumina` of this home on this side, and nothing on the boxes or of the sandbox's server."""
    killed = 0
    for process in psutil.process_iter(["cmdline", "environ", "pid"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        ours = environment.get("LUMINA_HOME") == str(sandbox.cli.home) and process.info["pid"] != os.getpid()
        if ours and "emulator" not in " ".join(words):
            process.kill()
            killed += 1
    return killed


if __name__ == "__main__":
    main()
