"""Fixtures that the hub's tests share: a small model, what was measured of it, and a server with its clients."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import GMJEModel
from gmje_hub.evaluation import Dataset, Evaluation, Score

HERE = Path(__file__).parent


def load_server() -> Any:
    """The module ``hub_server``, which lies beside this file and is on no import path."""
    spec = spec_from_file_location("hub_server", HERE / "hub_server.py")
    assert spec
    assert spec.loader
    module = sys.modules["hub_server"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


server = load_server()


class ClientError(Exception):
    """An error of the client's process: its type and its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


def start_process(
    command: list[str], url: str, home: Path, stderr: int = subprocess.DEVNULL
) -> "subprocess.Popen[str]":
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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a signal that is ignored stays so in a child
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


class Client:
    """A Python process with the package imported, told what to do line by line."""

    def __init__(self, url: str, home: Path) -> None:
        self.process = start_process([sys.executable, str(HERE / "hub_client.py")], url, home)

    def __call__(self, function: str, *positional: Any, **named: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([function, positional, named]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ClientError(answer["error"], answer["text"])
        return answer["value"]

    def fails(self, kind: str | None, words: str, function: str, *positional: Any, **named: Any) -> None:
        """Check that a call fails with an error of a kind, in one line with these words; ``None`` for any kind."""
        with pytest.raises(ClientError) as caught:
            self(function, *positional, **named)
        assert kind in (None, caught.value.kind), caught.value
        assert words in caught.value.text, caught.value
        assert "\n" not in caught.value.text

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def running_hub() -> Iterator[Any]:
    hub = server.Hub()
    yield hub
    hub.close()


@pytest.fixture
def hub(running_hub: Any) -> Iterator[Any]:
    """The server, without faults and without requests that it remembers."""
    running_hub.faults.clear()
    running_hub.requests.clear()
    running_hub.agents.clear()
    yield running_hub
    running_hub.faults.clear()


@pytest.fixture
def stoppable_hub() -> Iterator[Any]:
    """A server of the test's own, which the test may stop."""
    hub = server.Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def client(running_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(running_hub.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture
def new_client() -> Iterator[Callable[[str, Path], Client]]:
    """Starts a client with a cache of its own; the fixture ends it."""
    clients: list[Client] = []

    def start(url: str, home: Path) -> Client:
        clients.append(Client(url, home))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def process(hub: Any, tmp_path: Path) -> Callable[[list[str]], "subprocess.Popen[str]"]:
    """Starts a command that uses the server, with its errors readable."""
    return lambda command: start_process(command, hub.url, tmp_path, stderr=subprocess.PIPE)


@pytest.fixture(scope="session")
def models(client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Folders of two models and the hash of what they give."""
    root = tmp_path_factory.mktemp("models")
    return {name: (root / name, client("make", str(root / name), seed)) for seed, name in enumerate(("one", "two"))}


@pytest.fixture
def published(hub: Any, models: dict[str, tuple[Path, str]], request: pytest.FixtureRequest) -> tuple[str, str]:
    """A repository of its own for the test, with the first model, and the hash of what it gives."""
    folder, outputs = models["one"]
    repo_id = "org/" + re.sub(r"\W+", "-", request.node.name).strip("-")
    hub.add(repo_id, {path.name: path.read_bytes() for path in folder.iterdir()})
    return repo_id, outputs


@pytest.fixture
def expected() -> Callable[[str, str], dict[str, Any]]:
    """What a client says of one of the models, given the commit and the hash of what the model gives."""
    preprocessing = {"size": 28, "image_mean": [0.25], "image_std": [0.5], "schema_version": 1}
    return lambda revision, outputs: {
        "revision": revision,
        "outputs": outputs,
        "training": False,
        "preprocessing": preprocessing,
    }


@pytest.fixture
def model() -> GMJEModel:
    """A model that was trained for two steps."""
    torch.manual_seed(0)
    config = GMJEConfig(
        backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16, criterion_options={"components": 4}
    )
    model = GMJEModel(config, Preprocessing(size=28, image_mean=(0.25,), image_std=(0.5,)))
    for _ in range(2):
        model(*torch.rand(2, 32, 1, 28, 28))
    return model


@pytest.fixture
def folder(model: GMJEModel, tmp_path: Path) -> Path:
    """The folder of that model."""
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def evaluation() -> Evaluation:
    """What was measured of a model whose method was trained with three seeds."""
    return Evaluation(
        method="gmje",
        seed=1,
        dataset=Dataset(name="fashion", hub_id="org/fashion", fingerprint="ab12", train=10, test=2, classes=10),
        protocol="gmje-bench protocol version 2",
        scores=(
            Score(
                metric="linear_probe",
                title="linear probe",
                value=85.0,
                unit="%",
                higher_is_better=True,
                mean=86.0,
                half_width=2.484,
                seeds=3,
                kind="accuracy",
                headline=True,
            ),
            Score(
                metric="knn",
                title="kNN | weighted",
                value=80.0,
                unit="%",
                higher_is_better=True,
                mean=81.0,
                half_width=2.484,
                seeds=3,
                kind="accuracy",
                headline=True,
            ),
            Score(
                metric="conditional_ece",
                title="calibration error",
                value=0.25,
                higher_is_better=False,
                mean=0.25,
                half_width=0.0,
                seeds=3,
            ),
        ),
        command="python -m gmje_bench run",
        date="2026-01-01T00:00:00+00:00",
        training={"epochs": 6, "batch size": 256, "optimizer": "adamw", "learning rate": 0.002},
        diagnostics={"loss": -2.5, "effective_rank": 80.25, "verdict": "healthy"},
        versions={"gmje-core": "0.1.0"},
        figures={"accuracy.png": "Accuracy of every method", "diagnostics.png": "Loss over the epochs"},
    )


@pytest.fixture
def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
    )


@pytest.fixture
def pictures(png: bytes) -> dict[str, bytes]:
    """The files of the evaluation's figures."""
    return {"accuracy.png": png, "diagnostics.png": png}
