"""k-means++ draws by the distance to the nearest centre; to the farthest, it crowds."""

import pytest
import torch

from gmje_core.estimation.seeding import kmeans_plus_plus

pytestmark = pytest.mark.usefixtures("seeded")


def test_distances_are_to_the_nearest_centre():
    x = torch.randn(60, 4, dtype=torch.float64)
    index, distances = kmeans_plus_plus(x, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(distances, torch.cdist(x, x[index]).square().min(dim=1).values)


def test_given_centres_count():
    x, centres = torch.randn(60, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    index, distances = kmeans_plus_plus(x, 3, generator=torch.Generator().manual_seed(0), centers=centres)
    expected = torch.cdist(x, torch.cat([centres, x[index]])).square().min(dim=1).values
    torch.testing.assert_close(distances, expected)


def test_the_draws_have_the_probabilities_of_the_squared_distances():
    x = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    centres = torch.tensor([[0.0], [100.0]])  # the far one must not matter
    drawn = torch.cat(
        [
            kmeans_plus_plus(x, 1, generator=torch.Generator().manual_seed(seed), centers=centres)[0]
            for seed in range(1500)
        ]
    )
    expected = torch.tensor([0.0, 1.0, 4.0, 16.0]) / 21
    got = drawn.bincount(minlength=4) / len(drawn)
    assert ((got - expected).abs() <= 4 * (expected * (1 - expected) / len(drawn)).sqrt()).all()


def test_a_far_cluster_is_never_missed():
    x = torch.cat([torch.randn(1000, 2), 1e3 + torch.randn(3, 2)])
    for seed in range(20):
        index, _ = kmeans_plus_plus(x, 2, generator=torch.Generator().manual_seed(seed))
        assert (index >= 1000).sum() == 1
