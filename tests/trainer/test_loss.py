"""The head and its loss in chunks: the same figures and gradients as in one piece, with no logits whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer import loss


def _inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, 6, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 6, generator=generator, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(0, 11, (13,), generator=generator)


@pytest.mark.parametrize("rows", [1, 4, 13, 100])
def test_chunks_change_nothing(rows):
    x, weight, targets = _inputs()
    whole = F.cross_entropy(x @ weight.t(), targets)
    expected = torch.autograd.grad(whole, (x, weight))
    value = loss.cross_entropy(x, weight, targets, chunk_elements=rows * 11)
    # A scaled loss: its gradient is not 1.
    got = torch.autograd.grad(2.5 * value, (x, weight))
    torch.testing.assert_close(value, whole)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, 2.5 * theirs)


@pytest.mark.parametrize("rows", [4, 100])
def test_gradients_agree_with_finite_differences(rows):
    x, weight, targets = _inputs()
    assert torch.autograd.gradcheck(lambda a, b: loss.cross_entropy(a, b, targets, chunk_elements=rows * 11), (x, weight))


def test_evaluation_gives_the_same_loss_without_gradients():
    x, weight, targets = _inputs()
    with torch.no_grad():
        assert loss.cross_entropy(x, weight, targets, chunk_elements=44) == pytest.approx(F.cross_entropy(x @ weight.t(), targets).item())


def test_no_tensor_as_large_as_all_logits_is_made():
    """2,000 tokens x 1,000 words in chunks of 100,000: nothing dispatched makes more than a chunk."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    x, weight = torch.randn(2000, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    with Sizes():
        loss.cross_entropy(x, weight, torch.zeros(2000, dtype=torch.int64), chunk_elements=100_000).backward()
    assert largest <= 100_000


def test_bf16_is_close_to_fp32():
    x, weight, targets = _inputs(torch.float32)
    exact = loss.cross_entropy(x, weight, targets)
    rough = loss.cross_entropy(x.bfloat16(), weight.bfloat16(), targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)
