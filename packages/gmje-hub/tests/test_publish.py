"""Folders that are published: what goes along, whose card stays, and what another model left."""

import shutil

import pytest
import yaml

from gmje_hub.card import model_card
from gmje_hub.evaluation import Evaluation, write_evaluation
from gmje_hub.folder import read_folder

pytestmark = pytest.mark.xdist_group("hub")


def test_what_another_model_left_is_removed(hub, client, models, tmp_path):
    client("push", str(models["one"][0]), "org/turn")
    hub.add("org/turn", {".eval_results/gmje.yaml": b"[]", "evaluation/old.png": b"", "notes.txt": b"mine"})
    client("make", str(tmp_path / "plain"), 3, preprocessed=False)
    client("push", str(tmp_path / "plain"), "org/turn")
    assert sorted(hub.repos["org/turn"].commits[hub.head("org/turn")]) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    assert client("load", "org/turn")["preprocessing"] is None


def test_a_card_written_by_hand_is_kept(hub, client, models, published):
    repo_id, _ = published
    folder = str(models["two"][0])

    def readme() -> bytes:
        return hub.repos[repo_id].commits[hub.head(repo_id)]["README.md"].content

    hub.add(repo_id, {"README.md": b"# Mine\n"})
    answer = client("cli", "push", repo_id, folder)
    assert answer["status"] == 0, answer
    assert "left as it is" in answer["out"]
    assert readme() == b"# Mine\n"
    assert client("cli", "push", repo_id, folder, "--overwrite-card")["status"] == 0
    generated = readme()
    assert generated.startswith(b"---")
    hub.add(repo_id, {"README.md": generated.replace(b"# org/", b"# my own org/")})
    assert "left as it is" in client("cli", "push", repo_id, folder)["out"]
    hub.add(repo_id, {"README.md": generated})
    assert "left as it is" not in client("cli", "push", repo_id, folder)["out"]


def test_a_card_beside_the_model_is_pushed(hub, client, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models["one"][0], folder)

    def readme(repo_id: str = "org/own") -> bytes:
        assert client("cli", "push", repo_id, str(folder))["status"] == 0
        return hub.repos[repo_id].commits[hub.head(repo_id)]["README.md"].content

    generated = readme()
    (folder / "README.md").write_bytes(readme("org/other"))
    assert readme() == generated  # not by hand: what it says of the other repository would be wrong here
    (folder / "README.md").write_text(
        "---\nlicense: mit\nlibrary_name: gmje\npipeline_tag: image-feature-extraction\ntags: [mine]\n---\n# Mine\n"
    )
    assert b"# Mine" in readme()


def test_what_was_measured_is_pushed_whole_and_pulled_whole(hub, client, models, evaluation, pictures, tmp_path):
    folder = tmp_path / "gmje-seed1"
    shutil.copytree(models["one"][0], folder)
    write_evaluation(folder, evaluation, pictures)
    answer = client("cli", "push", "org/run", str(folder))
    assert answer["status"] == 0, answer
    files = {name: blob.content for name, blob in hub.repos["org/run"].commits[hub.head("org/run")].items()}
    assert files["evaluation/accuracy.png"] == pictures["accuracy.png"]
    assert Evaluation.from_json(files["evaluation/scores.json"].decode()) == evaluation
    entries = yaml.safe_load(files[".eval_results/gmje.yaml"])
    assert [(entry["dataset"]["task_id"], entry["value"]) for entry in entries] == [("linear_probe", 85), ("knn", 80)]
    card = files["README.md"].decode()
    assert client("validate", card) == {"linear probe accuracy [%]": 85.0, "kNN | weighted accuracy [%]": 80.0}
    client.fails("ValueError", "tags must be strings", "validate", card.replace("- density-estimation", "- 3"))
    answer = client("cli", "pull", "org/run", str(tmp_path / "here"))
    assert answer["status"] == 0, answer
    pulled = {
        str(p.relative_to(tmp_path / "here")): p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()
    }
    assert pulled == {name: content for name, content in files.items() if name != ".gitattributes"}
    assert client("cli", "push", "org/mirror", str(tmp_path / "here"))["status"] == 0
    mirror = {name: blob.content for name, blob in hub.repos["org/mirror"].commits[hub.head("org/mirror")].items()}
    assert mirror.pop("README.md").decode() == model_card(
        read_folder(folder).config, "org/mirror", read_folder(folder).preprocessing, evaluation
    )
    assert mirror == {name: content for name, content in files.items() if name != "README.md"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_model_in_memory_is_pushed_with_its_evaluation(hub, client, models, evaluation):
    client("push", str(models["one"][0]), "org/memory", evaluation=evaluation.to_json())
    files = hub.repos["org/memory"].commits[hub.head("org/memory")]
    published = Evaluation.from_json(files["evaluation/scores.json"].content.decode())
    assert published.scores == evaluation.scores
    assert published.figures == {}, "there are no files of them"
    assert "| linear probe [%] ↑ | 86.0 ± 2.5 | 85 |" in files["README.md"].content.decode()
    client("push", str(models["one"][0]), "org/memory")
    assert "evaluation/scores.json" not in hub.repos["org/memory"].commits[hub.head("org/memory")]
