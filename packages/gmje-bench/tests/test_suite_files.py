"""Suites that extend others, and suites written as TOML."""

import tomllib

import pytest

from gmje_bench.errors import SuiteError
from gmje_bench.suites import load_suite, suite_names
from gmje_bench.suites.files import read_suite, to_toml


@pytest.fixture
def write(tmp_path):
    def write(**texts: str) -> str:
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.toml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return str(tmp_path)

    return write


def test_a_chain_merges_tables_and_replaces_lists(write):
    folder = write(
        mine='extends = "inner/parent.toml"\nsummary = "mine"\n[training]\nepochs = 3\n[method.gmje]\ncomponents = 7\n',
        inner__parent='extends = "grand.toml"\nseeds = [5]\n[training]\nepochs = 9\nbatch_size = 64\n',
        inner__grand='extends = "vision"\nseeds = [1, 2]\n[method.gmje]\ntemperature = 0.2\n',
    )
    suite, vision = load_suite(f"{folder}/mine.toml"), load_suite("vision")
    assert (suite.summary, suite.seeds) == ("mine", [5])
    assert suite.training == vision.training.model_copy(update={"epochs": 3, "batch_size": 64})
    assert suite.method["gmje"] == {**vision.method["gmje"], "components": 7, "temperature": 0.2}
    assert (suite.methods, suite.network, suite.dataset) == (vision.methods, vision.network, vision.dataset)


@pytest.mark.parametrize(("texts", "words"), [
    ({"a": 'extends = "vison"'}, "a.toml extends an unknown suite 'vison'; did you mean vision"),
    ({"a": 'extends = "b.toml"'}, r"a.toml extends b.toml, which cannot be read: No such file"),
    ({"a": 'extends = "a.toml"'}, r"a suite that extends it: .*a.toml -> .*a.toml$"),
    ({"a": 'extends = "b.toml"', "b": 'extends = "a.toml"'}, r"b.toml extends .*: .*a.toml -> .*b.toml -> .*a.toml$"),
    ({"a": 'extends = ["vision"]'}, r"extends must be the name of a suite or a path, got \['vision'\]"),
    ({"a": 'extends = "vision"\n[training]\nepoch = 1'}, "'training.epoch'; did you mean epochs"),
    ({"a": 'extends = "vision"\nextend = "smoke"'}, "unknown key 'extend'"),
])  # fmt: skip
def test_mistakes_in_a_chain_are_named(write, texts, words):
    with pytest.raises(SuiteError, match=words):
        load_suite(f"{write(**texts)}/a.toml")


@pytest.mark.parametrize("name", suite_names())
def test_what_is_written_is_read_back(name):
    values = load_suite(name).model_dump(exclude_none=True)
    assert tomllib.loads(to_toml(values)) == {key: value for key, value in values.items() if value != {}}


def test_texts_and_names_that_toml_would_not_take_as_they_are():
    values = {"summary": 'a "b" \\ \n é \x7f', "method": {"org/name": {"key with": -1e-7, "none": 0}}}
    assert tomllib.loads(to_toml(values)) == values


def test_the_suites_of_the_package_say_things_once():
    assert read_suite("smoke")["training"] == {
        **read_suite("vision")["training"], "epochs": 1, "batch_size": 128, "warmup_steps": 2
    }  # fmt: skip
    assert read_suite("imagenet100-resnet50")["network"] == read_suite("imagenet-resnet50")["network"]
