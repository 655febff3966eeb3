"""Nearest neighbours in pieces: lightly's numbers, and ties by order."""

import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks import knn
from gmje_bench.tasks.knn import Neighbours, higher, highest, merged, nearest, shared_pieces, weighted_knn
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


@pytest.mark.parametrize("order", ["random", "rising"])  # rising: every piece holds nearer rows than all before
@pytest.mark.parametrize("different", [40, 10**6])
def test_a_bound_from_earlier_rows_changes_no_neighbour(order, different):
    g = torch.Generator().manual_seed(different)
    # Rows (cos a, sin a) beside the query (1, 0): every cosine is exact to compare, and many are equal.
    angle = torch.randint(different, (9000,), generator=g).double().div(different)
    angle = angle.sort(descending=True).values if order == "rising" else angle
    bank = torch.stack([angle.cos(), angle.sin()], dim=1).float()
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = (queries @ F.normalize(bank, dim=1).T).sort(dim=1, descending=True, stable=True)
    found = nearest(Rows.of(bank), queries, 20)
    assert torch.equal(found.cosine, expected.values[:, :20])
    assert torch.equal(found.places, expected.indices[:, :20])


@pytest.mark.parametrize("columns", [2048, 2055, 100, 5])
def test_what_is_above_a_bound_is_found(columns):
    g = torch.Generator().manual_seed(columns)
    numbers = torch.randn(40, columns, generator=g)
    numbers[3] = numbers[4]
    least = numbers.topk(5, dim=1).values[:, -1:].clone()
    least[7] = 100.0  # nothing is above it
    found = higher(numbers, 11, least, 20, 10**6)
    for row, (values, places) in enumerate(zip(*found, strict=True)):
        real = (values > least[row]) & (places < 10**6)
        above = (numbers[row] > least[row]).nonzero().flatten()
        assert sorted(places[real].tolist()) == (above + 11).tolist()
        assert torch.equal(values[real], numbers[row, places[real] - 11])
    numbers[2, 1] = torch.nan  # the highest number, as for `topk`
    assert 12 in higher(numbers, 11, least, 20, 10**6).places[2].tolist()
    nothing = higher(numbers[:0], 11, least[:0], 20, 10**6)
    assert isinstance(nothing, Neighbours)
    assert len(nothing.places) == 0


@pytest.mark.parametrize("chunk", [7, 300, 5000])
@pytest.mark.parametrize("count", [0, 1, 600, 1999])
def test_queries_come_in_order_whatever_leaves_they_are_in(count, chunk, monkeypatch):
    monkeypatch.setattr(knn, "_CHUNK", chunk)
    rows = torch.rand(count, 3) + 0.1
    pieces = list(shared_pieces(Rows.of(rows), CPU))
    assert [place.start for _, place in pieces] == list(range(0, count, chunk))
    if count:
        assert torch.equal(torch.cat([part for part, _ in pieces]), F.normalize(rows, dim=1))


def test_features_in_half_precision_move_no_neighbour_far():
    (bank, _), (queries, _) = blobs(3000, 4, 0), blobs(50, 4, 1)
    whole, half = (nearest(Rows.of(part), F.normalize(queries, dim=1), 20) for part in (bank, bank.half()))
    torch.testing.assert_close(half.cosine, whole.cosine, rtol=0, atol=2e-3)
