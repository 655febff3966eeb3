"""The datasets of torchvision from files that were put by hand, and without a network."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_factories import fails

from gmje_bench.datasets import load_dataset, vision

pytestmark = pytest.mark.usefixtures("own_cache")


def without_network(url, *_args, **_kwargs):
    raise OSError(f"no network for {url}")


@pytest.mark.parametrize(
    ("name", "files", "place"),
    [
        ("fashion_mnist", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"], "FashionMNIST/raw"),
        ("cifar10", ["cifar-10-binary.tar.gz"], ""),
        ("cifar100", ["cifar-100-binary.tar.gz"], ""),
        ("stl10", ["stl10_binary.tar.gz"], ""),
    ],
)
@pytest.mark.parametrize("own_root", [True, False])
def test_without_a_network_the_files_and_their_folder_are_named(name, files, place, own_root, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", without_network)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    root = tmp_path / ("own" if own_root else "downloads")
    message = fails(name, *files, f"into {root / place} by hand", "fashion_mnist_12k", root=root if own_root else None)
    assert "no network for http" in message


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_fashion_mnist_from_files_put_by_hand(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 1] = np.arange(count) % 251
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    data = load_dataset("fashion_mnist", root=tmp_path, limit=100)
    assert (data.channels, data.image_size, data.train.n, data.test.n) == (1, 28, 100, 20)
    assert torch.equal(data.train.batch(torch.arange(100))[:, 0, 0, 1].long(), data.train.positions % 251)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    fails("fashion_mnist", f"fashion_mnist in {raw} is damaged", "remove that folder", root=tmp_path)


def cifar(count, label_bytes, classes, seed):
    """Records, with the pixels as red, green and blue planes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
    labels = np.stack([rng.integers(20, size=count)] * (label_bytes - 1) + [np.arange(count) % classes], axis=1)
    return images, np.concatenate([labels.astype(np.uint8), images.reshape(count, -1)], axis=1).tobytes()


@pytest.mark.parametrize(("name", "label_bytes", "classes"), [("cifar10", 1, 10), ("cifar100", 2, 100)])
def test_cifar_from_an_archive_put_by_hand(name, label_bytes, classes, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", without_network)
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda path, md5=None: Path(path).is_file())
    recipe, count = vision._RECIPES[name], 200
    monkeypatch.setattr(vision, "_CIFAR_FILE", count)
    files, expected = {recipe.classes: "\n".join(f"class{i}" for i in range(classes)).encode()}, {}
    for seed, file in enumerate(f for f in recipe.files if f.endswith(".bin")):
        expected[file], files[file] = cifar(5 * count if file == "train.bin" else count, label_bytes, classes, seed)
    with tarfile.open(tmp_path / f"cifar-{classes}-binary.tar.gz", "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{recipe.folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = load_dataset(name, root=tmp_path)
    assert (data.train.n, data.test.n, data.channels, data.image_size) == (5 * count, count, 3, 32)
    assert data.classes == tuple(f"class{i}" for i in range(classes))
    assert torch.equal(data.train.labels, torch.arange(5 * count) % classes)
    first, *_, last = expected
    assert np.array_equal(data.train.batch(torch.arange(10)).numpy(), expected[first][:10])
    assert np.array_equal(data.test.batch(torch.arange(10)).numpy(), expected[last][:10])
    path = tmp_path / recipe.folder / last
    path.write_bytes(path.read_bytes()[:-1])
    fails(name, f"{last} has", "remove that folder", root=tmp_path)


def test_stl10_columns_become_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "_STL10", {"train": 50, "test": 80})
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    for part, count in (("train", 50), ("test", 80)):
        images = np.zeros((count, 3, 96, 96), np.uint8)  # column by column: [n, c, x, y]
        images[:, 1, 90, 2] = np.arange(count) % 200
        (folder / f"{part}_X.bin").write_bytes(images.tobytes())
        (folder / f"{part}_y.bin").write_bytes((np.arange(count) % 10 + 1).astype(np.uint8).tobytes())
    data = load_dataset("stl10", root=tmp_path)
    assert (data.train.n, data.test.n, data.image_size) == (50, 80, 96)
    assert data.train.labels[:3].tolist() == [0, 1, 2]
    assert torch.equal(data.train.batch(torch.arange(50))[:, 1, 2, 90].long(), torch.arange(50))
