"""Listings of folders that are kept: used while nothing changed, made again when something did."""

import logging
import os

import numpy as np
import pytest
import torch
from dataset_factories import folder_of, picture

from gmje_bench.datasets import folder, listing, load_dataset
from gmje_bench.datasets.listing import listed
from gmje_bench.errors import DatasetError

LONG_AGO = 10**18


def settle(root):
    """Give all folders times that lie in the past."""
    for place, _, _ in os.walk(root):
        os.utime(place, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A folder of which the listing is kept, as that of a large one."""
    monkeypatch.setattr(listing, "_KEPT_FROM", 1)
    root = folder_of(tmp_path / "d" / "train", {"ant": 3, "bee": 2, "Ünï": 2}, size=(120, 100))
    (root / "bee" / "more").mkdir()
    (root / "bee" / "more" / "x.png").write_bytes((root / "bee" / "000.png").read_bytes())
    settle(root)
    return root


@pytest.fixture
def looked(monkeypatch):
    """The folders that were looked at."""
    seen = []
    scan = listing._scan

    def spy(path, *rest):
        seen.append(path)
        return scan(path, *rest)

    monkeypatch.setattr(listing, "_scan", spy)
    return seen


def same(one, two):
    assert (one.folder, one.classes, one.counts) == (two.folder, two.classes, two.counts)
    assert one.names.dtype == two.names.dtype
    assert np.array_equal(one.names, two.names)
    assert np.array_equal(one.sizes, two.sizes)
    assert one.description() == two.description()
    assert torch.equal(one.labels_for(one.classes), two.labels_for(one.classes))


def test_a_listing_is_made_once(train, tmp_path, looked):
    first = listed(train, tmp_path / "cache")
    second = listed(train, tmp_path / "cache")
    assert looked == [train]
    assert first.counts == (3, 3, 2)
    same(first, second)
    same(first, listed(train))
    assert not [file for file in (tmp_path / "cache").iterdir() if file.name.startswith(".")]


def changed(train):
    """What can happen to a folder, by name."""

    def add():
        (train / "ant" / "new.png").write_bytes(b"x")

    def remove():
        (train / "ant" / "000.png").unlink()

    def rename():
        (train / "ant" / "000.png").rename(train / "ant" / "zzz.png")

    def add_below():
        (train / "bee" / "more" / "new.png").write_bytes(b"x")

    def add_class():
        (train / "cat").mkdir()

    def overwrite():
        (train / "ant" / "001.png").write_bytes(b"other")

    return {f.__name__: f for f in (add, remove, rename, add_below, add_class, overwrite)}


@pytest.mark.parametrize("change", ["add", "remove", "rename", "add_below", "add_class", "overwrite"])
def test_a_folder_that_changed_is_listed_again(train, tmp_path, looked, change):
    listed(train, tmp_path / "cache")
    changed(train)[change]()
    same(listed(train, tmp_path / "cache"), listed(train))
    assert looked == [train] * 3


def test_small_folders_and_those_that_just_changed_are_not_kept(train, tmp_path, looked, monkeypatch):
    os.utime(train / "ant")
    listed(train, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    settle(train)
    monkeypatch.setattr(listing, "_KEPT_FROM", 9)
    listed(train, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_folders_of_one_name_have_listings_of_their_own(train, tmp_path):
    listed(train, tmp_path / "cache")
    other = folder_of(tmp_path / "e" / "train", {"ant": 3, "bee": 2})
    settle(other)
    assert listed(other, tmp_path / "cache").counts == (3, 2)
    assert listed(train, tmp_path / "cache").counts == (3, 3, 2)


@pytest.mark.parametrize("damage", ["cut", "text", "other version"])
def test_a_damaged_listing_is_made_again(train, tmp_path, looked, damage, monkeypatch):
    first = listed(train, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    if damage == "other version":
        monkeypatch.setattr(listing, "_VERSION", 2)
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"no listing")
    same(first, listed(train, tmp_path / "cache"))
    assert looked == [train] * 2
    listed(train, tmp_path / "cache")
    assert looked == [train] * 2, "it is whole again"


def test_a_cache_that_cannot_be_written_is_a_line_of_the_log(train, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert listed(train, tmp_path / "file" / "listings").counts == (3, 3, 2)
    assert f"cannot keep the listing of {train} in {tmp_path / 'file' / 'listings'}" in caplog.text


def test_an_image_of_another_size_than_listed_is_named_and_the_next_run_lists_anew(train, tmp_path, monkeypatch):
    monkeypatch.setenv("GMJE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(listing, "_CHECKED", 1)  # so that the change is not in the sample
    folder_of(tmp_path / "d" / "val", {"ant": 1, "bee": 1}, size=(120, 100))
    settle(tmp_path / "d")
    name = f"imagefolder:{tmp_path / 'd'}"
    load_dataset(name)
    picture(7, 130, 100).save(train / "bee" / "001.png")
    split = load_dataset(name).train
    with pytest.raises(DatasetError, match=r"bee/001\.png has \d+ bytes, but had \d+ when the folder was listed"):
        split.batch(torch.arange(8))
    assert load_dataset(name).train.batch(torch.arange(8)).shape[0] == 8


def test_readers_name_what_they_cannot_read(train):
    reader = folder._FileReader(listed(train))
    (train / "ant" / "002.png").unlink()
    with pytest.raises(DatasetError, match=r"cannot read the image .*ant/002\.png: .*No such file"):
        reader.read(2)
