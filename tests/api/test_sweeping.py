"""Sweeps: the budget of the whole is never exceeded, the poor runs are stopped, and a file that was typed wrongly is named."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import sweep_files, sweeping
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.api.sweep_files import EarlyStopping
from lumina_cloud.api.sweeping import Trial, decide, losses_at
from lumina_cloud.core.errors import UsageError
from lumina_cloud.ledger import MetricRecord
from tests.ledger.conftest import NOW, a_run

FILE = """
name = "first"
budget = "2.00"
concurrency = 2
provider = "local"
models = ["debug"]
archs = ["dense", "mod"]
learning_rates = [0.001, 0.0003]
seeds = [0, 1]
[set]
seq_len = 128
[early_stopping]
rungs = [0.25, 0.5]
keep = 0.5
"""


def read(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return sweep_files.read(path)


def test_every_combination_is_a_trial(tmp_path):
    spec = read(tmp_path, FILE)
    trials = spec.trials()
    assert len(trials) == 8
    assert trials[0] == {"model": "debug", "arch": "dense", "lr": 0.001, "seed": 0}
    assert len({tuple(t.items()) for t in trials}) == 8
    grid = FILE.replace("models", "unused = 1 #").replace("unused = 1 #", "# ")
    with pytest.raises(UsageError, match="model"):
        read(tmp_path, grid)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (('budget = "2.00"', 'budget = "much"'), "budget"),
        (('budget = "2.00"', 'budget = "-1"'), "budget"),
        (("concurrency = 2", "concurrency = 0"), "concurrency"),
        (('name = "first"', 'name = "a/b"'), "name"),
        (("rungs = [0.25, 0.5]", "rungs = [0.5, 0.25]"), "rungs"),
        (("keep = 0.5", "keep = 1.5"), "keep"),
        (('provider = "local"', 'provders = "local"'), "provders"),
        (("seeds = [0, 1]", f"seeds = {list(range(999))}"), "combinations"),
        (('name = "first"', "name = "), "TOML"),
    ],
)
def test_what_is_typed_wrongly_is_named(tmp_path, change, word):
    with pytest.raises(UsageError, match=word):
        read(tmp_path, FILE.replace(*change))


def test_the_key_of_a_sweep_is_its_grid_and_settings_not_its_budget(tmp_path):
    spec = read(tmp_path, FILE)
    assert read(tmp_path, FILE.replace("2.00", "5.00").replace("concurrency = 2", "concurrency = 4")).key == spec.key
    assert read(tmp_path, FILE.replace("seq_len = 128", "seq_len = 256")).key != spec.key


# --- what to do next -----------------------------------------------------------------------------------------------------


def trial(n, state=None, *, spent="0", cap="1", **more):
    run = None if state is None else a_run(f"r{n}", state=state, usd_cap=Decimal(cap))
    return Trial(n, {"seed": n}, run, Decimal(spent), **more)


dollars = st.decimals(0, 3, places=2)
worlds = st.lists(st.tuples(st.sampled_from([None, "training", "succeeded", "failed"]), dollars, dollars), max_size=8)


@given(worlds, st.decimals(0, 10, places=2), st.integers(1, 4), st.decimals("0.01", 3, places=2))
def test_spent_and_promised_never_exceed_the_budget(world, budget, concurrency, cap):
    trials = [trial(n, state, spent=min(spent, limit), cap=limit) for n, (state, spent, limit) in enumerate(world)]
    decision = decide(trials, budget=budget, concurrency=concurrency, stopping=None, next_cap=cap)
    active = [t for t in trials if t.run is not None and t.run.state == "training"]
    if decision.action == "launch":
        worst = sum((t.run.usd_cap for t in active), Decimal(0)) + sum((t.spent for t in trials if t not in active), Decimal(0))
        assert worst + cap <= budget
        assert len(active) < concurrency
        assert decision.trial.run is None
    if decision.action == "done":
        assert not active


STOPPING = EarlyStopping(rungs=[0.5], keep=0.5)


def judged(trials):
    return decide(trials, budget=Decimal(100), concurrency=4, stopping=STOPPING, next_cap=Decimal(1))


def test_the_first_at_a_rung_goes_on_and_a_worse_one_is_stopped():
    first = trial(1, "training", losses={0: 4.0})
    decision = judged([first])
    assert (decision.action, decision.keep) == ("judge", True)
    first = replace(first, verdicts={0: True})
    decision = judged([first, trial(2, "training", losses={0: 5.0})])
    assert (decision.action, decision.trial.number, decision.keep) == ("judge", 2, False)
    stopped = trial(2, "training", losses={0: 5.0}, verdicts={0: False})
    assert judged([first, stopped]).action == "stop"
    asked = replace(stopped, run=replace(stopped.run, stop_requested_at=NOW))
    assert judged([first, asked]).action == "wait"


def test_a_better_one_goes_on():
    there = [trial(1, "succeeded", losses={0: 4.0}, verdicts={0: True}), trial(2, "stopped", losses={0: 5.0}, verdicts={0: False})]
    assert judged([*there, trial(3, "training", losses={0: 3.0})]).keep is True


@given(st.lists(st.floats(1, 10), min_size=2, max_size=20, unique=True))
def test_the_best_at_a_rung_is_never_stopped(losses):
    trials = []
    for n, loss in enumerate(losses):
        new = trial(n, "training", losses={0: loss})
        decision = judged([*trials, new])
        if loss == min(losses):
            assert decision.keep
        trials.append(replace(new, verdicts={0: bool(decision.keep)}, run=replace(new.run, stop_requested_at=NOW)))


def test_a_rung_is_known_when_its_step_was_made():
    curve = [MetricRecord("r", step, {"loss": 10.0 - step / 10}) for step in range(1, 51)]
    assert set(losses_at(curve, 100, [0.25, 0.5, 0.75])) == {0, 1}
    assert losses_at(curve, 100, [0.25])[0] == pytest.approx(10 - 2.05)
    assert losses_at([], 100, [0.25]) == {}


def test_a_combination_that_is_launched_is_a_run_with_its_plan_label_and_project(tmp_path, monkeypatch):
    """As the driver does it, up to where a machine would be rented."""
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    spec = read(tmp_path, FILE.replace("concurrency = 2", 'concurrency = 2\ntokens = "40k"\nglobal_batch = "2048"\nproject = "p"'))
    with Lumina() as lumina:
        sweeping._begin(lumina, spec)
        prepared, refused = {}, {}
        for number in (1, 2):
            trials = sweeping.trials_of(lumina, spec, refused)
            upcoming = next(t for t in trials if t.run is None)
            assert upcoming.number == number
            prepared[number] = sweeping.prepare(lumina, spec, upcoming)
            cap = prepared[number].cap.usd
            decision = decide(trials, budget=spec.budget, concurrency=2, stopping=spec.early_stopping, next_cap=cap)
            assert (decision.action, decision.trial.number) == ("launch", number)
            sweeping._do(lumina, decision, prepared, refused, lambda _text: None)
        # What a killed driver left is what the next one finds.
        trials = sweeping.trials_of(lumina, spec, {})
        begun = [t.run for t in trials if t.run is not None]
        assert [(run.project, "sweep=first" in run.labels, run.state) for run in begun] == [("p", True, "provisioning")] * 2
        assert all(lumina.ledger.plan(run.plan_id) is not None for run in begun)
        assert decide(trials, budget=spec.budget, concurrency=2, stopping=spec.early_stopping, next_cap=cap).action == "wait"
