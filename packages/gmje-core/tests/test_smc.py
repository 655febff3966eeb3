"""The memory bank: MoCo's queue as its limit, weights that follow importance, resampling that keeps what counts."""

import math

import pytest
import torch
import torch.nn.functional as F

from gmje_core.criteria import GMJESMC
from gmje_core.estimation.bank import effective_sample_size, rejuvenate, systematic_resample
from gmje_core.objectives import semiparametric_pmi


def unit_pairs(count, dim, seed):
    g = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(count, dim, generator=g, dtype=torch.float64), dim=1) for _ in range(2))


@pytest.mark.parametrize("batch", [16, 24, 64])
def test_uniform_weights_and_fifo_are_mocos_queue(batch):
    """Loss and gradient of He et al. (2020), and the queue itself, step by step."""
    particles, tau, dim = 64, 0.2, 8
    criterion = GMJESMC(dim, particles, temperature=tau, weighting=0, age_decay=0, batch_share=0, direction="target")
    criterion.double()
    queue = torch.zeros(0, dim, dtype=torch.float64)
    for step in range(12):
        query, key = unit_pairs(batch, dim, step)
        query.requires_grad_()
        loss = criterion(query, key) + math.log(len(queue) + 1)
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ queue.T], dim=1) / tau
        expected = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
        actual, wanted = (torch.autograd.grad(value, query)[0] for value in (loss, expected))
        # The same on the sphere: off it, a squared distance also counts the query's own norm.
        radial = query.detach()
        actual, wanted = (g - (g * radial).sum(dim=1, keepdim=True) * radial for g in (actual, wanted))
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)
        queue = torch.cat([queue, key])[-particles:]
        held = criterion.critic.particles[: criterion.critic.count, dim:]
        assert sorted(map(tuple, held.tolist())) == sorted(map(tuple, queue.tolist()))


def test_an_empty_bank_leaves_the_batch():
    query, key = unit_pairs(24, 6, 0)
    criterion = GMJESMC(6, 64, temperature=0.1, batch_share=0.5).double()
    noise = torch.tensor(0.1, dtype=torch.float64)
    assert criterion(query, key).item() == pytest.approx(
        -semiparametric_pmi(query, key, (noise, noise), share=1.0).mean().item(), abs=1e-12
    )
    assert criterion(query, key).item() != pytest.approx(
        -semiparametric_pmi(query, key, (noise, noise), share=1.0).mean().item(), abs=1e-3
    )


def test_weights_follow_the_importance_ratio():
    """One step of EM on the weights: they become the mean responsibilities of the batch."""
    criterion = GMJESMC(2, 32, weighting=1.0, age_decay=0.0, ess_threshold=0.0).double()
    g = torch.Generator().manual_seed(0)
    criterion(*torch.randn(2, 24, 2, generator=g, dtype=torch.float64))
    batch = torch.randn(2, 8, 2, generator=g, dtype=torch.float64)
    density = criterion.density()
    usage = density.joint.responsibilities(torch.cat([*batch], dim=1)).mean(dim=0)
    criterion(*batch)
    expected = torch.cat([usage * 24 / 32, torch.full((8,), 1 / 32, dtype=torch.float64)])
    torch.testing.assert_close(criterion.density().weights, expected)


def test_the_lightest_make_room():
    criterion = GMJESMC(1, 8, weighting=0.0, ess_threshold=0.0).double()
    criterion(torch.arange(8.0).double()[:, None], torch.arange(8.0).double()[:, None])
    criterion.critic.log_weights.copy_(torch.tensor([5, 1, 6, 2, 7, 8, 9, 10]).log())
    new = torch.tensor([[100.0], [101.0]], dtype=torch.float64)
    criterion(new, new)
    assert criterion.critic.particles[:, 0].tolist() == [0, 100, 2, 101, 4, 5, 6, 7]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_effective_sample_size_is_never_below_its_threshold_after_a_step(threshold):
    criterion = GMJESMC(2, 128, weighting=0.9, ess_threshold=threshold)
    for step in range(60):
        z = torch.randn(32, 2, generator=torch.Generator().manual_seed(step)) + 0.2 * step
        criterion(z, z)
        size = effective_sample_size(criterion.density().log_weights.double())
        assert size >= threshold * criterion.critic.count - 1e-6
    if threshold == 0.9:
        assert criterion.critic.counters["resampled"] > 0


def test_effective_sample_size_is_of_cumulative_weights():
    """Two even tilts in a row: each increment alone would hide what the weights have become."""
    increment = torch.tensor([0.0, -1.0, -2.0, -3.0], dtype=torch.float64)
    criterion = GMJESMC(1, 8)
    assert effective_sample_size(2 * increment) < effective_sample_size(increment)
    weights = (2 * increment).softmax(dim=0)
    assert effective_sample_size(2 * increment).item() == pytest.approx(1 / float(weights.square().sum()))
    assert criterion.critic.count == 0


def test_systematic_resampling_draws_each_particle_floor_or_ceil_of_its_share():
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        log_weights = 3 * torch.randn(40, generator=g, dtype=torch.float64)
        share = 40 * log_weights.softmax(dim=0)
        drawn = systematic_resample(log_weights, float(torch.rand((), generator=g))).bincount(minlength=40)
        assert (drawn >= (share - 1e-9).floor()).all()
        assert (drawn <= (share + 1e-9).ceil()).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 1e-16])
def test_systematic_resampling_stays_in_range(uniform):
    log_weights = torch.tensor([0.0, -50.0, -math.inf], dtype=torch.float64)
    index = systematic_resample(log_weights, uniform)
    assert index.min() >= 0
    assert index.max() <= 2


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.7, 1.0])
def test_rejuvenation_keeps_mean_and_covariance(strength):
    g = torch.Generator().manual_seed(0)
    x = (
        torch.randn(50_000, 3, generator=g, dtype=torch.float64) @ torch.randn(3, 3, generator=g, dtype=torch.float64)
        + 4
    )
    moved = rejuvenate(x, strength, torch.randn(50_000, 3, generator=g, dtype=torch.float64))
    torch.testing.assert_close(moved.mean(dim=0), x.mean(dim=0), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(moved.T), torch.cov(x.T), atol=0.1, rtol=0.02)
    assert torch.allclose(moved, x) == (strength == 0)


def test_rejuvenation_of_particles_on_a_line_stays_on_it():
    x = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0], dtype=torch.float64)
    moved = rejuvenate(x, 0.5, torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    torch.testing.assert_close(moved[:, 1], 2 * moved[:, 0], atol=1e-7, rtol=0)


def test_it_follows_a_jump_faster_than_a_queue():
    """After the source has moved, importance weights leave the stale particles before first-in-first-out does."""

    def nll(criterion):
        g = torch.Generator().manual_seed(0)
        for step in range(30):
            z = torch.randn(2, 64, 2, generator=g) + (6.0 if step >= 26 else 0.0)
            criterion(*z)
        return -criterion.density().log_prob(*(torch.randn(2, 2000, 2, generator=g) + 6)).mean()

    assert nll(GMJESMC(2, 1024, weighting=0.3)) < nll(GMJESMC(2, 1024, weighting=0.0, age_decay=0.0)) - 0.2


def test_batches_larger_than_the_bank_leave_their_last_pairs():
    criterion = GMJESMC(1, 8)
    z = torch.arange(20.0)[:, None]
    criterion(z, z)
    assert sorted(criterion.critic.particles[:, 0].tolist()) == list(range(12, 20))
