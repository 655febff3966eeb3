"""Every source of images on tiny data made on the spot, and every mistake that a user can make with them."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import datasets as hub
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from gmje_bench import datasets as package
from gmje_bench.datasets import ResidentImages, Split, check_name, load_dataset, validation_split, vision
from gmje_bench.datasets.decoding import LazyImages, decode, square
from gmje_bench.errors import BenchError, DatasetError, OptionError, did_you_mean


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setenv("GMJE_DATA", str(tmp_path / "downloads"))


def picture(seed, width=20, height=20, mode="RGB"):
    """Smooth random colours, which a lossy format keeps."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)).resize((width, height)).convert(mode)


def encoded(image, suffix="png"):
    stream = io.BytesIO()
    image.save(stream, "jpeg" if suffix == "jpg" else suffix)
    return stream.getvalue()


def folder_of(path, counts, size=(20, 20), suffix="png"):
    """``counts[class]`` images in ``path/class``."""
    for label, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f"{i:03}.{suffix}").write_bytes(encoded(picture(1000 * label + i, *size), suffix))
    return path


@pytest.fixture
def images(tmp_path):
    folder_of(tmp_path / "images" / "train", {"ant": 6, "bee": 4, "cat": 5})
    folder_of(tmp_path / "images" / "val", {"ant": 2, "bee": 2, "cat": 2})
    return tmp_path / "images"


def rows(count, classes=3, size=(20, 20), start=0):
    return {
        "image": [{"bytes": encoded(picture(start + i, *size)), "path": None} for i in range(count)],
        "label": [i % classes for i in range(count)],
    }


def table(columns, names=("ant", "bee", "cat"), label="label"):
    features = {"image": hub.Image(), label: hub.ClassLabel(names=list(names)) if names else hub.Value("int64")}
    return hub.Dataset.from_dict(columns, features=hub.Features(features))


@pytest.fixture
def parquet(tmp_path):
    (tmp_path / "table").mkdir()
    table(rows(12)).to_parquet(tmp_path / "table" / "train-00000.parquet")
    table(rows(6, start=50)).to_parquet(tmp_path / "table" / "test.parquet")
    return tmp_path / "table"


def everything(split, workers=0):
    parts = list(split.batches(torch.arange(split.n).split(4), workers))
    return tuple(torch.cat(items) for items in zip(*parts, strict=True))


def fails(spec, *texts, error=DatasetError, **options):
    """One line that says all of ``texts``."""
    with pytest.raises(error) as caught:
        load_dataset(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    for text in texts:
        assert str(text) in message
    return message


# Names


def test_names_are_listed_and_checked_without_torch():
    code = (
        "import sys, gmje_bench.datasets as d; d.dataset_names(); d.check_name('cifar10'); "
        "print([m for m in ('torch', 'numpy', 'datasets', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names_have_one_line_each_and_the_default_needs_no_network():
    names = package.dataset_names()
    assert names[0].name == "fashion_mnist_12k"
    assert {n for n, _, network in names if network} == {"fashion_mnist", "cifar10", "cifar100", "stl10", "hf:NAME"}
    assert all(summary and "\n" not in summary for _, summary, _ in names)


@pytest.mark.parametrize("spec", ["embedded", "cifar100", "imagefolder:/x", "parquet:a:b", "hf:org/name"])
def test_good_names_pass(spec):
    check_name(spec)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("cifar01", "did you mean cifar10?"),
        ("CIFAR10", "did you mean cifar10?"),
        ("fashion-mnist", "did you mean fashion_mnist"),
        ("imagefolders:/x", "did you mean imagefolder:PATH?"),
        ("imagefolder:", "write imagefolder:PATH"),
        ("hf: ", "write hf:NAME"),
        ("imagefolder:PATH", "no folder PATH"),
        ("parquet", "did you mean parquet:PATH?"),
        ("", "unknown dataset ''"),
    ],
)
def test_unknown_names_have_the_close_one(spec, text):
    fails(spec, text)


def test_hints_are_about_close_names_only():
    assert did_you_mean("zzz", ["a", "b"]) == " (choose from a, b)"
    assert did_you_mean("zzz", []) == ""


@pytest.mark.parametrize("kind", [DatasetError, OptionError])
def test_messages_are_one_line(kind):
    assert str(kind("a\n  b\r\n\nc")) == "a b c"
    assert issubclass(kind, BenchError)


@pytest.mark.parametrize("size", [7, 0, -3])
def test_image_sizes_too_small_are_refused(size):
    fails("embedded", f"at least 8 pixels, got {size}", error=OptionError, image_size=size)


def test_another_image_size_leaves_small_images_as_they_are():
    data = load_dataset("embedded", image_size=32)
    assert data.image_size == 32
    assert data.train.batch(torch.arange(2)).shape == (2, 1, 28, 28)
    assert data.fingerprint == load_dataset("embedded").fingerprint


# Splits


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


# Decoding


@pytest.mark.parametrize(("width", "height"), [(40, 40), (61, 33), (30, 47), (9, 13)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_square_is_resize_and_centre_crop(width, height, mode):
    image = picture(0, width, height, mode)
    expected = F.pil_to_tensor(F.center_crop(F.resize(image.convert("RGB"), [32]), [32, 32]))
    assert torch.equal(square(image, 32), expected)


def test_square_keeps_the_pixels_of_its_own_size():
    image = picture(0, 32, 32)
    assert torch.equal(square(image, 32), F.pil_to_tensor(image))


def test_large_jpegs_decoded_at_a_fraction_look_the_same():
    content = encoded(picture(0, 1600, 1200), "jpg")
    got = decode(content, "x", 32).float()
    expected = square(Image.open(io.BytesIO(content)), 32).float()
    assert float((got - expected).abs().max()) <= 3


# Image folders


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


# Tables


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


# The Hub


def test_a_dataset_of_the_hub(monkeypatch):
    splits = {"train": table(rows(12)), "test": table({**rows(3), "label": [-1] * 3}), "validation": table(rows(6))}
    monkeypatch.setattr(hub, "load_dataset", lambda name: hub.DatasetDict(splits) if name == "org/name" else None)
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


# torchvision's sets


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
