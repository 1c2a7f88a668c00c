"""Accuracy on published measurements that the constants were not fitted to, and the fit itself."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from lumina_cloud.api import accuracy
from lumina_cloud.catalog import gpus, measured, toml_data
from lumina_cloud.planner import fitting, memory, throughput, validation
from lumina_cloud.planner.constants import speed_constants
from trainer.config import ARCHS, LayoutConfig, preset


@pytest.fixture(scope="module")
def rows():
    return validation.speed_rows(measured.speeds(), accuracy.find_gpu)[0]


@pytest.fixture(scope="module")
def left_out(rows):
    return [e for e in validation.left_out(rows, validation.by_fold, speed_constants()) if e.scored]


def test_speed_of_rows_left_out_is_within_the_bars(left_out):
    found = validation.summary(left_out)
    assert found.median <= 0.10
    assert found.p90 <= 0.25
    assert 0.75 <= found.covered <= 0.90
    by_source = validation.grouped(left_out, lambda e: e.row.source)
    assert median(validation.summary(group).median for group in by_source.values()) <= 0.12


def test_runs_that_ran_are_said_to_fit_and_those_that_did_not_are_not():
    found, refused = validation.memory_rows(measured.memories(), accuracy.find_gpu)
    observed = [row for row in found if row.ran and row.row.text("peak_memory_gib") is None]
    assert sum(not row.fits for row in observed) <= 0.03 * len(observed)
    assert len(observed) > 100
    assert all("no size" in why for _, why in refused)


def test_published_peaks_do_not_fit_on_memory_that_is_smaller():
    found, _ = validation.memory_rows(measured.memories(), accuracy.find_gpu)
    for row in found:
        peak = row.row.number("peak_memory_gib")
        below = [g for g in accuracy.usable_sizes() if peak is not None and g < peak]
        if below:
            assert row.counted.upper_gib > below[-1], row.row.id


def test_bounds_that_have_not_seen_a_row_hold_for_it(rows):
    found, _ = validation.memory_rows(measured.memories(), accuracy.find_gpu)
    ran = validation.rows_that_ran(rows)
    unseen = validation.unseen_bounds(found, ran, validation.by_run)
    assert len(unseen) == len(found)
    observed = [(row, gib) for row, gib in unseen if row.ran and row.row.text("peak_memory_gib") is None]
    assert sum(gib > row.usable_gib for row, gib in observed) <= 0.03 * len(observed)
    for row, gib in unseen:
        peak = row.row.number("peak_memory_gib")
        below = [g for g in accuracy.usable_sizes() if peak is not None and g < peak]
        if below and not row.row.flags & validation.NOT_DESCRIBED:
            assert gib > below[-1], row.row.id


def test_runs_whose_speed_was_measured_are_said_to_fit(rows):
    ran = validation.rows_that_ran(rows)
    assert len(ran) > 150
    assert sum(not row.fits for row in ran) <= 0.05 * len(ran)


def test_a_median_error_of_memory():
    errors = [e for row in validation.memory_rows(measured.memories(), accuracy.find_gpu)[0] if (e := validation.memory_error(row))]
    found = validation.summary(e for e in errors if e.scored and not e.row.flags & validation.NOT_FITTED)
    assert found.median <= 0.06
    described = validation.summary(e for e in errors if e.scored and not e.row.flags & (validation.NOT_FITTED | validation.NOT_DESCRIBED))
    assert described.median <= 0.06
    assert described.p85 <= 0.20


def test_the_fit_finds_constants_that_made_its_rows(rows):
    truth = replace(fitting.starting_point(), matmul=0.9, attention=0.36, frameworks={"llm-foundry": 1.1}, gpus={})
    made = [
        replace(r.observation, tokens_per_second_per_gpu=1.0)
        for r in rows
        if r.row.source == "mosaicml/llm-foundry" and r.observation.gpu.name == "A100-80GB-SXM"
    ]
    made = [replace(o, tokens_per_second_per_gpu=math.exp(-fitting.log_error(o, truth))) for o in made]
    found = fitting.fit(made)
    assert max(abs(fitting.log_error(o, found)) for o in made) < 0.02


def test_the_constants_in_the_package_are_those_of_the_command(rows):
    again = validation.fitted(rows)
    kept = speed_constants()
    for name in fitting.PRIORS:
        assert getattr(again, name) == pytest.approx(getattr(kept, name), rel=0.01), "run: lumina accuracy --physics --fit"


def test_our_own_figures_are_those_of_the_performance_page():
    page = json.loads((Path(__file__).parents[2] / "docs" / "performance-gpu.json").read_text(encoding="utf-8"))
    own = toml_data.read("own_runs")
    assert {gpus.resolve(one["gpu"]).name for one in page} == {run["gpu"] for run in own["run"]}
    for one in page:
        run = next(run for run in own["run"] if run["gpu"] == gpus.resolve(one["gpu"]).name)
        assert (run["tokens_per_second"], run["peak_gib"]) == (one["tokens_per_second"], one["peak_gib"])
        assert (own["micro_batch"], own["seq_len"]) == (one["micro_batch"], one["seq_len"])


def test_our_own_speeds_follow_from_the_others(rows):
    for observation, estimated in validation.own_left_out(rows, speed_constants()):
        assert estimated == pytest.approx(observation.tokens_per_second_per_gpu, rel=0.15), observation.name


@pytest.mark.parametrize("run", toml_data.read("own_runs")["run"], ids=lambda run: run["gpu"])
@pytest.mark.parametrize("arch", ARCHS)
def test_our_own_peaks_on_a_gpu_are_what_is_counted(arch, run):
    own = next(o for o in validation.own_observations()[arch] if o.gpu.name == run["gpu"])
    counted = memory.of_setting(own.shape, own.setting, own.gpu).reported
    assert counted.mid == pytest.approx(run["peak_gib"][arch], rel=0.03)
    assert counted.low <= run["peak_gib"][arch] <= counted.high


@pytest.mark.parametrize("run", toml_data.read("own_runs")["trained"], ids=lambda run: f"{run['preset']}-{run['layout']['micro_batch']}")
def test_what_the_trainer_reports_on_a_gpu_is_what_is_counted(run):
    config = preset(run["preset"], "dense")
    training = replace(config.training, seq_len=run["seq_len"], precision="bf16")
    config = replace(config, model=replace(config.model, **run["model"]), training=training)
    layout, gpu = LayoutConfig(**run["layout"]), gpus.resolve(run["gpu"])
    reported = memory.memory(config, layout, gpu).reported
    assert reported.mid == pytest.approx(run["peak_gib"], rel=0.03)
    assert reported.low <= run["peak_gib"] <= reported.high
    if "tokens_per_second" in run:
        batch = layout.micro_batch * layout.grad_accum * run["seq_len"]
        config = replace(config, training=replace(training, global_batch_tokens=batch))
        speed = throughput.throughput(config, layout, gpu).tokens_per_second
        assert speed.low <= run["tokens_per_second"] <= speed.high


def test_every_measurement_names_its_source():
    for row in (*measured.speeds(), *measured.memories()):
        assert row.source_url.startswith("https://"), row.id
        assert row.source
