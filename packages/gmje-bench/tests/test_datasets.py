"""Names of datasets: what is listed, what is refused, and how an error reads."""

import subprocess
import sys

import pytest
import torch
from dataset_factories import fails

from gmje_bench import datasets as package
from gmje_bench.datasets import check_name, load_dataset
from gmje_bench.errors import BenchError, DatasetError, OptionError, did_you_mean

pytestmark = pytest.mark.usefixtures("own_cache")


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
    fetched = {"fashion_mnist", "cifar10", "cifar100", "stl10", "hf:NAME", "hf-stream:NAME"}
    assert {n for n, _, network in names if network} == fetched
    assert all(summary and "\n" not in summary for _, summary, _ in names)


@pytest.mark.parametrize(
    "spec",
    ["embedded", "cifar100", "imagefolder:/x", "parquet:a:b", "hf:org/name", "hf-stream:org/name:full@refs/pr/1"],
)
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
        ("hf-stream:", "write hf-stream:NAME"),
        ("hf-steam:org/name", "did you mean hf-stream:NAME?"),
        ("shard:/x", "did you mean shards:PATH?"),
        ("shards:", "write shards:PATH"),
        ("hf:org/name:", "no CONFIG after ':'"),
        ("hf:org/name@", "no REVISION after '@'"),
        ("hf:org/na me", "'org/na me' is not the name of a dataset"),
        ("hf-stream:a/b/c", "NAME[:CONFIG][@REVISION]"),
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
