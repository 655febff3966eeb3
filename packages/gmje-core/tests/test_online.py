"""Online mixtures."""

import pytest
import torch

from gmje_core.densities.covariance import covariance_from_dense
from gmje_core.estimation.online import OnlineMixture

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_an_online_mixture_starts_at_the_variance_it_is_given(kind, variance):
    online = OnlineMixture(
        4, 3, covariance_type=kind, tied=False, weight_prior=1.0, covariance_prior=2.0, variance_floor=1e-6
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
