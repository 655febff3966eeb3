"""Suites in the package are valid, and a mistake in one's own is named with what would be right."""

import pytest

from gmje_bench.errors import OptionError, SuiteError
from gmje_bench.suite import load_suite, suite_names

MINIMAL = 'summary = "s"\ndataset = "fashion_mnist_12k"\nmethods = ["gmje"]\nseeds = [0]\n'


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_package_are_valid(name):
    assert load_suite(name).methods


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (MINIMAL + "epoch = 3\n", SuiteError, "unknown key 'epoch'"),
        (MINIMAL + "[training]\nepoch = 3\n", SuiteError, "'training.epoch'; did you mean epochs"),
        (MINIMAL + "[training]\nepochs = 0\n", SuiteError, "training.epochs: .*greater than or equal to 1, got 0"),
        (MINIMAL + '[training]\nepochs = "3"\n', SuiteError, "training.epochs"),
        (MINIMAL.replace("seeds = [0]\n", ""), SuiteError, "missing key 'seeds'"),
        (MINIMAL.replace("gmje", "gmjee"), OptionError, "did you mean gmje"),
        (MINIMAL + "[method.simclear]\ntemperature = 0.1\n", OptionError, "did you mean simclr"),
        ("summary = ", SuiteError, "not valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, error, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        load_suite(str(path))


def test_own_suite_and_options(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    suite = load_suite(str(path)).replace(epochs=7, backbone="smallconv", seeds=[3, 4], limit=None)
    assert (suite.training.epochs, suite.network.backbone, suite.seeds) == (7, "smallconv", [3, 4])
