"""The two named ways to route blocks over depth, beside each other on one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner.plan import estimate
from trainer.config import RECIPES, count_flops, with_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.planner.estimate import Estimate, Machine
    from lumina_cloud.planner.learning import Lessons
    from lumina_cloud.planner.plan import Plan
    from trainer.config import RunConfig


@dataclass(frozen=True)
class RecipeRow:
    """One recipe of one workload."""

    arch: str
    recipe: str
    mod_every: int
    mod_capacity: float
    flops_saved: float
    """Share of the training FLOPs of the same model without depth routing."""
    machine: Machine
    estimate: Estimate


def recipes(
    configs: Sequence[RunConfig], plan: Plan, fixed: frozenset[str] = frozenset(), lessons: Lessons | None = None
) -> tuple[RecipeRow, ...]:
    """Return every recipe of the depth-routed workloads among `configs`, each on the machine that its plan puts first.

    `lessons` are the plan's, so that the recipe that it was asked for has its figures here too.
    """
    found = []
    for config in configs:
        # Weights that are there already were trained in one way, and go on in it.
        is_open = config.model.has_depth_routing and config.init_from is None
        machine = _machine(plan, config.model.arch) if is_open else None
        if machine is None:
            continue
        for recipe in RECIPES:
            routed = with_recipe(config, recipe)
            # What was measured of one recipe alone says nothing of the other.
            known = lessons if lessons is None or routed.model == config.model else lessons.of_runs()
            try:
                what = estimate(routed, machine, fixed, known)
            except UsageError:
                continue
            model = routed.model
            found.append(RecipeRow(model.arch, recipe, model.mod_every, model.mod_capacity, flops_saved(routed), machine, what))
    return tuple(found)


def flops_saved(config: RunConfig) -> float:
    """Return the share of training FLOPs that depth routing saves: against the same model, every token through every block."""
    plain = replace(config.model, arch="moe" if config.model.has_experts else "dense")
    length = config.training.seq_len
    return 1 - count_flops(config.model, length).train / count_flops(plain, length).train


def _machine(plan: Plan, arch: str) -> Machine | None:
    rows = [row for row in plan.rows if row.arch == arch]
    if plan.recommendation is not None and plan.recommendation.row in rows:
        return plan.recommendation.row.machine
    return rows[0].machine if rows else None
