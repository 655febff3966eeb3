"""Images as a trained model takes them, against torchvision; and their strict JSON form."""

import json

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from gmje_core import ConfigError, GMJEConfig, JointEmbeddingModel, Preprocessing, ShapeError

GOOD = Preprocessing(size=28, image_mean=(0.25, 0.5, 0.5), image_std=(0.5, 0.25, 0.5))


def identity(size: int, channels: int = 3) -> Preprocessing:
    return Preprocessing(size=size, image_mean=(0.0,) * channels, image_std=(1.0,) * channels)


def bytes_(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(28, 28, 28), (256, 256, 224), (33, 61, 28), (32, 32, 64), (40, 28, 28), (61, 33, 28)]
)
def test_it_is_resize_and_centre_crop(height, width, size):
    images = bytes_(2, 3, height, width)
    expected = images / 255
    if min(height, width) != size:
        expected = F.resize(expected, [round(size * 8 / 7)], antialias=True)
    expected = F.center_crop(expected, [size, size])
    torch.testing.assert_close(identity(size)(images), expected, atol=1e-6, rtol=0)


def test_it_normalises_each_channel():
    images = bytes_(2, 3, 28, 28)
    expected = F.normalize(images / 255, GOOD.image_mean, GOOD.image_std)
    torch.testing.assert_close(GOOD(images), expected)


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 0, 8, dtype=torch.uint8),
    ],
)
def test_wrong_images_are_named(images):
    with pytest.raises(
        ShapeError, match=r"uint8 of shape \(B, 3, H, W\), but are .*" + repr(tuple(images.shape))[1:-1]
    ):
        identity(8)(images)


def test_no_images_give_no_images():
    assert identity(8)(torch.zeros(0, 3, 9, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)


def test_the_json_form_comes_back():
    assert Preprocessing.from_json(GOOD.to_json()) == GOOD
    assert json.loads(GOOD.to_json())["image_std"] == [0.5, 0.25, 0.5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, r"size must be an integer in \[1, 65536\], got 0"),
        ({"size": 2**17}, "got 131072"),
        ({"size": True}, "got True"),
        ({"size": 28.0}, r"got 28\.0"),
        ({"image_mean": [0.1]}, "a number for each channel, got 1 and 3"),
        ({"image_mean": [], "image_std": []}, "got 0 and 0"),
        ({"image_mean": 0.5}, r"image_mean must be finite numbers, one a channel, got 0\.5"),
        ({"image_mean": [0, "0", 0]}, "image_mean must be finite"),
        ({"image_mean": [0, True, 0]}, "image_mean must be finite"),
        ({"image_std": [1, 1, 0]}, "image_std must be positive"),
        ({"image_std": [1, 1, -1]}, "image_std must be positive"),
        ({"schema_version": 2}, "schema_version 2 is not the one"),
        ({"image_men": [0, 0, 0]}, "unknown key 'image_men'; did you mean 'image_mean'"),
    ],
)
def test_wrong_values_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        Preprocessing.from_dict(GOOD.to_dict() | change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "the preprocessing must be a JSON object, got list"),
        ("{", "the preprocessing is not valid JSON"),
        ('{"size": NaN}', "the preprocessing holds NaN"),
        ('{"size": 1, "size": 2}', "a key more than once: size"),
        ('{"size": 1}', "missing keys: image_mean, image_std, schema_version"),
        (GOOD.to_json().replace("0.25", "1e999"), "image_mean must be finite"),
    ],
)
def test_text_that_is_none_is_named(text, words):
    with pytest.raises(ConfigError, match=words):
        Preprocessing.from_json(text)


def test_a_model_presents_images_as_it_was_trained():
    config = GMJEConfig(backbone="smallconv", image_size=28, dim=8, hidden=16, criterion_options={"components": 4})
    images = bytes_(2, 3, 32, 40)
    assert torch.equal(JointEmbeddingModel(config, GOOD).preprocess(images), GOOD(images))
    with pytest.raises(ConfigError, match="does not say how its images were normalised"):
        JointEmbeddingModel(config).preprocess(images)
    for other in (identity(32), identity(28, channels=1)):
        with pytest.raises(ConfigError, match="the model takes 28 pixels and 3 channels"):
            JointEmbeddingModel(config, other)
