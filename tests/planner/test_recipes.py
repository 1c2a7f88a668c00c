"""Both recipes of depth routing, beside each other, for the architectures that have it and no other."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from lumina_cloud.catalog import gpus
from lumina_cloud.planner.learning import Experience, Lesson, Lessons, Shift
from lumina_cloud.planner.plan import Machine, plan
from lumina_cloud.planner.recipes import flops_saved, recipes
from trainer.config import preset


@pytest.fixture
def machine():
    return Machine(provider="local", gpu=gpus.cpu(cores=8, memory_gib=64), count=1, usd_per_hour=Decimal("0.05"), interruptible=False)


def test_both_recipes_of_routed_architectures_only(machine):
    configs = [preset("debug", arch) for arch in ("dense", "moe", "mod", "hybrid")]
    found = recipes(configs, plan(configs, [machine]))
    assert [(r.arch, r.recipe) for r in found] == [("mod", "paper"), ("mod", "published"), ("hybrid", "paper"), ("hybrid", "published")]
    assert [(r.mod_every, r.mod_capacity) for r in found[:2]] == [(2, 0.125), (1, 0.5)]
    assert all(0 < r.flops_saved < 1 for r in found)


def test_the_published_recipe_is_shown_when_it_was_chosen_too(machine):
    configs = [preset("debug", "mod", "published")]
    assert [r.recipe for r in recipes(configs, plan(configs, [machine]))] == ["paper", "published"]


def test_the_recipe_that_was_asked_for_has_the_plan_s_own_figures_also_after_runs_taught_it(machine):
    configs = [preset("debug", "mod")]
    lessons = Lessons([Experience("cpu", "local", "debug mod", (("tokens_per_second", math.log(0.7)),))] * 20)
    made = plan(configs, [machine], frozenset(), lessons)
    paper = recipes(configs, made, frozenset(), lessons)[0]
    assert paper.estimate == made.rows[0].estimate
    assert paper.estimate.basis == "measured"


@pytest.mark.parametrize(
    ("model", "recipe", "low", "high"), [("b1", "paper", 0.37, 0.43), ("b7", "paper", 0.37, 0.435), ("b7", "published", 0.4, 0.51)]
)
def test_savings_are_those_of_the_recipe(model, recipe, low, high):
    assert low <= flops_saved(preset(model, "mod", recipe)) <= high


def test_a_probe_of_one_recipe_says_nothing_of_the_other(machine):
    class Measured(Lessons):
        """Half as fast, of one workload alone."""

        def of(self, figure, kind):
            return Lesson((("probe", Shift(math.log(0.5), 50, 50)),)) if figure == "tokens_per_second" else Lesson()

        def of_runs(self):
            return Lessons()

    configs = [preset("debug", "mod")]
    paper, published = recipes(configs, plan(configs, [machine]), frozenset(), Measured())
    assert (paper.estimate.basis, published.estimate.basis) == ("measured", "modelled")
