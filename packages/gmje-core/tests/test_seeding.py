"""k-means++ finds separate clusters, stops at distinct rows, and leaves less to explain when it is greedy."""

import torch

from gmje_core.estimation.seeding import kmeans_plus_plus


def test_kmeans_plus_plus_finds_every_separate_cluster():
    centers = 100 * torch.eye(8)
    x = (centers[:, None] + torch.randn(8, 20, 8, generator=torch.Generator().manual_seed(0))).flatten(0, 1)
    for seed in range(20):
        index, distances = kmeans_plus_plus(x, 8, generator=torch.Generator().manual_seed(seed))
        assert set((index // 20).tolist()) == set(range(8)), "D² sampling: max for min would miss clusters"
        assert distances.max() < 100


def test_kmeans_plus_plus_with_fewer_distinct_rows_than_asked():
    index, distances = kmeans_plus_plus(torch.ones(5, 2), 3, generator=torch.Generator().manual_seed(0))
    assert len(index) == 1
    assert distances.tolist() == [0] * 5


def test_greedy_kmeans_plus_plus_leaves_less_to_explain():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g) + 4 * torch.randn(16, 6, generator=g)[torch.arange(400) % 16]
    cost = {
        trials: sum(
            float(kmeans_plus_plus(x, 16, generator=torch.Generator().manual_seed(seed), trials=trials)[1].sum())
            for seed in range(20)
        )
        for trials in (1, 4)
    }
    assert cost[4] < 0.9 * cost[1]


def test_greedy_kmeans_plus_plus_with_fewer_distinct_rows_than_asked():
    x = torch.tensor([[1e8], [1e8], [1e8 + 64], [2e8]])
    index, distances = kmeans_plus_plus(x, 4, generator=torch.Generator().manual_seed(0), trials=3)
    assert sorted(x[index].flatten().tolist()) == [1e8, 1e8 + 64, 2e8]
    assert distances.tolist() == [0] * 4
