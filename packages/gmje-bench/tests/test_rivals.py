"""What is fitted to the synthetic tasks against theory."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from truth_factories import ALL, KOLMOGOROV, generator, pairs

from gmje_bench.alignment import engine
from gmje_bench.alignment.conditional import Conditional
from gmje_bench.alignment.engine import theory
from gmje_bench.alignment.networks import fit_mdn, fit_mse
from gmje_bench.alignment.rivals import RIVALS, fit_gje, fit_gmje
from gmje_bench.alignment.tasks import make_truth
from gmje_core import GaussianMixture


def crossing_kl() -> float:
    """KL of the best single Gaussian: its variance is 0.01 + E sin^2 = 0.51; the truth's entropy is an integral."""

    def entropy(context: float) -> float:
        branch = math.sin(math.pi * context)
        y = np.linspace(-2, 2, 4001)
        density = 0.5 * (stats.norm.pdf(y, branch, 0.1) + stats.norm.pdf(y, -branch, 0.1))
        return float(-integrate.trapezoid(density * np.log(density + 1e-300), y))

    mean_entropy = np.mean([entropy(c) for c in np.linspace(-1, 1, 401)[:-1]])
    return 0.5 * math.log(2 * math.pi * math.e * 0.51) - float(mean_entropy)


def test_theory_of_two_branches_is_closed_form():
    expected = crossing_kl()
    for method, kl in theory(make_truth("crossing")).items():
        assert kl == pytest.approx(expected, abs=0.03), method


@pytest.mark.parametrize(("name", "dim"), [
    *((name, None) for name in ALL if name != "robot-arm"), ("mixture", 4), ("crossing", 4), ("ring", 4)
])  # fmt: skip
def test_one_gaussian_fails_by_the_margin_of_theory(name, dim):
    truth = make_truth(name, dim=dim)
    found = engine.evaluate(truth, fit_gje(*pairs(name, 20000, dim, seed=5), 1, 0))
    limits = theory(truth)
    assert found["kl"] == pytest.approx(limits["gje"], abs=0.02)
    assert limits["mse"] <= limits["gje"] + 0.005
    assert found["kl"] > 0.4


def test_regression_fails_by_the_margin_of_theory():
    found = engine.evaluate(make_truth("crossing"), fit_mse(*pairs("crossing", 4000, seed=5), 4, 0))
    assert found["kl"] == pytest.approx(crossing_kl(), abs=0.05)
    assert found["recall"] < 0.1


def test_joint_mixtures_find_a_gaussian_mixture():
    found = engine.evaluate(make_truth("mixture"), fit_gmje(*pairs("mixture", 6000, seed=5), 1, 0))
    assert -4 * found["kl_standard_error"] < found["kl"] < 0.02
    assert found["recall"] > 0.99
    assert found["hpd"] < 2 * KOLMOGOROV / math.sqrt(1000)


def test_a_joint_mixture_finds_the_directions_of_a_lifted_task():
    context, target = pairs("crossing", 4000, 4, seed=5)
    found = engine.evaluate(make_truth("crossing", dim=4), fit_gmje(context, target, 1, 0))
    assert found["kl"] < 0.06
    assert found["recall"] > 0.95


def test_the_density_network_finds_the_directions_of_a_lifted_task():
    context, target = pairs("crossing", 6000, 4, seed=5)
    found = engine.evaluate(make_truth("crossing", dim=4), fit_mdn(context, target, 12, 0))
    assert found["kl"] < 0.15
    assert found["recall"] == 1


def test_the_density_network_finds_both_branches():
    context, target = pairs("crossing", 8000, seed=5)
    found = engine.evaluate(make_truth("crossing"), fit_mdn(context, target, 18, 0))
    assert found["kl"] < 0.1
    assert found["recall"] == 1


def test_whitened_conditionals_are_exact_changes_of_variables():
    matrix = torch.tensor([[2.0, 0.0], [1.0, 0.5]]).double()
    center = torch.tensor([1.0, -1.0]).double()

    def standard(context: Tensor) -> GaussianMixture:
        covariances = torch.eye(2).expand(len(context), 1, 2, 2).double()
        return GaussianMixture.from_moments(torch.ones(1), torch.zeros(len(context), 1, 2).double(), covariances)

    conditional = Conditional(standard, (center, matrix))
    context, target = torch.zeros(1500, 1).double(), 3 * torch.randn(1500, 2, generator=generator()).double()
    expected = torch.distributions.MultivariateNormal(center, matrix @ matrix.mT)
    torch.testing.assert_close(conditional.log_prob(target, context), expected.log_prob(target))
    samples = conditional.sample_target(context, 40, generator())
    assert samples.shape == (40, 1500, 2)
    torch.testing.assert_close(conditional.log_prob(samples, context), expected.log_prob(samples))
    torch.testing.assert_close(samples.flatten(0, 1).T.cov(), matrix @ matrix.mT, rtol=0.05, atol=0.05)
    torch.testing.assert_close(conditional.mean(context[:2]), center.expand(2, 2))


@pytest.mark.parametrize("name", list(RIVALS))
def test_every_rival_is_a_density_and_a_function_of_its_seed(name):
    context, target = pairs("ring", 400)
    fits = [RIVALS[name].fit(context, target, 1, 7) for _ in range(2)]
    grid = torch.cartesian_prod(*[torch.arange(-8, 8, 0.05)] * 2)
    first, second = (fit.log_prob(grid, torch.full((len(grid), 1), 0.3)) for fit in fits)
    assert float(first.double().exp().sum()) * 0.05**2 == pytest.approx(1, abs=2e-3)
    assert torch.equal(first, second)
