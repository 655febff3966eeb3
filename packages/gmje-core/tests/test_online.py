"""Online mixtures."""

import pytest
import torch

from gmje_core.densities.covariance import LowRankCovariance, covariance_from_dense
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError
from gmje_core.estimation.online import OnlineMixture

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
@pytest.mark.parametrize("kind", ["full", "low_rank", "diag", "spherical"])
def test_an_online_mixture_starts_at_the_variance_it_is_given(kind, variance):
    online = OnlineMixture(
        4, 3, covariance_type=kind, tied=False, weight_prior=1.0, covariance_prior=2.0, variance_floor=1e-6, rank=2
    )
    online.start_at(torch.randn(4, 3), torch.tensor(variance), 5.0 * torch.randn(64, 3))
    expected = torch.full((4, 3), variance, dtype=torch.float64)
    torch.testing.assert_close(online.covariance().diagonal(), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_running_mixture_of_far_clusters(kind):
    online = OnlineMixture(
        2, 3, covariance_type=kind, tied=False, weight_prior=1e-6, covariance_prior=1e-6, variance_floor=1e-16
    )
    centers = torch.tensor([[-3e3], [3e3]]).expand(2, 3)
    index = torch.arange(400) % 2
    batches = [centers[index] + 0.5 * torch.randn(400, 3) for _ in range(20)]
    online.start_at(centers, torch.tensor(0.25), batches[0])
    for step, z in enumerate(batches, start=1):
        online.observe(z, torch.nn.functional.one_hot(index, 2).float(), 1 / step)
    whole = torch.stack(batches).double()
    for k in range(2):
        mine = whole[:, index == k].flatten(0, 1)
        dense = online.covariance().dense()[k]
        expected = covariance_from_dense(mine.T.cov(correction=0)[None], kind).dense()[0]
        torch.testing.assert_close(dense, expected, rtol=1e-3, atol=1e-4)


def factor_analysers(dim=10, rank=2):
    """Two far factor analysers with a tenth of noise."""
    means = torch.stack([torch.full((dim,), -4.0), torch.full((dim,), 4.0)]).double()
    factor = torch.randn(2, dim, rank, dtype=torch.float64)
    return GaussianMixture(
        torch.zeros(2).double(), means, LowRankCovariance(factor, torch.full((2, dim), 0.1, dtype=torch.float64))
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_low_rank_components_follow_a_stream_to_their_source(tied, dtype):
    source = factor_analysers()
    if tied:
        source = GaussianMixture(source.log_weights, source.means, source.covariance.map(lambda part: part[:1]))
    online = OnlineMixture(
        2,
        10,
        covariance_type="low_rank",
        tied=tied,
        weight_prior=1.0,
        covariance_prior=None,
        variance_floor=1e-6,
        rank=2,
    )
    for _ in range(150):
        z = source.sample((256,)).to(dtype)
        if not online.started:
            online.start(z)
        online.update(z, online().responsibilities(z.double()))
    fitted = online()
    order = fitted.means[:, 0].argsort()
    assert fitted.covariance.covariance_type == "low_rank"
    torch.testing.assert_close(fitted.means[order], source.means, rtol=0, atol=0.15)
    found = fitted.covariance.dense()[order if not tied else [0]]
    wanted = source.covariance.dense()
    assert ((found - wanted).flatten(1).norm(dim=1) < 0.1 * wanted.flatten(1).norm(dim=1)).all()
    z = source.sample((2000,))
    assert float(source.log_prob(z).mean() - fitted.log_prob(z).mean()) < 0.05


def test_low_rank_statistics_of_a_small_component_are_shrunk_toward_the_isotropic_one():
    online = OnlineMixture(
        2, 4, covariance_type="low_rank", tied=False, weight_prior=1.0, covariance_prior=6.0, variance_floor=0.0, rank=1
    )
    z = torch.randn(64, 4)
    online.start_at(z[:2], torch.tensor(2.0), z)
    online.inverse_count.fill_(1 / 64)
    counts = online.counts
    unshrunk = online.factors_shrunk(0.0, torch.tensor(2.0)).dense()
    wanted = (counts[:, None, None] * unshrunk + 6.0 * 2.0 * torch.eye(4)) / (counts[:, None, None] + 6.0)
    torch.testing.assert_close(online.covariance().dense(), wanted)


@pytest.mark.parametrize("kind", ["full", "low_rank", "diag", "spherical"])
def test_without_a_prior_an_empty_component_gets_the_isotropic_covariance(kind):
    online, with_prior = (
        OnlineMixture(
            3, 4, covariance_type=kind, tied=False, weight_prior=1.0, covariance_prior=p, variance_floor=1e-6, rank=1
        )
        for p in (0.0, 1e-12)
    )
    for mixture in (online, with_prior):
        z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        mixture.start_at(z[:2], torch.tensor(2.0), z)
        for step in (0.5, 0.3):
            mixture.observe(z, torch.tensor([1.0, 0.0, 0.0]).expand(64, 3), step)
    assert online.counts[2] == 0
    assert online.covariance().dense()[2].allclose(with_prior.covariance().dense()[2], rtol=1e-6)
    torch.testing.assert_close(online.covariance().dense()[:2], with_prior.covariance().dense()[:2])


@pytest.mark.parametrize("rank", [None, 0, 5])
def test_a_rank_that_no_factor_has_is_named(rank):
    with pytest.raises(ConfigError, match=f"rank must lie between 1 and D = 4 .* got {rank}"):
        OnlineMixture(
            2,
            4,
            covariance_type="low_rank",
            tied=False,
            weight_prior=1.0,
            covariance_prior=None,
            variance_floor=0.0,
            rank=rank,
        )
