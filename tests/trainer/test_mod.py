"""Mixture of depths: who enters, what they change, that no later token has a say, and gradients."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.shapes import ROUTED, built, small, tokens
from trainer.layers import rotary_table
from trainer.mod import Choice, DepthRouter, predictor_figures, predictor_loss
from trainer.model import RoutedBlock


@pytest.mark.parametrize("variant", ROUTED)
@pytest.mark.parametrize("changed", [1, 20, 31])
def test_no_later_token_changes_an_earlier_output(variant, changed):
    config = small(variant)
    model, ids = built(config), tokens(config, 2, 32)
    other = ids.clone()
    other[:, changed:] = tokens(config, 2, 32 - changed, seed=7)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids)[:, :changed], model.logits(other)[:, :changed], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ROUTED)
def test_training_does_look_at_later_tokens(variant):
    """The choice of the best is not causal: that is why the reported loss is the predictor's."""
    config = small(variant)
    model, ids = built(config), tokens(config, 2, 32)
    other = ids.clone()
    other[:, 16:] = tokens(config, 2, 16, seed=7)
    with torch.no_grad():
        hidden = [model._hidden(x, causal=False)[0].view(2, 32, -1)[:, :16] for x in (ids, other)]
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ROUTED)
def test_a_sequences_loss_does_not_depend_on_its_neighbours(variant):
    """Causal evaluation packs sequences whose numbers of entering tokens differ: padding must have no say."""
    config = small(variant)
    model, ids = built(config), tokens(config, 4, 32)
    with torch.no_grad():
        together = model(ids, ids, causal=True)[0]
        apart = torch.stack([model(row[None], row[None], causal=True)[0] for row in ids]).mean()
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def test_the_capacity_best_enter_and_the_others_are_left_as_they_were():
    config = small("mod-paper")
    block = built(config).blocks[1]
    assert isinstance(block, RoutedBlock)
    x = torch.randn(2 * 32, 64, generator=torch.Generator().manual_seed(3))
    y, _, choice = block(x, rotary_table(32, config.d_head, config.rope_theta, x))
    assert choice.picked.sum(1).tolist() == [config.capacity_tokens(32)] * 2 == [4.0, 4.0]
    best = block.router.score(x).view(2, 32).topk(4).indices.sort().values
    assert (choice.picked.nonzero()[:, 1].view(2, 4) == best).all()
    changed = (y != x).any(-1).view(2, 32)
    assert (changed == choice.picked.bool()).all()


def test_entering_tokens_keep_their_positions():
    """One token that enters with others far before it: its attention knows the distance (RoPE of the whole sequence)."""
    config = small("mod-paper", mod_capacity=0.25)
    block = built(config).blocks[1]
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    rotary = rotary_table(16, config.d_head, config.rope_theta, x)
    y, _, choice = block(x, rotary)
    index = choice.picked[0].nonzero().flatten()
    inner, _ = block.block(x[index], (rotary[0][index], rotary[1][index]))
    gate = block.router.score(x[index]).sigmoid()
    torch.testing.assert_close(y[index], x[index] + gate * (inner - x[index]), rtol=1e-5, atol=1e-5)
    consecutive, _ = block.block(x[index], (rotary[0][:4], rotary[1][:4]))
    assert (consecutive - inner).abs().max() > 1e-4


@pytest.mark.parametrize("variant", ["mod-paper", "hybrid-paper"])
def test_gradients_agree_with_finite_differences(variant):
    config = small(
        variant, d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=8, d_expert=8, n_experts=4, d_predictor=4, mod_capacity=0.5
    )
    block = built(config).blocks[1].double()
    names = [name for name, _ in block.named_parameters()]
    x = torch.randn(2 * 6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    rotary = rotary_table(6, config.d_head, config.rope_theta, x)

    def update(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x, rotary))[0]

    assert torch.autograd.gradcheck(update, (x, *block.parameters()))


def test_the_predictor_learns_without_touching_the_model():
    config = small("mod-paper")
    router = DepthRouter(config)
    x = torch.randn(32, 64, requires_grad=True)
    _, choice = router(x, 16, 2, causal=False)
    predictor_loss([choice]).backward()
    assert x.grad is None or not x.grad.any()
    assert router.score.weight.grad is None
    assert router.hidden.weight.grad.abs().sum() > 0


def test_the_router_learns_through_its_gate():
    config = small("mod-paper")
    model, ids = built(config), tokens(config, 2, 32)
    model(ids, ids)[0].backward()
    assert model.blocks[1].router.score.weight.grad.abs().sum() > 0


def test_figures_of_a_choice():
    choice = Choice(torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[2.0, -1, 3, -2]]), None)
    assert predictor_figures(choice) == {"skip_rate": 0.5, "predictor_precision": 0.5, "predictor_recall": 0.5}
    causal = Choice(choice.picked, choice.predicted, torch.tensor([[True, False, False, False]]))
    assert predictor_figures(causal)["skip_rate"] == 0.75
