"""What the tests share: a run folder as the harness writes it, in small."""

import copy
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def record(seed: int, probe: float, method: str = "gmje", status: str = "ok") -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "status": status,
        "metrics": {"linear_probe": probe, "knn": probe - 5, "conditional_ece": 0.25},
        "history": [{"loss": -1.0}, {"loss": -2.5, "effective_rank": 80.25, "verdict": "healthy", "advice": "none"}],
    }


RESULTS: dict[str, Any] = {
    "schema_version": 2,
    "records": [record(0, 86.0), record(1, 85.0), record(2, 87.0), record(3, 0.0, status="failed"), record(0, 1, "x")],
    "metrics": {
        "linear_probe": {"title": "linear probe", "unit": "%", "task": "linear_probe", "headline": True},
        "knn": {"title": "kNN | weighted", "unit": "%", "task": "knn", "headline": True},
        "conditional_ece": {"title": "calibration error", "unit": "", "task": "uncertainty", "headline": False},
        "ood_auroc": {"title": "OOD AUROC", "unit": "", "task": "uncertainty", "headline": True},
    },
    "dataset": {"name": "fashion", "fingerprint": "ab12", "train": 10, "test": 2, "classes": 10},
    "protocol": {"version": 2},
    "command": "python -m gmje_bench run",
    "versions": {"gmje-core": "0.1.0"},
    "options": {
        "limit": None,
        "training": {"epochs": 6, "batch_size": 256, "optimizer": "adamw", "learning_rate": 0.002},
    },
    "started": "2026-01-01T00:00:00+00:00",
}


def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
    )


@pytest.fixture
def results() -> dict[str, Any]:
    """Of a run of three seeds, one of which failed for one method."""
    return copy.deepcopy(RESULTS)


@pytest.fixture
def make_run(results: dict[str, Any]) -> Callable[..., Path]:
    """Writes the folder of that run, with figures; named results are changed."""

    def make(folder: Path, **changes: Any) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results | changes))
        for name in ("accuracy.png", "diagnostics.png"):
            (folder / name).write_bytes(png())
        return folder

    return make
