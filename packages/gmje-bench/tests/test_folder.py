"""Image folders on tiny data made on the spot, and every mistake that a user can make with them."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from dataset_factories import encoded, everything, fails, folder_of, picture
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.errors import DatasetError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_folder_in_the_layout_of_imagenet(images):
    data = load_dataset(f"imagefolder:{images}")
    assert data.classes == ("ant", "bee", "cat")
    assert (data.channels, data.image_size, data.fingerprint_of) == (3, 224, "names and sizes")
    assert data.train.labels.tolist() == [0] * 6 + [1] * 4 + [2] * 5
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    pictures, labels, indices = everything(data.train)
    assert torch.equal(labels, data.train.labels)
    assert torch.equal(indices, torch.arange(15))
    assert torch.equal(pictures[7], F.pil_to_tensor(picture(1001)))


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_names_of_the_test_folder(images, name):
    (images / "val").rename(images / name)
    assert load_dataset(f"imagefolder:{images}").test.n == 6


def test_large_images_are_decoded_when_asked_for_to_a_little_more_than_their_size(tmp_path):
    folder_of(tmp_path / "d" / "train", {"a": 3, "b": 3}, size=(150, 100), suffix="jpg")
    folder_of(tmp_path / "d" / "val", {"a": 1, "b": 1}, size=(90, 130), suffix="jpg")
    data = load_dataset(f"imagefolder:{tmp_path / 'd'}", image_size=98)
    assert isinstance(data.train.source, LazyImages)
    assert data.train.batch(torch.tensor([4, 0])).shape == (2, 3, 112, 112)
    assert load_dataset(f"imagefolder:{tmp_path / 'd'}").train.batch(torch.tensor([0])).shape == (1, 3, 256, 256)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_neither_the_images_nor_the_random_state(tmp_path, workers):
    folder_of(tmp_path / "d" / "train", {"a": 7, "b": 7}, size=(120, 100))
    folder_of(tmp_path / "d" / "val", {"a": 1, "b": 1}, size=(120, 100))
    split = load_dataset(f"imagefolder:{tmp_path / 'd'}", image_size=98).train
    assert isinstance(split.source, LazyImages)
    alone = everything(split)
    state = torch.get_rng_state()
    for got, expected in zip(everything(split, workers), alone, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_of_classes_is_split_four_to_one(tmp_path):
    folder_of(tmp_path / "d", {"a": 10, "b": 25, "c": 1, ".hidden": 3})
    data = load_dataset(f"imagefolder:{tmp_path / 'd'}")
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.bincount().tolist() == [8, 20, 1]
    assert data.test.labels.bincount().tolist() == [2, 5]
    again = load_dataset(f"imagefolder:{tmp_path / 'd'}")
    assert torch.equal(everything(data.test)[0], everything(again.test)[0])
    seen = {row.numpy().tobytes() for split in (data.train, data.test) for row in everything(split)[0]}
    assert len(seen) == 36


def test_other_files_are_passed_over_and_nested_folders_are_not(images):
    (images / "train" / "ant" / "notes.txt").write_text("x")
    (images / "train" / "ant" / ".hidden.png").write_bytes(b"x")
    (images / "train" / "ant" / "more").mkdir()
    (images / "train" / "ant" / "more" / "Ünï.JPG").write_bytes(encoded(picture(5), "jpg"))
    data = load_dataset(f"imagefolder:{images}")
    assert data.train.labels.bincount().tolist() == [7, 4, 5]
    everything(data.train)


def test_the_fingerprint_of_a_folder_is_of_names_and_sizes(images, tmp_path):
    first = load_dataset(f"imagefolder:{images}").fingerprint
    shutil.copytree(images, tmp_path / "copy")
    assert load_dataset(f"imagefolder:{tmp_path / 'copy'}").fingerprint == first
    (images / "val" / "cat" / "001.png").rename(images / "val" / "cat" / "002.png")
    renamed = load_dataset(f"imagefolder:{images}").fingerprint
    (images / "train" / "bee" / "000.png").write_bytes(encoded(picture(1000, 21, 21)))
    assert len({first, renamed, load_dataset(f"imagefolder:{images}").fingerprint}) == 3


def test_folders_that_are_not_there(tmp_path, images):
    fails(
        f"imagefolder:{tmp_path / 'imges'}",
        f"no folder {tmp_path / 'imges'}",
        "did you mean images?",
        "PATH/train/CLASS",
    )
    fails(f"imagefolder:{images / 'train' / 'ant' / '000.png'}", "is not a folder")


def test_folders_without_what_is_needed(tmp_path, images):
    (tmp_path / "empty").mkdir()
    fails(f"imagefolder:{tmp_path / 'empty'}", f"no images in {tmp_path / 'empty'}", ".jpeg")
    (images / "train" / "dog").mkdir()
    fails(f"imagefolder:{images}", "class folders without images", "dog")
    (images / "train" / "dog").rmdir()
    (images / "val").rename(images / "eval")
    fails(f"imagefolder:{images}", "none of val, validation, test", f"imagefolder:{images / 'train'} holds out a fifth")
    (images / "eval").rename(images / "test")
    shutil.rmtree(images / "train")
    fails(f"imagefolder:{images}", "a test folder but no train folder")


def test_a_class_of_test_that_is_not_in_train(images):
    folder_of(images / "val", {"zebra": 1})
    fails(f"imagefolder:{images}", "without training images: zebra")


def test_a_single_class_is_not_a_task(tmp_path):
    folder_of(tmp_path / "d", {"only": 5})
    fails(f"imagefolder:{tmp_path / 'd'}", "one class only, only")


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_an_unreadable_folder_is_named(kind):
    root = Path(tempfile.mkdtemp())
    locked = root / "locked"
    locked.mkdir()
    user = os.geteuid()
    try:
        root.chmod(0o755)
        locked.chmod(0)
        if user == 0:  # root may read everything
            os.seteuid(65534)
        fails(f"{kind}:{locked}", f"cannot read {locked}", "Permission denied")
    finally:
        os.seteuid(user)
        locked.chmod(0o700)
        shutil.rmtree(root)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "text"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_damaged_image_is_named_by_every_process(tmp_path, workers, damage, suffix):
    folder_of(tmp_path / "d" / "train", {"a": 4, "b": 4}, size=(120, 100), suffix=suffix)
    folder_of(tmp_path / "d" / "val", {"a": 1, "b": 1}, size=(120, 100), suffix=suffix)
    bad = tmp_path / "d" / "train" / "b" / f"001.{suffix}"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2] if damage == "truncated" else b"no image")
    split = load_dataset(f"imagefolder:{tmp_path / 'd'}", image_size=98).train
    with pytest.raises(DatasetError) as caught:
        everything(split, workers)
    assert str(caught.value).startswith(f"cannot read the image {bad}: ")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_damaged_small_image_is_named_at_loading(images):
    (images / "val" / "bee" / "001.png").write_bytes(b"no image")
    fails(f"imagefolder:{images}", f"cannot read the image {images / 'val' / 'bee' / '001.png'}")
