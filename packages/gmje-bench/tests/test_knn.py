"""Nearest neighbours in pieces: lightly's numbers, and ties by order."""

import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.knn import highest, merged, nearest, weighted_knn
from gmje_bench.tasks.rows import Rows

CPU = torch.device("cpu")


def blobs(count, classes, seed):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=g)
    return torch.randn(count, 24, generator=g) + 1.2 * torch.eye(classes, 24)[labels], labels


@pytest.mark.parametrize("classes", [4, 20])
def test_accuracies_are_those_of_lightlys_predictions(classes):
    (bank, y), (queries, truth) = blobs(5000, classes, 0), blobs(600, classes, 1)
    unit = F.normalize(bank, dim=1).T.contiguous()
    predicted = knn_predict(F.normalize(queries, dim=1), unit, y, classes, PROTOCOL.knn_k, PROTOCOL.knn_temperature)
    expected = 100 * float((predicted[:, 0] == truth).double().mean())
    top1, top5 = weighted_knn(Rows.of(bank), y, Rows.of(queries), truth, classes, CPU)
    assert top1 == pytest.approx(expected)
    assert top1 <= top5 <= 100
    if classes == 20:
        assert top5 == pytest.approx(
            100 * float((predicted[:, :5] == truth[:, None]).any(dim=1).double().mean()), abs=1
        )


def test_of_equal_rows_the_first_are_nearest():
    bank = torch.eye(2).repeat(700, 1)  # Rows 0, 2, 4 ... are equal, over several leaves.
    found = nearest(Rows.of(bank), torch.eye(2), 20)
    assert found.places.tolist() == [list(range(0, 40, 2)), list(range(1, 40, 2))]


def test_pieces_give_what_the_whole_gives():
    numbers = torch.randint(6, (30, 100), generator=torch.Generator().manual_seed(0)).float()
    parts = [highest(part, start, 10) for part, start in ((numbers[:, :7], 0), (numbers[:, 7:60], 7))]
    parts.append(highest(numbers[:, 60:], 60, 10))
    expected = numbers.sort(dim=1, descending=True, stable=True)
    for order in (parts, parts[::-1]):
        found = merged(order, 10)
        assert torch.equal(found.places, expected.indices[:, :10])
        assert torch.equal(found.cosine, expected.values[:, :10])


@pytest.mark.parametrize("columns", [4096, 4099, 641, 100])
@pytest.mark.parametrize("different", [3000, 10**6])
def test_blocks_hold_the_highest_and_of_equal_ones_the_first(columns, different):
    g = torch.Generator().manual_seed(columns)
    numbers = torch.randint(different, (200, columns), generator=g).float()
    numbers[:, -1] = different  # beyond the last whole block
    expected = numbers.sort(dim=1, descending=True, stable=True)
    found = merged([highest(numbers, 5, 20)], 20)
    assert torch.equal(found.cosine, expected.values[:, :20])
    assert torch.equal(found.places, expected.indices[:, :20] + 5)


def test_features_in_half_precision_move_no_neighbour_far():
    (bank, _), (queries, _) = blobs(3000, 4, 0), blobs(50, 4, 1)
    whole, half = (nearest(Rows.of(part), F.normalize(queries, dim=1), 20) for part in (bank, bank.half()))
    torch.testing.assert_close(half.cosine, whole.cosine, rtol=0, atol=2e-3)
