"""Conditioning of mixtures on any dimensions in any order, by the textbook."""

import itertools
import math

import pytest
import torch
from density_cases import TYPES, mixture_of

pytestmark = pytest.mark.usefixtures("seeded")


def normal_log_prob(x, mean, dense):
    """By the definition: an inverse and a determinant."""
    difference = x - mean
    distance = (difference @ torch.linalg.inv(dense) * difference).sum(dim=-1)
    return -0.5 * (distance + torch.logdet(2 * math.pi * dense))


class TestConditioningInAnyOrder:
    """Not only where the free dimensions come first, or last."""

    GIVEN = tuple(list(p) for n in (1, 2, 3) for p in itertools.permutations(range(4), n))

    @pytest.mark.parametrize("kind", TYPES)
    def test_every_ordered_subset_of_four_dimensions(self, kind):
        mixture = mixture_of(kind, dim=4)
        dense = mixture.covariance.dense()
        x = mixture.sample((3,))
        for given in self.GIVEN:
            free = [i for i in range(4) if i not in given]
            posterior = mixture.condition(given, x[:, given])
            # By the textbook: Schur complements of the dense matrices, component by component.
            gain = dense[:, free][:, :, given] @ torch.linalg.inv(dense[:, given][:, :, given])
            schur = dense[:, free][:, :, free] - gain @ dense[:, given][:, :, free]
            residual = x[:, None, given] - mixture.means[:, given]
            means = mixture.means[:, free] + (gain @ residual.unsqueeze(-1)).squeeze(-1)
            log_weights = mixture.log_weights + torch.stack(
                [
                    normal_log_prob(x[:, given], mean[given], matrix[given][:, given])
                    for mean, matrix in zip(mixture.means, dense, strict=True)
                ],
                dim=1,
            )
            torch.testing.assert_close(posterior.means, means, msg=lambda m, g=given: f"given {g}: {m}")
            torch.testing.assert_close(posterior.covariance.dense(), schur)
            torch.testing.assert_close(posterior.log_weights, log_weights.log_softmax(dim=1))

    @pytest.mark.parametrize("kind", TYPES)
    def test_the_order_of_the_values_is_that_of_the_indices(self, kind):
        mixture = mixture_of(kind)
        x = mixture.sample((4,))
        expected = mixture.condition([0, 2, 4], x[:, [0, 2, 4]])
        for given in itertools.permutations([0, 2, 4]):
            posterior = mixture.condition(given, x[:, list(given)])
            torch.testing.assert_close(posterior.means, expected.means)
            torch.testing.assert_close(posterior.log_weights, expected.log_weights)
