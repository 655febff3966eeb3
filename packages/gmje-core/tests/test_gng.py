"""Growing Neural Gas: batch updates against a loop, growth and removal, and the number of clusters."""

import pytest
import torch

from gmje_core.criteria import GMJEGNG
from gmje_core.estimation.gas import NeuralGas


def clusters(count, seed, apart=8.0, dim=8):
    g = torch.Generator().manual_seed(seed)
    while True:
        points = 6 * torch.randn(count, dim, generator=g)
        if torch.pdist(points).min() > apart:
            return points, g


def draw(points, g, count=256):
    return points[torch.randint(len(points), (count,), generator=g)] + torch.randn(count, points.shape[1], generator=g)


def started(z, capacity=8, **options):
    gas = NeuralGas(capacity, z.shape[1], **options)
    gas.start(z[:2])
    return gas


def test_one_sample_is_fritzkes_rule():
    """Winner, neighbours, edge, error and utility of a single sample, worked out by hand."""
    gas = NeuralGas(4, 1, winner_rate=0.5, neighbor_rate=0.1, error_decay=0.0, max_age=10)
    gas.start(torch.tensor([[0.0], [4.0]]))
    gas.alive[2] = True
    gas.units[2] = 10.0
    gas.ages[1, 2] = gas.ages[2, 1] = 3.0
    gas.observe(torch.tensor([[3.0]]))
    # Wins unit 1 (at 4, then unit 0): error 1, utility 9 - 1; it moves half-way, units 0 and 2 a tenth of the way.
    assert gas.errors.tolist() == [0, 1, 0, 0]
    assert gas.utilities.tolist() == [0, 8, 0, 0]
    assert gas.units[:3, 0].tolist() == pytest.approx([0.3, 3.5, 9.3])
    assert gas.ages[0, 1] == 0
    assert gas.ages[1, 2] == 4


def test_a_batch_moves_units_as_far_as_one_by_one():
    """Samples at one place, where their order does not matter."""
    z = torch.full((5, 2), 3.0)
    batch = started(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    single = started(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    batch.observe(z)
    for row in z:
        single.observe(row[None])
    torch.testing.assert_close(batch.units[0], single.units[0])


def test_old_edges_and_isolated_units_go():
    gas = started(torch.tensor([[0.0], [10.0]]), max_age=3.0)
    gas.alive[2:4] = True
    gas.units[2], gas.units[3] = 0.5, 40.0
    gas.ages[0, 3] = gas.ages[3, 0] = 2.0
    gas.observe(torch.full((4, 1), 0.1))
    assert not gas.adjacency[0, 3], "an edge that was not renewed for more than max_age wins is dropped"
    assert gas.adjacency[0, 2], "the two nearest units are joined"
    removed = gas.remove_useless()
    assert removed.tolist() == [False, True, False, True, *[False] * 4], "both have lost their last edge"
    assert not gas.alive[3]


def test_insertion_splits_the_error_beside_the_worst():
    gas = started(torch.tensor([[0.0], [10.0]]), insert_every=10, split_factor=0.5)
    gas.errors[:2] = torch.tensor([8.0, 4.0])
    gas.utilities[:2] = torch.tensor([2.0, 4.0])
    gas.counters["pending"] = 10
    (insertion,) = gas.insert()
    assert [int(value) for value in insertion] == [2, 0, 1, True]
    assert gas.units[2].item() == 5.0
    assert gas.errors[:3].tolist() == [4.0, 2.0, 4.0]
    assert gas.utilities[2].item() == 3.0
    assert not gas.adjacency[0, 1]
    assert gas.adjacency[0, 2]
    assert gas.adjacency[1, 2]


def test_capacity_is_never_exceeded():
    points, g = clusters(3, 0)
    gas = started(draw(points, g), capacity=5, insert_every=16)
    for _ in range(30):
        gas.observe(draw(points, g))
        gas.remove_useless()
        gas.insert()
        assert 2 <= int(gas.alive.sum()) <= 5


@pytest.mark.parametrize("count", [3, 8])
def test_number_of_separated_clusters_is_found(count):
    found = []
    for seed in range(3):
        points, g = clusters(count, seed)
        criterion = GMJEGNG(4, 64)
        for _ in range(200):
            criterion(*draw(points, g).split(4, dim=1))
        found.append(criterion.clusters)
    assert all(abs(value - count) <= 1 for value in found), found


def test_components_leave_a_cluster_that_vanishes():
    points, g = clusters(4, 1)
    criterion = GMJEGNG(4, 32, covariance_type="diag")
    for step in range(300):
        present = points[:2] if step >= 150 else points[2:]
        criterion(*draw(present, g).split(4, dim=1))
    density = criterion.density()
    stale = torch.cdist(density.means, points).argmin(dim=1) >= 2
    assert stale.sum() <= 4, "most units have gone where the samples are"
    assert density.weights[stale].sum() < 0.01
    held_out = draw(points[:2], g, 4000)
    truth = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)),
        torch.distributions.MultivariateNormal(points[:2], torch.eye(8)),
    )
    gap = truth.log_prob(held_out).mean() - criterion.density().log_prob(*held_out.split(4, dim=1)).mean()
    assert gap < 0.15


def test_graph_can_be_drawn():
    points, g = clusters(3, 2)
    criterion = GMJEGNG(4, 32)
    for _ in range(50):
        criterion(*draw(points, g).split(4, dim=1))
    units, edges = criterion.graph()
    assert units.shape == (criterion.components, 8)
    assert edges.min() >= 0
    assert edges.max() < len(units)
    lengths = (units[edges[:, 0]] - units[edges[:, 1]]).norm(dim=1)
    assert lengths.median() < 8, "edges join neighbours"
    assert criterion.density().components == len(units)
