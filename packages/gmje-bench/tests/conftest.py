"""What several tests of the bench share: the results of a run, made by hand."""

import signal
from collections.abc import Callable

import pytest

from gmje_bench.runs import DatasetRecord, Record, Results


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
