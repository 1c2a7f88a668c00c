"""The real trainer, interrupted: `python -m tests.chaos.real`.

DeepSpeed trains on this computer's CPU in the sandbox's machines, and each run is interrupted once it has a checkpoint: its machine is
taken away with or without a warning, its host dies, its controller gets SIGKILL, or the user stops it and takes it up again. What is lost
is measured on the machines themselves: from when the step that the next machine went on from was made, to the last step before the end.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from tests.chaos import stage

TRIALS = (
    ("vastai", "preempted"),
    ("runpod", "host_death"),
    ("lambda", "controller_killed"),
    ("vastai", "preempted_with_warning"),
    ("runpod", "stopped_and_resumed"),
)
CHECKPOINT_MINUTES = 0.5
SECONDS = 900
CAP = Decimal(3)


@dataclass
class Watched:
    """What the machines of a home say of their work: when each was at which step. Read from their disks, which are here."""

    boxes: Path
    seen: dict = field(default_factory=dict)

    def look(self, names):
        """Note the step of each machine whose id is among `names`."""
        for heartbeat in self.boxes.glob("*/home/lumina/out/heartbeat.json"):
            box = heartbeat.relative_to(self.boxes).parts[0]
            if not any(name in box for name in names):
                continue
            try:
                said = json.loads(heartbeat.read_text())
            except (OSError, ValueError):
                continue
            if said.get("phase") == "training":
                steps = self.seen.setdefault(box, [])
                if not steps or steps[-1][1] != said["step"]:
                    steps.append((time.time(), said["step"]))

    def lost(self):
        """Return (steps, seconds) that were done on each machine but the last, and done again on the next."""
        series = [s for s in self.seen.values() if s]
        found = []
        for one, following in pairwise(series):
            began_from = following[0][1]
            done_at = next((at for at, step in one if step >= began_from), one[-1][0])
            found.append((max(0, one[-1][1] - began_from), max(0.0, one[-1][0] - done_at)))
        return found


def main():
    options = _options()
    began = time.monotonic()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="lumina-real-") as folder:
        stage.preload()
        theatre = stage.Stage(Path(folder) / "real")
        theatre.up()
        try:
            runs = []
            for number in range(options.launches):
                runs.append(Interrupted(theatre, number, options.steps, chance.uniform(0.0, 20.0)))
                runs[-1].play()
                sys.stderr.write(f"{runs[-1].said()}\n")
        finally:
            theatre.down()
    line = summary(runs, options) | {"seconds": round(time.monotonic() - began)}
    sys.stdout.write(json.dumps(line) + "\n")
    raise SystemExit(0 if line["findings"] == 0 else 1)


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.real", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500, help="of each run: some minutes' worth on this computer")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Interrupted:
    """One run that is interrupted `after` seconds of training past its first checkpoint at home."""

    def __init__(self, theatre, number, steps, after):
        self.home = theatre.home_of(f"home-{number}")
        self.theatre, self.steps, self.after = theatre, steps, after
        self.provider, self.kind = TRIALS[number % len(TRIALS)]
        self.watched = Watched(theatre.home / "sandbox" / "emulator" / "boxes")
        self.findings, self.kills, self.struck = [], 0, False

    def play(self):
        """Launch, interrupt, wait for the end, and ask the judge."""
        more = ("--max-cost", str(CAP), "--set", f"checkpoint_minutes={CHECKPOINT_MINUTES}")
        words = self.home.words(self.provider, *more, tokens=1024 * self.steps)
        driver = self.home.start(*words, LUMINA_TRAINER="")
        give_up = time.monotonic() + SECONDS
        home_at, asked_at = None, 0.0
        while time.monotonic() < give_up and not _is_over(driver):
            self.watched.look([i["id"] for i in self.home.mine()])
            if home_at is None and time.monotonic() - asked_at > 2:
                asked_at = time.monotonic()
                home_at = asked_at if self._checkpoint_is_home() else None
            if home_at is not None and not self.struck and time.monotonic() - home_at >= self.after:
                self.struck = True
                driver = self._strike(driver)
            time.sleep(0.2)
        done = self.home.wait(driver, 60)
        if done.code != 0:
            self.findings.append(f"it ended with {done.code}: {done.err[-800:]}")
        if not self.struck:
            self.findings.append("it was over before it could be interrupted")
        self.home("status", "--json")
        self.home.wait_none_lives(30)
        self.verdict = self.home.verdict(caps=CAP)
        self.findings += [f"{f.invariant} {f.about}: {f.text}" for f in self.verdict.findings]
        with self.home.ledger() as ledger:
            self.ended = [(r.state, r.reason) for r in ledger.runs()]
        if self.ended != [("succeeded", "finished")]:
            self.findings.append(f"it ended as {self.ended}")

    def said(self):
        """Say in a line what became of it."""
        return f"{self.provider} {self.kind}: {self.ended}, (steps, seconds) lost {self.watched.lost()}, {self.findings}"

    def _strike(self, driver):
        if self.kind == "controller_killed":
            os.kill(driver[0], signal.SIGKILL)
            self.home.wait(driver, 10)
            self.kills += 1
            self.home("status", "--json")
            return self.home.start("logs", "-f", "last", LUMINA_TRAINER="")
        if self.kind == "stopped_and_resumed":
            self.home("stop", "last", "--yes", "--json", LUMINA_TRAINER="")
            self.home.wait(driver, 120)
            return self.home.start("resume", "last", "--follow", "--yes", "--json", LUMINA_TRAINER="")
        self.theatre.fault(self.kind, provider=self.provider, now=True)
        return driver

    def _checkpoint_is_home(self):
        with self.home.ledger() as ledger:
            return ledger is not None and any(e.kind == "run.checkpoint_home" for r in ledger.run_names() for e in ledger.events(r))


def _is_over(started):
    """Whether a process has ended; its exit code is left for whoever waits for it."""
    return os.waitid(os.P_PID, started[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def summary(runs, options):
    """Return the campaign's figures."""
    lost = [one for r in runs for one in r.watched.lost()]
    figures = [r.verdict.as_data() for r in runs]
    return {
        "campaign": "real",
        "seed": options.seed,
        "launches": len(runs),
        "interruptions": sum(r.struck for r in runs),
        "kills": sum(r.kills for r in runs),
        "faults": {kind: sum(r.kind == kind and r.struck for r in runs) for _provider, kind in TRIALS},
        "succeeded": sum(r.ended == [("succeeded", "finished")] for r in runs),
        "interval_seconds": CHECKPOINT_MINUTES * 60,
        "lost_seconds_max": round(max((seconds for _steps, seconds in lost), default=0.0), 1),
        "lost_steps_max": max((steps for steps, _seconds in lost), default=0),
        "findings": sum(len(r.findings) for r in runs) + sum(seconds > CHECKPOINT_MINUTES * 60 for _steps, seconds in lost),
        **{name: sum(f[name] for f in figures) for name in ("leaked", "duplicates", "stuck", "checkpoints_lost")},
        "over_cap_usd_max": f"{max((Decimal(f['over_cap_usd_max']) for f in figures), default=Decimal(0)):f}",
        "over_deadline_seconds_max": max((f["over_deadline_seconds_max"] for f in figures), default=0.0),
        "ledger_minus_invoice_usd": f"{sum((Decimal(f['ledger_minus_invoice_usd']) for f in figures), Decimal(0)):f}",
    }


if __name__ == "__main__":
    os.chdir(stage.ROOT)
    main()
