"""What becomes of files in the folder that a run goes into: those of an earlier run are replaced, others never are."""

import json

import pytest

from gmje_bench.cli import main
from gmje_bench.errors import RunFolderError
from gmje_bench.runs import (
    Record,
    check_resumable,
    check_run_folder,
    create_run_folder,
    read_results,
    write_results,
)

TINY = ["run", "--suite", "smoke", "--limit", "200", "--methods", "random", "--tasks", "knn"]
HEX = "0123456789abcdef" * 2
FOREIGN = (
    "models/best/weights.pt",
    "models/mine.pt",
    "checkpoints/e10.ckpt",
    "artifacts/wandb.json",
    "profile/cpu.txt",
)
OWN = (
    "models/gje-seed0/model.safetensors",
    "models/gje-seed0/config.json",
    "models/gje-seed0/preprocessor_config.json",
    "models/gje-seed0/evaluation/scores.json",
    "models/gje-seed0/evaluation/accuracy.png",
    "artifacts/align_uniform-seed12.safetensors",
    "artifacts/synthetic-crossing.safetensors",
    "checkpoints/gje-seed0.safetensors",
    "profile/gje-seed0.json",
    "results.md",
    "report.html",
    "alignment.png",
)


@pytest.fixture
def results(make_results):
    return make_results(Record(method="gje", seed=0, status="ok"))


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years")


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_resuming_deletes_nothing_in_a_folder_that_is_no_run(tmp_path, capsys):
    fill(tmp_path, FOREIGN)
    assert main([*TINY, "--output", str(tmp_path), "--resume"]) == 2
    assert "holds no results.json: it is not a run" in capsys.readouterr().err
    assert files(tmp_path) == set(FOREIGN)


@pytest.mark.parametrize("content", ['{"other tool": 1}', "[]", "{", "\0"])
@pytest.mark.parametrize("option", ["--overwrite", "--resume"])
def test_results_of_another_program_are_not_replaced(content, option, tmp_path, capsys):
    fill(tmp_path, ["notes.txt", "models/mine.pt", *OWN])
    (tmp_path / "results.json").write_text(content)
    assert main([*TINY, "--output", str(tmp_path), option]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "results.json") in error
    assert len(error.strip().splitlines()) == 1
    assert files(tmp_path) == {"results.json", "notes.txt", "models/mine.pt", *OWN}
    assert (tmp_path / "results.json").read_text() == content


def test_a_replaced_run_takes_its_own_files_along_and_no_other(tmp_path, results):
    write_results(tmp_path, results)
    fill(tmp_path, [*FOREIGN, *OWN, "models/gje-seed0/notes.txt", "notes.txt"])
    fill(tmp_path, [f"models/gje-seed0/.model.safetensors.{HEX}", f".results.json.{HEX}", f".results.md.{HEX}"])
    results.records = []
    create_run_folder(tmp_path, results, overwrite=True)
    assert files(tmp_path) == {"results.json", "models/gje-seed0/notes.txt", "notes.txt", *FOREIGN}
    assert read_results(tmp_path) == results


def test_every_file_of_a_run_and_its_report_is_replaced(trained, tmp_path, results):
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "models/gje-seed0/README.md" in files(tmp_path / "run")
    create_run_folder(tmp_path / "run", results, overwrite=True)
    assert files(tmp_path / "run") == {"results.json"}


def test_a_card_that_was_written_by_hand_stays(tmp_path, results):
    write_results(tmp_path, results)
    fill(tmp_path, ["models/gje-seed0/README.md"])
    create_run_folder(tmp_path, results, overwrite=True)
    assert files(tmp_path) == {"results.json", "models/gje-seed0/README.md"}


def test_a_run_of_another_version_can_be_replaced(tmp_path, results):
    old = {"suite": "vision", "protocol": {}, "records": [], "of the past": 1}
    (tmp_path / "results.json").write_text(json.dumps(old))
    create_run_folder(tmp_path, results, overwrite=True)
    assert read_results(tmp_path) == results


def test_a_run_is_only_replaced_when_asked_for(tmp_path, results):
    create_run_folder(tmp_path / "new" / "run", results, overwrite=False)
    with pytest.raises(RunFolderError, match="add --overwrite"):
        create_run_folder(tmp_path / "new" / "run", results, overwrite=False)


def test_a_file_in_the_way(tmp_path, results):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        create_run_folder(tmp_path / "run", results, overwrite=True)


@pytest.mark.parametrize("option", ["--resume", "--overwrite", None])
def test_a_run_that_was_killed_before_its_first_results_can_start_again(option, tmp_path):
    fill(tmp_path, [f".results.json.{HEX}"])
    assert main([*TINY, "--output", str(tmp_path), *([option] if option else [])]) == 0
    assert files(tmp_path) >= {"results.json", "results.md"}
    assert f".results.json.{HEX}" not in files(tmp_path)


def test_the_first_results_stand_before_anything_is_removed(tmp_path, results, monkeypatch):
    write_results(tmp_path, results)
    fill(tmp_path, OWN)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.unlink", killed)
    started = results.model_copy(update={"records": []})
    with pytest.raises(KeyboardInterrupt):
        create_run_folder(tmp_path, started, overwrite=True)
    check_resumable(tmp_path)
    assert read_results(tmp_path) == started, "no model that is half removed counts as finished"


def test_checking_changes_nothing(tmp_path, results):
    write_results(tmp_path, results)
    check_run_folder(tmp_path, overwrite=True)
    assert read_results(tmp_path).records
    check_run_folder(tmp_path / "new", overwrite=False)
    assert not (tmp_path / "new").exists()
