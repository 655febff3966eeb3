"""The mean dependence under a conditional density by blocks, beside the plain equation with all scores stored."""

import pytest
import torch

from gmje_core.densities.covariance import covariance_from_dense
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.objectives import conditional_contrast, conditional_pmi, mean_conditional_pmi

BATCH, COMPONENTS, DIM = 13, 3, 5
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def problem(kind, dtype):
    """Leaves, and the mean of both ways as functions of them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root = normal(BATCH, COMPONENTS, DIM, DIM)
    covariance = covariance_from_dense(root @ root.mT / DIM + 0.3 * torch.eye(DIM), kind, rank=2)
    leaves = [normal(BATCH, COMPONENTS), normal(BATCH, COMPONENTS, DIM), normal(BATCH, DIM), *covariance.parameters]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]

    def mean(function):
        posterior = GaussianMixture(leaves[0], leaves[1], covariance.rebuild(*leaves[3:]))
        return function(posterior, leaves[2], torch.tensor(0.1, dtype=dtype))

    return leaves, mean


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["diag", "spherical", "full", "low_rank"])
@pytest.mark.parametrize("scores", [1, 4 * BATCH * COMPONENTS, 10**6])  # blocks of a row, of four rows, and one block
def test_blocks_give_the_mean_and_the_gradients_of_the_plain_equation(kind, dtype, scores, monkeypatch):
    monkeypatch.setattr(conditional_contrast, "_SCORES", scores)
    oracle_leaves, oracle = problem(kind, torch.float64)
    expected = oracle(lambda *arguments: conditional_pmi(*arguments).mean())
    gradients = torch.autograd.grad(3 * expected, oracle_leaves)
    leaves, mean = problem(kind, dtype)
    found = mean(mean_conditional_pmi)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for ours, theirs in zip(torch.autograd.grad(3 * found, leaves), gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_the_mean_is_at_most_the_logarithm_of_the_batch():
    means = 1e3 * torch.eye(4)[:, None]
    posterior = GaussianMixture.from_moments(torch.ones(4, 1), means, torch.eye(4).expand(4, 1, 4, 4), "diag")
    found = mean_conditional_pmi(posterior, means[:, 0], torch.tensor(0.0))
    torch.testing.assert_close(found, torch.tensor(4.0).log())


def test_a_second_gradient_is_refused():
    leaves, mean = problem("diag", torch.float64)
    with pytest.raises(RuntimeError, match="mean_conditional_pmi can be differentiated once"):
        torch.autograd.grad(mean(mean_conditional_pmi), leaves[2], create_graph=True)


def test_no_gradient_is_computed_where_none_is_wanted():
    _, mean = problem("diag", torch.float64)
    with torch.no_grad():
        quiet = mean(mean_conditional_pmi)
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, mean(mean_conditional_pmi).detach())
