"""Full covariances: repaired factors serve every part, and nothing goes stale."""

import pytest
import torch
from density_cases import assert_mass_is_one

from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import JitterWarning

pytestmark = pytest.mark.usefixtures("seeded")


class TestJitterReachesEveryPart:
    """Jitter on the precision but not on its factor gives a density whose mass is not one."""

    @pytest.mark.parametrize("condition", [False, True])
    def test_mass_of_a_repaired_covariance_is_one(self, condition):
        row = torch.tensor([[1.0, 2.0, -1.0]])
        singular = (row.mT @ row)[None]
        with pytest.warns(JitterWarning):
            repaired = FullCovariance.from_second_moments(singular)
        mixture = GaussianMixture(torch.zeros(1), torch.zeros(1, 3), repaired)
        if condition:
            mixture = mixture.condition([0], torch.tensor([0.5]))
        assert_mass_is_one(mixture)

    def test_the_log_determinant_is_that_of_the_distances(self):
        row = torch.tensor([[1.0, 2.0, -1.0]])
        with pytest.warns(JitterWarning):
            repaired = FullCovariance.from_second_moments(torch.stack([row.mT @ row, torch.eye(3)]))
        whitening = torch.linalg.inv(repaired.scale_tril.double())
        x = torch.randn(20, 3)
        distances = (whitening @ x.double().T).square().sum(dim=1).T
        torch.testing.assert_close(
            repaired.squared_mahalanobis(x, torch.zeros(2, 3)).double(), distances, rtol=1e-3, atol=1e-5
        )
        torch.testing.assert_close(-whitening.logdet(), repaired.half_log_det().double(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(repaired.diagonal()[1], torch.ones(3), rtol=0, atol=0)


def test_no_factor_goes_stale():
    scale_tril = torch.eye(2).repeat(2, 1, 1)
    covariance = FullCovariance(scale_tril)
    x, means = torch.ones(1, 2), torch.zeros(2, 2)
    before = covariance.squared_mahalanobis(x, means)
    scale_tril.mul_(2)
    torch.testing.assert_close(covariance.squared_mahalanobis(x, means), before / 4)


def test_a_singular_member_behind_vanishing_noise_is_nan_and_the_others_are_not():
    scale_tril = torch.stack([torch.eye(3), torch.tensor([[1e8, 0, 0], [1e8, 1e-8, 0], [1e8, 0, 1e-8]])])
    noisy = FullCovariance(scale_tril).add_diagonal(torch.tensor(1e-12))
    torch.testing.assert_close(noisy.scale_tril[0], torch.eye(3))
    assert noisy.scale_tril[1].isnan().all()
