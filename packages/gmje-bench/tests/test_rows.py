"""Rows in leaves: sums and selections of one process and of many, simulated here and real in the two-process test."""

import itertools

import pytest
import torch

from gmje_bench.tasks.rows import LEAVES, Rows, Team, leaf_bounds


@pytest.mark.parametrize("count", [0, 1, 250, 251, 8000, 8001, 50_000])
def test_leaves_are_whole_chunks_and_hold_every_row_once(count):
    bounds = leaf_bounds(count)
    assert len(bounds) == LEAVES
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(bounds))
    assert all(start % 250 == 0 for start, end in bounds if start < end)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 32, 40])
def test_every_leaf_has_one_owner_and_subtrees_stay_whole(size):
    teams = [Team(rank, size) for rank in range(size)]
    assert sorted(leaf for team in teams for leaf in team.leaves) == list(range(LEAVES))
    width = LEAVES // teams[0].subtrees
    for tree in range(teams[0].subtrees):
        assert len({teams[0].owner(leaf) for leaf in range(tree * width, (tree + 1) * width)}) == 1


@pytest.mark.parametrize("size", [2, 3, 4])
def test_sums_of_many_processes_are_those_of_one_to_the_last_bit(size, monkeypatch):
    numbers = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 9000)[:, None]
    alone = Rows.of(numbers).total(lambda part, _: part.sum(dim=0))
    sent: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(Team, "gather", lambda team, own: sent.setdefault(team.rank, own).new_zeros(size, *own.shape))
    for rank in range(size):
        Rows.of(numbers, team=Team(rank, size)).total(lambda part, _: part.sum(dim=0))
    monkeypatch.setattr(Team, "gather", lambda team, own: torch.stack([sent[rank] for rank in range(size)]))
    together = Rows.of(numbers, team=Team(0, size)).total(lambda part, _: part.sum(dim=0))
    assert torch.equal(alone, together)
    assert not torch.equal(alone, numbers.sum(dim=0)), "the order of the sum matters here"


def test_a_process_takes_its_leaves_of_the_whole_or_is_given_them_alone():
    numbers, team = torch.arange(2000.0), Team(1, 2)
    whole = Rows.of(numbers, team=team)
    alone = Rows.of(torch.cat(list(whole.leaves.values())), 2000, team)
    assert all(torch.equal(whole.leaves[leaf], alone.leaves[leaf]) for leaf in team.leaves)
    with pytest.raises(ValueError, match="holds 1000 of 2000 rows, but 5 were given"):
        Rows.of(torch.zeros(5), 2000, team)


def test_rows_are_taken_in_the_order_asked():
    numbers = torch.randn(3000, 2)
    places = torch.randperm(3000)[:700]
    assert torch.equal(Rows.of(numbers).take(places).whole(), numbers[places])


def test_replicated_rows_are_whole_on_every_process(monkeypatch):
    numbers, places = torch.randn(3000, 2), torch.arange(0, 3000, 5)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    # The other process's rows arrive in the sum over both.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sent: sent.copy_(numbers[asked.pop(0)]))
    for rank in range(2):
        asked = [places[slice(*bounds)] for bounds in leaf_bounds(len(places)) if bounds[0] < bounds[1]]
        few = Rows.of(numbers, team=Team(rank, 2)).take(places, replicated=True)
        assert few.team == Team()
        assert torch.equal(few.whole(), numbers[places])
        alone = Rows.of(numbers).take(places, replicated=True)
        seen = [
            rows.total(lambda part, place: torch.cat([part.sum(dim=0), torch.tensor([1.0, place.stop])]))
            for rows in (few, alone)
        ]
        assert torch.equal(*seen)
        assert seen[0][2:].tolist() == [1.0, 600.0], "one piece of all rows"
