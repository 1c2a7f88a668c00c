"""Decisions at the border: plan files, plans backwards, what finished runs teach, drift asked for, charts."""

import io
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from rich.console import Console

from lumina_cloud.api import launching, planning, sharing, teaching
from lumina_cloud.api.launching import Prepared, purpose_of
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.api.turning import goal_of, hours_of
from lumina_cloud.cli import tables
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner.learning import Experience, Lessons
from lumina_cloud.planner.plan import plan
from lumina_cloud.planner.remedies import need, remedies
from lumina_cloud.runs.caps import Cap
from lumina_cloud.runs.workloads import WorkloadRequest
from tests.ledger.conftest import NOW, a_run
from tests.planner.conftest import machine
from trainer.config import preset


@pytest.fixture
def lumina(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    with Lumina() as opened:
        yield opened


REQUEST = WorkloadRequest("debug200m", ("dense", "mod"), tokens="50M")


def test_the_rows_of_a_plan_mark_the_front(lumina):
    rows = lumina.plan(REQUEST, MachineFilter(provider="vastai")).document.rows
    points = {(Decimal(r.usd.mid), r.hours.mid) for r in rows if r.fits}
    for r in rows:
        mine = (Decimal(r.usd.mid), r.hours.mid)
        beaten = any(p[0] <= mine[0] and p[1] <= mine[1] and p != mine for p in points)
        assert r.front == (r.fits and not beaten)
    assert any(r.front for r in rows)


@pytest.mark.pain(8)
def test_a_plan_on_the_price_book_says_of_when_its_prices_are(lumina, tmp_path):
    def said(provider, opened=lumina):
        return [n for n in opened.plan(REQUEST, MachineFilter(provider=provider)).document.notes if "price book" in n]

    # The book as it comes is the published document's, which has no dates.
    assert said("vastai") == ["prices are the price book's, without a date: --live asks the markets"]
    here = planning.local_machine(lumina.settings)
    assert planning._book_notes(lumina.settings, [here], NOW.date()) == []
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    row = '[[prices]]\nprovider = "vastai"\ngpu = "RTX4090"\nusd_per_hour = "0.5"\ninterruptible = true\n'
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "config.toml").write_text(f"{row}date = {yesterday}\n")
    with Lumina() as again:
        (note,) = said("vastai", again)
    assert f"seen on {yesterday}, 1 day ago" in note
    assert "without a date)" in note


@pytest.mark.pain(5)
def test_what_a_machine_costs_that_never_comes_up_is_said_before_it_is_rented(lumina):
    planned = lumina.plan(REQUEST, MachineFilter(provider="vastai"))
    row = planned.plan.recommendation.row
    document = Prepared(planned, row, Cap(Decimal(9), 36_000.0), boot_seconds=1800.0).as_document()
    assert Decimal(document.never_up.usd) == row.machine.usd_per_hour / 2
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tables.launch(document))
    assert "given back after 30 min" in console.export_text()
    here = replace(row, machine=replace(row.machine, provider="local"))
    assert Prepared(planned, here, Cap(Decimal(9), 36_000.0)).as_document().never_up is None


def test_a_plan_goes_through_a_file_and_comes_back_the_same(lumina, tmp_path):
    planned = lumina.plan(REQUEST, MachineFilter(provider="vastai"))
    file = tmp_path / "plan.toml"
    sharing.save(file, REQUEST, planned.document)
    shared = sharing.load(file)
    again = lumina.plan(shared.request, shared.wanted)
    best = again.plan.recommendation.row
    was = planned.plan.recommendation.row
    assert best.estimate.config == was.estimate.config
    assert best.machine == was.machine
    assert sharing.price_changes(shared, best) == ()
    dearer = replace(best, machine=replace(best.machine, usd_per_hour=2 * best.machine.usd_per_hour))
    (hour,) = (c for c in sharing.price_changes(shared, dearer) if "an hour" in c.what)
    assert hour.percent == 100.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not = [toml", "not valid TOML"),
        ("lumina_plan = 1", "is no plan"),
        ("lumina_plan = 1\nplan = 'p'\nsurprise = 1", "is no plan"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, said):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        sharing.load(tmp_path / "x.toml")


def test_a_budget_s_answer_planned_forwards_stays_within_it(lumina):
    base = WorkloadRequest("debug200m", ("dense",))
    document = lumina.plan_backwards(
        base, None, MachineFilter(provider="vastai", gpu="RTX4090", count=1), goal_of(Decimal(20), "48h", None)
    )
    best = document.recommendation
    assert Decimal(best.usd.high) <= 20
    assert best.hours.high <= 48
    first = document.backwards.answers[0]
    assert (first.usd, first.hours) == (best.usd, best.hours)
    assert lumina.ledger.plan(document.plan) is not None
    none = lumina.plan_backwards(base, None, MachineFilter(provider="vastai"), goal_of(None, None, 1.2))
    assert none.recommendation is None
    assert "no way to a loss of 1.2 is known" in none.backwards.why_none


def test_goals_are_read_as_people_write_them():
    assert [hours_of(t) for t in ("48h", "2d", "90m", "3")] == [48, 48, 1.5, 3]
    for text in ("soon", "0h", "-1h", ""):
        with pytest.raises(UsageError, match="--deadline"):
            hours_of(text)
    with pytest.raises(UsageError, match="--budget"):
        goal_of(Decimal(0), None, None)


def test_finished_runs_move_an_estimate_and_without_them_it_stays():
    card, config = machine("RTX4090"), preset("debug200m", "dense")
    plain = plan([config], [card]).rows[0].estimate
    ratios = (("tokens_per_second", math.log(0.8)), ("memory", math.log(1.1)), ("loss", math.log(1.02)))
    runs = [Experience("RTX4090", "vastai", "debug200m dense", ratios)] * 30
    taught = plan([config], [card], frozenset(), Lessons(runs)).rows[0].estimate
    assert taught.tokens_per_second.mid == pytest.approx(0.8 * plain.tokens_per_second.mid, rel=0.02)
    assert taught.basis == "measured"
    assert taught.runs == 30
    assert taught.usd.mid > plain.usd.mid
    assert taught.memory_upper_gib <= taught.usable_memory_gib or not taught.fits
    assert plan([config], [card], frozenset(), Lessons()).rows[0].estimate == plain


@pytest.mark.parametrize("gpu", ["RTX4090", "cpu"])
def test_a_run_that_reports_the_peak_that_was_planned_teaches_nothing_of_memory(lumina, gpu):
    where = MachineFilter("local") if gpu == "cpu" else MachineFilter("vastai", gpu, 1)
    prepared = launching.planned_figures(lumina.plan(WorkloadRequest("debug200m"), where).plan.rows[0])
    peak = prepared["peak_memory_gib"]["mid"]
    run = a_run(model="debug200m", gpu=gpu, state="succeeded", planned=prepared, result={"peak_memory_gib": peak})
    assert dict(teaching.experience(run, []).ratios)["memory"] == pytest.approx(0, abs=1e-3)
    assert teaching.accuracy_rows(run, [])[0].ratio == pytest.approx(1, abs=1e-3)
    # Releases before this one planned a GPU's whole process, which no run reports: they say nothing of memory there.
    former = {
        **prepared,
        "modelled": {name: value for name, value in prepared["modelled"].items() if name != "reported"} | {"memory": peak},
    }
    former_run = replace(run, planned=former)
    assert ("memory" in dict(teaching.experience(former_run, []).ratios)) == (gpu == "cpu")
    assert bool(teaching.accuracy_rows(former_run, [])) == (gpu == "cpu")


def test_what_runs_report_moves_what_fits_and_what_would_make_it_fit():
    card, config = machine("RTX4090"), preset("b1", "dense")
    plain = plan([config], [card]).rows[0].estimate
    light = Lessons([Experience("RTX4090", "vastai", "b1 dense", (("memory", math.log(0.8)),))] * 30)
    lighter = plan([config], [card], frozenset(), light).rows[0].estimate
    assert lighter.heavier == pytest.approx(0.8, rel=0.02)
    assert not lighter.fits or lighter.memory_upper_gib <= lighter.usable_memory_gib
    context = {item.name: item.gib for item in lighter.memory_items}["CUDA context"]
    assert context == {item.name: item.gib for item in plain.memory_items}["CUDA context"]
    heavy = remedies(config, card, lessons=Lessons([Experience("RTX4090", "vastai", "b1 dense", (("memory", math.log(1.3)),))] * 30))
    assert heavy
    assert all(r.memory_upper_gib <= card.gpu.usable_memory_gib + 1e-6 for r in heavy)
    # What is told is what runs would report, not what is counted.
    assert all(r.memory_upper_gib > need(r.config, r.machine).upper_gib for r in heavy)
    assert all(r.machine.gpu == card.gpu for r in heavy)


def test_no_run_has_anything_to_say_in_an_empty_ledger(lumina):
    assert len(teaching.lessons(lumina.ledger, teaching.finished(lumina.ledger))) == 0
    assert lumina.accuracy().rows == []


def test_on_drift_is_tell_or_stop():
    assert purpose_of(None, [], "stop").on_drift == "stop"
    with pytest.raises(UsageError, match="--on-drift"):
        purpose_of(None, [], "shout")


def test_misfits_name_what_would_make_them_fit(lumina):
    request = WorkloadRequest("b7", ("dense",))
    document = lumina.plan(request, MachineFilter(gpu="A100-40GB-PCIe", count=1)).document
    assert document.recommendation is None
    (misfit,) = document.misfits
    assert misfit.text.startswith("b7 dense on 1 x A100-40GB-PCIe does not fit: ")
    assert misfit.remedies
    assert all(r.memory_upper_gib <= misfit.usable_memory_gib for r in misfit.remedies)
    assert any("published: b7 dense fits A100 40GB" in note for note in document.notes)
    assert any("runpod does not rent A100-40GB-PCIe" in note for note in document.notes)
    for remedy in misfit.remedies:
        # What is promised is what the command that it names then plans.
        settings = tuple((c.name, c.after) for c in remedy.changes if c.name != "count")
        typed = lumina.plan(replace(request, settings=settings), MachineFilter(gpu="A100-40GB-PCIe", count=remedy.count)).document
        (row,) = [r for r in typed.rows if r.fits]
        assert (row.hours, row.usd, row.memory_upper_gib) == (remedy.hours, remedy.usd, remedy.memory_upper_gib)


def test_a_speed_of_this_computer_that_nobody_measured_is_called_a_usual_one(lumina):
    said = "this computer's processor has not been measured"
    assert any(note.startswith(said) for note in lumina.plan(WorkloadRequest("debug"), MachineFilter()).document.notes)
    # Where it would not do, nobody asks.
    for request, where in ((WorkloadRequest("b7"), MachineFilter()), (WorkloadRequest("debug"), MachineFilter(gpu="4090"))):
        assert not any(note.startswith(said) for note in lumina.plan(request, where).document.notes)


def test_what_a_provider_does_not_rent_is_planned_on_only_where_it_is_asked_for(lumina):
    rows = lumina.plan(WorkloadRequest("b1"), MachineFilter()).document.rows
    assert not [row for row in rows if (row.provider, row.gpu) == ("runpod", "A100-40GB-PCIe")]
    asked = lumina.plan(WorkloadRequest("b1"), MachineFilter(gpu="A100-40GB-PCIe"))
    assert {(row.provider, row.count) for row in asked.document.rows} == {("runpod", n) for n in (1, 2, 4, 8)}
