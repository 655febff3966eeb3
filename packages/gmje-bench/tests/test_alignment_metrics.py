"""Metrics of the synthetic tasks on known cases."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from truth_factories import KOLMOGOROV, generator, normal

from gmje_bench.alignment import metrics


def test_energy_distance_of_gaussians():
    """E|N(0, 2s^2)| = 2 s / sqrt(pi): the distance of two normals of the same mean is in closed form."""
    x, y = (s * torch.randn(3000, 1, generator=generator(i)).double() for i, s in ((0, 1.0), (1, 3.0)))
    expected = 2 * math.sqrt(2 / math.pi) * math.sqrt(10) - 2 / math.sqrt(math.pi) * (1 + 3)
    assert metrics.energy_distance(x, y) == pytest.approx(expected, abs=0.12)
    same = [metrics.energy_distance(*torch.randn(2, 200, 2, generator=generator(s))) for s in range(40)]
    assert abs(np.mean(same)) < 4 * np.std(same) / math.sqrt(40)
    assert min(same) < 0, "without bias it falls below zero too"


def test_sliced_wasserstein_of_a_shift():
    x = torch.randn(500, 2, generator=generator())
    shift = torch.tensor([3.0, 4.0])
    found = metrics.sliced_wasserstein(x, x + shift, generator(1), directions=2000)
    assert found == pytest.approx(5 * 2 / math.pi, rel=0.05)  # E|cos| = 2 / pi
    assert metrics.sliced_wasserstein(x, x.flip(0), generator(1)) == pytest.approx(0, abs=1e-6)


def two_modes(weight: float, deviation: float = 0.1, count: int = 2000, seed: int = 0) -> Tensor:
    source = generator(seed)
    sign = torch.where(torch.rand(count, 3, 1, generator=source) < weight, 1.0, -1.0)
    return sign + deviation * torch.randn(count, 3, 1, generator=source)


@pytest.mark.parametrize(
    ("weight", "deviation", "recall", "error"),
    [(0.5, 0.1, 1.0, 0.0), (1.0, 0.1, 0.5, 0.5), (0.7, 0.1, 1.0, 0.2), (0.1, 0.1, 0.5, 0.4), (0.5, 1.0, 0.0, 0.0)],
)
def test_mode_recall_and_weight_error(weight, deviation, recall, error):
    """A missing mode, a light mode and a blob over both; a row of NaN is no mode."""
    centers = torch.tensor([[[-1.0], [1.0], [math.nan]]]).expand(3, -1, -1)
    masses = metrics.mode_masses(centers, two_modes(0.5), two_modes(weight, deviation, seed=1))
    assert metrics.mode_recall(masses) == recall
    assert metrics.weight_error(masses) == pytest.approx(error, abs=0.03)
    assert masses.truth[:, 2].max() == masses.model[:, 2].max() == 0
    torch.testing.assert_close(masses.truth_near[:, :2], 0.9 * masses.truth[:, :2], rtol=0.01, atol=0)


def test_a_light_branch_is_no_mode():
    centers = torch.tensor([[[-1.0], [1.0]]]).expand(3, -1, -1)
    masses = metrics.mode_masses(centers, two_modes(0.95), two_modes(1.0, seed=1))
    assert metrics.mode_recall(masses) == 1


@pytest.mark.parametrize(("deviation", "calibrated"), [(1.0, True), (0.5, False), (2.0, False)])
def test_calibration_tells_too_narrow_and_too_wide_from_right(deviation, calibrated):
    target = torch.randn(1000, 1, generator=generator())
    samples = deviation * torch.randn(200, 1000, 1, generator=generator(1))
    pit = metrics.uniformity_error(metrics.pit_values(target, samples, generator(2)))
    zero = torch.zeros(())
    ranks = metrics.hpd_ranks(
        normal(target, zero, deviation)[:, 0], normal(samples, zero, deviation)[..., 0], generator(3)
    )
    limit = KOLMOGOROV / math.sqrt(1000)
    assert (pit < limit) == calibrated
    assert (metrics.uniformity_error(ranks) < limit) == calibrated


def test_uniformity_error_is_the_kolmogorov_statistic():
    values = torch.rand(57, 3, generator=generator()).double()
    expected = np.mean([stats.kstest(column, "uniform").statistic for column in values.T.numpy()])
    assert metrics.uniformity_error(values) == pytest.approx(expected)


def test_kl_of_gaussians():
    x = torch.randn(20000, generator=generator()).double()
    zero, one = torch.zeros(()), torch.ones(())
    kl, error = metrics.conditional_kl(normal(x, zero, 1.0), normal(x, one, 2.0))
    assert abs(kl - (math.log(2) + 2 / 8 - 0.5)) < 4 * error
    assert metrics.conditional_kl(normal(x, zero, 1.0), normal(x, zero, 1.0)) == (0, 0)
