"""What a probe measured is taken in place of what was modelled, for as long as it speaks of this workload on such a machine."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import cpu_benchmark, planning, probing, probing_here, probing_there, teaching
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.api.probing import KEPT_SECONDS, Probe
from lumina_cloud.core.errors import RunFailed, UsageError
from lumina_cloud.ledger import MetricRecord
from lumina_cloud.planner import plan as planner
from lumina_cloud.planner.learning import WITHIN, Experience, Kind, Lessons, family_of
from lumina_cloud.runs import workloads
from lumina_cloud.runs.workloads import WorkloadRequest
from tests.ledger.conftest import a_charge, a_rental, a_run
from trainer.config import preset

FOUND = Probe(2000.0, 0.5, 1000.0, 0.6, 20.0, "0.01", 12, overhead_seconds=15.0, modelled_overhead_seconds=10.0)
HERE = Kind("cpu", "local", 1, "debug dense")
THERE = Kind("RTX4090", "vastai", 1, "debug dense")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def config():
    return preset("debug", "dense")


@pytest.fixture
def kept(tmp_path, config):
    probing_here.keep(tmp_path, config, FOUND)
    return tmp_path


def lesson(home, config, figure="tokens_per_second"):
    return probing.Probed(Lessons(), probing_here.known(home, [config])).of(figure, HERE)


# --- on this computer ----------------------------------------------------------------------------------------------------


def test_the_measured_speed_is_the_estimates(kept, config):
    learned = lesson(kept, config)
    assert "2,000 measured / 1,000 modelled" in learned.probe
    assert learned.factor == pytest.approx(2)


def test_how_soon_a_machine_is_at_work_is_the_probe_s_too(kept, config):
    assert lesson(kept, config, "start").factor == pytest.approx(1.5)
    probing_here.keep(kept, config, replace(FOUND, overhead_seconds=0.0))
    assert not lesson(kept, config, "start").levels


@pytest.mark.parametrize("waited", [0.01, 100.0])
def test_a_rented_machine_that_waited_for_somebody_says_nothing_of_its_start(waited):
    found = replace(FOUND, overhead_seconds=waited * FOUND.modelled_overhead_seconds)
    learned = probing.Probed(Lessons(), {THERE: found, HERE: found})
    assert not learned.of("start", THERE).levels
    # Here nobody is waited for; a much longer start is that of a cold disk, a much shorter one as short as starts can be.
    assert learned.of("start", HERE).factor == pytest.approx(0.1 if waited < 1 else math.exp(WITHIN["start"]))


def test_a_start_here_that_is_a_sixth_of_what_is_modelled_is_believed():
    found = replace(FOUND, overhead_seconds=FOUND.modelled_overhead_seconds / 6)
    assert probing.Probed(Lessons(), {HERE: found}).of("start", HERE).factor == pytest.approx(1 / 6)


def test_a_probe_in_fp32_says_nothing_of_bf16_where_both_can_be_computed(tmp_path, config, monkeypatch):
    single = replace(config, training=replace(config.training, precision="fp32"))
    probing_here.keep(tmp_path, single, FOUND)
    for able, known in ((True, False), (False, True)):
        monkeypatch.setattr(cpu_benchmark, "has_bf16", lambda _flags, able=able: able)
        assert bool(probing_here.known(tmp_path, [config])) == known
        # Who asks for bf16 by name gets it emulated, and no word of fp32.
        assert not probing_here.known(tmp_path, [config], frozenset({"precision"}))


@pytest.mark.parametrize("figure", ["overhead", "loss"])
def test_of_what_a_probe_does_not_do_it_says_nothing(kept, config, figure):
    """It writes no checkpoint, brings nothing home, and a few steps tell no loss."""
    assert not lesson(kept, config, figure).levels


def test_another_workload_is_not_taken_for_it(kept, config):
    other = replace(config, training=replace(config.training, seq_len=512))
    assert not lesson(kept, other).levels


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"tokens_per_second": 1}'])
def test_a_damaged_note_is_none(kept, config, damage):
    next((kept / "probes").iterdir()).write_bytes(damage)
    assert not lesson(kept, config).levels


def test_an_old_measurement_is_made_again(kept, config):
    path = next((kept / "probes").iterdir())
    old = time.time() - KEPT_SECONDS - 60
    os.utime(path, (old, old))
    assert not lesson(kept, config).levels


# --- what steps say ------------------------------------------------------------------------------------------------------


def steps_of(seconds, tokens=1000):
    """Metrics of steps that took so many seconds each."""
    return [MetricRecord("p", n, {"tokens": n * tokens, "seconds": sum(seconds[:n]), "loss": 5.0}) for n in range(1, len(seconds) + 1)]


@given(st.floats(1e-3, 1e4), st.floats(1e-2, 1e2), st.integers(4, 60))
def test_a_first_step_that_compiles_is_no_part_of_the_speed(compiling, step, n):
    speed = probing.steady_speed(steps_of([compiling, *[step] * (n - 1)]))
    assert speed == pytest.approx(1000 / step, rel=1e-6)


SAYS_NOTHING = {
    "no step": [],
    "too few": steps_of([95.0, 30.0, 30.0]),
    "no seconds": [MetricRecord("p", n, {"loss": 5.0}) for n in range(1, 9)],
    "no time passes": steps_of([0.0] * 9),
    "two machines, one after the other": steps_of([2.0] * 45) + [replace(m, step=m.step + 45) for m in steps_of([0.5] * 55)],
}


@pytest.mark.parametrize("said", SAYS_NOTHING.values(), ids=SAYS_NOTHING)
def test_steps_that_say_nothing_are_no_speed(said):
    assert probing.steady_speed(said) is None


@given(st.sampled_from(["debug", "debug200m", "b1"]), st.sampled_from(["dense", "moe", "mod", "hybrid"]), st.floats(1.0, 1e8))
def test_a_probe_is_the_real_configuration_but_for_its_length(model, arch, speed):
    config = preset(model, arch)
    short = probing.shortened(config, speed)
    assert probing.same_workload(config, short)
    assert probing.LEAST_STEPS <= short.training.steps <= probing.MOST_STEPS
    assert short.layout.micro_batch == config.layout.micro_batch
    assert short.training.measure_seconds > 0


# --- on a rented machine -------------------------------------------------------------------------------------------------


@pytest.fixture
def lumina(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    with Lumina() as opened:
        yield opened


def ended_probe(lumina, config, *, run_id="debug-dense-p", speed=2_000_000.0, state="succeeded", measures=True, peak=5.0):
    """A probe's run as the ledger keeps it: 20 steps of 1,000 tokens in a rental of 300 s, of which it waited 40 s at its end."""
    now = lumina.clock.now()
    modelled = {"tokens_per_second": 1_000_000.0, "reported": 4.0, "overhead": 0.05}
    result = {"loss_last": 5.0, "steps": 20, "tokens_per_second": speed} | ({} if peak is None else {"peak_memory_gib": peak})
    run = a_run(
        run_id,
        created_at=now,
        state=state,
        config_json=config.to_json(),
        provider="vastai",
        gpu="RTX4090",
        planned={"modelled": modelled, "loss": {"low": 1.0, "mid": 2.0, "high": 3.0}, "measures": measures},
        result=result,
        labels=[probing_there.LABEL],
    )
    with lumina.ledger.transaction() as tx:
        tx.add_run(run)
        done = now - timedelta(seconds=40)
        tx.add_rental(a_rental(run_id, provider="vastai", gpu="RTX4090", state="ended", work_ended_at=done, ended_at=now))
        tx.put_metrics(run_id, [replace(m, run_id=run_id) for m in steps_of([60.0, *[1000 / speed] * 19])])
        tx.put_charge(replace(a_charge(run_id, usd="0.03", since=now - timedelta(seconds=300), until=now), provider="vastai"))
    return run


def probes(lumina, config, since=LONG_AGO):
    return teaching.probes(lumina.ledger, teaching.finished(lumina.ledger), [config], since)


def test_a_probe_s_run_is_read_from_the_ledger(lumina, config):
    ended_probe(lumina, probing.shortened(config, 1e6))
    found = probes(lumina, config)[THERE]
    assert found.tokens_per_second == pytest.approx(2_000_000)
    assert (found.peak_memory_gib, found.usd, found.seconds) == (5.0, "0.03", 300.0)
    assert found.overhead_seconds == pytest.approx(260, abs=0.1)
    plan = lumina.plan(WorkloadRequest("debug"), MachineFilter("vastai", "4090", 1)).plan
    (row,) = (r for r in plan.rows if r.machine.interruptible)
    assert row.estimate.basis == "measured"
    assert row.estimate.tokens_per_second.mid == pytest.approx(2 * dict(row.estimate.modelled)["tokens_per_second"])


def test_a_probe_speaks_of_its_own_workload_and_kind_of_machine_alone(lumina, config):
    ended_probe(lumina, probing.shortened(config, 1e6))
    other = replace(config, training=replace(config.training, seq_len=512))
    assert probes(lumina, other) == {}
    assert probes(lumina, config, since=lumina.clock.now() + timedelta(seconds=1)) == {}
    eight = lumina.plan(WorkloadRequest("debug"), MachineFilter("vastai", "4090")).plan
    assert {r.estimate.basis for r in eight.rows if r.machine.count > 1} <= {"modelled"}
    # Its few steps are neither a plan that turned out nor a lesson for other models.
    assert lumina.accuracy().rows == []
    taught = teaching.lessons(lumina.ledger, teaching.finished(lumina.ledger))
    assert len(taught) == 0


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("it failed", {"state": "failed"}),
        ("it is a run like any other, whatever its label", {"measures": False}),
        ("five times too fast", {"speed": 5e6}),
        ("five times too slow", {"speed": 2e5}),
        ("next to no memory", {"peak": 0.001}),
        ("twice the memory", {"peak": 8.0}),
        ("no peak", {"peak": None}),
    ],
)
def test_what_is_no_measurement_counts_for_nothing(lumina, config, why, changes):
    ended_probe(lumina, probing.shortened(config, 1e6), **changes)
    assert probes(lumina, config) == {}, why


def test_a_probe_in_another_precision_says_nothing_of_this_one(lumina, config):
    other = replace(config, training=replace(config.training, precision="fp32"))
    ended_probe(lumina, probing.shortened(other, 1e6))
    assert probes(lumina, config) == {}
    assert probes(lumina, other)


def test_a_machine_that_never_came_up_before_it_is_no_part_of_how_soon_one_is_at_work(lumina, config):
    run = ended_probe(lumina, probing.shortened(config, 1e6))
    with lumina.ledger.transaction() as tx:
        tx.put_charge(replace(a_charge(run.run_id, usd="0.06", n=2), until=lumina.clock.now()))
    found = probes(lumina, config)[THERE]
    assert (found.overhead_seconds, found.usd) == (0.0, "0.09")
    assert found.seconds > 300
    assert found.tokens_per_second == pytest.approx(2_000_000)


def test_a_probe_moves_the_start_and_leaves_what_it_does_not_do(lumina, config):
    request, where = WorkloadRequest("debug200m", tokens="50M"), MachineFilter("vastai", "4090", 1)
    other = preset("debug200m", "dense")
    before = lumina.plan(request, where).plan.recommendation.row.estimate
    kind = replace(THERE, family="debug200m dense")
    quick = replace(FOUND, overhead_seconds=5.0, modelled_overhead_seconds=10.0, modelled_tokens_per_second=2000.0)
    after = planning.make_plan(lumina.session, request, where, probed={kind: quick}).plan.recommendation.row.estimate
    assert after.parts.start_up == pytest.approx(0.5 * before.parts.start_up)
    for part in ("checkpoints", "transfer", "data", "evaluation"):
        assert getattr(after.parts, part) == getattr(before.parts, part)
    assert after.hours.low <= after.hours.mid <= after.hours.high < before.hours.high
    # Never sooner than its steps alone, and runs that taught the whole of it do not move the start a second time.
    assert after.hours.low > 50e6 / after.tokens_per_second.high / 3600
    runs = Lessons([Experience("RTX4090", "vastai", kind.family, (("overhead", math.log(2)),))] * 30)
    machine, fixed = lumina.plan(request, where).plan.recommendation.row.machine, frozenset()
    both = planner.estimate(other, machine, fixed, probing.Probed(runs, {kind: quick}))
    runs_alone = planner.estimate(other, machine, fixed, runs)
    assert both.parts.start_up == pytest.approx(0.5 * planner.estimate(other, machine, fixed).parts.start_up)
    assert both.parts.checkpoints == runs_alone.parts.checkpoints


def test_without_the_ledger_no_earlier_probe_counts(lumina, config):
    ended_probe(lumina, probing.shortened(config, 1e6))
    where = MachineFilter("vastai", "4090", 1)
    assert lumina.plan(WorkloadRequest("debug"), where, taught=False).plan.rows[0].estimate.basis == "modelled"
    taught = lumina.plan(WorkloadRequest("debug"), where)
    assert taught.plan.rows[0].estimate.basis == "measured"
    said = "\n".join(planning.explanation(taught))
    assert "probe: tokens per second x 2.0000" in said
    assert "runs far from" not in said


def test_the_newest_probe_of_a_machine_counts(lumina, config):
    ended_probe(lumina, probing.shortened(config, 1e6), run_id="debug-dense-p1", speed=1_500_000.0)
    ended_probe(lumina, probing.shortened(config, 1e6), run_id="debug-dense-p2", speed=3_000_000.0)
    assert probes(lumina, config)[THERE].tokens_per_second == pytest.approx(3_000_000)


def test_a_plan_says_what_a_probe_cost_and_changed_and_one_that_cannot_be_says_so(lumina, config):
    planned = lumina.plan(WorkloadRequest("debug"), MachineFilter("vastai", "4090", 1))
    run = ended_probe(lumina, probing.shortened(config, 1e6))
    again = lumina.probe(WorkloadRequest("debug"), MachineFilter("vastai", "4090", 1), planned, run)
    first, second = again.document.notes[:2]
    assert "20 real steps on a rented 1 x RTX4090 (debug-dense-p) in 300 s, which cost $0.03" in first
    assert second.startswith("the probe changed: tokens/s ")
    assert lumina.ledger.last_plan().plan_id == again.document.plan
    absurd = ended_probe(lumina, probing.shortened(config, 1e6), run_id="debug-dense-q", speed=1e7)
    told = lumina.probe(WorkloadRequest("debug"), MachineFilter("vastai", "4090", 1), planned, absurd)
    assert "does not count" in told.document.notes[1]
    failed = ended_probe(lumina, probing.shortened(config, 1e6), run_id="debug-dense-r", state="failed")
    with pytest.raises(RunFailed, match="nothing was measured"):
        lumina.probe(WorkloadRequest("debug"), MachineFilter("vastai", "4090", 1), planned, failed)


def test_a_probe_s_request_is_its_plan_s_row_in_short_and_takes_no_text_along(lumina, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("some words of one's own. " * 20_000)
    request = WorkloadRequest("debug", data=str(text), epochs=3.0, settings=(("seq_len", "512"), ("trackers", "wandb")))
    row = lumina.plan(request, MachineFilter("vastai", "4090", 1)).plan.recommendation.row
    short = probing_there.short_request(request, row)
    (config,) = workloads.build(short).configs
    assert config.data.source == "stdlib"
    assert config.init_from is None
    assert probing.same_workload(config, row.estimate.config)
    assert (config.training.trackers, config.training.measure_seconds) == ("", probing.MOST_SECONDS)
    assert config.layout.micro_batch == row.estimate.config.layout.micro_batch
    assert workloads.build(short).fixed >= {"micro_batch", "zero_stage", "checkpointing", "precision"}


def test_what_does_not_fit_is_not_probed(lumina):
    planned = lumina.plan(WorkloadRequest("b7"), MachineFilter("vastai", "4090", 1))
    with pytest.raises(UsageError, match="nothing to probe"):
        lumina.prepare_probe(WorkloadRequest("b7"), planned)


def test_family_is_what_the_planner_calls_it(config):
    assert family_of(config.preset, config.model.arch) == THERE.family
