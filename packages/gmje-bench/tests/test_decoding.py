"""Decoding of images to a square of the size that is asked for."""

import io

import pytest
import torch
from dataset_factories import encoded, picture
from PIL import Image
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets.decoding import decode, square

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(("width", "height"), [(40, 40), (61, 33), (30, 47), (9, 13)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_square_is_resize_and_centre_crop(width, height, mode):
    image = picture(0, width, height, mode)
    expected = F.pil_to_tensor(F.center_crop(F.resize(image.convert("RGB"), [32]), [32, 32]))
    assert torch.equal(square(image, 32), expected)


def test_square_keeps_the_pixels_of_its_own_size():
    image = picture(0, 32, 32)
    assert torch.equal(square(image, 32), F.pil_to_tensor(image))


def test_large_jpegs_decoded_at_a_fraction_look_the_same():
    content = encoded(picture(0, 1600, 1200), "jpg")
    got = decode(content, "x", 32).float()
    expected = square(Image.open(io.BytesIO(content)), 32).float()
    assert float((got - expected).abs().max()) <= 3
