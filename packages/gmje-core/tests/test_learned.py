"""Learned mixtures."""

import pytest
import torch
from density_cases import TYPES

from gmje_core.estimation.learned import LearnedMixture

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
@pytest.mark.parametrize("kind", TYPES)
def test_a_learned_mixture_starts_at_the_variance_it_is_given(kind, variance):
    learned = LearnedMixture(4, 3, covariance_type=kind, tied=False, rank=2, variance_floor=1e-6)
    total = (torch.zeros(3).double(), torch.full((3,), 25.0).double())
    learned.start(torch.randn(4, 3), variance, total, batch_size=64)
    got = learned.covariance().diagonal()
    torch.testing.assert_close(got, torch.full((4, 3), variance), rtol=0.03, atol=0)
