"""Many at once: launches under one cap, and two controllers for one run: `python -m tests.chaos.crowd`.

`launches`: so many real `lumina launch` start at the same moment in one home whose month may cost less than all of them together. Each may
spend its own cap, so no more of them may rent than those caps fit in the month's: by the emulator's record, not by the ledger.

`controllers`: a follower is stopped by SIGSTOP at a random moment and left so past its lease, until another takes its run over, and is then
continued. Exactly one acts: what the sleeper touches after it was woken is counted, and one machine is rented.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from tests.chaos import stage

EACH = Decimal(1)
"""Dollars: the cap of each launch."""
FITTING = 5
"""How many of those fit into the month's cap, and a bit."""
REFUSED = 4
"""The exit code of a launch that is refused before anything is rented."""
SECONDS = 600
LEASE_SECONDS = 60.0
WORKING_STEPS = 900


def main():
    options = _options()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lumina-crowd-") as folder:
        stage.preload()
        python = stage.light_python(Path(folder))
        theatre = stage.Stage(Path(folder) / "crowd", python)
        theatre.up()
        try:
            line = {"campaign": "crowd", "seed": options.seed, **launches_under_one_cap(theatre, options.launches)}
        finally:
            theatre.down()
        line |= two_controllers(Path(folder), python, options.controllers, random.Random(options.seed))
    line["seconds"] = round(time.monotonic() - began)
    sys.stdout.write(json.dumps(line) + "\n")
    raise SystemExit(0 if is_clean(line) else 1)


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crowd", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--launches", type=int, default=50)
    parser.add_argument("--controllers", type=int, default=6, help="runs that two controllers want")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def is_clean(line):
    """Whether the cap held, exactly one controller acted, and the judge found nothing."""
    wrong = ("acts_after_waking", "twice_rented", "stuck_rounds", "findings", "findings_controllers")
    return not any(line[name] for name in wrong) and Decimal(line["over_cap_usd"]) == 0


def launches_under_one_cap(theatre, count):
    """Launch `count` runs at once where only some fit; return what became of them."""
    home = theatre.home_of("one-cap")
    cap = EACH * FITTING + EACH / 2
    assert home("budget", str(cap), "--json").code == 0
    words = [home.words(provider, "--max-cost", str(EACH), tokens=20480) for provider in ("runpod", "vastai", "lambda")]
    started = [home.start(*words[n % 3]) for n in range(count)]
    ended = [home.wait(one, SECONDS) for one in started]
    home("status", "--json", timeout=SECONDS)
    home.wait_none_lives(60)
    verdict = home.verdict(caps=EACH)
    # A run that failed, since none of its kind of machine was left; a market that is asked too often: both say so.
    known = (0, REFUSED, 5, 7)
    mine = home.mine()
    rented = {i["tag"].rsplit("-", 2)[0] for i in mine}
    history = [line for line in theatre.ask("/history")["history"] if line["id"] in {i["id"] for i in mine}]
    at_once, allowed = most_allowed(history, {i["id"]: Decimal(i["usd_billed"]) for i in mine})
    return {
        "launches": count,
        "exit_codes": {str(code): n for code, n in sorted(Counter(e.code for e in ended).items(), key=str)},
        "refused": sum(e.code == REFUSED for e in ended),
        "fitting": FITTING,
        "rented_runs": len(rented),
        "rented_at_once": at_once,
        # What they were allowed together at any moment, beyond the cap: each may spend up to its own.
        "over_cap_usd": str(max(Decimal(0), allowed - cap)),
        "findings": [f"{f.invariant} {f.about}: {f.text}" for f in verdict.findings] + [e.err[-400:] for e in ended if e.code not in known],
        **{name: verdict.as_data()[name] for name in ("leaked", "duplicates", "stuck", "ledger_minus_invoice_usd")},
    }


def most_allowed(history, usd):
    """Return how many machines there were at once, and the most that the month was exposed to: what was spent, and what each could spend.

    A run that is over has cost what it was billed (`usd`, by instance), and leaves the rest of its cap to the next.
    """
    live, over, most, at_once = set(), set(), Decimal(0), 0
    for line in sorted(history, key=lambda one: one["at"]):
        if line["what"] == "created":
            live.add(line["id"])
        elif line["what"] == "ended":
            live.discard(line["id"])
            over.add(line["id"])
        at_once = max(at_once, len(live))
        most = max(most, EACH * len(live) + sum((usd[i] for i in over), Decimal(0)))
    return at_once, most


def two_controllers(folder, python, count, chance):
    """Let two controllers have one run, `count` times side by side, each with clouds of its own; return who acted."""
    theatres = [stage.Stage(folder / f"two-{n}", python) for n in range(count)]
    try:
        for theatre in theatres:
            theatre.up()
        rounds = [_Round(theatre, n, chance.uniform(0.5, 14.0)) for n, theatre in enumerate(theatres)]
        give_up = time.monotonic() + SECONDS
        while any(not one.over for one in rounds) and time.monotonic() < give_up:
            for one in rounds:
                one.go_on()
            time.sleep(0.1)
        for one in rounds:
            one.end()
        outcomes = [one.outcome() for one in rounds]
    finally:
        for theatre in theatres:
            theatre.down()
    return {
        "controllers": 2 * count,
        "taken_over": sum(o["taken_over"] for o in outcomes),
        "acts_after_waking": sum(o["acts_after_waking"] for o in outcomes),
        "acts_of_the_other": sum(o["acts_of_the_other"] for o in outcomes),
        "twice_rented": sum(o["twice_rented"] for o in outcomes),
        "stuck_rounds": sum(not one.over for one in rounds),
        "findings_controllers": [text for o in outcomes for text in o["findings"]],
    }


class _Round:
    """One run and its two controllers."""

    def __init__(self, theatre, number, stop_after):
        self.home = theatre.home_of("home")
        self.logs = [self.home.folder / f"edges-{name}" for name in ("sleeper", "other")]
        provider = ("vastai", "runpod")[number % 2]
        words = self.home.words(provider, "--max-cost", "2", tokens=1024 * WORKING_STEPS)
        self.sleeper = self.home.start(*words, LUMINA_EDGE_LOG=str(self.logs[0]))
        self.stop_at = time.monotonic() + stop_after
        self.other = self.woken_at = None
        self.state, self.asleep = "awake", 0
        self.ended = []
        self.over = False

    def go_on(self):
        """Do what is due."""
        now = time.monotonic()
        if self.state == "awake" and now >= self.stop_at and self.home.active():
            os.kill(self.sleeper[0], signal.SIGSTOP)
            if not _can_write(self.home.folder / "sandbox" / "ledger.db"):
                # Stopped within a write transaction it holds the whole ledger: nobody can take anything over then.
                os.kill(self.sleeper[0], signal.SIGCONT)
                return
            self.other = self.home.start("logs", "-f", "last", LUMINA_EDGE_LOG=str(self.logs[1]))
            self.state, self.slept_at = "asleep", now
        elif self.state == "asleep" and self._taken_over():
            self.asleep = len(_touches(self.logs[0]))
            os.kill(self.sleeper[0], signal.SIGCONT)
            self.state, self.woken_at = "woken", now
        elif self.state == "woken" and now - self.woken_at > 15:
            # By now both know who drives it; the run is ended, so that nobody waits for its last step.
            self.stopping = self.home.start("stop", "last", "--yes", "--json")
            self.state = "stopping"
        elif self.state == "stopping":
            self.ended = [self.home.wait(one, SECONDS) for one in (self.sleeper, self.other, self.stopping)]
            self.over = True
            self.state = "over"

    def end(self):
        """End what of a round that did not come to its end still sleeps or works."""
        if not self.over:
            for one in (self.sleeper, self.other):
                if one is not None:
                    self.ended.append(self.home.wait(one, 0))

    def outcome(self):
        """Return what each of the two did."""
        self.home.wait_none_lives(30)
        verdict = self.home.verdict(caps=Decimal(2))
        tags = Counter(i["tag"] for i in self.home.mine())
        acts = _touches(self.logs[0])[self.asleep :] if self.over else []
        return {
            "taken_over": int(self._taken_over()),
            "acts_after_waking": len(acts),
            "acts_of_the_other": len(_touches(self.logs[1])),
            "twice_rented": sum(n - 1 for n in tags.values()),
            "findings": [f"{f.invariant} {f.about}: {f.text}" for f in verdict.findings]
            + [f"the one that slept did {line}" for line in acts]
            + [f"a controller ended with {e.code}: {e.err[-300:]}" for e in self.ended if e.code is None or "Traceback" in e.err],
        }

    def _taken_over(self):
        with self.home.ledger() as ledger:
            return ledger is not None and any(e.kind == "run.taken_over" for r in ledger.run_names() for e in ledger.events(r))


def _can_write(ledger):
    """Whether nobody holds the ledger; SQLite itself says so at once."""
    probe = sqlite3.connect(ledger, timeout=0.0, isolation_level=None)
    try:
        probe.execute("BEGIN IMMEDIATE")
        probe.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        probe.close()
    return True


def _touches(log):
    """Return each touch of a provider or a machine. What the ledger refuses a sleeper leaves no trace."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line for line in lines if ":before\t" in line and not line.startswith("ledger.")]


if __name__ == "__main__":
    os.chdir(stage.ROOT)
    main()
