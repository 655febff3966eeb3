"""Parquet files and datasets of the Hub, and every mistake that a user can make with them."""

import shutil

import datasets as hub
import pytest
import torch
from dataset_factories import encoded, everything, fails, picture, rows, table
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets import ResidentImages, load_dataset
from gmje_bench.datasets.decoding import square
from gmje_bench.datasets.reading import LazyImages

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_folder_of_parquet_files(parquet):
    data = load_dataset(f"parquet:{parquet}")
    assert data.classes == ("ant", "bee", "cat")
    assert (data.channels, data.image_size, data.fingerprint_of) == (3, 20, "content")
    assert isinstance(data.train.source, ResidentImages)
    pictures, labels, _ = everything(data.test)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(pictures[4], F.pil_to_tensor(picture(54)))
    assert load_dataset(f"parquet:{parquet}", image_size=32).image_size == 32


def test_the_data_folder_of_a_downloaded_repository(parquet, tmp_path):
    (tmp_path / "repository").mkdir()
    parquet.rename(tmp_path / "repository" / "data")
    assert load_dataset(f"parquet:{tmp_path / 'repository'}").train.n == 12


def test_a_single_file_is_split_four_to_one(parquet):
    data = load_dataset(f"parquet:{parquet / 'train-00000.parquet'}")
    assert data.train.labels.bincount().tolist() == [3, 3, 3]
    assert data.test.labels.bincount().tolist() == [1, 1, 1]


def test_the_fingerprint_of_a_table_is_of_its_content(parquet, tmp_path):
    first = load_dataset(f"parquet:{parquet}").fingerprint
    shutil.copytree(parquet, tmp_path / "copy")
    assert load_dataset(f"parquet:{tmp_path / 'copy'}").fingerprint == first
    table(rows(6, start=51)).to_parquet(parquet / "test.parquet")
    changed = load_dataset(f"parquet:{parquet}").fingerprint
    table({**rows(6, start=51), "label": [0, 1, 2, 2, 1, 0]}).to_parquet(parquet / "test.parquet")
    assert len({first, changed, load_dataset(f"parquet:{parquet}").fingerprint}) == 3


@pytest.mark.parametrize(("hashed", "kind"), [(2**30, "content"), (100, "sizes")])
def test_large_tables_are_fingerprinted_by_lengths(hashed, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("gmje_bench.datasets.table._HASHED_BYTES", hashed)
    found = []
    for start in (0, 100):
        images = [encoded(picture(start + i), "bmp") for i in range(6)]  # all of one length
        (tmp_path / str(start)).mkdir()
        both = hub.Dataset.from_dict({"image": images, "label": [0, 1] * 3})
        found.append(load_dataset(written(tmp_path / str(start), both, both)))
    assert {data.fingerprint_of for data in found} == {kind}
    assert (found[0].fingerprint == found[1].fingerprint) == (kind == "sizes")


@pytest.mark.parametrize("workers", [0, 2])
def test_large_images_of_a_table_are_decoded_when_asked_for(tmp_path, workers):
    for part, count in (("train", 9), ("validation", 3)):
        table(rows(count, size=(120, 100))).to_parquet(tmp_path / f"{part}.parquet")
    data = load_dataset(f"parquet:{tmp_path}", image_size=98)
    assert isinstance(data.train.source, LazyImages)
    pictures, _, _ = everything(data.train, workers)
    assert torch.equal(pictures[3], square(picture(3, 120, 100), 112))
    small = load_dataset(f"parquet:{tmp_path}", image_size=28).train
    assert isinstance(small.source, ResidentImages)
    assert torch.equal(small.batch(torch.tensor([3]))[0], square(picture(3, 120, 100), 32))


@pytest.mark.parametrize("labels", [[7, 3, 5] * 4, ["dog", "ant", "bee"] * 4])
def test_plain_numbers_and_names_as_labels(tmp_path, labels):
    features = hub.Features({"img": hub.Image(), "fine_label": hub.Value("int64" if labels[0] == 7 else "string")})
    columns = {"img": rows(12)["image"], "fine_label": labels}
    for part in ("train", "test"):
        hub.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"{part}.parquet")
    data = load_dataset(f"parquet:{tmp_path}")
    assert data.classes == tuple(map(str, sorted(set(labels))))
    assert [data.classes[label] for label in data.train.labels] == list(map(str, labels))


def test_images_as_plain_bytes(tmp_path):
    columns = rows(6)
    plain = hub.Dataset.from_dict({**columns, "image": [cell["bytes"] for cell in columns["image"]]})
    for part in ("train", "test"):
        plain.to_parquet(tmp_path / f"{part}.parquet")
    pictures, _, _ = everything(load_dataset(f"parquet:{tmp_path}").train)
    assert torch.equal(pictures[2], F.pil_to_tensor(picture(2)))


@pytest.mark.parametrize("file", ["train-00000.parquet", "test.parquet"])
def test_a_truncated_file_is_named(parquet, file):
    content = (parquet / file).read_bytes()
    (parquet / file).write_bytes(content[: len(content) // 2])
    fails(f"parquet:{parquet}", f"{parquet / file} is truncated or not a Parquet file")


def test_tables_without_what_is_needed(parquet, tmp_path):
    fails(f"parquet:{tmp_path / 'nowhere'}", f"no folder {tmp_path / 'nowhere'}", "PATH/train*.parquet")
    (tmp_path / "empty").mkdir()
    fails(f"parquet:{tmp_path / 'empty'}", f"no *.parquet in {tmp_path / 'empty'}")
    (parquet / "test.parquet").rename(parquet / "other.parquet")
    fails(f"parquet:{parquet}", "no test*.parquet (or val*.parquet)")
    (parquet / "other.parquet").rename(parquet / "test.parquet")
    (parquet / "train-00000.parquet").unlink()
    fails(f"parquet:{parquet}", "no train*.parquet")


def written(tmp_path, train, test):
    train.to_parquet(tmp_path / "train.parquet")
    test.to_parquet(tmp_path / "test.parquet")
    return f"parquet:{tmp_path}"


def test_columns_that_are_not_there(tmp_path):
    lacking = hub.Dataset.from_dict({"picture": ["x"], "labelling": [0]})
    message = fails(written(tmp_path, lacking, lacking), "no column 'image'")
    assert "(choose from picture, labelling)" in message
    lacking = table(rows(3)).rename_column("label", "labelx")
    fails(written(tmp_path, lacking, lacking), "no column 'label'", "did you mean labelx?")
    fails(written(tmp_path, table(rows(3)), lacking), "no column 'label'")


def test_columns_of_the_wrong_kind(tmp_path):
    columns = rows(3)
    numbers = hub.Dataset.from_dict({**columns, "image": [[1, 2], [3], [4]]})
    fails(written(tmp_path, numbers, numbers), "column 'image'", "list<", "not encoded images")
    floats = hub.Dataset.from_dict({"image": [c["bytes"] for c in columns["image"]], "label": [0.5, 1.0, 2.0]})
    fails(written(tmp_path, floats, floats), "column 'label'", "float64")
    missing = table({**columns, "label": [0, None, 1]}, names=None)
    fails(written(tmp_path, missing, missing), "column 'label'", "in every row")
    none = table({**columns, "image": [columns["image"][0], None, columns["image"][2]]})
    fails(written(tmp_path, none, none), "there is no image in row 1")


def test_labels_of_test_that_are_not_in_train(tmp_path):
    fails(written(tmp_path, table(rows(6, 2)), table(rows(6, 3))), "without training images: cat")
    plain = (table(rows(6, classes), names=None) for classes in (2, 3))
    fails(written(tmp_path, *plain), "without training images: 2")
    fails(written(tmp_path, table(rows(6)), table(rows(6), ("bee", "ant", "cat"))), "names other classes in test")
    unlabelled = table({**rows(3), "label": [-1, -1, -1]})
    fails(written(tmp_path, table(rows(6)), unlabelled), "without a label (-1)")


def test_empty_tables(tmp_path):
    empty = table({"image": [], "label": []})
    fails(written(tmp_path, empty, table(rows(3))), "no training images")
    fails(written(tmp_path, table(rows(3)), empty), "no test images")


def test_a_damaged_image_in_a_table_is_named(tmp_path):
    columns = rows(6)
    columns["image"][4]["bytes"] = b"no image"
    fails(written(tmp_path, table(columns), table(rows(3))), "cannot read the image in row 4 of", "(train)")


def test_loading_tables_prints_nothing(parquet, capfd):
    load_dataset(f"parquet:{parquet}")
    assert capfd.readouterr() == ("", "")
