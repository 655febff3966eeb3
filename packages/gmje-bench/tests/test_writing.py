"""An image folder becomes tar shards that hold the same images."""

import tarfile

import pytest
import torch
from dataset_factories import everything, folder_of

from gmje_bench.cli import main
from gmje_bench.datasets import load_dataset

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def large(tmp_path):
    folder_of(tmp_path / "images" / "train", {"ant": 5, "bee": 7}, size=(120, 100), suffix="jpg")
    folder_of(tmp_path / "images" / "val", {"bee": 3, "ant": 2}, size=(120, 100), suffix="jpg")
    return tmp_path / "images"


def content(split):
    """Pixels and labels, whatever the order."""
    pictures, labels, _ = everything(split)
    return sorted((picture.numpy().tobytes(), int(label)) for picture, label in zip(pictures, labels, strict=True))


def test_shards_hold_the_images_of_the_folder(large, tmp_path, capsys):
    output = tmp_path / "shards"
    assert main(["shards", str(large), str(output), "--images-per-shard", "5"]) == 0
    assert capsys.readouterr().out == f"17 images in 4 shards; read them with --dataset shards:{output}\n"
    names = sorted(path.name for path in output.iterdir())
    assert names == ["classes.txt", *(f"train-00000{i}.tar" for i in range(3)), "val-000000.tar"]
    before, after = (load_dataset(f"{kind}", image_size=98) for kind in (f"imagefolder:{large}", f"shards:{output}"))
    assert after.classes == ("ant", "bee")
    for one, two in ((before.train, after.train), (before.test, after.test)):
        assert content(one) == content(two)
    assert after.train.labels.tolist() != sorted(after.train.labels.tolist()), "classes are mixed"


def test_the_same_folder_gives_the_same_bytes(large, tmp_path):
    for name in ("one", "two"):
        assert main(["shards", str(large), str(tmp_path / name)]) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_folder_without_parts_is_split_when_it_is_read(tmp_path):
    folder_of(tmp_path / "images", {"ant": 10, "bee": 10})
    assert main(["shards", str(tmp_path / "images"), str(tmp_path / "shards")]) == 0
    assert load_dataset(f"shards:{tmp_path / 'shards'}").test.labels.bincount().tolist() == [2, 2]


def test_what_cannot_be_written_leaves_nothing_behind(large, tmp_path, capsys, monkeypatch):
    (tmp_path / "there").mkdir()
    assert main(["shards", str(large), str(tmp_path / "there")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["shards", str(tmp_path / "imges"), str(tmp_path / "new")]) == 2
    assert "did you mean images?" in capsys.readouterr().err
    assert main(["shards", str(large), str(tmp_path / "new"), "--images-per-shard", "0"]) == 2
    assert "at least one image, got 0" in capsys.readouterr().err

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        assert main(["shards", str(large), str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert len(error.strip().splitlines()) == 1

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", stopped)
        assert main(["shards", str(large), str(tmp_path / "new")]) == 130
    assert sorted(path.name for path in tmp_path.iterdir() if "downloads" not in path.name) == ["images", "there"]


def test_order_is_seeded(large, tmp_path):
    state = torch.get_rng_state()
    assert main(["shards", str(large), str(tmp_path / "one")]) == 0
    assert torch.equal(torch.get_rng_state(), state)
