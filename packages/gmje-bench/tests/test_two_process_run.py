"""Two real processes against one: losses, gradients, features, scores, and a run of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gmje_bench.methods import METHODS
from gmje_bench.runs import read_results

pytestmark = pytest.mark.xdist_group("processes")  # one fixture runs them all

WORKER = Path(__file__).with_name("two_process_worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """What one and what two processes computed."""
    folder = tmp_path_factory.mktemp("two")
    start(str(WORKER), str(folder / "one"), "1")
    start(*TWO, str(WORKER), str(folder / "two"), "2")
    return load_file(folder / "one"), load_file(folder / "two")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_every_method_trains_on_the_global_batch(computed, method):
    one, two = computed
    for key in ("losses", "weight", "bias"):
        torch.testing.assert_close(two[f"{method}.{key}"], one[f"{method}.{key}"], rtol=1e-10, atol=1e-10)
    assert len(one[f"{method}.losses"].unique()) > 1, "the encoder moves"


@pytest.mark.parametrize("key", ["features", "embeddings", "context", "target"])
def test_what_tasks_see_is_the_same_to_the_last_bit(computed, key):
    one, two = computed
    assert one[key].float().abs().flatten(1).sum(dim=1).min() > 0, "every image has its row"
    assert torch.equal(one[key], two[key])


@pytest.mark.parametrize(
    "key",
    [
        "mean",
        "deviation",
        "coefficients",
        "cosine",
        "places",
        "taken",
        "log_prob",
        "accuracies",
        "few_labels",
    ],
)
def test_what_processes_compute_together_is_the_same_to_the_last_bit(computed, key):
    one, two = computed
    assert one[key].isfinite().all()
    assert torch.equal(one[key], two[key])


@pytest.mark.parametrize("key", ["pairs", "held_out_pairs", "tasks", "artifacts"])
def test_tasks_on_views_find_the_same_to_the_last_bit(computed, key):
    one, two = computed
    assert one[key].isfinite().all()
    assert one["pairs"].shape[1] == 2 * 468, "of 520 drawn images, a tenth is set aside"
    assert len(one["tasks"]) > 30
    assert torch.equal(one[key], two[key])


def test_the_probe_that_is_trained_along_learns_from_the_global_batch(computed):
    one, two = computed
    torch.testing.assert_close(two["online"], one["online"], rtol=1e-4, atol=1e-6)
    assert two["online_accuracy"] == one["online_accuracy"]


def test_a_run_gives_the_scores_of_one_process(tmp_path):
    options = ["run", "--suite", "smoke", "--limit", "700", "--methods", "random,gje"]
    options += ["--tasks", "linear_probe,knn,few_labels,uncertainty"]
    one, two = tmp_path / "one", tmp_path / "two"
    start("-m", "gmje_bench", *options, "--output", str(one))
    done = start(*TWO, "-m", "gmje_bench", *options, "--processes", "2", "--output", str(two))
    assert done.stdout.count("random seed 0: linear probe") == 1, "only the main process speaks"
    assert done.stderr.count("gje seed 0: training") == 1
    first, second = read_results(one), read_results(two)
    assert (first.world_size, second.world_size) == (1, 2)
    assert first.dataset == second.dataset
    assert first.records[0].metrics == second.records[0].metrics
    assert first.records[0].choices == second.records[0].choices
    assert [record.status for record in second.records] == ["ok", "ok"]
    assert sorted(path.name for path in (two / "models").iterdir()) == [
        "gje-seed0",
        "random-seed0",
    ]
