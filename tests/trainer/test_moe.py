"""Mixture of experts: exact, none dropped, gradients right, and equal to a dense block where it must be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.trainer.shapes import built, small
from trainer import moe
from trainer.layers import SwiGLU
from trainer.moe import MoE, auxiliary_losses, expert_utilisation, grouped_matmul, grouped_product_by_loop, load_balance


def _mixture(**changed):
    config = small("moe", **changed)
    mixture = MoE(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return mixture


def _rows(n, width=64, dtype=torch.float32):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_every_token_gets_the_weighted_sum_of_its_experts():
    """Against the definition, token by token: softmax, the two best, renormalised."""
    mixture, x = _mixture(), _rows(20)
    y, routing = mixture(x)
    for row, out in zip(x, y, strict=True):
        probabilities = mixture.router(row).softmax(-1)
        weights, experts = probabilities.topk(2)
        expected = torch.zeros_like(row)
        for weight, expert in zip(weights / weights.sum(), experts, strict=True):
            gate, up = (row @ mixture.gate_up[expert]).chunk(2)
            expected += weight * ((nn.functional.silu(gate) * up) @ mixture.down[expert])
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert routing.load.sum().item() == pytest.approx(1)


def test_one_expert_is_a_dense_block():
    mixture, dense, x = _mixture(n_experts=1, top_k=1), SwiGLU(64, 48), _rows(16)
    with torch.no_grad():
        dense.gate_up.weight.copy_(mixture.gate_up[0].t())
        dense.down.weight.copy_(mixture.down[0].t())
    torch.testing.assert_close(mixture(x)[0], dense(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(3, 0, 7, 2), (0, 0, 12, 0), (12, 0, 0, 0), (3, 3, 3, 3)])
def test_grouped_products_equal_the_loop(sizes):
    """Forward and both gradients, with experts that get nothing."""
    x, weights = _rows(12, 16).requires_grad_(), torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ends = torch.tensor(sizes).cumsum(0).to(torch.int32)
    got = grouped_matmul(x, weights, ends)
    expected = grouped_product_by_loop(x, weights, ends)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    upstream = _rows(12, 24)
    ours = torch.autograd.grad(got, (x, weights), upstream)
    theirs = torch.autograd.grad(expected, (x, weights), upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_fallback_gives_the_same_numbers_throughout(monkeypatch):
    mixture, x = _mixture(), _rows(32).requires_grad_()
    with_it = mixture(x)[0]
    gradient = torch.autograd.grad(with_it.square().sum(), x)[0]
    monkeypatch.delattr(moe.F, "grouped_mm")
    without = mixture(x)[0]
    torch.testing.assert_close(without, with_it, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(without.square().sum(), x)[0], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changed", [{}, {"d_shared": 16}, {"balance_bias_rate": 0.01}, {"top_k": 1}, {"top_k": 3}])
def test_gradients_agree_with_finite_differences(changed):
    mixture = _mixture(d_model=8, d_expert=8, n_experts=4, n_heads=2, **changed).double()
    names = [name for name, _ in mixture.named_parameters()]

    def losses(x, *parameters):
        out, routing = torch.func.functional_call(mixture, dict(zip(names, parameters, strict=True)), (x,))
        return out, *auxiliary_losses([routing])

    x = _rows(6, 8, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(losses, (x, *mixture.parameters()))


def test_auxiliary_losses_are_as_published():
    """Even routing has balance loss 1; all to one expert, E. The z-loss is the mean squared log-sum-exp."""
    even = torch.zeros(8, 4)
    balance, z = auxiliary_losses([moe.Routing(even, torch.full((4,), 0.25))])
    assert balance.item() == pytest.approx(1)
    assert z.item() == pytest.approx(math.log(4) ** 2)
    collapsed = torch.tensor([[50.0, 0, 0, 0]]).repeat(8, 1)
    balance, _ = auxiliary_losses([moe.Routing(collapsed, torch.tensor([1.0, 0, 0, 0]))])
    assert balance.item() == pytest.approx(4)


def test_auxiliary_losses_are_summed_over_blocks_of_any_size():
    first = moe.Routing(_rows(8, 4), torch.tensor([0.5, 0.25, 0.25, 0.0]))
    second = moe.Routing(_rows(3, 4), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    together = auxiliary_losses([first, second, first])
    apart = [auxiliary_losses([r]) for r in (first, second, first)]
    for i in range(2):
        assert together[i].item() == pytest.approx(sum(a[i].item() for a in apart))


def test_load_figures():
    assert load_balance(torch.full((8,), 1 / 8)) == pytest.approx(1)
    assert load_balance(torch.tensor([1.0, 0, 0, 0])) == pytest.approx(1 / 4)
    assert expert_utilisation(torch.full((8,), 1 / 8)) == pytest.approx(1)
    assert expert_utilisation(torch.tensor([0.5, 0.5, 0, 0])) == pytest.approx(0.5)


def test_votes_even_out_the_load_without_a_loss():
    """A router that prefers one expert: votes alone bring the others in."""
    from trainer.model import Trace, balance_experts

    model = built(small("moe", balance_bias_rate=0.002, n_layers=1))
    mixture = model.blocks[0].feed_forward
    with torch.no_grad():
        mixture.router.weight.mul_(0.3)
        mixture.router.weight[0] += 0.1
        mixture.balance_votes.zero_()
    x = _rows(512) + 0.3
    before = mixture(x)[1].load
    for _ in range(200):
        balance_experts(model, Trace([mixture(x)[1]]))
    after = mixture(x)[1].load
    assert load_balance(after) > load_balance(before) + 0.05
    assert after.max() < before.max()


def test_the_bias_survives_a_cast_to_bf16():
    mixture = _mixture(balance_bias_rate=0.001)
    mixture.balance_votes += 1
    assert mixture.bfloat16().balance_votes.dtype == torch.int32
