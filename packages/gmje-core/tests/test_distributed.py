"""Two real processes on half the batch each against one process on the whole."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gmje_core.distributed import all_gather_with_grad, gather_pairs

pytestmark = pytest.mark.xdist_group("processes")  # one fixture runs them all

WORKER = Path(__file__).with_name("distributed_worker.py")
NAMES = (
    "gje-running",
    "gje-learned",
    "gje-batch",
    "gmje-em-spherical",
    "gmje-em-full",
    "gmje-em-low-rank",
    "gmje-em-more-than-batch",
    "gmje-gradient-full",
    "gmje-gradient-low-rank",
    "mdn-pmi-full",
    "mdn-nll-diag",
    "gng-spherical",
    "gng-full",
    "smc-spherical",
    "smc-full-resampling",
)


def launch(world: int) -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env["PYTHONWARNINGS"] = "ignore"
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER)], env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world
    return [json.loads(output) for output in outputs]


@pytest.fixture(scope="module")
def runs() -> tuple[dict, dict, dict]:
    (one,) = launch(1)
    first, second = launch(2)
    return one, first, second


def assert_same(actual: object, expected: object, path: str = "") -> None:
    if isinstance(expected, dict):
        assert isinstance(actual, dict)
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}.{key}")
        return
    if isinstance(expected, list) and expected and isinstance(expected[0], dict):
        for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, e, f"{path}[{index}]")
        return
    torch.testing.assert_close(
        torch.tensor(actual, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-10,
        atol=1e-10,
        msg=lambda text: f"{path}: {text}",
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_one_process_value_gradient_and_state(runs, name):
    one, first, second = runs
    assert one[name]["gradients"][0], "no gradient reached any parameter"
    assert_same(first[name], one[name], name)
    assert_same(second[name], one[name], name)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((5, 6), "the batch sizes by rank are [5, 6]; drop the last incomplete batch (drop_last=True)"),
        ((5, 0), "the batch sizes by rank are [5, 0]"),
        ((0, 1), "the batch sizes by rank are [0, 1]"),
        ((0, 0), "at least 2 pairs, but holds 0"),
    ],
)
def test_batches_of_a_wrong_size_are_refused_on_every_rank(runs, sizes, words):
    for run in runs[1:]:
        assert words in run["errors"][str(sizes)]


def test_one_pair_on_each_of_two_processes_is_a_batch(runs):
    for run in runs[1:]:
        assert run["errors"]["(1, 1)"] == ""


def test_one_process_gathers_itself():
    z = torch.randn(3, 2, requires_grad=True)
    assert all_gather_with_grad(z) is z
    context, target = gather_pairs(z, z)
    assert context is z
    assert target is z
