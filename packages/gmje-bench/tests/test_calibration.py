"""Reliability: densities are calibrated on their own samples, and whoever is too sure or too wide is found out."""

import math

import pytest
import torch
from scipy import stats

from gmje_bench.tasks.calibration import LEVELS, calibration_error, marginal_ranks, reliability
from gmje_core import GaussianMixture, JointGaussianMixture
from gmje_core.densities.conditional import ConditionalJointMixture
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.estimation.network import MixtureDensityNetwork


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*size: int, seed: int) -> torch.Tensor:
    return torch.randn(*size, generator=generator(seed), dtype=torch.float64)


def scaled(factor: float = 1.0) -> ScaledJointMixture:
    """Three factors of two scales each way, with a target of another size; ``factor`` widens the context."""
    context, target = (0.3 * randn(3, d, d, seed=d).tril(-1) + torch.eye(d, dtype=torch.float64) for d in (3, 4))
    return ScaledJointMixture(
        randn(3, 2, 2, seed=1),
        2 * randn(3, 3, seed=2),
        2 * randn(3, 4, seed=3),
        factor * context,
        randn(3, 4, 3, seed=4),
        0.7 * target,
        torch.tensor([0.5, 2.0]).double(),
        torch.tensor([0.3, 3.0]).double(),
    )


def joint() -> JointGaussianMixture:
    root = randn(2, 5, 5, seed=6)
    covariances = root @ root.mT + torch.eye(5, dtype=torch.float64)
    return JointGaussianMixture.from_moments(torch.tensor([1.0, 2.0]).double(), randn(2, 5, seed=7), covariances, 2)


def test_the_band_is_the_binomials():
    curve = reliability(torch.rand(500, generator=generator()))
    assert curve[:, 0].tolist() == list(LEVELS)
    low, high = stats.binom.interval(0.95, 500, LEVELS)
    assert curve[:, 2].tolist() == pytest.approx(low / 500)
    assert curve[:, 3].tolist() == pytest.approx(high / 500)
    for level, actual in zip(LEVELS, curve[:, 1].tolist(), strict=True):
        assert actual == pytest.approx(level, abs=0.08)


def test_the_floor_is_the_one_that_is_said():
    errors = [calibration_error(torch.rand(1000, generator=generator(seed))) for seed in range(200)]
    assert sum(errors) / 200 == pytest.approx(0.33 / math.sqrt(1000), rel=0.1)


def test_calibration_error_of_a_shifted_rank():
    ranks = torch.rand(4000, generator=generator()).double()
    assert calibration_error(ranks) < 0.02
    assert calibration_error(ranks / 2) == pytest.approx(0.25, abs=0.03)
    assert calibration_error(ranks) == calibration_error(ranks[torch.randperm(4000, generator=generator(1))])


@pytest.mark.parametrize("density", [scaled(), joint()], ids=["scaled", "joint"])
def test_a_density_is_calibrated_on_its_own_samples(density):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        context, target = density.sample((1500,))
    ranks = marginal_ranks(density, context, target, seed=0)
    assert ranks.keys() == {"context", "target"}
    for found in ranks.values():
        assert stats.kstest(found.numpy(), "uniform").pvalue > 1e-3
        curve = reliability(found)
        assert ((curve[:, 1] >= curve[:, 2]) & (curve[:, 1] <= curve[:, 3])).sum() >= 17


def test_wider_data_fall_out_of_the_regions_and_narrower_ones_stay_in():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        wide, _ = scaled(factor=3.0).sample((800,))
        narrow, target = scaled(factor=0.4).sample((800,))
    outside = reliability(marginal_ranks(scaled(), wide, target, seed=0)["context"])
    inside = reliability(marginal_ranks(scaled(), narrow, target, seed=0)["context"])
    assert (outside[:, 1] < outside[:, 2]).all()
    assert (inside[:, 1] > inside[:, 3]).all()


def test_ranks_leave_the_global_source_alone():
    state = torch.get_rng_state()
    one, two = (marginal_ranks(joint(), randn(20, 2, seed=8), randn(20, 3, seed=9), seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_conditional_network_has_no_density_of_targets():
    context = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    density = ConditionalJointMixture(context, MixtureDensityNetwork(2, 3))
    assert marginal_ranks(density, torch.zeros(5, 2), torch.zeros(5, 3), seed=0).keys() == {"context"}
