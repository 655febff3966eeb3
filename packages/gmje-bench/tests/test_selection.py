"""Splits, validation splits and limits of the number of images."""

import pytest
import torch
from dataset_factories import everything, fails, folder_of

from gmje_bench.datasets import ResidentImages, Split, load_dataset, validation_split
from gmje_bench.datasets.selection import without_classes
from gmje_bench.errors import OptionError

pytestmark = pytest.mark.usefixtures("own_cache")


def numbered(labels):
    labels = torch.tensor(labels)
    return Split.whole(ResidentImages(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)), labels)


def test_a_split_reads_what_it_is_asked_for():
    split = numbered([0, 1, 2, 0, 1, 2]).select(torch.tensor([5, 3, 1, 0]))
    batches = list(split.batches([torch.tensor([2, 0]), torch.tensor([3])]))
    assert [images.flatten().tolist() for images, _, _ in batches] == [[1, 5], [0]]
    assert [labels.tolist() for _, labels, _ in batches] == [[1, 2], [0]]
    assert [indices.tolist() for _, _, indices in batches] == [[2, 0], [3]]
    assert split.select(torch.tensor([1])).batch(torch.tensor([0])).item() == 3


@pytest.mark.parametrize(
    "labels", [torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)]
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="must be int64"):
        Split(ResidentImages(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)), labels, torch.arange(3))


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("seed", [0, 7])
def test_validation_is_stratified_disjoint_and_complete(fraction, seed):
    counts = [1, 2, 10, 40, 101]
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(5).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts), generator=generator)]
    train, held = validation_split(labels, fraction, seed)
    assert torch.equal(torch.cat([train, held]).sort().values, torch.arange(len(labels)))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(held, held.sort().values)
    expected = [0] + [min(n - 1, max(1, round(fraction * n))) for n in counts[1:]]
    assert labels[held].bincount(minlength=5).tolist() == expected


def test_validation_depends_on_the_seed_alone():
    labels = torch.arange(100) % 4
    torch.manual_seed(1)
    first = validation_split(labels, seed=0)[1]
    state = torch.get_rng_state()
    assert torch.equal(validation_split(labels, seed=0)[1], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(validation_split(labels, seed=1)[1], first)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_validation_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(OptionError, match="between 0 and 1"):
        validation_split(torch.tensor([0, 0, 1, 1]), fraction)


def test_validation_needs_a_class_with_two_images():
    with pytest.raises(OptionError, match="no class"):
        validation_split(torch.arange(5))


@pytest.mark.parametrize("limit", [20, 105, 1000, 9999])
def test_a_limit_is_balanced_proportional_and_fingerprinted(limit):
    whole, data = load_dataset("embedded"), load_dataset("embedded", limit=limit)
    counts = data.train.labels.bincount()
    assert data.train.n == limit
    assert int(counts.max() - counts.min()) <= 1
    assert data.test.labels.bincount().tolist() == [round(limit / 10_000 * 200) or 1] * 10
    assert data.fingerprint not in (whole.fingerprint, load_dataset("embedded", limit=limit + 1).fingerprint)
    again = load_dataset("embedded", limit=limit)
    assert again.fingerprint == data.fingerprint
    assert torch.equal(everything(again.train)[0], everything(data.train)[0])
    for got, full in ((data.train, whole.train), (data.test, whole.test)):
        assert torch.equal(got.labels, full.labels[got.positions])
        assert torch.equal(got.batch(torch.arange(5)), full.batch(got.positions[:5]))
        assert len(got.positions.unique()) == got.n


def test_a_limit_above_the_size_changes_nothing():
    assert load_dataset("embedded", limit=10_000).fingerprint == load_dataset("embedded").fingerprint


@pytest.mark.parametrize("limit", [19, 1, 0, -5])
def test_limits_too_small_are_refused(limit):
    fails("embedded", f"a limit of {limit} ", "use at least 20", error=OptionError, limit=limit)


def test_a_limit_takes_all_of_small_classes(tmp_path):
    folder_of(tmp_path / "d" / "train", {"a": 3, "b": 20, "c": 9})
    folder_of(tmp_path / "d" / "test", {"a": 1, "b": 10, "c": 5})
    data = load_dataset(f"imagefolder:{tmp_path / 'd'}", limit=16)
    assert data.train.labels.bincount().tolist() == [3, 7, 6]
    assert data.test.labels.bincount().tolist() == [1, 5, 2]


def pixels(split):
    return {image.numpy().tobytes() for image in everything(split)[0]}


def test_held_out_classes_leave_train_and_test():
    whole = load_dataset("embedded")
    data = load_dataset("embedded", held_out_classes=["Trouser", "Bag"])
    assert data.classes == tuple(name for name in whole.classes if name not in ("Trouser", "Bag"))
    assert data.train.labels.bincount().tolist() == [1000] * 8
    assert data.held_out.n == 400
    assert data.held_out.labels.unique().tolist() == [-1]
    gone = torch.isin(whole.train.labels, torch.tensor([1, 8])).nonzero().flatten()
    assert not pixels(whole.train.select(gone)) & pixels(data.train)
    assert not pixels(data.held_out) & (pixels(data.test) | pixels(data.train))
    assert pixels(data.held_out) | pixels(data.test) == pixels(whole.test)
    for split, full in ((data.train, whole.train), (data.test, whole.test)):
        names = [data.classes[label] for label in split.labels]
        assert names == [whole.classes[label] for label in full.labels[split.positions]]


def test_the_fingerprint_covers_the_held_out_classes_and_not_their_order():
    one, two, other = (load_dataset("embedded", held_out_classes=names) for names in (
        ["Bag", "Coat"], ["Coat", "Bag"], ["Bag"]
    ))  # fmt: skip
    assert one.fingerprint == two.fingerprint
    assert len({one.fingerprint, other.fingerprint, load_dataset("embedded").fingerprint}) == 3
    assert load_dataset("embedded", held_out_classes=[]).fingerprint == load_dataset("embedded").fingerprint


def test_a_limit_counts_what_is_left():
    data = load_dataset("embedded", limit=90, held_out_classes=["Bag"])
    assert data.train.labels.bincount().tolist() == [10] * 9
    assert data.held_out.n == 200


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Bagg"], "has no class 'Bagg'; did you mean Bag?"),
        (["Bag", "Bag"], "must not repeat, got Bag, Bag"),
        (
            ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"],
            "leaves 1 of the 10 classes; two are needed",
        ),
    ],
)
def test_classes_that_cannot_be_held_out_are_named(names, words):
    with pytest.raises(OptionError, match=f"--held-out-classes.*{words.replace('?', '[?]')}"):
        without_classes(load_dataset("embedded"), names)
