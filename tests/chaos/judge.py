"""The judge of a campaign: what the emulator and the disk say, held against the eight invariants. The ledger is on trial, never believed.

`judge(Evidence)` is a pure function of plain data, and is the same for simulated launches and for real processes:

- `instances`, `invoice_usd`: as `lumina sandbox status --json`, `World.status()` and the sandbox's `/status` give them
- `history`: the emulator's own lines (`World.history`, the sandbox's `/history`)
- `runs`, `rentals`, `charges`, `events`, `artifacts`: the ledger's records (`of_ledger` collects them)

It is asked when all is quiet: every run was settled, everything was reconciled, nobody drives anything any more. What lived too long on the
way shows in the history.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from lumina_cloud.remote import guard
from lumina_cloud.runs import extending
from lumina_cloud.runs.states import FINAL, REASONS

GUARDED = ("vastai", "runpod")
"""Providers whose machines can end themselves."""
STEP_SECONDS = {"vastai": 1, "runpod": 1, "lambda": 60}
"""By what step time is billed."""
SLACK_SECONDS = 120.0
"""How long beyond its deadline a guarded machine may live (I2), and how soon what nobody heard of is in hand or gone."""
UNGUARDABLE = ("host_death", "powered off", "unhealthy", "stopped")
"""After these nothing runs on a machine that could end it."""
BY_THEMSELVES = ("credit used up", "unpaid", "preempted", "outbid before it began", "create failed")
"""Why an instance may end without anybody having asked for it."""
TICK = 0.005
"""The emulator counts whole milliseconds."""
ZERO = Decimal(0)


@dataclass(frozen=True)
class Start:
    """A trainer that began on a machine, by the machine's own word: from which step. `at` is in seconds since 1970."""

    run_id: str
    at: float
    step: int


@dataclass(frozen=True)
class Abandoned:
    """A run that nobody drives from `at` on (seconds since 1970) until `until`: its machine's lease runs out meanwhile."""

    run_id: str
    at: float
    until: float
    lease_seconds: float
    grace_seconds: float = 60.0


@dataclass(frozen=True)
class Evidence:
    """What the judge looks at."""

    instances: Sequence[Mapping[str, Any]]
    history: Sequence[Mapping[str, Any]]
    invoice_usd: Decimal
    runs: Sequence[Any]
    rentals: Sequence[Any]
    charges: Sequence[Any]
    events: Sequence[Any]
    artifacts: Sequence[Any] = ()
    caps: Mapping[str, Decimal] = field(default_factory=dict)
    """What the user allowed each run; the ledger's own figure where nothing is said."""
    month_cap_usd: Decimal | None = None
    """What the user allowed all of them together."""
    foreign: Collection[str] = ()
    """Ids of instances that are not ours, by whatever label."""
    forgotten: Collection[str] = ()
    """Ids of instances that carry this ledger's tags, and that it has lost, with a backup that was restored say: they are to be ended."""
    starts: Sequence[Start] = ()
    abandoned: Sequence[Abandoned] = ()
    clock_ahead_seconds: float = 0.0
    """By how much the clock of the ledger's computer is wrong."""
    attended: bool = False
    """Whether somebody was there all the time: then nothing may be in nobody's hand for long."""
    check_disk: bool = True
    """Whether the runs' folders can be read."""


@dataclass(frozen=True)
class Finding:
    """One breach. `about` is a run, a tag or an instance."""

    invariant: str
    about: str
    text: str


@dataclass
class Verdict:
    """What was found. Counts are of things, not of findings; sums and maxima are in dollars and seconds."""

    findings: list[Finding] = field(default_factory=list)
    leaked: int = 0
    duplicates: int = 0
    twins: int = 0
    """Second instances that a provider made of one create by itself: no duplicates of ours, but ours to end."""
    stuck: int = 0
    orphans: int = 0
    """Instances that nobody had in hand, and that still lived, `SLACK_SECONDS` after their creation."""
    over_cap_usd_max: Decimal = ZERO
    unguarded_over_cap_usd_max: Decimal = ZERO
    """The same for machines that cannot end themselves, of runs that nobody drove."""
    over_deadline_seconds_max: float = 0.0
    ledger_minus_invoice_usd: Decimal = ZERO
    """Sum of absolute differences per rental."""
    checkpoints_lost: int = 0

    def find(self, invariant: str, about: str, text: str) -> None:
        """Write a breach down."""
        self.findings.append(Finding(invariant, about, text))

    def as_data(self) -> dict[str, Any]:
        """Return the figures as a campaign prints them."""
        return {
            "leaked": self.leaked,
            "duplicates": self.duplicates,
            "twins": self.twins,
            "stuck": self.stuck,
            "orphans": self.orphans,
            "over_cap_usd_max": f"{self.over_cap_usd_max:f}",
            "unguarded_over_cap_usd_max": f"{self.unguarded_over_cap_usd_max:f}",
            "over_deadline_seconds_max": round(self.over_deadline_seconds_max, 3),
            "ledger_minus_invoice_usd": f"{self.ledger_minus_invoice_usd:f}",
            "checkpoints_lost": self.checkpoints_lost,
            "violations": len(self.findings),
        }


@dataclass
class Life:
    """What the emulator's history tells of one instance. Moments are seconds since 1970."""

    instance: Mapping[str, Any]
    lines: list[Mapping[str, Any]]

    @property
    def id(self) -> str:
        return str(self.instance["id"])

    @property
    def tag(self) -> str:
        return str(self.instance["tag"])

    @property
    def provider(self) -> str:
        return str(self.instance["provider"])

    @property
    def usd(self) -> Decimal:
        return Decimal(self.instance["usd_billed"])

    @property
    def live(self) -> bool:
        return self.instance["state"] != "ended"

    @property
    def created(self) -> float:
        return _at(self.lines[0])

    @property
    def ended(self) -> float:
        return next((_at(line) for line in self.lines if line["what"] == "ended"), float("inf"))

    @property
    def is_twin(self) -> bool:
        return any(line["what"] == "duplicated" for line in self.lines)

    @property
    def began(self) -> float:
        """Return when it began to run, its creation where it never did: before, nothing on it could guard it."""
        return next((_at(line) for line in self.lines if line["what"] == "running"), self.created)

    @property
    def guarded_until(self) -> float:
        """Return until when something on the machine could have ended it."""
        if not any(line["what"] == "running" for line in self.lines):
            return self.created
        return next((_at(line) for line in self.lines if line["what"] in UNGUARDABLE), float("inf"))

    def step_usd(self) -> Decimal:
        """Return what one billing step costs, by what was billed on average."""
        step, seconds = STEP_SECONDS[self.provider], self.ended - self.created
        if seconds in (0.0, float("inf")):
            return ZERO
        return self.usd / Decimal(repr(max(seconds, step))) * step

    def costs_more_than(self, usd_per_hour: Decimal) -> bool:
        """Whether it was billed at more than that, on average and by more than a bill rounds."""
        seconds = Decimal(repr(min(self.ended, 1e12) - self.created))
        return self.usd > usd_per_hour * seconds / 3600 * Decimal("1.02") + Decimal("0.0001")

    @cached_property
    def words(self) -> str:
        return f"{self.provider} {self.id} ({self.tag})"


def of_ledger(ledger: Any) -> dict[str, list[Any]]:
    """Return all that a ledger holds of its runs, as `Evidence` takes it."""
    runs = sorted(ledger.runs(), key=lambda r: r.run_id)
    ids = [r.run_id for r in runs]
    return {
        "runs": runs,
        "rentals": [r for i in ids for r in ledger.rentals(i)],
        "charges": ledger.charges(),
        "events": [e for i in ids for e in ledger.events(i)],
        "artifacts": [a for i in ids for a in ledger.artifacts(i)],
    }


def judge(evidence: Evidence) -> Verdict:
    """Hold what happened against the invariants."""
    verdict = Verdict()
    lines = defaultdict(list)
    for line in evidence.history:
        lines[line["provider"], line["id"]].append(line)
    lives = [Life(one, lines[one["provider"], one["id"]]) for one in evidence.instances]
    ours = [one for one in lives if one.id not in (*evidence.foreign, *evidence.forgotten)]
    for one in lives:
        if one.id in evidence.forgotten and one.live:
            verdict.leaked += 1
            verdict.find("I2", one.tag, f"{one.words}, which the ledger has lost, still lives")
    _one_live_instance_per_tag(ours, verdict)
    _no_instance_outlives_its_guard(evidence, ours, verdict)
    _the_ledger_is_the_bill(evidence, ours, verdict)
    _caps_hold(evidence, ours, verdict)
    _intent_first(evidence, ours, verdict)
    _runs_are_over(evidence, ours, verdict)
    _success_is_on_disk(evidence, verdict)
    _others_are_not_touched(evidence, lives, verdict)
    _checkpoints_are_used(evidence, verdict)
    return verdict


# --- the invariants ------------------------------------------------------------------------------------------------------


def _one_live_instance_per_tag(ours: Sequence[Life], verdict: Verdict) -> None:
    """I1, at any instant of the history. What a provider doubled by itself is counted apart."""
    by_tag = defaultdict(list)
    for one in ours:
        if one.is_twin:
            verdict.twins += 1
        else:
            by_tag[one.provider, one.tag].append(one)
    for (_provider, tag), several in by_tag.items():
        until = -1.0
        for one in sorted(several, key=lambda o: (o.created, o.id)):
            if one.created < until:
                verdict.duplicates += 1
                verdict.find("I1", tag, f"{one.words} was created while another instance of that tag lived")
            until = max(until, one.ended)


def _no_instance_outlives_its_guard(evidence: Evidence, ours: Sequence[Life], verdict: Verdict) -> None:
    """I2: nothing lives on at the end; on the way none outlives its deadline, nor its lease where nobody drives its run."""
    runs = {r.run_id: r for r in evidence.runs}
    rentals = {r.tag: r for r in evidence.rentals}
    for one in ours:
        if one.live:
            verdict.leaked += 1
            verdict.find("I2", one.tag, f"{one.words} still lives, and has cost ${one.usd}")
        rental = rentals.get(one.tag)
        if rental is None or one.provider not in GUARDED or one.ended > one.guarded_until + SLACK_SECONDS:
            continue
        run = runs[rental.run_id]
        if run.run_id in {left.run_id for left in evidence.abandoned} and _rose(evidence, run.run_id):
            # It ended by the price that it was told.
            continue
        cap = evidence.caps.get(run.run_id, run.usd_cap)
        room = cap - sum((o.usd for o in ours if o.ended <= one.created and _run_of(o, rentals) == run.run_id), ZERO)
        allowed = min(run.seconds_cap, float(max(ZERO, room) / rental.usd_per_hour * 3600))
        over = one.ended - one.created - allowed
        verdict.over_deadline_seconds_max = max(verdict.over_deadline_seconds_max, over)
        if over > SLACK_SECONDS:
            verdict.find("I2", one.tag, f"{one.words} lived {over:.0f} s beyond its deadline")
    _no_lease_is_outlived(evidence, ours, rentals, verdict)


def _no_lease_is_outlived(evidence: Evidence, ours: Sequence[Life], rentals: Mapping[str, Any], verdict: Verdict) -> None:
    for left in evidence.abandoned:
        for one in ours:
            if _run_of(one, rentals) != left.run_id or one.provider not in GUARDED:
                continue
            end = max(left.at, one.began) + left.lease_seconds + left.grace_seconds + _partitioned(one) + SLACK_SECONDS
            # A machine on which nothing runs any more cannot end itself: whoever comes back does.
            if one.created < left.until and end < min(one.ended, left.until, one.guarded_until):
                verdict.leaked += 1
                over = min(one.ended, left.until) - end
                verdict.find("I2", one.tag, f"{one.words} lived {over:.0f} s beyond its lease, with nobody there")


def _partitioned(one: Life) -> float:
    """Return for how long its guard could not end a machine: it reached nobody, or its provider refused until it was switched off."""
    refused = any(line.get("why") == "powered off" for line in one.lines)
    return 60.0 * sum(line["what"] == "network_partition" for line in one.lines) + guard.POWER_OFF_AFTER * refused


def _rose(evidence: Evidence, run_id: str) -> bool:
    """Whether a price rose under a machine of a run, and was seen to."""
    return any(e.kind == extending.PRICE_ROSE and e.run_id == run_id for e in evidence.events)


def _the_ledger_is_the_bill(evidence: Evidence, ours: Sequence[Life], verdict: Verdict) -> None:
    """I3, to the micro-dollar, for each rental; and the emulator's invoice is the sum of its instances."""
    billed: dict[str, Decimal] = defaultdict(Decimal)
    for one in ours:
        billed[one.tag] += one.usd
    tags = {r.rental_id: r.tag for r in evidence.rentals}
    booked: dict[str, Decimal] = defaultdict(Decimal)
    for charge in evidence.charges:
        if charge.counted:
            booked[tags.get(charge.rental_id, charge.rental_id)] += charge.usd
    for tag in sorted(billed.keys() | booked.keys()):
        difference = abs(booked[tag] - billed[tag])
        verdict.ledger_minus_invoice_usd += difference
        if difference:
            verdict.find("I3", tag, f"the ledger says ${booked[tag]}, the invoice ${billed[tag]}")
    total = sum((Decimal(one["usd_billed"]) for one in evidence.instances), ZERO)
    if total != evidence.invoice_usd:
        verdict.find("I3", "", f"the emulator's invoice is ${evidence.invoice_usd}, its instances have cost ${total}")


def _caps_hold(evidence: Evidence, ours: Sequence[Life], verdict: Verdict) -> None:
    """I4, but for one billing step per rental. Bills only grow, so the end of all is their highest.

    Where a machine cannot end itself, for its provider's sake or because nothing runs on it any more (it was taken away, and its disk is
    billed), and nobody was there, no cap can hold: the user was told, and took that upon himself. Nor can it where a price rises meanwhile.
    """
    alone = {left.run_id for left in evidence.abandoned}
    rentals = {r.tag: r for r in evidence.rentals}
    by_run = defaultdict(list)
    for one in ours:
        by_run[_run_of(one, rentals)].append(one)
    for run in evidence.runs:
        mine = by_run[run.run_id]
        over = sum((one.usd for one in mine), ZERO) - evidence.caps.get(run.run_id, run.usd_cap)
        deaf = any(one.ended > one.guarded_until + SLACK_SECONDS for one in mine)
        rose = any(one.costs_more_than(rentals[one.tag].usd_per_hour) for one in mine) or _rose(evidence, run.run_id)
        if run.run_id in alone and (run.provider not in GUARDED or deaf or rose):
            verdict.unguarded_over_cap_usd_max = max(verdict.unguarded_over_cap_usd_max, over)
            continue
        verdict.over_cap_usd_max = max(verdict.over_cap_usd_max, over)
        if over > sum((one.step_usd() for one in mine), ZERO):
            verdict.find("I4", run.run_id, f"it cost ${over} more than its cap")
    over = sum((one.usd for one in ours), ZERO) - (evidence.month_cap_usd or Decimal("Infinity"))
    if over > sum((one.step_usd() for one in ours), ZERO):
        verdict.find("I4", "", f"all runs together cost ${over} more than the month's cap")


def _intent_first(evidence: Evidence, ours: Sequence[Life], verdict: Verdict) -> None:
    """I5: each instance has a rental whose intent was on record before it was made; and none is out of hand for long."""
    rentals = {r.tag: r for r in evidence.rentals}
    intended = {e.rental_id: _truly(e, evidence) for e in reversed(evidence.events) if e.kind == "rental.intended"}
    taken: dict[tuple[str, str], float] = {}
    for event in evidence.events:
        if event.kind in ("rental.created", "rental.found", "rental.twin") and event.data.get("instance"):
            taken.setdefault((event.rental_id, str(event.data["instance"])), _truly(event, evidence))
    for one in ours:
        rental = rentals.get(one.tag)
        if rental is None:
            verdict.find("I5", one.tag, f"{one.words} is in no rental of the ledger")
        elif intended.get(rental.rental_id, float("inf")) > one.created + TICK:
            verdict.find("I5", one.tag, f"{one.words} was created before its intent was on record")
        in_hand = float("inf") if rental is None else taken.get((rental.rental_id, one.id), float("inf"))
        if min(in_hand, one.ended) > one.created + SLACK_SECONDS:
            verdict.orphans += 1
            if evidence.attended:
                verdict.find("I5", one.tag, f"{one.words} was in nobody's hand {SLACK_SECONDS:.0f} s after its creation")


def _runs_are_over(evidence: Evidence, ours: Sequence[Life], verdict: Verdict) -> None:
    """I6: every run has ended, for a reason of the closed list, and nothing of it lives."""
    rentals = {r.tag: r for r in evidence.rentals}
    live = {_run_of(one, rentals) for one in ours if one.live}
    for run in evidence.runs:
        if run.state not in FINAL:
            verdict.stuck += 1
            verdict.find("I6", run.run_id, f"it is still {run.state}")
        elif run.reason not in REASONS:
            verdict.find("I6", run.run_id, f"it is {run.state} for the reason {run.reason!r}")
        elif run.run_id in live:
            verdict.find("I6", run.run_id, f"it is {run.state}, and an instance of it lives")
    for rental in evidence.rentals:
        if rental.state not in ("ended", "lost"):
            verdict.stuck += 1
            verdict.find("I6", rental.rental_id, f"its rental is still {rental.state}")


def _success_is_on_disk(evidence: Evidence, verdict: Verdict) -> None:
    """I7: what a run that succeeded brought home is there, byte for byte."""
    files = defaultdict(list)
    for artifact in evidence.artifacts:
        files[artifact.run_id].append(artifact)
    for run in evidence.runs if evidence.check_disk else ():
        if run.state != "succeeded":
            continue
        names = {a.path for a in files[run.run_id]}
        if "result.json" not in names or not any(n.startswith("checkpoints/") for n in names):
            verdict.find("I7", run.run_id, f"it succeeded, and only {sorted(names)[:5]} came home")
        for a in files[run.run_id]:
            if _sha256(Path(run.folder) / a.path) != a.sha256:
                verdict.find("I7", run.run_id, f"{a.path} is not what came home")


def _others_are_not_touched(evidence: Evidence, lives: Sequence[Life], verdict: Verdict) -> None:
    """I8: nobody's instance but ours was stopped or ended."""
    for one in lives:
        ended = [line for line in one.lines if line["what"] in ("ended", "stopped") and line.get("why") not in BY_THEMSELVES]
        if one.id in evidence.foreign and ended:
            verdict.find("I8", one.tag, f"{one.words} is not ours, and was {ended[0]['what']}")


def _checkpoints_are_used(evidence: Evidence, verdict: Verdict) -> None:
    """No checkpoint that came home whole is lost: a later start goes on from it or a newer one, and the newest is there at the end."""
    home: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for event in evidence.events:
        if event.kind == "run.checkpoint_home":
            home[event.run_id].append((_truly(event, evidence), int(event.data["name"].removeprefix("step-"))))
    for start in evidence.starts:
        known = max((step for at, step in home[start.run_id] if at <= start.at), default=0)
        if start.step < known:
            verdict.checkpoints_lost += 1
            verdict.find("checkpoint", start.run_id, f"it began again from step {start.step}, and step {known} was at home")
    for run in evidence.runs if evidence.check_disk else ():
        known = max((step for _at_, step in home[run.run_id]), default=0)
        there = _newest_whole(Path(run.folder) / "checkpoints")
        if there < known:
            verdict.checkpoints_lost += 1
            verdict.find("checkpoint", run.run_id, f"step {known} came home, and step {there} is the newest there")


# --- small things --------------------------------------------------------------------------------------------------------


def _run_of(one: Life, rentals: Mapping[str, Any]) -> str:
    rental = rentals.get(one.tag)
    return "" if rental is None else str(rental.run_id)


def _truly(event: Any, evidence: Evidence) -> float:
    """Return when an event of the ledger was by the emulator's clock."""
    return float(event.at.timestamp() - evidence.clock_ahead_seconds)


def _at(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _newest_whole(folder: Path) -> int:
    """Return the step of the newest checkpoint that agrees with its own manifest, zero for none."""
    whole = [0]
    for checkpoint in folder.glob("step-*") if folder.is_dir() else ():
        try:
            listed = json.loads((checkpoint / "manifest.json").read_bytes())
        except (OSError, ValueError):
            continue
        rows = listed["files"] if isinstance(listed, dict) else listed
        if all(_sha256(checkpoint / row["path"]) == row["sha256"] for row in rows):
            whole.append(int(checkpoint.name.removeprefix("step-")))
    return max(whole)
