"""Suites in the package are valid, and a mistake in one's own is named with what would be right."""

import importlib

import pytest

from gmje_bench.alignment import rivals as alignment_rivals
from gmje_bench.alignment import tasks as alignment_tasks
from gmje_bench.errors import OptionError, SuiteError
from gmje_bench.methods import METHODS
from gmje_bench.methods.settings import read_settings
from gmje_bench.suites import BACKBONES, RIVALS, SYNTHETIC_TASKS, load_suite, suite_names
from gmje_bench.tasks import TASKS
from gmje_core.models.backbones import backbone_names

MINIMAL = 'summary = "s"\ndataset = "fashion_mnist_12k"\nmethods = ["gmje"]\nseeds = [0]\n'


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_package_are_valid(name):
    suite = load_suite(name)
    assert (suite.methods and suite.tasks) or suite.synthetic


def test_names_known_without_torch_are_those_of_the_modules():
    assert list(SYNTHETIC_TASKS) == list(alignment_tasks.TASKS)
    assert list(RIVALS) == list(alignment_rivals.RIVALS)
    for task in TASKS:
        importlib.import_module(f"gmje_bench.tasks.{task}")


@pytest.mark.parametrize(("changes", "words"), [
    ({"backbone": "resnet18"}, "--backbone means nothing where all tasks are synthetic"),
    ({"dataset": "cifar10"}, "--dataset means nothing"),
    ({"tasks": ["two-mons"]}, "--tasks: unknown task 'two-mons'; did you mean two-moons"),
    ({"methods": ["mse", "gmj"]}, "--methods: unknown method 'gmj'; did you mean gmje"),
    ({"tasks": ["ring", "ring"]}, "--tasks must not repeat, got ring, ring"),
    ({"limit": 10}, "--limit: input should be greater than or equal to 100, got 10"),
    ({"held_out_classes": ["Bag"]}, "--held-out-classes means nothing where all tasks are synthetic"),
    ({"epochs": 0}, "--epochs: input should be greater than or equal to 1, got 0"),
    ({"tasks": []}, "--tasks: list should have at least 1 item"),
])  # fmt: skip
def test_options_of_synthetic_suites(changes, words):
    with pytest.raises(OptionError, match=words):
        load_suite("synthetic").replace(**changes)


def test_options_go_to_the_synthetic_section_where_there_are_no_images():
    suite = load_suite("synthetic").replace(tasks=["ring"], methods=["gje"], epochs=3, limit=200, seeds=[4])
    assert suite.synthetic is not None
    assert (suite.synthetic.tasks, suite.synthetic.methods) == (["ring"], ["gje"])
    assert (suite.synthetic.epochs, suite.synthetic.samples, suite.seeds) == (3, 200, [4])
    assert load_suite("all").replace(epochs=3).synthetic.epochs == 20, "of the networks on images"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (MINIMAL + "epoch = 3\n", SuiteError, "unknown key 'epoch'"),
        (MINIMAL + 'tasks = ["knnn"]\n', SuiteError, "unknown task 'knnn'; did you mean knn"),
        (MINIMAL + "tasks = []\n", SuiteError, "tasks: at least one is needed"),
        (MINIMAL + "[synthetic]\ndim = 3\n", SuiteError, "'synthetic.dim'; did you mean dims"),
        (MINIMAL + "[synthetic]\ndims = [1]\n", SuiteError, "lifted to at least 2 dimensions"),
        ('summary = "s"\nseeds = [0]\n', SuiteError, r"needs a dataset or a \[synthetic\] section"),
        ('summary = "s"\nseeds = [0]\nmethods = ["gje"]\n[synthetic]\n', SuiteError, "there is none"),
        (MINIMAL + "[training]\nepoch = 3\n", SuiteError, "'training.epoch'; did you mean epochs"),
        (MINIMAL + "[training]\nepochs = 0\n", SuiteError, "training.epochs: .*greater than or equal to 1, got 0"),
        (MINIMAL + '[training]\nepochs = "3"\n', SuiteError, "training.epochs"),
        (MINIMAL.replace("seeds = [0]\n", ""), SuiteError, "missing key 'seeds'"),
        (MINIMAL.replace("gmje", "gmjee"), OptionError, "did you mean gmje"),
        (MINIMAL + "[method.simclear]\ntemperature = 0.1\n", OptionError, "did you mean simclr"),
        (MINIMAL + '[network]\nbackbone = "resnet81"\n', SuiteError, "network.backbone: .*did you mean resnet18"),
        (MINIMAL + "[method.gmje]\ncomponents = [1]\n", SuiteError, r"method.gmje.components must be a number.*\[1\]"),
        (MINIMAL.replace("[0]", "[0, 0]"), SuiteError, "seeds must not repeat, got 0, 0"),
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


@pytest.mark.parametrize("name", ["folder.toml", "none.toml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SuiteError, match=name):
        load_suite(str(tmp_path / name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"epochs": 0}, "--epochs"), ({"methods": []}, "--methods"), ({"image_size": -1}, "--image-size")],
)
def test_an_option_out_of_range_is_named_as_the_user_typed_it(changes, words):
    with pytest.raises(OptionError, match=f"^{words}: "):
        load_suite("smoke").replace(**changes)


def test_backbones_known_without_torch_are_those_there_are():
    assert backbone_names() == BACKBONES
    assert load_suite("smoke").replace(backbone="timm:vit_tiny").network.backbone == "timm:vit_tiny"


def test_the_default_suite_spells_out_the_losses_own_defaults():
    method = load_suite("vision").method
    assert method["vicreg"] == {"lambda_param": 25.0, "mu_param": 25.0, "nu_param": 1.0}


def test_settings_stand_once_and_are_recorded_in_full(tmp_path):
    assert set(read_settings()) <= set(METHODS)
    for name in suite_names():
        suite = load_suite(name)
        assert suite.method.keys() == (read_settings().keys() if suite.dataset else set())
    assert load_suite("smoke").method["gmje"] == {"components": 64, "temperature": 0.1, "density_components": 60}
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "[method.moco]\nqueue = 8\n")
    mine = load_suite(str(path))
    assert mine.method["moco"] == {"queue": 8, "temperature": 0.1, "momentum": 0.99}
    assert mine.method["simclr"] == load_suite("vision").method["simclr"] == {"temperature": 0.1}
    assert mine.replace(epochs=2).method == mine.method


def test_classes_that_are_held_out_are_an_option_and_stand_once():
    assert load_suite("vision").replace(held_out_classes=["Bag"]).held_out_classes == ["Bag"]
    assert load_suite("outliers").replace(held_out_classes=[]).held_out_classes == []
    with pytest.raises(OptionError, match="--held-out-classes must not repeat, got Bag, Bag"):
        load_suite("vision").replace(held_out_classes=["Bag", "Bag"])
