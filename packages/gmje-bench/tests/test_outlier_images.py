"""Outliers by kind and the corruptions among them: deterministic, of the data's form, and what they claim to be."""

import pytest
import torch

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.corruptions import CORRUPTIONS, corrupt
from gmje_bench.datasets.outliers import digit_images, mixed_images, noise_images, outlier_splits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist_12k", limit=300, held_out_classes=["Bag", "Sneaker"])


def every_image(split):
    return split.batch(torch.arange(split.n))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 224)])
def test_digits_have_the_datas_size(channels, size):
    images = digit_images(channels, size, 50, seed=0)
    assert (images.shape, images.dtype) == ((50, channels, size, size), torch.uint8)
    assert images.float().std() > 40
    assert torch.equal(images, digit_images(channels, size, 50, seed=0))
    assert not torch.equal(images, digit_images(channels, size, 50, seed=1))
    assert len(digit_images(1, 8, 5000, seed=0)) == 1797


def test_every_kind_depends_on_the_data_and_the_seed_alone(data):
    one, two, other = outlier_splits(data, 30), outlier_splits(data, 30), outlier_splits(data, 30, seed=1)
    assert list(one) == ["held_out", "corrupted", "mixed", "digits", "noise"]
    torch.rand(5)  # The global source plays no part.
    for kind, split in one.items():
        images = every_image(split)
        assert (images.shape, images.dtype) == ((30, 1, 28, 28), torch.uint8)
        assert split.labels.unique().tolist() == [-1]
        assert torch.equal(images, every_image(two[kind]))
        assert not torch.equal(images, every_image(other[kind])), kind


def test_without_held_out_classes_that_kind_is_missing():
    assert "held_out" not in outlier_splits(load_dataset("fashion_mnist_12k", limit=100), 5)


def test_held_out_images_are_test_images_of_these_classes(data):
    whole = load_dataset("fashion_mnist_12k")
    named = torch.tensor([whole.classes.index(name) for name in ("Bag", "Sneaker")])
    theirs = every_image(whole.test.select(torch.isin(whole.test.labels, named).nonzero().flatten())).flatten(1)
    for image in every_image(outlier_splits(data, 20)["held_out"]).flatten(1):
        assert (theirs == image).all(dim=1).any()


def test_mixed_images_are_means_of_two_classes():
    labels = torch.arange(30) % 3
    images = torch.tensor([0, 60, 200], dtype=torch.uint8)[labels].view(-1, 1, 1, 1)
    mixed = mixed_images(images, labels, generator()).flatten().tolist()
    assert len(mixed) == 30
    assert set(mixed) == {30, 100, 130}, "means of two different classes, never of one"


def test_images_of_one_class_have_no_partner():
    assert len(mixed_images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4).long(), generator())) == 0


def test_noise_has_no_structure_and_the_datas_spread():
    images = torch.randint(90, 130, (200, 1, 16, 16), generator=generator(), dtype=torch.uint8)
    uniform, gaussian = (noise_images(images, generator(1))[start::2].float() for start in (0, 1))
    assert float(uniform.mean()) == pytest.approx(127.5, abs=1)
    assert float(uniform.std()) == pytest.approx(255 / 12**0.5, rel=0.02)
    assert float(gaussian.mean()) == pytest.approx(float(images.float().mean()), abs=1)
    assert float(gaussian.std()) == pytest.approx(float(images.float().std()), rel=0.03)
    pixels = uniform.flatten(1)
    assert abs(float(torch.corrcoef(torch.stack([pixels[:, :-1].flatten(), pixels[:, 1:].flatten()]))[0, 1])) < 0.03


def test_corruptions_go_in_turn_and_leave_their_input():
    images = torch.randint(0, 256, (10, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    before = images.clone()
    corrupted = corrupt(images, generator())
    assert torch.equal(images, before)
    assert all(not torch.equal(one, two) for one, two in zip(images, corrupted, strict=True))
    for turn, function in enumerate(CORRUPTIONS.values()):
        if function.__name__ in ("_blur", "_contrast", "_pixelate"):
            alone = (255 * function(images[turn::5].float() / 255, generator())).round().clamp(0, 255)
            assert torch.equal(corrupted[turn::5].float(), alone)


@pytest.mark.parametrize("side", [8, 28, 224])
def test_blur_keeps_the_brightness_of_any_size(side):
    pixels = torch.full((2, 1, side, side), 0.25)
    torch.testing.assert_close(CORRUPTIONS["blur"](pixels, generator()), pixels)


def test_strengths_are_the_authors():
    pixels = torch.full((50, 1, 32, 32), 0.5)
    noise = CORRUPTIONS["gaussian noise"](pixels, generator()) - pixels
    assert float(noise.std()) == pytest.approx(0.38, rel=0.02)
    hit = CORRUPTIONS["impulse noise"](pixels, generator())
    assert float((hit != 0.5).double().mean()) == pytest.approx(0.27, abs=0.01)
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    assert float(CORRUPTIONS["contrast"](ramp, generator()).std()) == pytest.approx(0.05 * float(ramp.std()), rel=1e-4)
    coarse = CORRUPTIONS["pixelate"](ramp, generator())
    assert len(coarse.unique()) == 8, "blocks of four pixels"
    assert float(coarse.mean()) == pytest.approx(float(ramp.mean()), abs=1e-6)
