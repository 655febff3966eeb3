"""Repositories over real HTTP: the client in a process of its own, a server that can fail in every way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent


def _sibling(name: str) -> ModuleType:
    spec = spec_from_file_location(name, HERE / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


server = _sibling("hub_server")


class ClientError(Exception):
    """An error of the client's process: its type and its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


def start(command: list[str], url: str, home: Path, stderr: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """A process that uses the server, and a cache of its own; it can be interrupted even where its parent cannot."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": "good",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored stays ignored in a child
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


class Client:
    """A Python process with the package imported, told what to do line by line."""

    def __init__(self, url: str, home: Path) -> None:
        self.process = start([sys.executable, str(HERE / "hub_client.py")], url, home)

    def __call__(self, function: str, *positional: Any, **named: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([function, positional, named]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ClientError(answer["error"], answer["text"])
        return answer["value"]

    def fails(self, kind: str, words: str, function: str, *positional: Any, **named: Any) -> None:
        with pytest.raises(ClientError) as caught:
            self(function, *positional, **named)
        assert caught.value.kind == kind, caught.value
        assert words in caught.value.text, caught.value
        assert "\n" not in caught.value.text

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    hub = server.Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def client(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def models(client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Folders of two models and the hash of what they give."""
    root = tmp_path_factory.mktemp("models")
    return {name: (root / name, client("make", str(root / name), seed)) for seed, name in enumerate(("one", "two"))}


@pytest.fixture(autouse=True)
def healthy(hub: Any) -> Iterator[None]:
    hub.faults.clear()
    hub.requests.clear()
    yield
    hub.faults.clear()


@pytest.fixture
def published(hub: Any, models: dict[str, tuple[Path, str]], request: pytest.FixtureRequest) -> tuple[str, str]:
    """A repository of its own for the test, with the first model, and the hash of what it gives."""
    folder, outputs = models["one"]
    repo_id = "org/" + re.sub(r"\W+", "-", request.node.name).strip("-")
    hub.add(repo_id, {path.name: path.read_bytes() for path in folder.iterdir()})
    return repo_id, outputs


def found(revision: str, outputs: str) -> dict[str, Any]:
    """What the client says of a model of these tests."""
    preprocessing = {"size": 28, "image_mean": [0.25], "image_std": [0.5], "schema_version": 1}
    return {"revision": revision, "outputs": outputs, "training": False, "preprocessing": preprocessing}


pytestmark = pytest.mark.xdist_group("hub")


def test_a_pushed_model_is_loaded_in_another_process_with_the_same_bits(hub, client, models, tmp_path):
    folder, outputs = models["one"]
    url = client("push", str(folder), "org/fresh")
    assert url.startswith(f"{hub.url}/org/fresh/commit/")
    assert sorted(hub.repos["org/fresh"].commits[hub.head("org/fresh")]) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    other = Client(hub.url, tmp_path / "empty")
    try:
        loaded = other("load", "org/fresh")
        assert loaded == found(hub.head("org/fresh"), outputs)
        hub.requests.clear()
        assert other("load", "org/fresh", revision=loaded["revision"]) == loaded
        assert hub.requests == []
        assert other("load", "org/fresh") == loaded
        assert len(hub.requests) == 1
    finally:
        other.close()


def test_with_the_server_stopped_the_cache_serves(models, tmp_path):
    folder, outputs = models["one"]
    own = server.Hub()
    sha = own.add("org/name", {path.name: path.read_bytes() for path in folder.iterdir()})
    client = Client(own.url, tmp_path)
    try:
        assert client("load", "org/name")["outputs"] == outputs
        own.close()
        assert client("load", "org/name") == found(sha, outputs)
        assert client("load", "org/name", local_files_only=True)["revision"] == sha
        client.fails("HubUnavailableError", "not in the cache", "load", "org/other")
        client.fails("HubUnavailableError", "not in the cache", "load", "org/other", local_files_only=True)
    finally:
        client.close()


def test_a_branch_is_resolved_once_and_followed(hub, client, models, published):
    repo_id, outputs = published
    old = client("load", repo_id)
    folder, other_outputs = models["two"]
    client("push", str(folder), repo_id)
    new = client("load", repo_id)
    assert new["outputs"] == other_outputs
    assert new["revision"] == hub.head(repo_id) != old["revision"]
    assert client("load", repo_id, revision=old["revision"])["outputs"] == outputs


def test_a_branch_that_moves_while_it_is_read_gives_one_commit_whole(hub, client, models, published):
    repo_id, outputs = published
    files = {path.name: path.read_bytes() for path in models["two"][0].iterdir()}
    hub.faults.append(server.Fault("GET", r"resolve/.*/config\.json", before=lambda: hub.add(repo_id, files), times=1))
    first = hub.head(repo_id)
    assert client("load", repo_id) == found(first, outputs)
    assert hub.head(repo_id) != first


@pytest.mark.parametrize("place", [r"/lfs/", r"/commit/", r"/preupload/", r"objects/batch"])
def test_a_push_that_breaks_leaves_the_old_revision_whole(hub, client, models, published, place):
    repo_id, outputs = published
    head = hub.head(repo_id)
    hub.lfs.clear()
    hub.faults.append(server.Fault("PUT" if "lfs" in place else "POST", place, status=400))
    with pytest.raises(ClientError) as caught:
        client("push", str(models["two"][0]), repo_id)
    assert "\n" not in caught.value.text
    assert hub.head(repo_id) == head
    hub.faults.clear()
    assert client("load", repo_id) == found(head, outputs)
    client("push", str(models["two"][0]), repo_id)
    assert client("load", repo_id)["outputs"] == models["two"][1]


def test_a_push_that_is_killed_leaves_the_old_revision_whole(hub, client, models, published, tmp_path):
    repo_id, outputs = published
    head = hub.head(repo_id)
    hub.lfs.clear()
    victim = Client(hub.url, tmp_path)
    hub.faults.append(server.Fault("PUT", "/lfs/", status=503, before=victim.process.kill))
    with pytest.raises(json.JSONDecodeError):  # it died without an answer
        victim("push", str(models["two"][0]), repo_id)
    victim.close()
    assert hub.head(repo_id) == head
    assert client("load", repo_id)["outputs"] == outputs


def test_ctrl_c_is_one_line_and_leaves_the_old_revision_whole(hub, client, models, published, tmp_path):
    repo_id, outputs = published
    head = hub.head(repo_id)
    hub.lfs.clear()
    command = [sys.executable, "-m", "gmje_hub", "push", str(models["two"][0]), repo_id]
    process = start(command, hub.url, tmp_path, stderr=subprocess.PIPE)
    hub.faults.append(server.Fault("PUT", "/lfs/", status=503, before=lambda: process.send_signal(signal.SIGINT)))
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "stopped; what was being written is there whole, or not at all"
    assert hub.head(repo_id) == head
    assert client("load", repo_id)["outputs"] == outputs


def test_of_two_pushes_that_race_one_is_told(hub, client, models, published):
    repo_id, _ = published
    hub.faults.append(
        server.Fault("POST", "/commit/", before=lambda: hub.add(repo_id, {"notes.txt": b"mine"}), times=1)
    )
    client.fails("PushConflictError", "nothing was written", "push", str(models["two"][0]), repo_id)
    assert client("load", repo_id)["revision"] == hub.head(repo_id)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, "AccessError", "does not know the token"),
        (403, "AccessError", "forbids"),
        (429, "HubUnavailableError", "slow down"),
        (500, "HubUnavailableError", "is down"),
        (503, "HubUnavailableError", "is down"),
    ],
)
def test_every_refusal_is_one_line(hub, client, published, status, kind, words):
    repo_id, _ = published
    hub.faults.append(server.Fault("GET", "/api/models", status=status))
    if status == 401:  # the Hub answers an unknown token so
        hub.faults.clear()
        client.fails(kind, words, "load", repo_id, token="wrong")
    else:
        client.fails(kind, words, "load", repo_id)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_dropped_download_is_one_line_and_leaves_nothing_broken(hub, client, published, name):
    repo_id, outputs = published
    hub.faults.append(server.Fault("GET", f"resolve/.*/{name}", cut=20))
    client.fails("HubUnavailableError", "failed", "load", repo_id)
    hub.faults.clear()
    assert client("load", repo_id)["outputs"] == outputs


def test_what_is_not_there_is_named(hub, client, published, tmp_path):
    repo_id, _ = published
    client.fails("ModelNotFoundError", "no repository 'org/nme'", "load", "org/nme")
    client.fails("ModelNotFoundError", "no revision 'v2'", "load", repo_id, revision="v2")
    hub.add("org/half", {"config.json": b"{}"})
    client.fails("ModelNotFoundError", "has no model.safetensors", "load", "org/half")
    client.fails("ModelNotFoundError", "no folder", "load", "./org/nothing")


def test_pickles_are_refused_before_they_are_fetched(hub, client):
    hub.add("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n(S'false'\ntR."})
    client.fails("UnsafeWeightsError", "pytorch_model.bin", "load", "org/pickled")
    assert not any("resolve" in path for _, path in hub.requests)


def test_private_repositories_need_the_token(hub, client, models):
    folder, outputs = models["one"]
    client("push", str(folder), "org/secret", private=True)
    assert hub.repos["org/secret"].private
    client.fails("ModelNotFoundError", "or it is private", "load", "org/secret", token=False)
    assert client("load", "org/secret", token="reader")["outputs"] == outputs
    client.fails("AccessError", "forbids", "push", str(folder), "org/secret", token="reader")


def test_a_model_without_preprocessing_is_asked_for_it_once(hub, client, tmp_path):
    folder = tmp_path / "plain"
    outputs = client("make", str(folder), 3, preprocessed=False)
    assert client("cli", "push", str(folder), "org/plain")["status"] == 0
    assert "preprocessor_config.json" not in hub.repos["org/plain"].commits[hub.head("org/plain")]
    other = Client(hub.url, tmp_path / "home")
    try:
        loaded = other("load", "org/plain")
        assert (loaded["outputs"], loaded["preprocessing"]) == (outputs, None)
        hub.requests.clear()
        assert other("load", "org/plain", revision=loaded["revision"]) == loaded
        assert other("load", "org/plain", local_files_only=True) == loaded
        assert hub.requests == []
    finally:
        other.close()


def test_a_download_that_lost_the_preprocessing_is_completed(hub, published, tmp_path):
    repo_id, outputs = published
    hub.faults.append(server.Fault("GET", "resolve/.*/preprocessor_config", cut=20))
    own = Client(hub.url, tmp_path)
    try:
        own.fails("HubUnavailableError", "failed", "load", repo_id)
        own.fails("ModelNotFoundError", "not in the cache", "load", repo_id, local_files_only=True)
        hub.faults.clear()
        assert own("load", repo_id) == found(hub.head(repo_id), outputs)
    finally:
        own.close()


def test_what_another_model_left_is_removed(hub, client, models, tmp_path):
    client("push", str(models["one"][0]), "org/turn")
    hub.add("org/turn", {".eval_results/gmje-bench.yaml": b"[]", "accuracy.png": b"", "notes.txt": b"mine"})
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


def test_a_file_unlike_its_hash_is_refused_and_can_be_fetched_anew(hub, client, published, tmp_path):
    repo_id, outputs = published
    own = Client(hub.url, tmp_path)
    try:
        assert own("load", repo_id)["outputs"] == outputs
        blob = next(p for p in tmp_path.rglob("blobs/*") if len(p.name) == 64)
        content = bytearray(blob.read_bytes())
        content[-1] ^= 1
        blob.write_bytes(bytes(content))
        own.fails("CorruptModelError", "has the hash", "load", repo_id)
        assert own("load", repo_id, force_download=True)["outputs"] == outputs
    finally:
        own.close()


def test_an_oversized_configuration_is_not_fetched(hub, client):
    hub.add("org/bomb", {"config.json": b"[" * 10**6, "model.safetensors": b""})
    client.fails("CorruptModelError", "at most", "load", "org/bomb")
    assert not any("resolve" in path for _, path in hub.requests)


def test_weights_larger_than_their_model_are_not_fetched(hub, client, models):
    files = {path.name: path.read_bytes() for path in models["one"][0].iterdir()}
    hub.add("org/wide", files | {"model.safetensors": files["model.safetensors"] + bytes(2**23)})
    client.fails("CorruptModelError", "the model of its config.json takes at most", "load", "org/wide")
    assert not any("resolve" in path and path.endswith("model.safetensors") for _, path in hub.requests)


def test_a_card_written_by_hand_is_kept(hub, client, models, published):
    repo_id, _ = published
    folder = str(models["two"][0])

    def readme() -> bytes:
        return hub.repos[repo_id].commits[hub.head(repo_id)]["README.md"].content

    hub.add(repo_id, {"README.md": b"# Mine\n"})
    answer = client("cli", "push", folder, repo_id)
    assert answer["status"] == 0, answer
    assert "left as it is" in answer["out"]
    assert readme() == b"# Mine\n"
    assert client("cli", "push", folder, repo_id, "--overwrite-card")["status"] == 0
    generated = readme()
    assert generated.startswith(b"---")
    hub.add(repo_id, {"README.md": generated.replace(b"# org/", b"# my own org/")})
    assert "left as it is" in client("cli", "push", folder, repo_id)["out"]
    hub.add(repo_id, {"README.md": generated})
    assert "left as it is" not in client("cli", "push", folder, repo_id)["out"]


def test_a_card_beside_the_model_is_pushed(hub, client, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models["one"][0], folder)

    def readme(repo_id: str = "org/own") -> bytes:
        assert client("cli", "push", str(folder), repo_id)["status"] == 0
        return hub.repos[repo_id].commits[hub.head(repo_id)]["README.md"].content

    generated = readme()
    (folder / "README.md").write_bytes(readme("org/other"))
    assert readme() == generated  # not by hand: what it says of the other repository would be wrong here
    (folder / "README.md").write_text(
        "---\nlicense: mit\nlibrary_name: gmje\npipeline_tag: image-feature-extraction\ntags: [mine]\n---\n# Mine\n"
    )
    assert b"# Mine" in readme()


def test_a_run_is_pushed_whole_and_pulled_whole(hub, client, models, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    shutil.copytree(models["one"][0], run / "models" / "gmje-seed1")
    answer = client("cli", "push", str(run / "models" / "gmje-seed1"), "org/run")
    assert answer["status"] == 0, answer
    files = {name: blob.content for name, blob in hub.repos["org/run"].commits[hub.head("org/run")].items()}
    assert files["accuracy.png"] == (run / "accuracy.png").read_bytes()
    entries = yaml.safe_load(files[".eval_results/gmje-bench.yaml"])
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
    assert client("cli", "push", str(tmp_path / "here"), "org/mirror")["status"] == 0
    mirror = {name: blob.content for name, blob in hub.repos["org/mirror"].commits[hub.head("org/mirror")].items()}
    assert mirror == files
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_hostile_documents_are_not_pulled(hub, client, models, tmp_path):
    files = {path.name: path.read_bytes() for path in models["one"][0].iterdir()}
    hub.add("org/odd", {**files, ".eval_results/../../out.yaml": b"[]"})
    answer = client("cli", "pull", "org/odd", str(tmp_path / "odd"))
    assert answer["status"] == 2
    assert "leads out of its folder" in answer["err"]
    hub.add("org/large", {**files, "README.md": b" " * (2**22 + 1)})
    answer = client("cli", "pull", "org/large", str(tmp_path / "large"))
    assert answer["status"] == 2
    assert "at most 4194304" in answer["err"]
    assert list(tmp_path.iterdir()) == []


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


def test_a_run_folder_names_its_models(client, models, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    shutil.copytree(models["one"][0], run / "models" / "gmje-seed1")
    answer = client("cli", "push", str(run), "org/run")
    assert answer["status"] == 2
    assert "is a run, not a model; its models are models/gmje-seed1" in answer["err"]


def test_two_readers_with_an_empty_cache_at_once(hub, published, tmp_path):
    repo_id, outputs = published
    clients = [Client(hub.url, tmp_path) for _ in range(2)]
    loaded: list[str] = []

    def load(client: Client) -> Callable[[], None]:
        return lambda: loaded.append(client("load", repo_id)["outputs"])

    threads = [threading.Thread(target=load(client)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert loaded == [outputs, outputs]
