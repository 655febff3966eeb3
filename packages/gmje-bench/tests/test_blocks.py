"""The order of images that are read in blocks, and who reads which of them."""

import pytest
import torch

from gmje_bench.datasets.blocks import block_order, shares

# Blocks of unequal sizes, as many as a small set of shards has; some images of each may have been left out.
SIZES = torch.randint(1, 40, (60,), generator=torch.Generator().manual_seed(0))
BLOCKS = torch.arange(60).repeat_interleave(SIZES)


def order_of(blocks=BLOCKS, batch_size=48, mixed=8, seed=0):
    return block_order(blocks, batch_size, mixed, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mixed", [1, 5, 8, 1000])
@pytest.mark.parametrize("batch_size", [1, 7, 48, 500])
def test_every_image_comes_once(batch_size, mixed):
    order = order_of(batch_size=batch_size, mixed=mixed)
    assert torch.equal(order.sort().values, torch.arange(len(BLOCKS)))


def test_blocks_of_a_part_of_the_images():
    some = torch.arange(0, len(BLOCKS), 3)
    assert torch.equal(order_of(BLOCKS[some] + 1000).sort().values, torch.arange(len(some)))


def test_the_order_depends_on_the_seed_alone():
    assert torch.equal(order_of(), order_of())
    assert not torch.equal(order_of(), order_of(seed=1))


def test_the_images_of_a_block_come_soon_after_each_other():
    order = order_of()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    full = len(order) // 48
    spans = torch.tensor([int(batch.max() - batch.min()) for batch in (place[b == BLOCKS] // 48 for b in range(60))])
    # A lane takes 6 images of each batch and is shuffled within windows of 20: so a block of 39 meets four windows.
    assert (spans <= 15).double().mean() > 0.8, "few blocks lie on the border of two lanes"
    assert full > 20, "the bound says something"


def test_images_are_mixed_within_and_over_blocks():
    order = order_of(torch.arange(100).repeat_interleave(50), batch_size=64, mixed=16)
    blocks = order.split(64)[10] // 50
    assert len(blocks.unique()) >= 16
    inside = torch.cat([batch.view(16, 4)[:, 1:] - batch.view(16, 4)[:, :-1] for batch in order.split(64)[:70]])
    assert 0.3 < (inside > 0).double().mean() < 0.7, "a row is as likely to come before the one after it"


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_process_reads_few_blocks_that_others_read_too(ranks):
    batches = order_of().split(48)[: len(BLOCKS) // 48]
    share = 48 // ranks
    read = sum(len(torch.cat([BLOCKS[b[r * share :][:share]] for b in batches]).unique()) for r in range(ranks))
    assert read <= 60 + ranks, "only those on the border of two lanes"


@pytest.mark.parametrize("most", [4, 100])
@pytest.mark.parametrize("readers", [1, 2, 3, 7])
def test_every_image_has_one_reader_and_every_block_one_end(readers, most):
    batches = [BLOCKS[batch] for batch in order_of().split(48)]
    seen, ended = {}, set()
    for blocks, parts in zip(batches, shares(batches, readers, most), strict=True):
        assert len(parts) % readers == 0, "as many turns for each reader"
        assert torch.equal(torch.cat([part.places for part in parts]).sort().values, torch.arange(len(blocks)))
        for number, part in enumerate(parts):
            own = blocks[part.places]
            assert len(own) <= most
            assert (own.diff() >= 0).all(), "the images of a block come together"
            for block in own.unique().tolist():
                assert seen.setdefault(block, number % readers) == number % readers
                assert block not in ended
            assert part.done <= set(own.tolist())
            ended |= part.done
    assert ended == set(range(60))
