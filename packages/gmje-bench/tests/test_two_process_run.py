"""Two real processes against one: losses, gradients, features, scores, and a run of the command line."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from safetensors.torch import load_file

from gmje_bench.methods import METHODS
from gmje_bench.runs import read_results

pytestmark = pytest.mark.xdist_group("processes")  # one fixture runs them all

WORKER = Path(__file__).with_name("two_process_worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == status, done.stderr
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


def method_file(folder: Path, name: str, consolidate: str, after: str = "") -> str:
    """A method with a closing stage of its own."""
    text = f'''
        """A closing stage that does not end well."""
        import torch
        from gmje_bench.methods import Objective
        from gmje_bench.training.module import JointEmbedding
        from gmje_core import GJE, BatchSizeError

        class Criterion(GJE):
            def consolidate(self, *pairs, **options):
                {consolidate}

        def options():
            return {{}}

        def build(setting):
            return Objective(Criterion(setting.dim, density_components=8))
        {after}
        '''
    path = folder / f"{name}.py"
    path.write_text(dedent(text).lstrip())
    return str(path)


def test_a_closing_stage_that_fails_on_the_main_process_fails_on_all(tmp_path):
    constant = method_file(
        tmp_path,
        "constant",
        "return super().consolidate(*pairs, **options)",
        """
        embed = JointEmbedding.embed
        def constant(self, images):
            z = embed(self, images)
            return 0 * z + 1 if self.name == "constant" else z
        JointEmbedding.embed = constant
        """,
    )
    few = method_file(tmp_path, "few", 'raise BatchSizeError("two pairs are too few")')
    broken = method_file(tmp_path, "broken", 'raise RuntimeError("a defect")')
    options = ["run", "--suite", "smoke", "--limit", "256", "--tasks", "knn,uncertainty", "--epochs", "1"]
    options += ["--methods", "constant,few,broken,gje", "--output", str(tmp_path / "run")]
    for path in (constant, few, broken):
        options += ["--method-file", path]
    start(*TWO, "-m", "gmje_bench", *options, status=1)
    records = {record.method: record for record in read_results(tmp_path / "run").records}
    assert [record.status for record in records.values()] == ["ok", "failed", "failed", "ok"]
    assert records["constant"].verdict == "complete collapse"
    assert "There is no density" in records["constant"].advice
    assert {"knn", "effective_rank"} <= records["constant"].metrics.keys()
    assert records["few"].error == "BatchSizeError: two pairs are too few"
    assert records["broken"].error == "MainProcessError: RuntimeError: a defect"
    assert "conditional_ece" in records["gje"].metrics
