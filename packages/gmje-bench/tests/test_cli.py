"""The command line as a user meets it: results, and every mistake as one line with exit status 2."""

import json
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from gmje_bench import cli
from gmje_bench.cli import main
from gmje_bench.methods import METHODS
from gmje_bench.runs import read_results

TINY = ("--suite", "smoke", "--limit", "300", "--batch-size", "64")


def test_run_writes_the_whole_folder_and_prints_the_table(tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["run", *TINY, "--methods", "random,gmje,vicreg", "--seeds", "0,1", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert out.count("linear probe ") >= 6, "a line for every method and seed"
    assert f"results in {output}" in out
    results = read_results(output)
    assert [(r.method, r.seed, r.status) for r in results.records] == [
        (method, seed, "ok") for seed in (0, 1) for method in ("random", "gmje", "vicreg")
    ]
    for record in results.records:
        assert set(record.metrics) == {"linear_probe", "knn", "effective_rank"}
        assert record.metrics["linear_probe"] > 30, "far above one in ten"
        assert record.seconds["features"] > 0
    assert results.dataset.train == 300
    assert results.world_size == 1
    for name in ("results.md", "accuracy.png", "diagnostics.png"):
        assert (output / name).stat().st_size > 0
    assert "± " in (output / "results.md").read_text()
    assert len(list((output / "models").glob("*/model.safetensors"))) == 6
    assert not list(output.rglob(".*")), "no temporary file is left"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--suite", "vison"], "did you mean vision?"),
        (["run", "--methods", "gmje,simclear"], "did you mean simclr?"),
        (["run", "--dataset", "cifar01"], "did you mean cifar10?"),
        (["run", "--dataset", "imagefolder:"], "imagefolder:PATH"),
        (["run", "--suit", "vision"], "--suite"),
        (["rum"], "run"),
        (["run", "--epochs", "-1"], "--epochs: input should be greater"),
        (["run", "--epochs", "many"], "valid integer"),
        (["run", "--batch-size", "1"], "--batch-size: input should be greater than or equal to 2, got 1"),
        (["run", "--seeds", "-1"], "--seeds: input should be greater than or equal to 0"),
        (["run", "--dry-run", "--backbone", "resnet81"], "did you mean resnet18?"),
        (["run", "--seeds", "0,x"], "integers separated by commas"),
        (["run", "--seeds", "0,0"], "must not repeat"),
        (["run", "--methods", ""], "methods"),
        (["run", "--mixed-precision", "fp8"], "--mixed-precision"),
        (["run", "--suite", "missing.toml"], "missing.toml"),
        (["run", "--backbone", "resnet81", "--limit", "300", "--output", "OUT"], "resnet18"),
        (["run", "--backbone", "timm:nosuchmodel", "--limit", "300", "--output", "OUT"], "nosuchmodel"),
        (["run", "--dataset", "imagefolder:/does/not/exist", "--output", "OUT"], "/does/not/exist"),
        (["run", "--suite", "smoke", "--limit", "100", "--output", "OUT"], "larger than the 100 training images"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_be_right(arguments, words, tmp_path, capsys):
    output = tmp_path / "run"
    assert main([str(output) if a == "OUT" else a for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not output.exists()


def test_an_existing_folder_is_not_touched(tmp_path, capsys):
    precious = tmp_path / "thesis.txt"
    precious.write_text("years")
    for extra in ([], ["--overwrite"]):
        assert main(["run", *TINY, "--methods", "random", "--output", str(tmp_path), *extra]) == 2
    assert "holds no results.json" in capsys.readouterr().err
    assert precious.read_text() == "years"


def test_unwritable_folder_is_found_before_training(tmp_path, capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    assert main(["run", *TINY, "--methods", "random", "--output", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err
    assert "linear probe" not in captured.out


def test_a_failing_method_is_shown_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    from gmje_bench.engine import trial

    healthy = trial.pretrain

    def fail(module, *args, **kwargs):
        if module.name == "simclr":
            raise RuntimeError("out of luck")
        return healthy(module, *args, **kwargs)

    monkeypatch.setattr(trial, "pretrain", fail)
    assert main(["run", *TINY, "--methods", "simclr,gje", "--output", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert "simclr seed 0: FAILED RuntimeError: out of luck" in out
    first, second = read_results(tmp_path / "run").records
    assert (first.status, first.error, first.metrics) == ("failed", "RuntimeError: out of luck", {})
    assert second.status == "ok"
    assert "failed (seed 0): RuntimeError: out of luck" in (tmp_path / "run" / "results.md").read_text()


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    for name in ("a", "b"):
        assert main(["run", *TINY, "--methods", "gmje,simclr", "--output", str(tmp_path / name)]) == 0
    first, second = (read_results(tmp_path / name).records for name in ("a", "b"))
    assert [r.metrics for r in first] == [r.metrics for r in second]
    assert [r.history for r in first] == [r.history for r in second]


def test_dry_run_trains_nothing(tmp_path, capsys):
    assert main(["run", "--dry-run", "--methods", "gmje", "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "fashion_mnist_12k" in out
    assert "# steps      39 an epoch, 234 a run, of which 20 of warm-up" in out
    assert "M parameters" in out
    settings = tomllib.loads(out)
    assert settings["method"] == {"gmje": {"components": 512, "temperature": 0.1, "density_components": 60}}
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_a_suite(tmp_path, capsys):
    asked = ["--methods", "gje", "--set", "training.learning_rate=0.3", "--set", "method.gje.step=0.1", "--backbone"]
    asked += ["resnet18", "--output", str(tmp_path / "run"), "--dry-run"]
    assert main(["run", *asked]) == 0
    first = capsys.readouterr().out
    (tmp_path / "mine.toml").write_text(first)
    assert main(["run", "--suite", str(tmp_path / "mine.toml"), *asked[-3:]]) == 0
    second = capsys.readouterr().out
    assert tomllib.loads(second) == tomllib.loads(first)
    assert tomllib.loads(first)["network"]["small_images"] is True


RECIPES = ["cifar10-resnet18", "fashion-mnist", "imagenet-resnet50", "imagenet100-resnet50"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_dry_runs_of_recipes(recipe, tmp_path, capsys):
    assert main(["run", "--suite", recipe, "--methods", "gmje", "--dry-run", "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert tomllib.loads(out)["network"]["small_images"] is (not recipe.startswith("imagenet"))
    assert "GiB of activations" in out


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbone", "timm:nosuchmodel"], "nosuchmodel"),
        (["--backbone", "timm:resnet18", "--set", "network.small_images=true"], "set it to False"),
        (["--set", "method.gmje.componets=3"], "unknown option of gmje 'componets'; did you mean 'components'?"),
        (["--set", "method.gmje.components=-3"], "components must be"),
        (["--set", "method.simclr.temperature=-1"], "temperature must be a number of at least 0"),
        (["--set", "views.crop_scale=[1, 0.5]"], "crop_scale of the views must be a rising pair in (0, 1]"),
        (["--batch-size", "1001"], "larger than the 1000 training images"),
        (["--dataset", "imagefolder:/does/not/exist"], "/does/not/exist"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(arguments, words, dry, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["run", "--suite", "smoke", *arguments, *dry, "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not output.exists()


def test_a_dry_run_is_for_the_processes_that_are_asked_for(tmp_path, capsys):
    asked = ["run", "--suite", "smoke", "--methods", "gje", "--dry-run", "--output", str(tmp_path / "run")]
    assert main([*asked, "--processes", "4"]) == 0
    assert "128 images, 32 in each of 4 process(es)" in capsys.readouterr().out
    assert main([*asked, "--processes", "3"]) == 2
    assert "does not divide evenly over 3 processes" in capsys.readouterr().err


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("vision", "smoke", "gmje", "gje-batch", "simclr", "vicreg", "random", "imagefolder:PATH"):
        assert word in out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["run", "--help"], ["run", "--suite", "synthetic", "--dry-run"]]
)
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import sys; from gmje_bench.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'matplotlib', 'sklearn', 'datasets'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 30


def test_schema_describes_the_results(capsys):
    assert main(["schema"]) == 0
    assert '"records"' in capsys.readouterr().out


def test_gradient_accumulation_is_refused_with_the_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert main(["run", *TINY, "--methods", "gmje", "--output", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "accumulation over 4 steps" in err
    assert "compare the pairs of a batch" in err


def test_dry_run_refuses_the_folder_that_the_run_would(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years")
    assert main(["run", "--dry-run", "--output", str(tmp_path)]) == 2
    assert "is not empty and holds no results.json" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(number, tmp_path, capsys, monkeypatch):
    from gmje_bench.engine import trial

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(trial, "measure", interrupted)
    output = tmp_path / "run"
    assert main(["run", *TINY, "--methods", "gmje", "--output", str(output)]) == 128 + number
    assert capsys.readouterr().err.endswith(
        f"stopped; what had finished is in {output}, and the same command with --output {output} --resume goes on\n"
    )
    assert read_results(output).records == []
    monkeypatch.undo()
    assert main(["run", *TINY, "--methods", "gmje", "--output", str(output), "--resume"]) == 0
    assert [record.method for record in read_results(output).records] == ["gmje"]


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("python /bin/accelerate launch --cpu --num_processes 2 -m gmje_bench run", 2),
        ("python /bin/accelerate launch --num_processes=4 -m gmje_bench run", 4),
        ("python -m accelerate.commands.accelerate_cli launch --num-processes 3 -m gmje_bench run", 3),
        ("python /bin/accelerate launch -m gmje_bench run --num_processes 2", 1),
        ("python /bin/accelerate launch --num_processes many -m gmje_bench run", 1),
        ("bash launch --num_processes 2", 1),
        ("", 1),
    ],
)
def test_processes_asked_of_accelerate(command, wanted):
    assert cli._wanted_processes(command.split()) == wanted


def test_a_launch_that_silently_became_one_process_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_parent_command", lambda: ["accelerate", "launch", "--cpu", "--num_processes", "2"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["run", "--dry-run", "--output", str(tmp_path / "run")]) == 2
    assert "--processes 2" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", "--dry-run", "--output", str(tmp_path / "run")]) == 0


def test_all_names_every_method(capsys, tmp_path):
    assert main(["run", "--dry-run", "--methods", "all", "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in METHODS)


def test_profile_writes_a_trace(tmp_path):
    output = tmp_path / "run"
    assert main(["run", *TINY, "--methods", "simclr", "--epochs", "3", "--profile", "--output", str(output)]) == 0
    trace = json.loads((output / "profile" / "simclr-seed0.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert any("ProfilerStep" in str(name) for name in names)
    assert any("conv2d" in str(name) for name in names)


@pytest.mark.parametrize(
    ("tracker", "words"),
    [("tensorbord", "unknown tracker 'tensorbord'; did you mean tensorboard?"), ("comet_ml", "is not installed")],
)
def test_trackers_that_cannot_be(tracker, words, tmp_path, capsys):
    assert main(["run", *TINY, "--track", tracker, "--output", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tracker_gets_losses_and_scores(tmp_path, monkeypatch):
    from accelerate import Accelerator

    from gmje_bench.engine import stages

    logged = []
    monkeypatch.setattr(stages, "check_trackers", lambda name: None)
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, name, config: logged.append((name, config)))
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step=None: logged.append((values, step)))
    assert main(["run", *TINY, "--methods", "gje", "--track", "tensorboard", "--output", str(tmp_path / "run")]) == 0
    (name, config), *rest = logged
    assert (name, config["training.epochs"], config["dataset"]) == ("gmje_bench", 1, "fashion_mnist_12k")
    assert any(step == 1 and "gje/seed0/loss" in values for values, step in rest)
    assert any("gje/seed0/linear_probe" in values for values, _ in rest)
