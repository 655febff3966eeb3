"""Repositories over real HTTP: the client in a process of its own, a server that can fail in every way."""

import json
import threading
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.xdist_group("hub")


def test_another_process_loads_a_pushed_model_with_the_same_bits(hub, client, models, tmp_path, new_client, expected):
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
    other = new_client(hub.url, tmp_path / "empty")
    loaded = other("load", "org/fresh")
    assert loaded == expected(hub.head("org/fresh"), outputs)
    hub.requests.clear()
    assert other("load", "org/fresh", revision=loaded["revision"]) == loaded
    assert hub.requests == []
    assert other("load", "org/fresh") == loaded
    assert len(hub.requests) == 1


def test_with_the_server_stopped_the_cache_serves(stoppable_hub, new_client, models, expected, tmp_path):
    folder, outputs = models["one"]
    sha = stoppable_hub.add("org/name", {path.name: path.read_bytes() for path in folder.iterdir()})
    client = new_client(stoppable_hub.url, tmp_path)
    assert client("load", "org/name")["outputs"] == outputs
    stoppable_hub.close()
    assert client("load", "org/name") == expected(sha, outputs)
    assert client("load", "org/name", local_files_only=True)["revision"] == sha
    client.fails("HubUnavailableError", "not in the cache", "load", "org/other")
    client.fails("HubUnavailableError", "not in the cache", "load", "org/other", local_files_only=True)


def test_a_branch_is_resolved_once_and_followed(hub, client, models, published):
    repo_id, outputs = published
    old = client("load", repo_id)
    folder, other_outputs = models["two"]
    client("push", str(folder), repo_id)
    new = client("load", repo_id)
    assert new["outputs"] == other_outputs
    assert new["revision"] == hub.head(repo_id) != old["revision"]
    assert client("load", repo_id, revision=old["revision"])["outputs"] == outputs


def test_a_branch_that_moves_while_it_is_read_gives_one_commit_whole(hub, client, models, published, expected):
    repo_id, outputs = published
    files = {path.name: path.read_bytes() for path in models["two"][0].iterdir()}
    hub.fail("GET", r"resolve/.*/config\.json", before=lambda: hub.add(repo_id, files), times=1)
    first = hub.head(repo_id)
    assert client("load", repo_id) == expected(first, outputs)
    assert hub.head(repo_id) != first


@pytest.mark.parametrize("place", [r"/lfs/", r"/commit/", r"/preupload/", r"objects/batch"])
def test_a_push_that_breaks_leaves_the_old_revision_whole(hub, client, models, published, place, expected):
    repo_id, outputs = published
    head = hub.head(repo_id)
    hub.lfs.clear()
    hub.fail("PUT" if "lfs" in place else "POST", place, status=400)
    client.fails(None, "", "push", str(models["two"][0]), repo_id)
    assert hub.head(repo_id) == head
    hub.faults.clear()
    assert client("load", repo_id) == expected(head, outputs)
    client("push", str(models["two"][0]), repo_id)
    assert client("load", repo_id)["outputs"] == models["two"][1]


def test_a_push_that_is_killed_leaves_the_old_revision_whole(hub, client, models, published, tmp_path, new_client):
    repo_id, outputs = published
    head = hub.head(repo_id)
    hub.lfs.clear()
    victim = new_client(hub.url, tmp_path)
    hub.fail("PUT", "/lfs/", status=503, before=victim.process.kill)
    with pytest.raises(json.JSONDecodeError):  # it died without an answer
        victim("push", str(models["two"][0]), repo_id)
    assert hub.head(repo_id) == head
    assert client("load", repo_id)["outputs"] == outputs


def test_of_two_pushes_that_race_one_is_told(hub, client, models, published):
    repo_id, _ = published
    hub.fail("POST", "/commit/", before=lambda: hub.add(repo_id, {"notes.txt": b"mine"}), times=1)
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
    hub.fail("GET", "/api/models", status=status)
    if status == 401:  # the Hub answers an unknown token so
        hub.faults.clear()
        client.fails(kind, words, "load", repo_id, token="wrong")
    else:
        client.fails(kind, words, "load", repo_id)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_dropped_download_is_one_line_and_leaves_nothing_broken(hub, client, published, name):
    repo_id, outputs = published
    hub.fail("GET", f"resolve/.*/{name}", cut=20)
    client.fails("HubUnavailableError", "failed", "load", repo_id)
    hub.faults.clear()
    assert client("load", repo_id)["outputs"] == outputs


def test_what_is_not_there_is_named(hub, client, published):
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


def test_a_model_without_preprocessing_is_asked_for_it_once(hub, client, tmp_path, new_client):
    folder = tmp_path / "plain"
    outputs = client("make", str(folder), 3, preprocessed=False)
    assert client("cli", "push", "org/plain", str(folder))["status"] == 0
    assert "preprocessor_config.json" not in hub.repos["org/plain"].commits[hub.head("org/plain")]
    other = new_client(hub.url, tmp_path / "home")
    loaded = other("load", "org/plain")
    assert (loaded["outputs"], loaded["preprocessing"]) == (outputs, None)
    hub.requests.clear()
    assert other("load", "org/plain", revision=loaded["revision"]) == loaded
    assert other("load", "org/plain", local_files_only=True) == loaded
    assert hub.requests == []


def test_a_download_that_lost_the_preprocessing_is_completed(hub, published, tmp_path, new_client, expected):
    repo_id, outputs = published
    hub.fail("GET", "resolve/.*/preprocessor_config", cut=20)
    own = new_client(hub.url, tmp_path)
    own.fails("HubUnavailableError", "failed", "load", repo_id)
    own.fails("ModelNotFoundError", "not in the cache", "load", repo_id, local_files_only=True)
    hub.faults.clear()
    assert own("load", repo_id) == expected(hub.head(repo_id), outputs)


def test_a_file_unlike_its_hash_is_refused_and_can_be_fetched_anew(hub, published, tmp_path, new_client):
    repo_id, outputs = published
    own = new_client(hub.url, tmp_path)
    assert own("load", repo_id)["outputs"] == outputs
    blob = next(p for p in tmp_path.rglob("blobs/*") if len(p.name) == 64)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(bytes(content))
    own.fails("CorruptModelError", "has the hash", "load", repo_id)
    assert own("load", repo_id, force_download=True)["outputs"] == outputs


def test_an_oversized_configuration_is_not_fetched(hub, client):
    hub.add("org/bomb", {"config.json": b"[" * 10**6, "model.safetensors": b""})
    client.fails("CorruptModelError", "at most", "load", "org/bomb")
    assert not any("resolve" in path for _, path in hub.requests)


def test_weights_larger_than_their_model_are_not_fetched(hub, client, models):
    files = {path.name: path.read_bytes() for path in models["one"][0].iterdir()}
    hub.add("org/wide", files | {"model.safetensors": files["model.safetensors"] + bytes(2**23)})
    client.fails("CorruptModelError", "the model of its config.json takes at most", "load", "org/wide")
    assert not any("resolve" in path and path.endswith("model.safetensors") for _, path in hub.requests)


def test_two_readers_with_an_empty_cache_at_once(hub, published, tmp_path, new_client):
    repo_id, outputs = published
    clients = [new_client(hub.url, tmp_path) for _ in range(2)]
    loaded: list[str] = []

    def load(client: Callable[..., dict[str, str]]) -> Callable[[], None]:
        return lambda: loaded.append(client("load", repo_id)["outputs"])

    threads = [threading.Thread(target=load(client)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [outputs, outputs]
