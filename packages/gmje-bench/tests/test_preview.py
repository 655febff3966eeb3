"""What is known of a run before it starts: settings resolved, models built without memory, and the memory they need."""

import dataclasses

import pytest
import torch

from gmje_bench.datasets import load_dataset
from gmje_bench.errors import DatasetError, OptionError
from gmje_bench.methods import METHODS
from gmje_bench.planning.preview import FETCHED, DataShape, check_builds, memory, precision, resolved, shape_of
from gmje_bench.suites import load_suite
from gmje_bench.training.module import build_module
from gmje_bench.training.optimizers import build_optimizer
from gmje_bench.views import TwoViews

GREY = DataShape(1, 10, 28, 10_000, 2_000)


@pytest.mark.parametrize(("backbone", "asked", "side", "small"), [
    ("resnet50", "auto", 32, True),
    ("resnet50", "auto", 64, True),
    ("resnet50", "auto", 65, False),
    ("resnet18", "auto", 224, False),
    ("resnet18", True, 224, True),
    ("resnet18", False, 32, False),
    ("smallconv", "auto", 28, False),
    ("timm:resnet18", "auto", 32, False),
])  # fmt: skip
def test_the_stem_follows_images_and_backbone(backbone, asked, side, small):
    vision = load_suite("vision").replace(backbone=backbone, small_images=asked)
    suite = resolved(vision, DataShape(3, 10, side))
    assert suite.network.small_images is small
    with torch.device("meta"):
        module = build_module("gje", vision, 3, 0, image_size=side)
    assert module.config.small_images is small
    if backbone.startswith("resnet"):
        assert module.backbone.conv1.stride == ((1, 1) if small else (2, 2))


def test_resolving_says_the_views_that_are_drawn():
    data = DataShape(3, 10, 32)
    suite = load_suite("vision")
    changed = suite.model_copy(update={"views": suite.views.model_copy(update={"crop_scale": [0.5, 0.9], "hue": 0.3})})
    full = resolved(changed, data)
    assert full.views.crop_scale == [0.5, 0.9]
    assert all(value is not None for value in full.views.model_dump(exclude={"masked"}).values())
    drawn = [build_module("gje", s, 3, 0, image_size=32).views(data) for s in (suite, changed, full)]
    assert drawn[1] == drawn[2] != drawn[0]
    assert (drawn[1].crop_scale, drawn[1].hue) == ((0.5, 0.9), 0.3)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    views = [TwoViews(config, 0)(images, epoch=0, step=0)[0] for config in drawn]
    assert torch.equal(views[1], views[2])
    assert not torch.equal(views[0], views[1])
    assert resolved(full, data) == full


@pytest.mark.parametrize(("changes", "words"), [
    ({"crop_scale": [0.9, 0.1]}, "crop_scale of the views must be a rising pair"),
    ({"blur_kernel": 4}, "blur_kernel of the views must be odd"),
])  # fmt: skip
def test_views_that_do_not_fit_the_images(changes, words):
    suite = load_suite("vision")
    with pytest.raises(OptionError, match=words):
        resolved(suite.model_copy(update={"views": suite.views.model_copy(update=changes)}), GREY)


@pytest.mark.parametrize(("asked", "launched", "found"), [
    (None, None, "no"), (None, "bf16", "bf16"), ("no", "bf16", "no"), ("fp16", None, "fp16"),
])  # fmt: skip
def test_precision_is_what_accelerate_was_launched_with_where_the_suite_says_nothing(
    asked, launched, found, monkeypatch
):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    suite = load_suite("synthetic")
    suite = suite.model_copy(update={"training": suite.training.model_copy(update={"mixed_precision": asked})})
    assert precision(suite) == resolved(suite, None).training.mixed_precision == found


def test_a_precision_that_the_harness_lacks(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(OptionError, match="--mixed_precision fp8; give it one of no, bf16, fp16"):
        precision(load_suite("vision"))


def test_shapes_of_sets_that_are_not_here(tmp_path):
    recipe = load_suite("cifar10-resnet18")
    assert shape_of(recipe, required=True).train == 50_000
    limited = shape_of(recipe.replace(limit=500), required=True)
    assert (limited.train, limited.test) == (500, 100)
    assert shape_of(recipe.replace(dataset="hf:org/name"), required=True).train is None
    missing = recipe.replace(dataset=f"imagefolder:{tmp_path / 'none'}", image_size=160)
    assert (shape_of(missing, required=False).train, shape_of(missing, required=False).image_size) == (None, 160)
    with pytest.raises(DatasetError, match="no folder"):
        shape_of(missing, required=True)
    here = shape_of(load_suite("smoke"), required=True)
    assert (here.channels, here.classes, here.image_size, here.train) == (1, 10, 28, 1000)


@pytest.mark.parametrize("limit", [25, 1234, 8000, 9000, 10_000])
@pytest.mark.parametrize("held_out", [[], ["Bag", "Coat"]])
def test_the_published_shape_is_what_the_loader_leaves(limit, held_out, monkeypatch):
    name = "fashion_mnist_12k"
    loaded = load_dataset(name, limit=limit, held_out_classes=held_out)
    monkeypatch.setitem(FETCHED, name, (1, 10, 28, 10_000, 2_000))
    suite = load_suite("smoke").replace(dataset=name, limit=limit, held_out_classes=held_out)
    found = shape_of(suite, required=True)
    assert found.note
    assert dataclasses.replace(found, note="") == DataShape.of(loaded)


def test_every_method_is_built_without_memory():
    seen = {}
    suite = load_suite("smoke").replace(methods=list(METHODS))
    check_builds(suite, GREY, lambda name, module: seen.update({name: module}))
    assert list(seen) == list(METHODS)
    for module in seen.values():
        assert {p.device.type for p in module.parameters()} == {"meta"}


@pytest.mark.parametrize(("changes", "words"), [
    ({"backbone": "timm:resnet81"}, "no model 'resnet81'"),
    ({"backbone": "timm:resnet18", "small_images": True}, "small_images changes the stem of ResNets only"),
    ({"method": {"gmje": {"componets": 3}}}, "unknown option of gmje 'componets'; did you mean 'components'"),
    ({"method": {"gmje": {"components": 0}}}, "components must be"),
    ({"backbone": "timm:vgg11"}, "timm:vgg11 does not take images of 28 pixels"),
])  # fmt: skip
def test_what_the_core_refuses_is_refused_before_the_run(changes, words):
    with pytest.raises(OptionError, match=words):
        check_builds(load_suite("smoke").replace(methods=["gmje"], **changes), GREY)


def test_memory_is_counted_and_measured():
    suite = resolved(load_suite("smoke").replace(methods=["gje", "moco", "byol", "random"]), GREY)
    found = {}
    check_builds(suite, GREY, lambda name, module: found.update({name: (module, memory(module, suite, GREY, 2))}))
    real = build_module("gje", suite, 1, 0, image_size=28)
    entry = found["gje"][1]
    assert entry.weights == sum(t.nbytes for t in [*real.parameters(), *real.buffers()])
    assert entry.gradients == sum(p.nbytes for p in real.parameters())
    for parameter in real.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for name in ("adamw", "sgd", "lars"):
        training = suite.training.model_copy(update={"optimizer": name})
        optimizer = build_optimizer(real, training)
        optimizer.step()
        optimizer.step()
        held = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if v is not None and v.ndim)
        changed = suite.model_copy(update={"training": training})
        assert memory(found["gje"][0], changed, GREY, 1).optimizer == held
    assert found["random"][1].trained == found["random"][1].activations == 0
    assert found["moco"][1].weights > 1.9 * entry.gradients, "a momentum encoder is a second one"
    assert found["moco"][1].activations < 0.6 * entry.activations, "targets carry no gradient"
    assert found["byol"][1].activations == pytest.approx(entry.activations, rel=0.05), "both views are contexts"


def test_activations_are_those_that_a_real_pass_keeps():
    suite = resolved(load_suite("smoke").replace(methods=["gje"], batch_size=16), GREY)
    module = build_module("gje", suite, 1, 0, image_size=28)
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module.train().embed(torch.rand(32, 1, 28, 28))
    real = sum(storage.nbytes() for storage in kept.values())
    found = {}
    check_builds(suite, GREY, lambda name, module: found.update({name: module}))
    measured = memory(found["gje"], suite, GREY, 1)
    assert measured.activations == pytest.approx(real, rel=0.02)
    assert memory(found["gje"], suite, GREY, 2).activations == pytest.approx(measured.activations / 2, rel=0.02)
    half = suite.model_copy(update={"training": suite.training.model_copy(update={"mixed_precision": "bf16"})})
    assert memory(found["gje"], half, GREY, 1).activations == measured.activations // 2
    assert measured.total == measured.weights + measured.gradients + measured.optimizer + measured.activations
