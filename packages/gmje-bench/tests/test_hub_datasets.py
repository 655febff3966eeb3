"""Datasets of the Hub, fetched whole or read in place, behind a Hub that the tests make up."""

import datasets as hub
import fsspec
import pytest
import torch
from dataset_factories import everything, fails, picture, rows, table

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.decoding import square
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.datasets.row_groups import RowGroupReader

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_dataset_of_the_hub(monkeypatch):
    splits = {"train": table(rows(12)), "test": table({**rows(3), "label": [-1] * 3}), "validation": table(rows(6))}
    monkeypatch.setattr(hub, "load_dataset", lambda path, **_: hub.DatasetDict(splits) if path == "org/name" else None)
    data = load_dataset("hf:org/name")
    assert (data.train.n, data.test.n, data.name) == (12, 6, "hf:org/name")  # the unlabelled test part is no use
    del splits["validation"], splits["test"]
    assert load_dataset("hf:org/name").test.labels.bincount().tolist() == [1, 1, 1]
    splits["extra"] = splits.pop("train")
    fails("hf:org/name", "no train split, only extra")


def test_without_a_network_the_hub_says_what_else_there_is(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
    fails("hf:org/name", "cannot load 'org/name'", "needs the network", "HF_HOME", "parquet:PATH")


def test_configuration_and_revision_reach_the_hub(monkeypatch):
    asked = []

    def load(path, **options):
        asked.append((path, options))
        return hub.DatasetDict({"train": table(rows(12)), "test": table(rows(6))})

    monkeypatch.setattr(hub, "load_dataset", load)
    for spec in ("hf:org/name", "hf:org/name:full", "hf:org/name@v1", "hf:org/name:full@refs/pr/1"):
        assert load_dataset(spec).name == spec
    assert asked == [
        ("org/name", {"name": config, "revision": revision})
        for config, revision in ((None, None), ("full", None), (None, "v1"), ("full", "refs/pr/1"))
    ]


@pytest.mark.parametrize("prefix", ["hf", "hf-stream"])
def test_configurations_are_named_where_one_is_missing_or_wrong(prefix, monkeypatch):
    def ask(path, *, name, revision):
        known = ["full", "tiny"]
        if name is None:
            raise ValueError(f"Config name is missing.\nPlease pick one among the available configs: {known}\nExample")
        raise ValueError(f"BuilderConfig '{name}' not found. Available: {known}")

    monkeypatch.setattr(hub, "load_dataset", ask)
    monkeypatch.setattr(hub, "load_dataset_builder", ask)
    fails(f"{prefix}:org/name", "has several configurations", f"write {prefix}:org/name:CONFIG", "full, tiny")
    fails(f"{prefix}:org/name:ful", "no configuration 'ful'", "did you mean full?")


def test_webdatasets_of_the_hub_have_columns_named_by_endings(monkeypatch):
    columns = rows(12)
    made = hub.Dataset.from_dict({"jpg": columns["image"], "cls": columns["label"]})
    made = made.cast_column("jpg", hub.Image())
    monkeypatch.setattr(hub, "load_dataset", lambda path, **_: hub.DatasetDict({"train": made, "test": made}))
    assert load_dataset("hf:org/name").test.labels.tolist() == columns["label"]


@pytest.fixture
def remote(monkeypatch):
    """A dataset of three files on a file system in memory, which stands for the Hub's; and what was read of them."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    asked = []

    def put(part, number, content, size):
        path = f"/name/data/{part}-{number}.parquet"
        with system.open(path, "wb") as stream:
            content.to_parquet(stream, batch_size=size)
        return f"memory:/{path}"

    large = {"size": (120, 100)}
    files = {
        "train": [put("train", i, table(rows(12, start=12 * i, **large)), 4) for i in range(2)],
        "test": [put("test", 0, table({**rows(3), "label": [-1] * 3}), 3)],
        "validation": [put("validation", 0, table(rows(6, start=50, **large)), 4)],
    }

    class Builder:
        class config:
            data_files = files

        class info:
            features = None

    def build(path, *, name, revision):
        asked.append((path, name, revision))
        return Builder

    monkeypatch.setattr(hub, "load_dataset_builder", build)
    return files, asked


def test_a_dataset_is_read_in_place(remote, tmp_path):
    _, asked = remote
    data = load_dataset("hf-stream:org/name:full@v1", image_size=98)
    assert asked == [("org/name", "full", "v1")]
    assert (data.name, data.train.n, data.test.n) == ("hf-stream:org/name:full@v1", 24, 6)
    assert data.classes == ("ant", "bee", "cat")
    assert data.fingerprint_of == "sizes"
    pictures, labels, _ = everything(data.train)
    assert labels.tolist() == 2 * rows(12)["label"]
    assert torch.equal(pictures[17], square(picture(17, 120, 100), 112))
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".safetensors"] * 3, "indices alone"


def test_only_the_row_groups_that_are_asked_for_are_read(remote, monkeypatch):
    data = load_dataset("hf-stream:org/name", image_size=98)
    loaded = []
    load = RowGroupReader._load
    monkeypatch.setattr(RowGroupReader, "_load", lambda reader, block: loaded.append(block) or load(reader, block))
    data.train.batch(torch.tensor([1, 13, 2, 15]))
    assert loaded == [0, 3]


def test_small_images_are_read_into_memory(remote):
    data = load_dataset("hf-stream:org/name", image_size=28)
    assert not isinstance(data.train.source, LazyImages)


@pytest.mark.usefixtures("remote")
def test_the_index_is_made_once_for_a_state_of_the_files(monkeypatch):
    first = load_dataset("hf-stream:org/name", image_size=98)
    scanned = []
    monkeypatch.setattr("gmje_bench.datasets.row_groups._scan", lambda name, file: scanned.append(file))
    again = load_dataset("hf-stream:org/name", image_size=98)
    assert scanned == []
    assert again.fingerprint == first.fingerprint


def test_names_of_classes_may_stand_in_the_description_alone(remote, monkeypatch):
    files, _ = remote
    system = fsspec.filesystem("memory")
    for part in ("train", "validation"):
        for file in files[part]:
            with system.open(file, "wb") as stream:
                table(rows(6), names=None).to_parquet(stream)
    builder = hub.load_dataset_builder("org/name", name=None, revision=None)
    builder.info.features = {"label": hub.ClassLabel(names=["x", "y", "z"])}
    assert load_dataset("hf-stream:org/name").classes == ("x", "y", "z")


def test_other_files_than_parquet_are_not_read_in_place(remote):
    files, _ = remote
    files["train"] = ["memory://name/train.tar"]
    fails(
        "hf-stream:org/name",
        "train.tar is no Parquet file",
        "hf-stream:org/name@refs/convert/parquet",
        "hf:org/name fetches",
    )


def test_datasets_in_place_that_lack_what_is_needed(remote):
    files, _ = remote
    files["extra"] = files.pop("train")
    fails("hf-stream:org/name", "no train split, only test, validation, extra")
    files["train"] = ["memory://name/nothing.parquet"]
    fails("hf-stream:org/name", "nothing.parquet")
