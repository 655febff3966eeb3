"""Views against torchvision's own operations, and their independence of the division of a batch."""

import dataclasses
import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gmje_bench.errors import OptionError
from gmje_bench.views import TwoViews, ViewConfig, preset, two_views
from gmje_bench.views.operations import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_resize,
    gaussian_blur,
    grayscale,
)
from gmje_bench.views.parameters import draw_parameters, generator_for

PLAIN = {"flip": 0.0, "jitter_probability": 0.0, "grayscale": 0.0}


def pixels(b=6, channels=3, height=20, width=20, seed=0):
    return torch.rand(b, channels, height, width, generator=torch.Generator().manual_seed(seed))


def bytes_(b=6, channels=3, height=20, width=20, seed=0):
    return (pixels(b, channels, height, width, seed) * 255).round().to(torch.uint8)


def identity(size, channels=3, **changes):
    """No operation but the ones asked for; pixels stay in [0, 1]."""
    values = {"size": size, "mean": (0.0,) * channels, "std": (1.0,) * channels, "crop_scale": (1.0, 1.0)}
    return ViewConfig(**{**values, "crop_ratio": (1.0, 1.0), **PLAIN, **changes})


@pytest.mark.parametrize(("height", "width"), [(20, 20), (17, 31)])
@pytest.mark.parametrize("size", [5, 20, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_is_that_of_torchvision_in_either_direction(height, width, size, channels):
    x = pixels(7, channels, height, width)
    generator = torch.Generator().manual_seed(1)
    h, w = (torch.randint(1, side + 1, (7,), generator=generator) for side in (height, width))
    h[0], w[0] = height, width
    top, left = ((torch.rand(7, generator=generator) * (s - e + 1)).long() for s, e in ((height, h), (width, w)))
    got = crop_resize(x, top.float(), left.float(), h.float(), w.float(), size)
    boxes = zip(top.tolist(), left.tolist(), h.tolist(), w.tolist(), strict=True)
    expected = torch.stack(
        [F.resized_crop(i, *box, [size, size], antialias=True) for i, box in zip(x, boxes, strict=True)]
    )
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


def test_flip_is_exact():
    x = pixels(4)
    zero, side = torch.zeros(4), torch.full((4,), 20.0)
    flip = torch.tensor([True, False, True, False])
    got = crop_resize(x, zero, zero, side, side, 20, flip)
    assert torch.equal(got[flip], x[flip].flip(-1))
    assert torch.equal(got[~flip], x[~flip])


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (adjust_brightness, F.adjust_brightness, [0.0, 0.3, 1.0, 1.7]),
        (adjust_contrast, F.adjust_contrast, [0.0, 0.3, 1.0, 1.7]),
        (adjust_saturation, F.adjust_saturation, [0.0, 0.3, 1.0, 1.7]),
        (adjust_hue, F.adjust_hue, [-0.5, -0.1, 0.0, 0.3]),
    ],
)
def test_colour_is_that_of_torchvision_for_each_image(ours, theirs, values):
    x = pixels(4, seed=3)
    x[:, :, 0, :5] = x[:, :1, 0, :5]  # grey pixels have no hue
    x[:, :, 1, :2], x[:, :, 1, 2:4] = 0, 1
    expected = torch.stack([theirs(image, value) for image, value in zip(x, values, strict=True)])
    torch.testing.assert_close(ours(x, torch.tensor(values)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(adjust_brightness, F.adjust_brightness), (adjust_contrast, F.adjust_contrast)]
)
def test_colour_of_grey_images(ours, theirs):
    x = pixels(2, channels=1)
    expected = torch.stack([theirs(image, value) for image, value in zip(x, (0.4, 1.5), strict=True)])
    torch.testing.assert_close(ours(x, torch.tensor([0.4, 1.5])), expected, atol=2e-6, rtol=0)


def test_grayscale_is_that_of_torchvision():
    x = pixels(3)
    torch.testing.assert_close(grayscale(x), F.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3, 9, 23, 27])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_that_of_torchvision(kernel, channels):
    x, sigma = pixels(4, channels, 14, 19), [0.1, 0.7, 2.0, 5.0]
    expected = torch.stack([F.gaussian_blur(i, [kernel, kernel], [s, s]) for i, s in zip(x, sigma, strict=True)])
    torch.testing.assert_close(gaussian_blur(x, torch.tensor(sigma), kernel), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (80, 3)])
@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_processes_make_up_the_batch_of_one(size, channels, world):
    images, draw = bytes_(8, channels, size, size), TwoViews(preset(size, channels), seed=5)
    whole = draw(images, epoch=2, step=3)
    shares = [
        draw(share, epoch=2, step=3, rank=rank, world_size=world) for rank, share in enumerate(images.chunk(world))
    ]
    for view, parts in zip(whole, zip(*shares, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), view, atol=1e-5, rtol=0)


def test_chunks_on_the_cpu_change_nothing(monkeypatch):
    images, draw = bytes_(9, 3, 32, 32), TwoViews(preset(32, 3), seed=0)
    whole = draw(images, epoch=0, step=0)
    monkeypatch.setattr(two_views, "CPU_CHUNK", 2 * 3 * 32 * 32)
    for a, b in zip(whole, draw(images, epoch=0, step=0), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_views_are_a_function_of_seed_epoch_step_and_view_alone():
    images, config = bytes_(4, 1, 28, 28), preset(28, 1)
    results = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            for step in (0, 1):
                torch.manual_seed(len(results))
                for view, x in enumerate(TwoViews(config, seed)(images, epoch=epoch, step=step)):
                    results[seed, epoch, step, view] = x
    state = torch.get_rng_state()
    again = TwoViews(config, 1)(images, epoch=0, step=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again[0], results[1, 0, 1, 0])
    assert torch.equal(again[1], results[1, 0, 1, 1])
    distinct = list(results.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def boxes(config, n, height, width):
    drawn = draw_parameters(config, n, height, width, torch.Generator().manual_seed(0)).numbers
    return [drawn[name] for name in ("top", "left", "height", "width")]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 20)])
def test_boxes_are_distributed_as_those_of_torchvision(height, width):
    n, config = 4000, identity(16, crop_scale=(0.2, 0.9), crop_ratio=(0.6, 1.5))
    transform = v2.RandomResizedCrop(16, scale=(0.2, 0.9), ratio=(0.6, 1.5))
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    drawn = [transform.make_params([image]) for _ in range(n)]
    for name, got in zip(("top", "left", "height", "width"), boxes(config, n, height, width), strict=True):
        expected = torch.tensor([float(params[name]) for params in drawn])
        error = math.sqrt((expected.var() + got.var()) / n)
        assert abs(float(got.mean() - expected.mean())) < 4 * error, name
        assert abs(float(got.std() / expected.std()) - 1) < 0.08, name


def test_boxes_are_whole_pixels_inside_the_image():
    top, left, h, w = boxes(identity(8, crop_scale=(0.01, 1.0), crop_ratio=(0.2, 5.0)), 5000, 13, 29)
    for values in (top, left, h, w):
        assert torch.equal(values, values.round())
    assert min(top.min(), left.min()) == 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() == 13
    assert (left + w).max() == 29


def test_a_box_that_never_fits_becomes_the_largest_in_the_middle():
    config = identity(8, crop_scale=(0.99, 1.0), crop_ratio=(0.9, 1.1))
    top, left, h, w = (values.unique().tolist() for values in boxes(config, 50, 10, 100))
    assert (top, left, h, w) == ([0], [44], [10], [11])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("option", ["flip", "jitter_probability", "grayscale", "blur_probability"])
def test_operations_come_with_their_probability(option, probability):
    n = 1000
    images = bytes_(1, 3, 8, 8).expand(n, -1, -1, -1)
    config = identity(8, **{option: probability}, blur_sigma=(1.0, 1.0))
    context, target = TwoViews(config, 0)(images, epoch=0, step=0)
    for view in (context, target):
        changed = ((view - images / 255).abs().amax(dim=(1, 2, 3)) > 1e-4).float().mean()
        assert abs(float(changed) - probability) <= 4 * math.sqrt(probability * (1 - probability) / n)


def test_strengths_span_their_ranges():
    config = identity(8, jitter_probability=1.0, brightness=0.4, contrast=1.5, saturation=0.0, hue=0.2)
    drawn = draw_parameters(config, 5000, 8, 8, torch.Generator().manual_seed(0)).numbers
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.0, 2.5), ("saturation", 1, 1), ("hue", -0.2, 0.2)):
        assert float(drawn[name].min()) == pytest.approx(low, abs=2e-3)
        assert float(drawn[name].max()) == pytest.approx(high, abs=2e-3)
        assert float(drawn[name].mean()) == pytest.approx((low + high) / 2, abs=0.05)


def test_the_order_of_colour_operations_varies_over_batches():
    orders = {draw_parameters(identity(8), 1, 8, 8, torch.Generator().manual_seed(s)).order for s in range(200)}
    assert len(orders) == 24


def test_a_view_is_crop_flip_colour_gray_blur_normalise():
    config = dataclasses.replace(preset(80, 3), jitter_probability=1.0, blur_probability=1.0, mean=(0.1, 0.2, 0.3))
    images = bytes_(5, 3, 90, 90)
    drawn = draw_parameters(config, 5, 90, 90, generator_for(9, 1, 2, 1))
    expected = []
    for i, image in enumerate(images / 255):
        p = {name: float(values[i]) for name, values in drawn.numbers.items()}
        x = F.resized_crop(image, *(int(p[k]) for k in ("top", "left", "height", "width")), [80, 80], antialias=True)
        x = F.horizontal_flip(x) if p["flip"] else x
        for name in drawn.order:
            x = getattr(F, f"adjust_{name}")(x.clamp(0, 1), p[name])
        x = F.rgb_to_grayscale(x, 3) if drawn.grey[i] else x
        x = F.gaussian_blur(x, [config.blur_kernel] * 2, [p["sigma"]] * 2)
        expected.append(F.normalize(x, list(config.mean), list(config.std)))
    assert 0 < int(drawn.grey.sum()) + int(drawn.numbers["flip"].sum()) < 10
    _, target = TwoViews(config, 9)(images, epoch=1, step=2)
    torch.testing.assert_close(target, torch.stack(expected), atol=5e-5, rtol=0)


def test_colour_options_leave_grey_images_alone():
    images = bytes_(20, 1, 28, 28)
    config = preset(28, 1)
    colourful = dataclasses.replace(config, saturation=0.9, hue=0.4, grayscale=1.0)
    for a, b in zip(*(TwoViews(c, 0)(images, epoch=0, step=0) for c in (config, colourful)), strict=True):
        assert torch.equal(a, b)


def test_views_under_autocast_keep_their_precision():
    images, draw = bytes_(4, 3, 32, 32), TwoViews(preset(32, 3), 0)
    plain = draw(images, epoch=0, step=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = draw(images, epoch=0, step=0)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (torch.rand(2, 3, 8, 8), TypeError, "uint8.*float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), ValueError, r"\(b, 3, H, W\).*\(3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ValueError, r"3 channels.*\(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 0, 8, dtype=torch.uint8), ValueError, r"\(2, 3, 0, 8\)"),
    ],
)
def test_wrong_images_are_refused(images, error, text):
    with pytest.raises(error, match=text):
        TwoViews(identity(8), 0)(images, epoch=0, step=0)


def test_evaluated_images_are_normalised_as_views_are():
    config = ViewConfig(size=28, mean=(0.1,), std=(0.5,))
    images = torch.full((1, 1, 28, 28), 51, dtype=torch.uint8)
    torch.testing.assert_close(config.preprocessing(images), torch.full((1, 1, 28, 28), 0.2))


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank, world):
    with pytest.raises(ValueError, match=f"got {rank}"):
        TwoViews(identity(8), 0)(bytes_(2, 3, 8, 8), epoch=0, step=0, rank=rank, world_size=world)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 0),
        ("mean", (0.1, 0.2)),
        ("std", (1.0, 1.0, 0.0)),
        ("std", (1.0,)),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 1.1)),
        ("crop_ratio", (2.0, 1.0)),
        ("flip", 1.5),
        ("jitter_probability", -0.1),
        ("grayscale", float("nan")),
        ("contrast", -1.0),
        ("hue", 0.6),
        ("blur_kernel", 4),
        ("blur_kernel", 17),
        ("blur_sigma", (0.0, 1.0)),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(OptionError, match=f"{option} of the views must be .*got"):
        identity(**{"size": 8, option: value})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 64, 96, 224])
def test_presets_are_valid_and_blur_large_images_only(size, channels):
    config = preset(size, channels)
    assert len(config.mean) == channels
    assert (config.blur_probability > 0) == (size > 64)
    context, _ = TwoViews(config, 0)(bytes_(2, channels, size, size), epoch=0, step=0)
    assert context.shape == (2, channels, size, size)
    assert context.isfinite().all()


def test_other_numbers_of_channels_have_no_preset():
    with pytest.raises(OptionError, match="1 or 3 channels, got 4"):
        preset(32, 4)


MASKED = (0.5, 1.0, 0.25, 0.75)


@pytest.mark.parametrize("cut", [False, True])
def test_masked_views_divide_one_view(cut):
    images = bytes_(6, 3, 20, 20)
    if cut:
        images = torch.stack([images, bytes_(6, 3, 20, 20, seed=1)])
    config = dataclasses.replace(preset(20, 3), masked=MASKED)
    context, target = TwoViews(config, seed=0)(images, epoch=1, step=2)
    whole, _ = TwoViews(dataclasses.replace(config, masked=None), seed=0)(images, epoch=1, step=2)
    inside = torch.zeros(20, 20, dtype=torch.bool)
    inside[10:, 5:15] = True
    assert torch.equal(context + target, whole)
    assert not context[..., inside].any()
    assert not target[..., ~inside].any()
    assert target[..., inside].any()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_mask_their_share_of_one_batch(world):
    images, draw = bytes_(6, 1, 28, 28), TwoViews(dataclasses.replace(preset(28, 1), masked=MASKED), seed=5)
    whole = draw(images, epoch=0, step=1)
    shares = [draw(x, epoch=0, step=1, rank=r, world_size=world) for r, x in enumerate(images.chunk(world))]
    for view, parts in zip(whole, zip(*shares, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), view, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "masked", [(0.5, 0.5, 0, 1), (0.9, 0.1, 0, 1), (0, 1, 0, 1), (0, 1.5, 0, 1), (0, 0.01, 0, 1), (0.0, 0.5)]
)
def test_a_box_that_divides_nothing_is_refused(masked):
    with pytest.raises(OptionError, match="masked of the views must be"):
        dataclasses.replace(preset(28, 1), masked=masked)
