"""``--set``: any setting, typed by the schema, and every mistake named with what would be right."""

import pytest

from gmje_bench.errors import OptionError
from gmje_bench.suites import SECTIONS, load_suite
from gmje_bench.suites.overrides import with_overrides


@pytest.mark.parametrize(("text", "value"), [
    ("training.learning_rate=0.3", 0.3),
    ("training.learning_rate = 1", 1.0),
    ("training.compile=true", True),
    ("training.mixed_precision=bf16", "bf16"),
    ("training.checkpoint_minutes=0.5", 0.5),
    ("network.dim=256", 256),
    ("network.small_images=auto", "auto"),
    ('network.backbone="timm:resnet18"', "timm:resnet18"),
    ("network.backbone=timm:resnet18", "timm:resnet18"),
    ("views.crop_scale=[0.3, 1]", [0.3, 1.0]),
    ("method.gmje.components=2048", 2048),
    ("limit=500", 500),
    ("limit=none", None),
    ("seeds=[3, 4]", [3, 4]),
])  # fmt: skip
def test_a_setting_is_set(text, value):
    found = with_overrides(load_suite("smoke"), [text]).model_dump()
    for part in text.partition("=")[0].strip().split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_every_field_of_every_section_can_be_set():
    suite = with_overrides(load_suite("smoke"), ["training.warmup_epochs=1"])
    for section in SECTIONS:
        for key, value in suite.model_dump()[section].items():
            text = "none" if value is None else str(value).lower() if isinstance(value, bool | str) else repr(value)
            assert with_overrides(suite, [f"{section}.{key}={text.replace(chr(39), chr(34))}"]) == suite


def test_the_last_value_of_a_key_counts():
    assert with_overrides(load_suite("vision"), ["network.dim=8", "network.dim=16"]).network.dim == 16


@pytest.mark.parametrize(("text", "words"), [
    ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean training.learning_rate"),
    ("learning_rate=1", "learning_rate: unknown key; did you mean training.learning_rate"),
    ("lim=3", "lim: unknown key; did you mean limit"),
    ("trainin.epochs=3", "trainin.epochs: unknown key; did you mean training"),
    ("method.gmjee.components=3", "unknown method 'gmjee'; did you mean gmje"),
    ("method.moco.queue=3", "method moco is not in this run, which has random, gmje"),
    ("method.gmje.components=[1]", "method.gmje.components must be a number, a text, true or false"),
    ("training.learning_rate=0", "training.learning_rate: input should be greater than 0, got 0"),
    ("training.learning_rate=nan", "training.learning_rate: input should be a finite number"),
    ("training.epochs=x", r"training.epochs: input should be a valid integer, got 'x' \(allowed: >= 1\)"),
    ("training.epochs=2.5", "training.epochs: input should be a valid integer"),
    ("training.compile=1", "training.compile: input should be a valid boolean"),
    ("training.optimizer=larz", "training.optimizer: input should be 'adamw', 'sgd' or 'lars', got 'larz'"),
    ("training.mixed_precision=fp8", "training.mixed_precision: input should be 'no', 'bf16' or 'fp16', got 'fp8'"),
    ("views.hue=0.7", r"views.hue: .*less than or equal to 0.5, got 0.7 \(allowed: >= 0 and <= 0.5\)"),
    ("views.crop_scale=[0.1]", "views.crop_scale: list should have at least 2 items"),
    ("network.small_images=maybe", "network.small_images: must be true, false or 'auto', got 'maybe'"),
    ("methods=[]", "methods: at least one is needed"),
    ("epochs", "--set takes KEY=VALUE, such as training.learning_rate=0.3; got 'epochs'"),
    ("=3", "--set takes KEY=VALUE"),
    ("limit=3\nseeds=[1]", "limit: input should be a valid integer"),
])  # fmt: skip
def test_a_mistake_is_named(text, words):
    with pytest.raises(OptionError, match=words):
        with_overrides(load_suite("vision"), [text])


def test_lars_needs_decay():
    with pytest.raises(OptionError, match="lars adapts the rates of decayed parameters only"):
        with_overrides(load_suite("vision"), ["training.optimizer=lars", "training.weight_decay=0"])


@pytest.mark.parametrize(("suite", "text", "words"), [
    ("synthetic", "training.epochs=3", "means nothing where all tasks are synthetic"),
    ("vision", "synthetic.samples=200", r"means nothing in a suite without a \[synthetic\] section"),
])  # fmt: skip
def test_settings_of_what_a_suite_does_not_do(suite, text, words):
    with pytest.raises(OptionError, match=words):
        with_overrides(load_suite(suite), [text])
