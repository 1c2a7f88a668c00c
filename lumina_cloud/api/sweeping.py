"""`lumina sweep`: many runs over a grid, under one budget, several at once, the poor ones stopped early.

`decide` is a pure function of what is known. The driver does the one thing that it says and asks again, so a sweep whose command was
killed goes on when it is typed again: its runs are found by their labels, its verdicts in the events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from lumina_cloud.api import launching, planning, requests
from lumina_cloud.api.documents import of_runs
from lumina_cloud.core import money
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.ledger import SweepRecord
from lumina_cloud.runs.lock import driving
from lumina_cloud.runs.states import ACTIVE, FINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lumina_cloud.api.launching import Prepared
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.api.sweep_files import EarlyStopping, SweepFile, Value
    from lumina_cloud.ledger import MetricRecord, RunRecord

POLL_SECONDS = 1.0
Action = Literal["launch", "stop", "judge", "wait", "done"]


@dataclass(frozen=True)
class Trial:
    """One combination, and what became of it."""

    number: int
    values: Mapping[str, Value]
    run: RunRecord | None = None
    spent: Decimal = Decimal(0)
    losses: Mapping[int, float] = field(default_factory=dict)
    """Training loss at each rung that it has come to, by the rung's place."""
    verdicts: Mapping[int, bool] = field(default_factory=dict)
    """Whether it went on from each rung at which it was judged."""
    refused: str = ""


@dataclass(frozen=True)
class Decision:
    """The one next thing to do."""

    action: Action
    trial: Trial | None = None
    rung: int | None = None
    keep: bool | None = None
    why: str = ""


def decide(trials: Sequence[Trial], *, budget: Decimal, concurrency: int, stopping: EarlyStopping | None, next_cap: Decimal) -> Decision:
    """Return what to do next. `next_cap` is the most that the next trial may cost.

    What is spent and promised never exceeds the budget: a trial that does not fit waits until others have ended for less than they
    were promised, and is left out when nothing goes on any more.
    """
    judged = _judgement(trials, stopping) if stopping is not None else None
    if judged is not None:
        return judged
    active = [t for t in trials if t.run is not None and t.run.state in ACTIVE]
    waiting = [t for t in trials if t.run is None and not t.refused]
    if not waiting:
        return Decision("wait" if active else "done")
    if len(active) >= concurrency:
        return Decision("wait")
    promised = sum((max(t.spent, t.run.usd_cap) for t in active if t.run is not None), Decimal(0))
    spent = sum((t.spent for t in trials if t not in active), Decimal(0))
    if spent + promised + next_cap <= budget:
        return Decision("launch", waiting[0])
    if active:
        return Decision("wait", why="the budget is promised to the runs that go on")
    left = money.show(max(Decimal(0), budget - spent))
    return Decision(
        "done", why=f"{len(waiting)} combinations were left out: of the budget {left} is left, one may cost {money.show(next_cap)}"
    )


def _judgement(trials: Sequence[Trial], stopping: EarlyStopping) -> Decision | None:
    """Return the verdict on a run that has come to a rung: it goes on when it is among the best of those that were ever there."""
    for trial in trials:
        if trial.run is None or trial.run.state not in ACTIVE:
            continue
        for rung in sorted(trial.losses):
            if rung not in trial.verdicts:
                there = sorted(t.losses[rung] for t in trials if rung in t.losses)
                best = max(1, math.ceil(len(there) * stopping.keep))
                return Decision("judge", trial, rung, keep=trial.losses[rung] <= there[best - 1])
        if False in trial.verdicts.values() and trial.run.stop_requested_at is None:
            return Decision("stop", trial)
    return None


def losses_at(curve: Sequence[MetricRecord], steps: int, rungs: Sequence[float]) -> dict[int, float]:
    """Return the loss at each rung that a curve has passed: the mean of its last points before it, for one batch says little."""
    last = max((m.step for m in curve), default=0)
    made = {}
    for place, rung in enumerate(rungs):
        at = max(1, round(steps * rung))
        before = [m.data["loss"] for m in curve if m.step <= at and "loss" in m.data][-10:]
        if last >= at and before:
            made[place] = sum(before) / len(before)
    return made


# --- the driver ----------------------------------------------------------------------------------------------------------


def sweep_label(name: str) -> str:
    """Return the label that a sweep's runs carry."""
    return f"sweep={name}"


def run(lumina: Lumina, spec: SweepFile, say: Callable[[str], None]) -> of_runs.SweepDocument:
    """Drive a sweep to its end and return what came of it. Raises UsageError when another file of that name was begun."""
    _begin(lumina, spec)
    refused: dict[int, str] = {}
    with driving(lumina.settings.home, f"sweep-{spec.name}") as mine:
        if not mine:
            raise UsageError(f"another command drives the sweep {spec.name}", "wait for it, or stop it")
        why = _drive(lumina, spec, refused, say)
    trials = trials_of(lumina, spec, refused)
    with lumina.ledger.transaction() as tx:
        known = lumina.ledger.sweep(spec.name)
        if known is not None:
            tx.put_sweep(SweepRecord(known.sweep_id, known.created_at, known.spec, spec.budget, "finished"))
    return document(spec, trials, why)


def planned(lumina: Lumina, spec: SweepFile) -> of_runs.SweepDocument:
    """Return what a sweep would run, and the most that each combination may cost. Nothing is rented."""
    rows = []
    for trial in (Trial(n, values) for n, values in enumerate(spec.trials(), 1)):
        try:
            usd, state, why = prepare(lumina, spec, trial).cap.usd, "planned", ""
        except (RefusedError, UsageError) as error:
            usd, state, why = Decimal(0), "refused", error.message
        rows.append(
            of_runs.SweepTrial(
                trial=trial.number,
                values=dict(trial.values),
                run=None,
                state=state,
                stopped_early=False,
                loss=None,
                usd=money.text(usd),
                why=why,
            )
        )
    most = sum((Decimal(row.usd) for row in rows), Decimal(0))
    note = f"all of them may cost {money.show(most)}; the budget is {money.show(spec.budget)}"
    return of_runs.SweepDocument(
        sweep=spec.name, usd_budget=money.text(spec.budget), usd_spent=money.text(most), best=None, trials=rows, note=note
    )


def _drive(lumina: Lumina, spec: SweepFile, refused: dict[int, str], say: Callable[[str], None]) -> str:
    prepared: dict[int, Prepared] = {}
    while True:
        lumina.settle()
        trials = trials_of(lumina, spec, refused)
        upcoming = next((t for t in trials if t.run is None and not t.refused), None)
        if upcoming is not None and upcoming.number not in prepared:
            try:
                prepared[upcoming.number] = prepare(lumina, spec, upcoming)
            except (RefusedError, UsageError) as error:
                refused[upcoming.number] = error.message
                say(f"{_named(upcoming)}: {error.message}")
                continue
        cap = prepared[upcoming.number].cap.usd if upcoming is not None else Decimal(0)
        decision = decide(trials, budget=spec.budget, concurrency=spec.concurrency, stopping=spec.early_stopping, next_cap=cap)
        if decision.action == "done":
            return decision.why
        _do(lumina, decision, prepared, refused, say)


def _do(lumina: Lumina, decision: Decision, prepared: dict[int, Prepared], refused: dict[int, str], say: Callable[[str], None]) -> None:
    trial = decision.trial
    if trial is None:
        lumina.clock.sleep(POLL_SECONDS)
        return
    match decision.action:
        case "launch":
            try:
                planning.keep(lumina.session, prepared[trial.number].planned)
                begun = launching.begin(lumina.session, prepared[trial.number])
                say(f"{_named(trial)}: run {begun.run_id}")
            except RefusedError as error:
                refused[trial.number] = error.message
                say(f"{_named(trial)}: {error.message}")
        case "judge" if trial.run is not None and decision.rung is not None:
            with lumina.ledger.transaction() as tx:
                loss = trial.losses[decision.rung]
                tx.add_event("sweep.judged", run_id=trial.run.run_id, rung=decision.rung, loss=loss, goes_on=bool(decision.keep))
            say(f"{trial.run.run_id}: loss {loss:.3f} at rung {decision.rung + 1}, {'goes on' if decision.keep else 'is stopped'}")
        case "stop" if trial.run is not None:
            with lumina.ledger.transaction() as tx:
                tx.update_run(trial.run.run_id, stop_requested_at=lumina.clock.now())
                tx.add_event("run.stop_requested", run_id=trial.run.run_id, by="sweep")
        case _:
            raise AssertionError(decision)


def _begin(lumina: Lumina, spec: SweepFile) -> None:
    known = lumina.ledger.sweep(spec.name)
    if known is not None and known.spec.get("key") != spec.key:
        raise UsageError(
            f"a sweep {spec.name!r} was begun before, with another grid or other settings", "give this one another name, or the file back"
        )
    created = lumina.clock.now() if known is None else known.created_at
    kept = {"key": spec.key, **spec.model_dump(mode="json")}
    with lumina.ledger.transaction() as tx:
        tx.put_sweep(SweepRecord(spec.name, created, kept, spec.budget, "running"))


def prepare(lumina: Lumina, spec: SweepFile, trial: Trial) -> Prepared:
    """Plan one combination and pass every check before renting. Raises UsageError, RefusedError."""
    values = dict(trial.values)
    settings = {**spec.set, **{k: v for k, v in values.items() if k not in ("model", "arch", "seed", "tokens")}}
    tokens = values.get("tokens", spec.tokens)
    options = requests.Options(
        arch=str(values.get("arch", "dense")),
        tokens=_text(tokens),
        unique_tokens=_text(spec.unique_tokens),
        epochs=spec.epochs,
        global_batch=_text(spec.global_batch),
        data=spec.data,
        seed=int(values["seed"]) if "seed" in values else None,
        settings=[f"{name}={_text(value)}" for name, value in settings.items()],
    )
    request = requests.workload_request(str(values["model"]), options)
    purpose = launching.purpose_of(spec.project or None, [sweep_label(spec.name), f"trial={trial.number:04d}"])
    wanted = planning.MachineFilter().narrowed(planning.MachineFilter(provider=spec.provider, gpu=spec.gpu, count=spec.count))
    return launching.prepare(lumina.session, request, wanted, launching.Limits(max_cost=spec.max_cost), look=lumina.look, purpose=purpose)


def _text(value: Value | None) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def trials_of(lumina: Lumina, spec: SweepFile, refused: Mapping[int, str]) -> list[Trial]:
    """Return every combination with its run, by the label that the run carries."""
    known = lumina.ledger.sweep(spec.name)
    runs = [] if known is None else lumina.ledger.runs_labelled(sweep_label(spec.name), known.created_at)
    by_label = {label: r for r in runs for label in r.labels if label.startswith("trial=")}
    made = []
    for number, values in enumerate(spec.trials(), 1):
        found = by_label.get(f"trial={number:04d}")
        made.append(
            Trial(number, values, refused=refused.get(number, "")) if found is None else _begun(lumina, spec, number, values, found)
        )
    return made


def _begun(lumina: Lumina, spec: SweepFile, number: int, values: Mapping[str, Value], found: RunRecord) -> Trial:
    """Return a combination whose run was begun, with what was seen of it."""
    spent = lumina.spent(found) if found.state in ACTIVE else lumina.ledger.spent(found.run_id)
    if spec.early_stopping is None:
        return Trial(number, values, found, spent)
    steps = int(found.progress.get("steps") or 0)
    losses = losses_at(lumina.ledger.metrics(found.run_id), steps, spec.early_stopping.rungs) if steps else {}
    judged = [e.data for e in lumina.ledger.events(found.run_id) if e.kind == "sweep.judged"]
    return Trial(number, values, found, spent, losses, {int(d["rung"]): bool(d["goes_on"]) for d in judged})


def document(spec: SweepFile, trials: Sequence[Trial], why: str) -> of_runs.SweepDocument:
    """Return what came of a sweep, the best run first."""
    rows = [_row(trial) for trial in trials]
    ranked = sorted(rows, key=lambda r: (r.state != "succeeded", r.loss if r.loss is not None else math.inf, r.trial))
    best = next((r.run for r in ranked if r.state == "succeeded" and r.loss is not None), None)
    spent = sum((t.spent for t in trials), Decimal(0))
    return of_runs.SweepDocument(
        sweep=spec.name, usd_budget=money.text(spec.budget), usd_spent=money.text(spent), best=best, trials=ranked, note=why
    )


def _row(trial: Trial) -> of_runs.SweepTrial:
    found = trial.run
    stopped_early = False in trial.verdicts.values()
    return of_runs.SweepTrial(
        trial=trial.number,
        values=dict(trial.values),
        run=None if found is None else found.run_id,
        state="refused" if trial.refused else "left out" if found is None else found.state,
        stopped_early=stopped_early and found is not None and found.state in FINAL,
        loss=None if found is None else found.result.get("loss_last"),
        usd=money.text(trial.spent),
        why=trial.refused,
    )


def _named(trial: Trial) -> str:
    return f"{trial.number}: " + ", ".join(f"{name} {value}" for name, value in trial.values.items())
