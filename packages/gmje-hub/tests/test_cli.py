"""The command line: every mistake is one line, Ctrl-C leaves nothing half done, and inspect says what a model is."""

import json
import shutil
import signal
import sys

import pytest

pytestmark = pytest.mark.xdist_group("hub")


def test_ctrl_c_is_one_line_and_leaves_the_old_revision_whole(hub, client, models, published, process):
    repo_id, outputs = published
    head = hub.head(repo_id)
    hub.lfs.clear()
    running = process([sys.executable, "-m", "gmje_hub", "push", str(models["two"][0]), repo_id])
    hub.fail("PUT", "/lfs/", status=503, before=lambda: running.send_signal(signal.SIGINT))
    _, error = running.communicate()
    assert running.returncode == 130
    assert error.splitlines()[-1] == "stopped; what was being written is there whole, or not at all"
    assert hub.head(repo_id) == head
    assert client("load", repo_id)["outputs"] == outputs


def test_pull_and_inspect(hub, client, published, tmp_path):
    repo_id, outputs = published
    answer = client("cli", "pull", repo_id, str(tmp_path / "here"))
    assert answer["status"] == 0, answer
    assert client("load", str(tmp_path / "here"))["outputs"] == outputs
    shown = json.loads(client("cli", "inspect", repo_id, "--json")["out"])
    assert shown["revision"] == hub.head(repo_id)
    assert shown["bytes"] == len(hub.repos[repo_id].commits[hub.head(repo_id)]["model.safetensors"].content)
    assert shown["criterion"] == "gmje"
    assert shown["preprocessing"]["image_mean"] == [0.25]
    local = json.loads(client("cli", "inspect", str(tmp_path / "here"), "--json")["out"])
    assert local["sha256"] == shown["sha256"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "org/nme"], "no repository"),
        (["pull", "nothing"], "org/name"),
        (["inspect", "./nothing"], "no folder"),
        (["inspect", ".", "--revision", "v1"], "'.' is a folder, which has no revision 'v1'"),
        (["push", "./nothing", "org/name"], "no folder"),
        (["pus"], "pus"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(client, arguments, words):
    answer = client("cli", *arguments)
    assert answer["status"] == 2
    assert words in answer["err"]
    assert answer["err"].count("\n") == 1


def test_a_folder_of_models_names_them(client, models, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(models["one"][0], run / "models" / "gmje-seed1")
    answer = client("cli", "push", str(run), "org/run")
    assert answer["status"] == 2
    assert "is no model itself; the models in it are models/gmje-seed1" in answer["err"]
