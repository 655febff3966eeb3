"""Exponentials far below zero: the same numbers as PyTorch's, and zeros where those would not be normal."""

import math

import pytest
import torch

from gmje_core.exponentials import exp_, logsumexp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_are_those_of_torch_and_zero_below_normal_numbers(dtype):
    least = math.log(torch.finfo(dtype).tiny)
    x = torch.cat([torch.linspace(least - 50, 20, 4001, dtype=dtype), torch.tensor([-1e30, -math.inf], dtype=dtype)])
    found = exp_(x.clone())
    normal = x > least + 1.2
    torch.testing.assert_close(found[normal], x[normal].exp(), rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert bool((found[x < least + 0.9] == 0).all())


def test_exponentials_are_taken_in_place():
    x = torch.zeros(3)
    assert exp_(x) is x
    assert x.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_not_a_number_stays(size):
    x = torch.zeros(2, size)
    x[0, size // 2] = math.nan
    assert bool(logsumexp(x, dim=1)[0].isnan())
    assert not bool(logsumexp(x, dim=1)[1].isnan())
    assert bool(exp_(x)[0, size // 2].isnan())
    assert int(x.isnan().sum()) == 1


@pytest.mark.parametrize("dim", [-1, 0, (1, 2), (0, 2)])
@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_log_sums_and_their_gradients_are_those_of_torch(dim, spread):
    torch.manual_seed(0)
    x = spread * torch.randn(3, 4, 5, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = logsumexp(ours, dim), theirs.logsumexp(dim=dim)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


def test_log_sums_can_be_differentiated_twice():
    torch.manual_seed(0)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: logsumexp(z, dim=1), x)


def test_infinite_summands():
    inf = math.inf
    x = torch.tensor([[-inf, -inf], [-inf, 2.0], [inf, 0.0], [3.0, 3.0]], requires_grad=True)
    torch.testing.assert_close(logsumexp(x, dim=1), x.logsumexp(dim=1))
    logsumexp(x, dim=1)[[1, 3]].sum().backward()
    assert x.grad[[1, 3]].tolist() == [[0.0, 1.0], [0.5, 0.5]]
