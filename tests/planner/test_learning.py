"""What runs teach: a known bias is found, one outlier moves nothing, and without runs nothing changes."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.planner.estimate import Interval
from lumina_cloud.planner.learning import FIGURES, LEAST_WIDTH, WITHIN, Experience, Kind, Lessons, believed, learned, lines, shrunk

BIAS = st.floats(-0.5, 0.5)
FIGURE = st.sampled_from(FIGURES)


def runs(n, figure, bias, noise, seed, *, family="dense", provider="vastai", gpu="RTX4090"):
    random = Random(seed)
    return [Experience(gpu, provider, family, ((figure, bias + random.gauss(0, noise)),)) for _ in range(n)]


@given(FIGURE, BIAS, st.integers(0, 999))
def test_it_converges_on_a_known_bias(figure, bias, seed):
    noise = LEAST_WIDTH[figure] / 2
    lesson = Lessons(runs(60, figure, bias, noise, seed)).of(figure, Kind("RTX4090", "vastai", 1, "dense"))
    assert math.log(lesson.factor) == pytest.approx(bias, abs=noise + 0.03 * abs(bias) + 0.01)


@given(FIGURE, BIAS, st.integers(3, 20), st.floats(1.0, 8.0) | st.floats(-8.0, -1.0), st.integers(0, 999))
def test_one_outlier_moves_nothing(figure, bias, n, far, seed):
    sign, far = math.copysign(1, far), abs(far)
    good = runs(n, figure, bias, LEAST_WIDTH[figure] / 10, seed)
    off = bias + sign * (far + 10 * LEAST_WIDTH[figure])
    outlier = Experience("RTX4090", "vastai", "dense", ((figure, off),))
    before = Lessons(good).of(figure, Kind("RTX4090", "vastai", 1, "dense")).factor
    after = Lessons([*good, outlier]).of(figure, Kind("RTX4090", "vastai", 1, "dense")).factor
    assert math.log(after / before) == pytest.approx(0, abs=LEAST_WIDTH[figure])


@given(FIGURE, st.floats(1.01, 20.0), st.sampled_from([-1, 1]))
def test_a_single_run_far_off_teaches_nothing(figure, times, sign):
    assert shrunk([sign * WITHIN[figure] * times], figure).log == 0
    assert believed([math.nan, math.inf], figure) == []


@given(FIGURE, st.lists(st.floats(-3, 3), max_size=12))
def test_a_shift_never_goes_beyond_what_the_runs_say(figure, ratios):
    assert abs(shrunk(ratios, figure).log) <= max((abs(r) for r in ratios), default=0.0)


@given(st.floats(0.5, 100), st.floats(0.1, 0.9), st.floats(1.1, 4), st.integers(0, 40))
def test_an_interval_stays_one_and_narrows_with_runs(mid, low, high, n):
    value = Interval(mid * low, mid, mid * high)
    lesson = Lessons(runs(n, "tokens_per_second", 0.2, 0.02, 1)).of("tokens_per_second", Kind("RTX4090", "vastai", 1, "dense"))
    moved = learned(value, lesson, "tokens_per_second")
    assert moved.high / moved.low <= value.high / value.low * (1 + 1e-9)
    if n == 0:
        assert moved == value


def test_other_gpus_and_families_learn_only_what_is_theirs():
    lessons = Lessons([*runs(30, "tokens_per_second", -0.3, 0.01, 1), *runs(30, "tokens_per_second", 0.1, 0.01, 2, family="moe")])
    assert lessons.of("tokens_per_second", Kind("A100-80GB-PCIe", "vastai", 1, "dense")).factor == 1
    dense = math.log(lessons.of("tokens_per_second", Kind("RTX4090", "vastai", 1, "dense")).factor)
    moe = math.log(lessons.of("tokens_per_second", Kind("RTX4090", "vastai", 1, "moe")).factor)
    assert dense == pytest.approx(-0.3, abs=0.05)
    assert moe == pytest.approx(0.1, abs=0.05)
    said = lines(lessons, Kind("RTX4090", "vastai", 1, "dense"))
    assert len(said) == 1
    assert "30 of 30 runs" in said[0]
