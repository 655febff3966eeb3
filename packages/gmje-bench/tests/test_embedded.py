"""The data in the package, and the script that made it."""

import gzip
import hashlib
import importlib.util
import io
import struct
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from gmje_bench.datasets import embedded, load_dataset
from gmje_bench.datasets.idx import read_idx
from gmje_bench.errors import DatasetError

FOLDER = resources.files("gmje_bench.datasets") / "data"
SCRIPT = Path(__file__).parents[1] / "scripts" / "make_embedded.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_embedded", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def originals(tmp_path):
    """Four small files of 40 + 30 images, each with its number in its first pixel."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 30)):
        images = rng.integers(256, size=(count, 4, 4), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (tmp_path / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_it_is_what_the_name_says():
    data = load_dataset("fashion_mnist_12k")
    assert data.train.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels.bincount().tolist() == [200] * 10
    assert data.train.batch(torch.arange(10_000)).shape == (10_000, 1, 28, 28)
    assert data.test.batch(torch.arange(2_000)).dtype == torch.uint8
    assert (data.channels, data.image_size, len(data.classes)) == (1, 28, 10)
    # The mean and deviation that everybody uses for Fashion-MNIST.
    pixels = data.train.batch(torch.arange(10_000)).float() / 255
    assert float(pixels.mean()) == pytest.approx(0.286, abs=2e-3)
    assert float(pixels.std()) == pytest.approx(0.353, abs=2e-3)


def test_no_image_is_in_both_splits_or_twice_in_one():
    data = load_dataset("embedded")
    train, test = ({row.numpy().tobytes() for row in s.batch(torch.arange(s.n))} for s in (data.train, data.test))
    assert not train & test
    assert len(train) == data.train.n
    assert len(test) == data.test.n


def test_the_alias_is_the_same_data():
    assert load_dataset("embedded").name == "fashion_mnist_12k"
    assert load_dataset("embedded").fingerprint == load_dataset("fashion_mnist_12k").fingerprint


def test_it_is_small_and_its_licence_lies_beside_it():
    assert len((FOLDER / embedded.FILE).read_bytes()) <= 8 * 2**20
    licence = (FOLDER / "LICENSE").read_text()
    assert "MIT License" in licence
    assert "2017 Zalando SE" in licence


def test_the_entries_are_plain_arrays_without_dates():
    with zipfile.ZipFile(io.BytesIO((FOLDER / embedded.FILE).read_bytes())) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for entry in archive.infolist():
            assert np.load(io.BytesIO(archive.read(entry)), allow_pickle=False).dtype == np.uint8


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_noticed(damage, tmp_path, monkeypatch):
    content = bytearray((FOLDER / embedded.FILE).read_bytes())
    (tmp_path / "data").mkdir()
    if damage != "remove":
        content[len(content) // 2] ^= 1
        (tmp_path / "data" / embedded.FILE).write_bytes(content if damage == "flip" else content[: len(content) // 2])
    monkeypatch.setattr(embedded.resources, "files", lambda _: tmp_path)
    with pytest.raises(DatasetError, match="reinstall gmje-bench"):
        load_dataset("embedded")


def test_the_script_takes_the_first_of_each_class_in_order(script, originals):
    arrays = script.choose(originals, {"train": 3, "test": 2})
    for part, prefix, count in (("train", "train", 3), ("test", "t10k", 2)):
        images = read_idx(originals / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(originals / f"{prefix}-labels-idx1-ubyte.gz")
        numbers = arrays[f"{part}_images"][:, 0, 0]
        assert np.bincount(arrays[f"{part}_labels"]).tolist() == [count] * 10
        assert (np.diff(numbers.astype(int)) > 0).all()
        assert np.array_equal(arrays[f"{part}_images"], images[numbers])
        assert np.array_equal(arrays[f"{part}_labels"], labels[numbers])
        for label in range(10):
            assert numbers[labels[numbers] == label].tolist() == np.flatnonzero(labels == label)[:count].tolist()


def test_the_script_writes_the_same_bytes_every_time(script, originals, tmp_path):
    arrays = script.choose(originals, {"train": 3, "test": 2})
    digest = script.write(arrays, tmp_path / "a.npz")
    assert digest == script.write(arrays, tmp_path / "b.npz")
    assert digest == hashlib.sha256((tmp_path / "b.npz").read_bytes()).hexdigest()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())


def test_the_file_in_the_package_is_what_the_script_writes(script, tmp_path):
    with np.load(io.BytesIO((FOLDER / embedded.FILE).read_bytes()), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    script.write(arrays, tmp_path / "again.npz")
    with (
        zipfile.ZipFile(tmp_path / "again.npz") as again,
        zipfile.ZipFile(io.BytesIO((FOLDER / embedded.FILE).read_bytes())) as packaged,
    ):
        for a, b in zip(again.infolist(), packaged.infolist(), strict=True):
            # The compressed bytes may differ with another zlib; what is in them may not.
            assert (a.filename, a.CRC, a.file_size, a.date_time) == (b.filename, b.CRC, b.file_size, b.date_time)
            assert (a.create_system, a.external_attr) == (b.create_system, b.external_attr)


def test_the_script_says_what_it_lacks(script, originals, tmp_path, capsys):
    assert script.main([str(originals), str(tmp_path / "out.npz")]) == 2
    assert "fewer than 1000 images of a class" in capsys.readouterr().err
    assert script.main([str(tmp_path / "nowhere"), str(tmp_path / "out.npz")]) == 2
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read(suffix, tmp_path):
    array = np.random.default_rng(0).integers(256, size=(3, 4, 5), dtype=np.uint8)
    content = idx(array)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "nothing"),
        (b"\x00\x00\x0d\x01" + bytes(8), "00000d01"),
        (b"\x00\x00\x08\x03\x00", "damaged"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], r"shape \(2, 3\) needs 18"),
        (idx(np.zeros((2, 3), np.uint8)) + b"x", "19 bytes"),
    ],
)
def test_what_is_not_an_idx_file_is_named(content, text, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DatasetError, match=text) as caught:
        read_idx(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


@pytest.mark.parametrize("damage", ["short", "end", "middle"])
def test_damaged_gzip_is_named(damage, tmp_path):
    content = gzip.compress(idx(np.arange(200, dtype=np.uint8)))
    middle = content[:10] + b"\xff" * 20 + content[30:]
    (tmp_path / "x.gz").write_bytes({"short": content[:5], "end": content[:-3], "middle": middle}[damage])
    with pytest.raises(DatasetError, match=r"cannot read .*x\.gz"):
        read_idx(tmp_path / "x.gz")
