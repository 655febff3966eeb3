"""Weights that each batch moves a little are nearly equal at every step, and far from it in the end."""

import pytest
import torch

from gmje_core.criteria import GMJESMC
from gmje_core.estimation.bank import effective_sample_size

pytestmark = pytest.mark.usefixtures("seeded")


def test_many_mild_steps_are_noticed():
    increments = 0.1 * torch.randn(200, 1000, dtype=torch.float64)
    assert min(effective_sample_size(step) for step in increments) > 950
    cumulative = increments.cumsum(dim=0)[-1]
    assert effective_sample_size(cumulative) < 500
    weights = cumulative.exp() / cumulative.exp().sum()
    torch.testing.assert_close(effective_sample_size(cumulative), 1 / weights.square().sum())


def test_the_size_does_not_depend_on_the_norm_of_the_weights():
    log_weights = torch.randn(50, dtype=torch.float64)
    size = effective_sample_size(log_weights)
    torch.testing.assert_close(effective_sample_size(log_weights + 800), size)
    torch.testing.assert_close(effective_sample_size(log_weights - 800), size)


def test_a_bank_resamples_where_no_single_step_would():
    criterion = GMJESMC(2, 512, weighting=0.05, age_decay=0.0, ess_threshold=0.5)
    for _ in range(8):
        criterion(*torch.randn(2, 64, 2))  # fill the bank
    assert criterion.critic.counters["resampled"] == 0
    increments = []
    for _ in range(60):
        before = criterion.critic.log_weights.clone()
        where = criterion.critic.born.clone()
        z = 0.2 * torch.randn(2, 8, 2) + 1.0  # from now on one corner only
        criterion(*z)
        if criterion.critic.counters["resampled"]:
            break
        assert effective_sample_size(criterion.critic.log_weights) >= 256
        old = criterion.critic.born == where
        increments.append(effective_sample_size((criterion.critic.log_weights - before)[old]) / old.sum())
    assert criterion.critic.counters["resampled"] == 1
    assert min(increments) > 0.5  # no step alone came near the threshold


def test_the_bandwidth_of_a_bank_does_not_depend_on_the_origin():
    bandwidths = []
    for offset in (0.0, 1024.0):
        torch.manual_seed(0)
        criterion = GMJESMC(2, 300, covariance_type="full")
        for _ in range(10):
            z = (torch.randn(2, 64, 2) * 256).round() / 256
            criterion(z[0] + offset, z[1] + offset)
        bandwidths.append(criterion.critic.bandwidth.clone())
    torch.testing.assert_close(bandwidths[1], bandwidths[0], rtol=1e-3, atol=1e-4)
