"""Quadratic forms by products of dimensions: beside the plain path, their gradients, and where they are declined."""

import pytest
import torch

from gmje_core.densities import quadratic
from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.covariance import full as full_module
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.quadratic import accurate_forms, quadratic_forms

pytestmark = pytest.mark.usefixtures("seeded")

COMPONENTS, DIM, ROWS = 5, 24, 150


def problem(dtype, spread=0.3):
    """Rows, log-weights, means and factors, all of which require gradients."""
    factor = spread * torch.randn(COMPONENTS, DIM, DIM, dtype=torch.float64).tril(-1) / DIM**0.5
    factor = factor + torch.diag_embed(0.5 + torch.rand(COMPONENTS, DIM, dtype=torch.float64))
    parts = torch.randn(COMPONENTS, dtype=torch.float64), torch.randn(COMPONENTS, DIM, dtype=torch.float64), factor
    rows = torch.randn(ROWS, DIM, dtype=torch.float64) + 0.5
    return [part.to(dtype).requires_grad_() for part in (rows, *parts)]


def scored(parts):
    x, log_weights, means, factor = parts
    return GaussianMixture(log_weights, means, FullCovariance(factor)).log_prob(x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_values_and_gradients_are_those_of_the_plain_path(dtype, tolerance, monkeypatch):
    parts = problem(dtype)
    calls = []
    monkeypatch.setattr(full_module, "quadratic_forms", lambda *a: calls.append(a) or quadratic_forms(*a))
    fast = scored(parts)
    of_fast = torch.autograd.grad(fast.mean(), parts)
    assert len(calls) == 1  # products were taken
    monkeypatch.setattr(full_module, "accurate_forms", lambda *_: None)
    plain = scored(parts)
    of_plain = torch.autograd.grad(plain.mean(), parts)
    assert len(calls) == 1
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=0)
    for ours, theirs in zip(of_fast, of_plain, strict=True):
        size = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_forms_are_those_of_einsum_and_may_be_differentiated_twice(block, monkeypatch):
    monkeypatch.setattr(quadratic, "_BLOCK_ELEMENTS", block)
    monkeypatch.setattr(quadratic, "_FEWEST_ROWS", 1)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    root = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)

    def forms(x, root):
        return quadratic_forms(x, root + root.mT)

    expected = torch.einsum("bi,kij,bj->bk", x, root + root.mT, x)
    torch.testing.assert_close(forms(x, root), expected)
    assert torch.autograd.gradcheck(forms, (x, root))
    assert torch.autograd.gradgradcheck(forms, (x, root))
    for wanted in (x, root):  # one alone
        (ours,) = torch.autograd.grad(forms(x, root).square().sum(), wanted)
        (theirs,) = torch.autograd.grad(expected.square().sum(), wanted, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_products_are_taken_they_keep_their_digits_and_elsewhere_they_are_declined(dtype):
    taken = set()
    eps = torch.finfo(dtype).eps
    for power in range(-8, 13):
        x, _, means, factor = (part.detach() for part in problem(dtype))
        # One direction of one component is ever narrower.
        factor[2, -1] *= eps ** (power / 24)
        inverse = torch.linalg.inv(factor)
        forms = accurate_forms(x, means, inverse)
        taken.add(forms is not None)
        if forms is None:
            continue
        ours = FullCovariance(factor).squared_mahalanobis(x, means).double()
        exact = torch.linalg.solve_triangular(
            factor.double(), (x.double().unsqueeze(1) - means.double()).unsqueeze(-1), upper=False
        )
        exact = exact.square().sum(dim=(-2, -1))
        allowed = 1e-5 if dtype == torch.float32 else 1e-10
        assert float(((ours - exact).abs() / (exact + DIM)).max()) <= allowed, power
    assert taken == {True, False}


def test_values_that_are_not_finite_are_left_to_the_plain_path():
    x, _, means, factor = (part.detach() for part in problem(torch.float32))
    for value in (float("nan"), float("inf"), 1e30):
        x[3, 2] = value
        assert accurate_forms(x, means, torch.linalg.inv(factor)) is None


@pytest.mark.parametrize("grad", [False, True])
def test_scores_need_no_tensor_of_rows_by_matrices(grad):
    from density_cases import Largest

    x, log_weights, means, factor = problem(torch.float32)
    with Largest() as largest, torch.set_grad_enabled(grad):
        scored((x.repeat(40, 1), log_weights, means, factor))
    assert largest.elements <= max(quadratic._BLOCK_ELEMENTS, 40 * x.numel())
