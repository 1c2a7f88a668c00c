"""Real processes and real SIGKILL, at every crash point of a launch: `python -m tests.chaos.kills`.

For each provider a clean launch is counted first, in a new home and in a used one. Then each point gets a launch of its own that is
killed there. After that comes one `lumina status`, and where the run goes on, a controller that drives it to its end; every tenth is left
alone instead, and its machine has to end by itself. The judge is the emulator's own record. In a second round the controller that
comes back is killed as well.

One line of JSON says what was found. A finding leaves its point and seed on standard error; `--only TEXT` repeats it.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from tests.chaos import crash_points, stage
from tests.chaos.crash_points import WHENS

PROVIDERS = ("vastai", "runpod", "lambda")
UNGUARDED = "lambda"
CAP = "2"
LEASE, ALONE_LEASE, GRACE, SLACK = 120.0, 10.0, 60.0, 45.0
"""Seconds: the lease of a run whose controller comes back, of one whose does not, what a trainer gets to save, and for a busy machine."""
FOLLOW_SECONDS = 420
MOST_EDGES = 90
"""Of a recovery, among which a second kill strikes."""
SETTLED_SECONDS, PAUSE_SECONDS = 400.0, 15.0
"""How long a run left alone may take until commands that are typed now and then have settled it, and how long lies between them."""


@dataclass(frozen=True)
class Trial:
    """One launch that is killed, and how things go on."""

    point: crash_points.Point
    seed: int
    alone: bool = False
    """Nobody comes back: no controller, no command, until its machine is gone."""
    second: int | None = None
    """The how-manieth edge of the recovery at which that is killed too."""
    second_when: str = "before"

    def __str__(self):
        again = "" if self.second is None else f" then *:{self.second}:{self.second_when}"
        return f"{self.point}{again}{' alone' if self.alone else ''} (seed {self.seed})"


@dataclass
class Found:
    """What came of a trial."""

    trial: Trial
    kills: int = 0
    rentals: int = 0
    settled_late: bool = False
    figures: dict = field(default_factory=dict)
    findings: list = field(default_factory=list)
    seconds: float = 0.0


_worker = {}


def main():
    options = _options()
    chance = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lumina-kills-") as folder:
        stage.preload()
        python = stage.light_python(Path(folder))
        points, templates = _counted(Path(folder), python, options)
        sites = sorted({p.site for p in points})
        trials = _trials(points, options, chance)
        context = multiprocessing.get_context("fork")
        ready, over = context.SimpleQueue(), context.Value("b", 0)
        for number in range(options.workers):
            ready.put(number)
        found = []
        with context.Pool(options.workers, _set_up, (Path(folder), python, templates, (ready, over), options.keep)) as pool:
            # Ctrl-C ends it early: what was found by then is printed.
            with suppress(KeyboardInterrupt):
                for one in pool.imap_unordered(_tried, trials):
                    found.append(one)
                    _tell(one, len(found), len(trials))
                    if options.minutes is not None and time.monotonic() - began > options.minutes * 60:
                        over.value = 1
            over.value = 1
            pool.map(_take_down, range(options.workers * 4), chunksize=1)
        found = [one for one in found if one is not None]
        line = summary(found, points, sites, options)
        line["seconds"] = round(time.monotonic() - began)
    sys.stdout.write(json.dumps(line) + "\n")
    raise SystemExit(0 if is_clean(line) else 1)


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, help="a sample of so many crash points; all without it")
    parser.add_argument("--alone", type=float, default=0.1, help="share of launches to which nobody comes back")
    parser.add_argument("--passages", type=int, default=2, help="of a call site that are points: the first of them")
    parser.add_argument("--pairs", type=int, default=0, help="second kills, during recovery")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--providers", type=lambda t: tuple(t.split(",")), default=PROVIDERS)
    parser.add_argument("--keep", type=Path, help="a folder for the homes of what was found")
    parser.add_argument("--states", type=lambda t: tuple(t.split(",")), default=("new", "used"), help="homes: new, or new,used")
    parser.add_argument("--minutes", type=float, help="after that long no further point is begun")
    parser.add_argument("--workers", type=int, default=4, help="sandboxes side by side")
    parser.add_argument("--only", help="trials whose name contains this")
    return parser.parse_args()


def _counted(folder, python, options):
    """Launch cleanly, twice in one home at each provider; return the points of both, and the used homes."""
    points, templates = [], {}
    theatre = stage.Stage(folder / "counting", python)
    theatre.up()
    try:
        homes = {provider: theatre.home_of(f"home-{provider}") for provider in options.providers}
        for state in options.states:
            logs = {provider: folder / f"{provider}-{state}.edges" for provider in homes}
            started = {p: h.start(*_words(h, p, LEASE), LUMINA_EDGE_LOG=str(logs[p])) for p, h in homes.items()}
            for provider, one in started.items():
                done = homes[provider].wait(one)
                if done.code != 0:
                    raise SystemExit(f"a clean launch at {provider} ended with {done.code}:\n{done.err}")
                points += crash_points.read(logs[provider], f"{provider} {state}", options.passages)
                if state == "new":
                    left_out = shutil.ignore_patterns("emulator")
                    templates[provider] = shutil.copytree(homes[provider].folder, folder / f"used-{provider}", True, left_out)
    finally:
        theatre.down()
    # What a used home passes as well is tried there: it has more to find.
    used = {(p.site, p.place, p.nth, p.when) for p in points if p.setting.endswith("used")}
    kept = [p for p in points if p.setting.endswith("used") or (p.site, p.place, p.nth, p.when) not in used]
    # A ledger is made in the same way whoever will rent: its points are tried at one provider.
    return [p for p in kept if p.site != "ledger.migrate" or p.setting.startswith(options.providers[0])], templates


def _words(home, provider, lease):
    return home.words(provider, "--max-cost", CAP, "--lease", f"{lease:.0f}s")


def _trials(points, options, chance):
    chosen = crash_points.sampled(points, options.points, chance)
    # A trial's number is its seed.
    trials = [Trial(p, n, alone=not p.setting.startswith(UNGUARDED) and chance.random() < options.alone) for n, p in enumerate(chosen)]
    for n in range(options.pairs):
        point = chance.choice(points)
        trials.append(Trial(point, len(chosen) + n, second=chance.randint(1, MOST_EDGES), second_when=chance.choice(WHENS)))
    if options.only:
        trials = [t for t in trials if options.only in str(t)]
    chance.shuffle(trials)
    # Every call site has its turn before any of them has another: a campaign that runs out of time has seen them all.
    seen = Counter()

    def turn(trial):
        if trial.second is not None:
            return 1
        seen[trial.point.call_site] += 1
        return seen[trial.point.call_site]

    return sorted(trials, key=turn)


# --- in a worker ---------------------------------------------------------------------------------------------------------


def _set_up(folder, python, templates, shared, keep):
    ready, over = shared
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    theatre = stage.Stage(folder / f"worker-{ready.get()}", python)
    theatre.up()
    _worker.update(stage=theatre, templates=templates, keep=keep, over=over, n=0)


def _take_down(_nth):
    if _worker.get("stage") is not None:
        _worker.pop("stage").down()
    time.sleep(0.2)


def _tried(trial):
    if _worker["over"].value:
        return None
    began = time.monotonic()
    _worker["n"] += 1
    provider, state = trial.point.setting.split()
    like = _worker["templates"][provider] if state == "used" else None
    home = _worker["stage"].home_of(f"home-{_worker['n']}", like)
    try:
        found = attempt(home, provider, trial)
    except Exception:  # noqa: BLE001  # a campaign that finds something still prints its line
        found = Found(trial, findings=[f"the campaign itself failed: {traceback.format_exc()}"])
    if found.findings and _worker["keep"] is not None:
        shutil.copytree(home.folder, _worker["keep"] / f"{trial.seed}", symlinks=True, ignore=shutil.ignore_patterns("emulator"))
    shutil.rmtree(home.folder, ignore_errors=True)
    found.seconds = time.monotonic() - began
    return found


def attempt(home, provider, trial):
    """Launch, kill, come back or not, and ask the judge."""
    found = Found(trial)
    lease = ALONE_LEASE if trial.alone else LEASE
    killed = home(*_words(home, provider, lease), LUMINA_CRASH_AT=trial.point.crash_at, timeout=FOLLOW_SECONDS)
    found.kills += killed.code == -signal.SIGKILL
    if killed.code not in (-signal.SIGKILL, 0):
        found.findings.append(f"the launch ended with {killed.code}: {killed.err[-600:]}")
    since = time.time()
    if trial.second is not None:
        again = home("logs", "-f", "last", LUMINA_CRASH_AT=f"*:{trial.second}:{trial.second_when}", timeout=FOLLOW_SECONDS)
        found.kills += again.code == -signal.SIGKILL
    abandoned = None
    if trial.alone:
        home.wait_none_lives(lease + GRACE + SLACK + 90)
        abandoned = (since, time.time(), lease)
    _come_back(home, found, alone=trial.alone)
    home.wait_none_lives(5)
    verdict = home.verdict(caps=Decimal(CAP), abandoned=abandoned)
    found.rentals, found.settled_late = len(home.mine()), home.settled_late
    found.figures = verdict.as_data()
    found.findings += [f"{f.invariant} {f.about}: {f.text}" for f in verdict.findings]
    return found


def _come_back(home, found, *, alone):
    """Type `lumina status` once, and let a controller drive what goes on; where nobody is there, type it until all is settled."""
    give_up = time.monotonic() + SETTLED_SECONDS
    while True:
        done = home("status", "--json", timeout=FOLLOW_SECONDS)
        if done.code != 0:
            found.findings.append(f"status ended with {done.code}: {done.err[-600:]}")
        if not home.active() or not alone or time.monotonic() > give_up:
            break
        home.wait_none_lives(ALONE_LEASE + GRACE + SLACK)
        time.sleep(PAUSE_SECONDS)
    if home.active() and not alone:
        done = home("logs", "-f", "last", timeout=FOLLOW_SECONDS)
        # 5 and 6: it failed, or was stopped, and says so.
        if done.code is None or done.code < 0 or "Traceback" in done.err:
            found.findings.append(f"following it ended with {done.code}: {done.err[-600:]}")


# --- the line ------------------------------------------------------------------------------------------------------------


def _tell(found, done, of):
    if found is None:
        return
    for text in found.findings:
        sys.stderr.write(f"FOUND {found.trial}: {text}\n    {found.trial.point.lines}\n")
    if done % 10 == 0 or found.findings:
        sys.stderr.write(f"{done}/{of}\n")
    sys.stderr.flush()


def summary(found, points, sites, options):
    """Return the campaign's figures."""
    killed = {f.trial.point for f in found if f.kills}
    by_call_site = Counter(p.call_site for p in points)
    killed_by_call_site = Counter(p.call_site for p in killed)
    figures = [f.figures for f in found if f.figures]

    def total(name):
        return sum(f[name] for f in figures)

    return {
        "campaign": "kills",
        "seed": options.seed,
        "providers": list(options.providers),
        "launches": len(found),
        "rentals": sum(f.rentals for f in found),
        "kills": sum(f.kills for f in found),
        "faults": {
            **{f"killed_{when}": sum(f.trial.point.when == when and f.kills > 0 for f in found) for when in WHENS},
            "killed_again": sum(f.kills > 1 for f in found),
            "never_came_back": sum(f.trial.alone for f in found),
        },
        "leaked": total("leaked"),
        "duplicates": total("duplicates"),
        "stuck": total("stuck"),
        "orphans": total("orphans"),
        "over_cap_usd_max": f"{max((Decimal(f['over_cap_usd_max']) for f in figures), default=Decimal(0)):f}",
        "over_deadline_seconds_max": max((f["over_deadline_seconds_max"] for f in figures), default=0.0),
        "ledger_minus_invoice_usd": f"{sum((Decimal(f['ledger_minus_invoice_usd']) for f in figures), Decimal(0)):f}",
        "checkpoints_lost": total("checkpoints_lost"),
        "settled_late": sum(f.settled_late for f in found),
        "findings": sum(len(f.findings) for f in found),
        "call_sites": len(by_call_site),
        "call_sites_killed": len(killed_by_call_site),
        "crash_points": len(points),
        "crash_points_killed": len(killed),
        "not_reached": sum(not f.kills for f in found),
        "sites": sites,
    }


def is_clean(line):
    """Whether nothing was found."""
    return line["findings"] == 0


if __name__ == "__main__":
    os.chdir(stage.ROOT)
    main()
