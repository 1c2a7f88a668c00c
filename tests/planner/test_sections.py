"""The document's sections from modelled figures: categories are won by the rows that really are best."""

from decimal import Decimal

import pytest

from lumina_cloud.catalog import benchmarks
from lumina_cloud.planner import sections
from tests.planner.conftest import machine


@pytest.fixture(scope="module")
def rows():
    market = [machine("RTX4090", 8, "2.72"), machine("A100-80GB-PCIe", 1, "1.89"), machine("A100-80GB-PCIe", 8, "15.12")]
    return sections.recommended(benchmarks.load(), market)


def test_winners_are_the_best_rows(rows):
    won = sections.winners(rows)
    assert set(won) == {w.category for w in benchmarks.load().winners}
    useful = [row for row in rows.values() if row.model != "debug"]
    # The debug size's losses are per token of a far smaller vocabulary.
    assert won["Best Quality"].estimate.loss.mid == min(r.estimate.loss.mid for r in useful)
    assert won["Best Budget"].estimate.usd.mid == min(r.estimate.usd.mid for r in useful)
    assert won["Fastest Training"].estimate.hours.mid == min(r.estimate.hours.mid for r in rows.values())
    assert won["Fastest Training"].model == "debug"


def test_the_strategy_adds_up_and_goes_from_small_to_large(rows):
    stages = sections.strategy(benchmarks.load(), rows)
    costs = [stage.row.estimate.usd.mid for stage in stages]
    assert costs == sorted(costs)
    assert [stage.spent_usd for stage in stages] == [sum(costs[: n + 1], Decimal(0)) for n in range(len(costs))]
    assert all("loss" in stage.decision for stage in stages)


def test_experts_take_more_memory_and_depth_routing_less_time_than_dense(rows):
    found = {a.arch: a for a in sections.insights(benchmarks.load(), rows)}
    assert found["moe"].memory[0] > 50
    assert found["mod"].hours[1] < 0
    assert found["mod"].loss[0] > 0


def test_the_document_s_memory_example_does_not_fit():
    tips = sections.memory_tips(benchmarks.load().memory_example, machine("A100-40GB-PCIe"))
    assert not tips[-1].fits
    assert tips[-1].after_gib > 100
    assert all(tip.after_gib <= tip.before_gib for tip in tips)
