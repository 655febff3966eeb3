"""Views that are cut from whole encoded images, against torchvision's crops of the decoded image."""

import io
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from dataset_factories import encoded, picture
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets.cropping import cut, read_views
from gmje_bench.errors import DatasetError
from gmje_bench.views import CropDraws, TwoViews, ViewConfig, preset
from gmje_bench.views.parameters import draw_parameters, generator_for

SIZES = [(120, 90), (64, 200), (31, 17), (300, 40)]


def draws(batch, size=32, **changes):
    return CropDraws.of_step(ViewConfig(**vars(preset(size, 3)) | changes), seed=3, batch=batch, epoch=1, step=2)


def test_views_are_the_boxes_of_the_whole_image():
    pictures = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    drawn = draws(len(SIZES))
    got = read_views([(encoded(image), "x") for image in pictures], drawn)
    boxes = drawn.boxes([height for _, height in SIZES], [width for width, _ in SIZES])
    assert got.shape == (2, 4, 3, 32, 32)
    for view in range(2):
        for image, box, found in zip(pictures, boxes[view].tolist(), got[view], strict=True):
            assert torch.equal(found, F.resized_crop(F.pil_to_tensor(image), *box, [32, 32], antialias=True))


def test_boxes_lie_in_their_images_and_reach_beyond_the_centre():
    drawn, n = draws(500), 500
    top, left, height, width = drawn.boxes([100] * n, [300] * n).unbind(dim=-1)
    assert int(top.min()) == 0
    assert int(left.min()) < 20
    assert int((left + width).max()) > 280
    assert int((top + height).max()) <= 100
    assert int((left + width).max()) <= 300
    assert int(height.min()) > 0
    assert int(width.min()) > 0


def test_boxes_are_those_of_images_in_memory_of_that_size():
    config = preset(32, 3)
    boxes = CropDraws.of_step(config, 7, 6, epoch=2, step=5).boxes([50] * 6, [70] * 6)
    for view in range(2):
        numbers = draw_parameters(config, 6, 50, 70, generator_for(7, 2, 5, view)).numbers
        expected = torch.stack([numbers[name] for name in ("top", "left", "height", "width")], dim=1)
        assert torch.equal(boxes[view].float(), expected)


def test_what_is_drawn_besides_boxes_is_that_of_images_in_memory():
    """Of boxes that are the whole image, both ways give the same views."""
    config = ViewConfig(**vars(preset(40, 3)) | {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)})
    views = TwoViews(config, seed=0)
    images = torch.stack([F.pil_to_tensor(picture(seed, 40, 40)) for seed in range(5)])
    where = {"epoch": 0, "step": 3, "rank": 1, "world_size": 2}
    cut_out = read_views([(encoded(F.to_pil_image(image)), "x") for image in images], views.crops(5, **where))
    for got, expected in zip(views(cut_out, **where), views(images, **where), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("jpg", "RGB"), ("jpg", "L"), ("jpg", "CMYK"), ("png", "RGBA"), ("png", "P"), ("png", "1"), ("webp", "RGB")],
)
def test_every_kind_of_image_is_read(suffix, mode):
    content = encoded(picture(0, 60, 50, mode), suffix)
    whole = draws(1, crop_scale=(1.0, 1.0), crop_ratio=(1.2, 1.2))
    got = read_views([(content, "x")], whole)[0, 0].float()
    expected = F.pil_to_tensor(
        Image.open(io.BytesIO(content)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    )
    assert float((got - expected.float()).abs().max()) <= 3


def test_a_large_jpeg_is_decoded_at_a_fraction_where_both_boxes_allow_it(monkeypatch):
    image = picture(0, 1600, 1200)
    content = encoded(image, "jpg")
    # Smooth pictures look the same; that the fraction was taken shows in torchvision's decoder not being asked.
    monkeypatch.setattr("gmje_bench.datasets.cropping._decode_jpeg", never := Mock(side_effect=AssertionError))
    got = read_views([(content, "x")], drawn := draws(1, crop_scale=(0.3, 0.3)))
    boxes = drawn.boxes([1200], [1600])
    for view in range(2):
        exact = F.resized_crop(F.pil_to_tensor(image), *boxes[view, 0].tolist(), [32, 32], antialias=True)
        assert float((got[view, 0].float() - exact.float()).abs().max()) <= 4
    with pytest.raises(AssertionError):
        read_views([(content, "x")], draws(1, size=512))
    never.assert_called_once()


def test_without_torchvision_pillow_decodes_all(monkeypatch):
    content, drawn = encoded(picture(0, 90, 120), "jpg"), draws(1)
    first = read_views([(content, "x")], drawn).float()
    monkeypatch.setattr("gmje_bench.datasets.cropping._decode_jpeg", None)
    torch.testing.assert_close(read_views([(content, "x")], drawn).float(), first, atol=2, rtol=0)


@pytest.mark.parametrize("size", [(501, 333), (998, 777)])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_box_of_fewer_pixels_never_leaves_them(size, reduction):
    width, height = size
    pixels = torch.zeros(3, -(-height // reduction), -(-width // reduction), dtype=torch.uint8)
    for box in ([0, 0, height, width], [height - 16, width - 16, 16, 16], [3, 5, 90, 100]):
        assert cut(pixels, box, reduction, 2).shape == (3, 2, 2)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_a_damaged_image_is_named(suffix, damage, tmp_path):
    content = encoded(picture(0, 120, 100), suffix)
    bad = tmp_path / f"bad.{suffix}"
    bad.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"no image")
    with pytest.raises(DatasetError, match=f"^cannot read the image {bad}: ") as caught:
        read_views([(content, "good"), (bad, str(bad))], draws(2))
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"gone.jpg: .*No such file"):
        read_views([(tmp_path / "gone.jpg", "gone.jpg")], draws(1))


def test_crops_are_distributed_as_those_of_torchvision():
    """Area, ratio, place and the mean and deviation of pixels, of images of which few crops look alike."""
    n, theirs = 1500, v2.RandomResizedCrop(32, antialias=True)
    sizes = [((150, 100), (80, 120), (200, 60))[i % 3] for i in range(n)]
    rng = np.random.default_rng(0)
    kinds = [Image.fromarray(rng.integers(256, size=(5, 7, 3), dtype=np.uint8)).resize(size) for size in set(sizes)]
    images = {image.size: image for image in kinds}
    contents = {size: encoded(image) for size, image in images.items()}
    torch.manual_seed(0)
    drawn = draws(n)
    boxes = drawn.boxes([h for _, h in sizes], [w for w, _ in sizes]).flatten(0, 1)
    boxes_v2 = torch.tensor(
        [list(theirs.make_params([F.pil_to_tensor(images[size])]).values())[:4] for size in 2 * sizes],
        dtype=torch.int64,
    )
    ours, other = (statistics(found, 2 * sizes) for found in (boxes, boxes_v2))
    views = read_views([(contents[size], "x") for size in sizes], drawn).flatten(0, 1).float()
    views_v2 = torch.stack([theirs(F.pil_to_tensor(images[size])) for size in 2 * sizes]).float()
    ours |= {"mean": views.mean(dim=(1, 2, 3)), "std": views.std(dim=(1, 2, 3))}
    other |= {"mean": views_v2.mean(dim=(1, 2, 3)), "std": views_v2.std(dim=(1, 2, 3))}
    for name, values in ours.items():
        assert ks_2samp(values.numpy(), other[name].numpy()).pvalue > 0.01, name


def statistics(boxes, sizes):
    top, left, height, width = boxes.double().unbind(dim=1)
    widths, heights = torch.tensor(sizes, dtype=torch.float64).unbind(dim=1)
    return {
        "area": height * width / (heights * widths),
        "log ratio": (width / height).log(),
        "top": (top + height / 2) / heights,
        "left": (left + width / 2) / widths,
    }
