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
    running = process([sys.executable, "-m", "gmje_hub", "push", repo_id, str(models["two"][0])])
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
        (["push", "org/name", "./nothing"], "no folder"),
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
    answer = client("cli", "push", "org/run", str(run))
    assert answer["status"] == 2
    assert "is no model itself; the models in it are models/gmje-seed1" in answer["err"]


def test_the_old_order_of_push_says_the_new_one(client, models):
    folder = str(models["one"][0])
    answer = client("cli", "push", folder, "org/name")
    assert answer["status"] == 2
    assert f"the repository comes first, push org/name {folder}" in answer["err"]


def test_a_licence_is_the_users(hub, client, models, tmp_path):
    folder = str(models["one"][0])
    assert client("cli", "push", "org/licensed", folder, "--license", "mit", "--token", "good")["status"] == 0
    card = hub.repos["org/licensed"].commits[hub.head("org/licensed")]["README.md"].content
    assert b"license: mit" in card
    assert (
        client("cli", "pull", "org/licensed", str(tmp_path / "here"), "--cache-dir", str(tmp_path / "c"))["status"] == 0
    )
    assert list((tmp_path / "c").glob("models--org--licensed"))
    assert client("cli", "push", "org/again", str(tmp_path / "here"))["status"] == 0
    assert b"license: mit" in hub.repos["org/again"].commits[hub.head("org/again")]["README.md"].content
    answer = client("cli", "push", "org/wrong", folder, "--license", "My licence")
    assert (answer["status"], "org/wrong" in hub.repos) == (2, False)
    assert "'My licence' is no licence of the Hub" in answer["err"]
    answer = client("cli", "push", "org/wrong", folder, "--token", "bad")
    assert answer["status"] == 2
    assert "does not know the token" in answer["err"]


def test_requests_say_what_makes_them(hub, client, models, published):
    assert client("cli", "pull", published[0])["status"] == 0
    assert client("cli", "push", "org/agent", str(models["one"][0]))["status"] == 0
    assert len(hub.agents) > 3
    assert all(agent.startswith("gmje/") for agent in hub.agents), set(hub.agents)
