"""What several tests of the harness share: the results of a run, made by hand, and runs that take a second."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gmje_bench import suites
from gmje_bench.cli import main
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import DatasetRecord, Record, Results

# Factories that several test files import.
sys.path.insert(0, str(Path(__file__).parent / "factories"))

SMALL_PROTOCOL = {
    "held_out_pairs": 400,
    "distance_pairs": 100,
    "mode_contexts": 8,
    "mode_samples": 50,
    "calibration_pairs": 50,
    "calibration_samples": 10,
    "conditional_pairs": 20,
    "conditional_samples": 5,
    "outliers": 40,
    "decoder_steps": 2,
    "few_label_draws": 2,
    "classifier_epochs": 1,
    "fitted_components": 2,
    "fitted_rounds": 3,
    "density_full": (2,),
    "density_low_rank": ((2, 2),),
    "density_kernels": 50,
    "density_rounds": 2,
    "regression_steps": 2,
}
LOAD_SUITE = suites.load_suite
SMALL_METHODS = {"gmje": {"components": 4}, "gmje-mdn": {"components": 2}}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of three methods on 200 images, for tests of saved models; they leave it as it is."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ["--suite", "smoke", "--limit", "200", "--methods", "gje,simclr,random", "--tasks", "linear_probe,knn"]
    assert main(["run", *options, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def signals():
    """Ctrl-C as in the foreground, wherever the tests run: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_results() -> Callable[..., Results]:
    """Results that hold the records given."""

    def make(*records: Record) -> Results:
        return Results(
            suite="vision",
            options={"network": {"backbone": "smallconv"}, "training": {"epochs": 2, "batch_size": 256}},
            protocol={"version": "1"},
            dataset=DatasetRecord(
                name="d", fingerprint="f", fingerprint_of="content", train=10, test=2, classes=2, image_size=28
            ),
            versions={},
            environment={},
            command="python -m gmje_bench run",
            started="2026-01-01T00:00:00+00:00",
            world_size=1,
            records=list(records),
        )

    return make


def small_suite(name: str) -> suites.Suite:
    """The suite of the package with a small network, few pairs and two seeds; its tasks and its form are its own."""
    shipped = LOAD_SUITE(name)
    synthetic = shipped.synthetic
    if synthetic is not None:
        dims = [min(dim, 2) for dim in synthetic.dims]
        synthetic = synthetic.model_copy(update={"samples": 100, "epochs": 1, "dims": dims, "methods": ["gje"]})
    network = suites.Network(backbone="smallconv", hidden=8, dim=4)
    changes = {"network": network, "synthetic": synthetic, "seeds": shipped.seeds[:2]}
    if shipped.dataset is not None:  # the images of recipes are not here
        changes |= {"dataset": "fashion_mnist_12k", "image_size": None}
    return shipped.model_copy(update={**changes, "method": shipped.method | SMALL_METHODS})


@pytest.fixture
def small(monkeypatch):
    """Suites and the protocol at a size that takes a second; both are read when a run starts."""
    monkeypatch.setattr(suites, "load_suite", small_suite)
    for name, value in SMALL_PROTOCOL.items():
        monkeypatch.setitem(PROTOCOL.__dict__, name, value)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Datasets are cached and downloaded into the folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setenv("GMJE_DATA", str(tmp_path / "downloads"))


@pytest.fixture
def images(tmp_path):
    """An image folder of three classes."""
    from dataset_factories import folder_of

    folder_of(tmp_path / "images" / "train", {"ant": 6, "bee": 4, "cat": 5})
    folder_of(tmp_path / "images" / "val", {"ant": 2, "bee": 2, "cat": 2})
    return tmp_path / "images"


@pytest.fixture
def parquet(tmp_path):
    """A folder of Parquet files with three classes."""
    from dataset_factories import rows, table

    (tmp_path / "table").mkdir()
    table(rows(12)).to_parquet(tmp_path / "table" / "train-00000.parquet")
    table(rows(6, start=50)).to_parquet(tmp_path / "table" / "test.parquet")
    return tmp_path / "table"
