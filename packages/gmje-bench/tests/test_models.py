"""What can be evaluated without training: every kind of model, and messages about what cannot be opened."""

import pytest
import torch
from torch import nn

from gmje_bench.datasets import load_dataset
from gmje_bench.errors import OptionError
from gmje_bench.evaluation.features import extract_features
from gmje_bench.evaluation.models import open_model
from gmje_bench.runs import read_results
from gmje_bench.tasks.knn import weighted_knn
from gmje_bench.tasks.rows import Rows


@pytest.fixture(scope="module")
def data():
    return load_dataset("embedded", limit=60)


def features(opened, data):
    return extract_features(opened.module, data.test, data, device=torch.device("cpu"))


def test_a_function_and_a_module_get_images_as_they_are(data):
    pixels = data.test.batch(torch.arange(len(data.test))).float() / 255
    torch.testing.assert_close(features(open_model(lambda images: images.flatten(1), data), data), pixels.flatten(1))
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
    opened = open_model(network, data)
    assert opened.name == "Sequential"
    torch.testing.assert_close(features(opened, data), network(pixels).detach())
    assert opened.source == "", "weights do not tell what a module computes"


@pytest.mark.parametrize(("wrong", "got"), [(lambda x: x, "(3, 1, 28, 28)"), (lambda x: 3, "int")])
def test_a_function_that_gives_something_else(data, wrong, got):
    opened = open_model(wrong, data)
    with pytest.raises(OptionError, match="must map images") as caught:
        opened.module.backbone(torch.zeros(3, 1, 28, 28))
    assert got in str(caught.value)


def test_timm_with_random_weights_is_the_same_every_time(data):
    one, two = (open_model("timm:resnet10t", data, pretrained=False) for _ in range(2))
    assert one.source == two.source
    assert features(one, data).shape == (len(data.test), 512)
    assert len(one.module.views(data).mean) == 1


def test_torchvision_loses_its_classifier_only():
    colour = load_dataset("embedded", limit=60)
    colour = type(colour)(**{**colour.__dict__, "channels": 3})
    opened = open_model("torchvision:mobilenet_v3_small", colour, pretrained=False)
    assert opened.module.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 1024)
    grey = open_model("torchvision:mobilenet_v3_small", load_dataset("embedded", limit=60), pretrained=False)
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey.module.backbone(image), opened.module.backbone(image.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("method", ["gje", "simclr", "random"])
def test_a_method_of_a_run_gives_its_features_again(trained, data, method):
    folder = trained / "models" / f"{method}-seed0"
    whole = load_dataset("embedded", limit=200)
    opened = open_model(folder, whole)
    cpu = torch.device("cpu")
    train, test = (extract_features(opened.module, split, whole, device=cpu) for split in (whole.train, whole.test))
    rows = Rows.of(train), whole.train.labels, Rows.of(test), whole.test.labels
    accuracy, _ = weighted_knn(*rows, 10, cpu)
    record = next(record for record in read_results(trained).records if record.method == method)
    assert accuracy == record.metrics["knn"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tim:resnet18", "no model 'tim:resnet18' .give timm:NAME"),
        ("timm:resnet81", "did you mean"),
        ("torchvision:resnet81", "did you mean resnet"),
        (".", "needs config.json"),
    ],
)
def test_what_cannot_be_opened(data, name, words):
    with pytest.raises(OptionError, match=words):
        open_model(name, data)


def test_a_path_that_is_nearly_right_names_its_neighbour(trained, data):
    with pytest.raises(OptionError, match=r"did you mean .*simclr-seed0"):
        open_model(trained / "models" / "simclr-sed0", data)


def test_a_damaged_baseline_names_the_file(trained, data):
    folder = trained / "models" / "simclr-seed0"
    content = (folder / "model.safetensors").read_bytes()
    try:
        (folder / "model.safetensors").write_bytes(content[:1000])
        with pytest.raises(OptionError, match=r"simclr-seed0/model.safetensors"):
            open_model(folder, data)
    finally:
        (folder / "model.safetensors").write_bytes(content)
