"""Tar and Parquet shards on disk, and every mistake that a user can make with them."""

import json
import logging
import os
import pickle
import shutil
import tarfile

import datasets as hub
import pytest
import torch
from dataset_factories import encoded, everything, fails, picture, rows, samples, table, tar_of
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets import ResidentImages, load_dataset
from gmje_bench.datasets.decoding import square
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.datasets.row_groups import RowGroupReader
from gmje_bench.datasets.tar import scan_tar
from gmje_bench.errors import DatasetError
from gmje_bench.views import TwoViews, preset

pytestmark = pytest.mark.usefixtures("own_cache")

LARGE = (120, 100)


@pytest.fixture
def tars(tmp_path):
    """Three tar files of large images, two of which are for training."""
    folder = tmp_path / "shards"
    for number in range(2):
        tar_of(folder / f"data-train-{number:03}.tar", samples(12, size=LARGE, start=12 * number))
    tar_of(folder / "data-val-000.tar", samples(6, size=LARGE, start=50))
    return folder


def test_a_folder_of_tar_shards(tars):
    data = load_dataset(f"shards:{tars}", image_size=98)
    assert (data.train.n, data.test.n, data.channels, data.image_size) == (24, 6, 3, 98)
    assert data.classes == ("0", "1", "2")
    assert data.fingerprint_of == "names and sizes"
    assert isinstance(data.train.source, LazyImages)
    pictures, labels, _ = everything(data.train)
    assert labels.tolist() == 8 * [0, 1, 2]
    assert torch.equal(pictures[17], square(picture(17, *LARGE), 112))
    assert torch.equal(data.test.batch(torch.tensor([3]))[0], square(picture(53, *LARGE), 112))


def test_small_images_are_read_into_memory(tmp_path):
    tar_of(tmp_path / "d" / "train.tar", samples(12))
    tar_of(tmp_path / "d" / "test.tar", samples(3, start=50))
    data = load_dataset(f"shards:{tmp_path / 'd'}")
    assert isinstance(data.train.source, ResidentImages)
    assert torch.equal(data.train.batch(torch.tensor([7]))[0], F.pil_to_tensor(picture(7)))


def test_folders_may_say_the_part(tars):
    for part in ("train", "val"):
        (tars / part).mkdir()
        for number, file in enumerate(sorted(tars.glob(f"*{part}*.tar"))):
            file.rename(tars / part / f"{number}.tar")
    assert load_dataset(f"shards:{tars}", image_size=98).train.n == 24


@pytest.mark.parametrize(
    ("pattern", "train", "test"),
    [
        ("*.tar", 24, 6),
        ("data-{train,val}-*.tar", 24, 6),
        ("data-train-{000..001}.tar", 18, 6),
        ("data-train-00[01].tar", 18, 6),
        ("data-train-000.tar", 9, 3),
    ],
)
def test_patterns(tars, pattern, train, test):
    data = load_dataset(f"shards:{tars}/{pattern}", image_size=98)
    assert (data.train.n, data.test.n) == (train, test)


def test_shards_that_name_no_part_are_split_four_to_one(tmp_path):
    tar_of(tmp_path / "d" / "a.tar", samples(15))
    data = load_dataset(f"shards:{tmp_path / 'd'}")
    assert data.test.labels.bincount().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (lambda i: {"cls": b"dog\n" if i % 2 else b"ant"}, ("ant", "dog")),
        (lambda i: {"cls": str(10 * (i % 2) + 2).encode()}, ("2", "12")),
        (lambda i: {"json": json.dumps({"label": i % 2, "id": "x"}).encode()}, ("0", "1")),
        (lambda i: {"json": b'{"label": 9}', "cls": str(i % 2).encode()}, ("0", "1")),
        (lambda i: {"cls": str(i % 2).encode(), "json": b'{"label": 9}', "seg.png": b"x", "txt": b"y"}, ("0", "1")),
    ],
)
def test_labels_are_in_cls_or_json(tmp_path, files, classes):
    made = [(f"./folder/{i:03}", {**files(i), "jpg": encoded(picture(i), "jpg")}) for i in range(8)]
    for part in ("train", "test"):
        tar_of(tmp_path / "d" / f"{part}.tar", made)
    data = load_dataset(f"shards:{tmp_path / 'd'}")
    assert data.classes == classes
    assert data.train.labels.tolist() == [0, 1] * 4


def test_names_of_classes_beside_the_shards(tars):
    (tars / "classes.txt").write_text("ant\nbee\n\ncat\n")
    assert load_dataset(f"shards:{tars}", image_size=98).classes == ("ant", "bee", "cat")
    (tars / "classes.txt").write_text("ant\nbee\n")
    fails(f"shards:{tars}", "without training images: 2", image_size=98)


def test_long_names_and_those_of_other_alphabets(tmp_path):
    names = ["n" * 150 + f"/{i:03}" for i in range(4)] + [f"Ünï/{i}" for i in range(4)]
    made = [(name, {"png": encoded(picture(i)), "cls": str(i % 2).encode()}) for i, name in enumerate(names)]
    for part, kind in (("train", tarfile.PAX_FORMAT), ("test", tarfile.GNU_FORMAT)):
        with tarfile.open(tmp_path / f"{part}.tar", "w", format=kind) as archive:
            source = tar_of(tmp_path / "x" / "source", made)
            with tarfile.open(source) as read:
                for member in read:
                    archive.addfile(member, read.extractfile(member))
    data = load_dataset(f"shards:{tmp_path}/*.tar")
    for split in (data.train, data.test):
        assert torch.equal(split.batch(torch.arange(8))[5], F.pil_to_tensor(picture(5)))


def test_the_fingerprint_of_shards_is_of_names_sizes_and_labels(tars, tmp_path):
    first = load_dataset(f"shards:{tars}", image_size=98).fingerprint
    shutil.copytree(tars, tmp_path / "copy")
    assert load_dataset(f"shards:{tmp_path / 'copy'}", image_size=98).fingerprint == first
    made = samples(6, size=LARGE, start=50)
    changes = [made[::-1], [("x", made[0][1]), *made[1:]], [(made[0][0], {**made[0][1], "cls": b"1"}), *made[1:]]]
    found = {first}
    for change in changes:
        tar_of(tars / "data-val-000.tar", change)
        found.add(load_dataset(f"shards:{tars}", image_size=98).fingerprint)
    assert len(found) == 4


def test_the_index_is_made_once_for_a_state_of_the_files(tars, monkeypatch):
    scanned = []
    monkeypatch.setattr(
        "gmje_bench.datasets.shards.scan_tar", lambda files: scanned.append(len(files)) or scan_tar(files)
    )
    first = load_dataset(f"shards:{tars}", image_size=98)
    again = load_dataset(f"shards:{tars}", image_size=98)
    assert scanned == [2, 1]
    assert again.fingerprint == first.fingerprint
    assert torch.equal(everything(again.train)[0], everything(first.train)[0])
    os.utime(tars / "data-val-000.tar", (1, 1))
    load_dataset(f"shards:{tars}", image_size=98)
    assert scanned == [2, 1, 1]


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None])
def test_a_damaged_index_is_made_again_and_a_folder_that_cannot_be_written_only_warned_of(
    tars, tmp_path, content, caplog
):
    first = load_dataset(f"shards:{tars}", image_size=98)
    folder = tmp_path / "downloads" / "indices"
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-8] if content is None else content)
    assert load_dataset(f"shards:{tars}", image_size=98).fingerprint == first.fingerprint
    shutil.rmtree(folder)
    folder.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert load_dataset(f"shards:{tars}", image_size=98).fingerprint == first.fingerprint
    assert "cannot keep the index of shards" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_do_not_share_a_place_in_a_file(tars, workers):
    split = load_dataset(f"shards:{tars}", image_size=98).train
    split.batch(torch.tensor([0, 20]))  # the files are open when readers are forked
    expected = torch.stack([square(picture(i, *LARGE), 112) for i in range(24)])
    assert torch.equal(everything(split, workers)[0], expected)


def cut(path, where):
    path.write_bytes(path.read_bytes()[:where])


@pytest.mark.parametrize("damage", ["in an image", "in a header", "at the end of a member", "text", "empty", "header"])
def test_damaged_tar_files_are_named(tars, damage):
    path = tars / "data-train-001.tar"
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    middle = members[10]
    if damage in ("text", "empty"):
        path.write_bytes(b"no tar file" if damage == "text" else b"")
    elif damage == "header":
        content = bytearray(path.read_bytes())
        content[middle.offset : middle.offset + 10] = b"\xff" * 10
        path.write_bytes(content)
    else:
        where = {"in an image": middle.offset_data + 50, "in a header": middle.offset + 100}
        cut(path, where.get(damage, middle.offset))
    fails(f"shards:{tars}", f"{path} is truncated or not a tar file")


def test_samples_without_what_is_needed(tmp_path):
    image = {"png": encoded(picture(0))}
    for wrong, text in (
        ({"cls": b"1"}, "sample a/7 of"),
        (image, "has no label: no 7.cls, and no JSON"),
        ({**image, "cls": b" "}, "has no label"),
        ({**image, "json": b'{"text": 3}'}, "has no label"),
        ({**image, "json": b"{"}, "is not JSON"),
        ({**image, "jpg": b"x", "cls": b"1"}, "has two images"),
    ):
        path = tar_of(tmp_path / "d" / "train.tar", [*samples(6), ("a/7", wrong)])
        fails(f"shards:{path}", path, text)


def test_labels_of_two_kinds_are_refused(tmp_path):
    tar_of(tmp_path / "d" / "train.tar", samples(6))
    named = [(key, {**files, "cls": b"dog"}) for key, files in samples(3)]
    tar_of(tmp_path / "d" / "test.tar", named)
    fails(f"shards:{tmp_path / 'd'}", "must be numbers of classes everywhere, or names everywhere")


def test_places_without_shards(tmp_path, tars):
    fails(f"shards:{tmp_path / 'shrads'}", "no folder", "did you mean shards?", "PATH/train-*.tar")
    fails(f"shards:{tars}/data-train-{{000..002}}.tar", "no file", "data-train-002.tar")
    fails(f"shards:{tars}/x*.tar", "no *.tar or *.parquet file matches")
    (tmp_path / "empty").mkdir()
    fails(f"shards:{tmp_path / 'empty'}", "no *.tar or *.parquet in")
    (tmp_path / "empty" / "a.tar.gz").write_bytes(b"x")
    fails(f"shards:{tmp_path / 'empty'}", "a.tar.gz is compressed")
    fails(f"shards:{tmp_path / 'empty' / 'a.tar.gz'}", "neither a .tar nor a .parquet file")
    (tars / "data-val-000.tar").rename(tars / "data-000.tar")
    fails(f"shards:{tars}", "data-000.tar has none of the words train, test")
    (tars / "data-000.tar").unlink()
    fails(f"shards:{tars}", "none of test, validation, val", f"shards:{tars}/*.tar holds out a fifth")
    table(rows(3)).to_parquet(tars / "test.parquet")
    fails(f"shards:{tars}", "shards of two kinds")
    for file in tars.glob("*train*"):
        file.unlink()
    fails(f"shards:{tars}", "none whose name has the word train")


def fails_reading(split, index, *texts):
    with pytest.raises(DatasetError) as caught:
        split.batch(torch.tensor([index]))
    assert all(text in str(caught.value) for text in texts)


def test_a_damaged_image_and_a_shard_that_shrank_are_named(tars):
    split = load_dataset(f"shards:{tars}", image_size=98).train
    path = tars / "data-train-001.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x89PNG", b"\x00PNG"))
    fails_reading(split, 12, f"cannot read the image at byte 512 of {path}: ")
    cut(path, len(content) // 2)
    fails_reading(split, 23, f"of {path}: the file has become shorter")
    path.unlink()
    fails_reading(load_dataset_again(split), 23, f"of {path}: No such file")


def load_dataset_again(split):
    """The split as another process gets it, which opens the files for itself."""
    return pickle.loads(pickle.dumps(split))  # noqa: S301


@pytest.fixture
def groups(tmp_path):
    """Parquet files with row groups of four and five large images."""
    folder = tmp_path / "groups"
    folder.mkdir()
    for number in range(2):
        table(rows(12, size=LARGE, start=12 * number)).to_parquet(folder / f"train-{number}.parquet", batch_size=4)
    table(rows(6, size=LARGE, start=50)).to_parquet(folder / "val.parquet", batch_size=5)
    return folder


def test_a_folder_of_parquet_shards(groups, tmp_path):
    data = load_dataset(f"shards:{groups}", image_size=98)
    assert (data.train.n, data.test.n, data.classes) == (24, 6, ("ant", "bee", "cat"))
    assert data.fingerprint_of == "sizes"
    pictures, labels, _ = everything(data.train)
    assert labels.tolist() == 8 * [0, 1, 2]
    assert torch.equal(pictures, torch.stack([square(picture(i, *LARGE), 112) for i in range(24)]))
    assert torch.equal(data.test.batch(torch.tensor([5, 0]))[0], square(picture(55, *LARGE), 112))
    assert not any(file.suffix == ".arrow" for file in tmp_path.rglob("*")), "nothing is copied"


@pytest.fixture
def loaded(monkeypatch):
    """The row groups that this process has read."""
    blocks = []
    load = RowGroupReader._load
    monkeypatch.setattr(RowGroupReader, "_load", lambda reader, block: blocks.append(block) or load(reader, block))
    return blocks


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("pieces", [2, 32])
def test_workers_change_no_image_of_a_row_group(groups, workers, pieces, monkeypatch):
    monkeypatch.setattr("gmje_bench.datasets.reading._PIECE", pieces)
    split = load_dataset(f"shards:{groups}", image_size=98).train
    expected = torch.stack([square(picture(i, *LARGE), 112) for i in range(24)])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        for images, _, indices in split.batches(order.split(7), workers):
            assert torch.equal(images, expected[indices])


def test_row_groups_are_read_once_and_dropped(groups, loaded):
    split = load_dataset(f"shards:{groups}", image_size=98).train
    held = split.source.reader._held
    loaded.clear()
    list(split.batches(torch.arange(24).split(5)))
    assert loaded == [0, 1, 2, 3, 4, 5]
    assert held == {}
    loaded.clear()
    most = []
    order = EpochOrder(seed=0, epoch=0, steps=6, batch_size=4, mixed_blocks=1)
    for batch in split.batches(order.batches(24, split.source.blocks(split.positions))):
        most.append(len(held))
        assert len(batch[0]) == 4
    assert sorted(loaded) == [0, 1, 2, 3, 4, 5]
    assert max(most) <= 1
    loaded.clear()
    split.batch(torch.tensor([23, 0, 20, 1]))
    assert loaded == [0, 5]
    assert held == {}


@pytest.mark.parametrize("kind", ["tars", "groups"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_of_all_processes_holds_every_image_once(kind, workers, request):
    split = load_dataset(f"shards:{request.getfixturevalue(kind)}", image_size=98).train
    views = TwoViews(preset(98, 3), 0)

    def epoch(rank=0, world_size=1, first_step=0):
        order = EpochOrder(
            seed=3, epoch=1, steps=6, batch_size=4, rank=rank, world_size=world_size, first_step=first_step
        )
        return list(split.epoch(order, views, workers))

    whole = epoch()
    assert torch.cat([indices for _, _, indices in whole]).sort().values.tolist() == list(range(24))
    assert whole[0][0].shape == (2, 4, 3, 98, 98)
    for step, halves in enumerate(zip(epoch(0, 2), epoch(1, 2), strict=True)):
        images, labels, indices = whole[step]
        assert torch.equal(torch.cat([half[0] for half in halves], dim=1), images)
        assert torch.equal(torch.cat([half[1] for half in halves]), labels)
        assert torch.equal(torch.cat([half[2] for half in halves]), indices)
    for (images, _, indices), (other, _, others) in zip(whole[2:], epoch(first_step=2), strict=True):
        assert torch.equal(indices, others)
        assert torch.equal(images, other)


def test_images_as_plain_bytes_in_parquet_shards(tmp_path):
    columns = rows(6)
    plain = hub.Dataset.from_dict({**columns, "image": [cell["bytes"] for cell in columns["image"]]})
    for part in ("train", "test"):
        plain.to_parquet(tmp_path / f"{part}.parquet")
    pictures, _, _ = everything(load_dataset(f"shards:{tmp_path}").train)
    assert torch.equal(pictures[2], F.pil_to_tensor(picture(2)))


def test_parquet_shards_without_what_is_needed(groups, monkeypatch):
    file = groups / "train-1.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    fails(f"shards:{groups}", f"{file} is truncated, not a Parquet file, or out of reach")
    file.write_bytes(content)
    table(rows(6), ("bee", "ant", "cat")).to_parquet(groups / "val.parquet")
    fails(f"shards:{groups}", "names other classes in test than in train")
    table(rows(6)).rename_column("label", "labelx").to_parquet(groups / "val.parquet")
    fails(f"shards:{groups}", "no column 'label'", "did you mean labelx?")
    table({"image": [], "label": []}).to_parquet(groups / "val.parquet")
    fails(f"shards:{groups}", "no test images")
    columns = rows(6)
    table({**columns, "image": [columns["image"][0], None, *columns["image"][2:]]}).to_parquet(groups / "val.parquet")
    fails_reading(load_dataset(f"shards:{groups}", image_size=98).test, 1, "there is no image in row 1 of")
    monkeypatch.setattr("gmje_bench.datasets.row_groups.LARGEST_GROUP", 1000)
    os.utime(file, (1, 1))
    fails(f"shards:{groups}", "row group 0 of", "MiB", "parquet:PATH")


def test_limits_and_held_out_classes(tars, groups):
    for folder in (tars, groups):
        data = load_dataset(f"shards:{folder}", image_size=98, limit=9)
        assert data.train.labels.bincount().tolist() == [3, 3, 3]
        name = data.classes[1]
        data = load_dataset(f"shards:{folder}", image_size=98, held_out_classes=[name])
        assert (data.train.n, data.test.n, data.held_out.n) == (16, 4, 2)
