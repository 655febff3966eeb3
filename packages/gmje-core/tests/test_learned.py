"""Learned mixtures."""

import pytest
import torch
from density_cases import TYPES

from gmje_core.estimation.learned import LearnedMixture
from gmje_core.estimation.seeding import find_centres, step_generator

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("kind", TYPES)
def test_a_learned_mixture_starts_at_the_variance_within_clusters(kind, scale):
    z = scale * torch.randn(64, 3)
    learned = LearnedMixture(4, 3, covariance_type=kind, tied=False, rank=2, variance_floor=1e-6)
    learned.start(z)
    centres = find_centres(z, 4, step_generator(0, 0))
    mixture = learned()
    variance = centres.variance.float().expand(4, 3)
    torch.testing.assert_close(mixture.covariance.diagonal(), variance, rtol=0.03, atol=0)
    torch.testing.assert_close(mixture.means, centres.means)
    assert 0.1 * scale**2 < variance[0, 0] < scale**2
