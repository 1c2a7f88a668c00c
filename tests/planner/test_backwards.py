"""The question turned round: answers keep what was asked, and hold when they are planned forwards."""

import re
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_cloud.planner import loss as loss_law
from lumina_cloud.planner.backwards import Goal, best, sizes, tokens_for_loss, with_tokens
from lumina_cloud.planner.plan import estimate
from tests.planner.conftest import machine
from trainer.config import ARCHS, LayoutConfig, check, count_parameters, preset, with_layout

FEW = [machine("RTX4090", 1, "0.34", interruptible=True), machine("A100-80GB-PCIe", 1, "1.89"), machine("H100-80GB-SXM", 8, "20")]


@pytest.mark.parametrize("arch", ARCHS)
def test_sizes_lie_between_the_presets_and_can_be_trained(arch):
    counts = [count_parameters(size.config.model).active for size in sizes(arch)]
    assert counts == sorted(counts)
    assert all(b < 2.5 * a for a, b in pairwise(counts))
    for size in sizes(arch):
        check(replace(with_layout(size.config, LayoutConfig()), device="cuda"))
        assert bool(size.changed) == (size.config != preset(size.config.preset, arch))


@settings(max_examples=12, deadline=None)
@given(st.decimals("0.5", "5000", places=2), st.floats(1.0, 2000.0), st.sampled_from(ARCHS))
def test_an_answer_planned_forwards_stays_within_budget_and_deadline(usd, hours, arch):
    found = best(Goal(usd, hours), [arch], FEW, most=3)
    for answer in found.answers:
        forwards = estimate(with_layout(replace(answer.config, device="cpu"), LayoutConfig()), answer.machine)
        assert forwards.usd.high <= usd
        assert forwards.hours.high <= hours
        assert forwards.usd == answer.usd
        assert forwards.loss == answer.loss
    losses = [answer.loss.mid for answer in found.answers]
    assert losses == pytest.approx(sorted(losses), abs=1e-4)


def test_more_money_never_makes_a_worse_model():
    losses = [best(Goal(Decimal(usd), 200.0), ["dense"], FEW).answers[0].loss.mid for usd in (10, 50, 250)]
    assert losses == sorted(losses, reverse=True)


def test_the_cheapest_way_to_a_loss_reaches_it_and_costs_no_more_than_any_preset():
    goal = Goal(loss=3.3)
    found = best(goal, ["dense"], FEW)
    first = found.answers[0]
    assert first.loss.mid <= 3.3
    for name in ("debug200m", "b1"):
        config = preset(name, "dense")
        tokens = tokens_for_loss(config, goal)
        whole = with_layout(with_tokens(config, tokens, goal), LayoutConfig())
        assert loss_law.loss(whole).mid <= 3.3
        assert min(estimate(whole, on).usd.mid for on in FEW) >= first.usd.mid


def test_where_no_way_is_known_it_says_so():
    below = best(Goal(loss=1.5), ARCHS, FEW)
    assert not below.answers
    assert re.search(r"no way to a loss of 1\.5 is known", below.why_none)
    poor = best(Goal(Decimal("0.01"), 1.0), ["dense"], FEW)
    assert not poor.answers
    assert "50 steps" in poor.why_none
