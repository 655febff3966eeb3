"""Every example of a loop trains: its loss ends below that of a density that knows nothing."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

LOOPS = Path(__file__).parent / "loops"
#: Names of the examples, and the most that the loss in nats a pair may be after a few steps; it starts at about 0.
TRAINED = {
    "plain_pytorch": -0.5,
    "with_accelerate": -0.5,
    "with_lightning": -0.5,
    "with_transformers": -0.2,  # the mean over all steps
    "with_lightly": -0.1,
    "with_timm": -0.1,
}


@pytest.fixture(autouse=True)
def loops(monkeypatch):
    monkeypatch.syspath_prepend(str(LOOPS))
    yield
    for name in [name for name in sys.modules if name in TRAINED or name in ("fashion_pairs", "with_sklearn")]:
        del sys.modules[name]


def test_every_example_is_run():
    assert {path.stem for path in LOOPS.glob("*.py")} == {*TRAINED, "fashion_pairs", "with_sklearn"}


@pytest.mark.parametrize("name", TRAINED)
def test_a_loop_trains(name, capsys):
    loss = import_module(name).main(images=1000, epochs=1)
    assert loss < TRAINED[name]
    assert "loss" in capsys.readouterr().out


def test_a_pipeline_finds_two_answers(capsys):
    assert import_module("with_sklearn").main() > 1
    assert "'jointembeddingmixture__n_components': 2" in capsys.readouterr().out
