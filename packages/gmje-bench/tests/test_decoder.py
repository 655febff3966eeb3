"""The decoder draws images with the distribution that they have given an embedding; its score is proper."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.sampling.classifier import train_classifier
from gmje_bench.tasks.sampling.decoder import decode, energy_score, train_decoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blurred(pixels: Tensor) -> list[Tensor]:
    """A feature map without a classifier."""
    return [F.avg_pool2d(pixels, 2)]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "decoder_steps", 100)


def squares(z: Tensor, bright: Tensor) -> Tensor:
    """Pictures of 8 pixels, whose left half is as light as the embedding says and the right half black or white."""
    left = (255 * z.sigmoid())[:, None, None, None].expand(-1, 1, 8, 4)
    right = (255 * bright.float())[:, None, None, None].expand(-1, 1, 8, 4)
    return torch.cat([left, right], dim=3).to(torch.uint8)


def test_the_score_is_least_for_the_true_distribution():
    def draw(spread: float, seed: int) -> Tensor:
        return spread * torch.randn(40_000, 2, generator=generator(seed))

    scores = {spread: float(energy_score(draw(spread, 1), draw(spread, 2), draw(1.0, 3))) for spread in (0.5, 1.0, 1.5)}
    # The mean distance of two standard normal points of the plane is the square root of pi.
    assert scores[1.0] == pytest.approx(math.sqrt(math.pi) / 2, rel=0.02)
    assert scores[1.0] < min(scores[0.5], scores[1.5]) - 0.02


def test_the_score_of_equal_points_is_zero_and_has_a_gradient():
    x = torch.ones(5, 3, requires_grad=True)
    score = energy_score(x, x, torch.ones(5, 3))
    score.backward()
    assert float(score.detach()) == 0
    assert torch.equal(x.grad, torch.zeros(5, 3))


def test_what_the_embedding_says_is_shown_and_what_it_leaves_open_is_drawn():
    z = torch.randn(2, 600, 3, generator=generator())
    z[1, :, 0] = z[0, :, 0]  # Two views agree in the first coordinate, and only that one tells of the image.
    bright = torch.rand(600, generator=generator(1)) < 0.5
    decoder = train_decoder(z, squares(2 * z[0, :, 0], bright), blurred, seed=0)
    new = torch.randn(400, 3, generator=generator(2))
    pictures = decode(decoder, new, seed=0)
    left, right = pictures[..., 1:3].mean(dim=(1, 2, 3)), pictures[..., 5:7].mean(dim=(1, 2, 3))
    assert float((left - (2 * new[:, 0]).sigmoid()).abs().mean()) < 0.08
    assert float(((right < 0.25) | (right > 0.75)).double().mean()) > 0.8, "no average of black and white"
    assert float((right > 0.5).double().mean()) == pytest.approx(0.5, abs=0.15)
    assert float(torch.corrcoef(torch.stack([right, new[:, 0]]))[0, 1].abs()) < 0.3


def test_decoding_is_a_function_of_its_seed_and_one_noise_leaves_the_embedding_alone(monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "decoder_steps", 2)
    z = torch.randn(1, 50, 2, generator=generator())
    images = torch.randint(0, 256, (50, 3, 48, 48), generator=generator(), dtype=torch.uint8)
    state = torch.get_rng_state()
    one, two = (train_decoder(z, images, blurred, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state), "the global source is left as it was"
    pictures = decode(one, z[0], seed=1)
    assert pictures.shape == (50, 3, 32, 32)
    assert torch.equal(pictures, decode(two, z[0], seed=1))
    assert not torch.equal(pictures, decode(one, z[0], seed=2))
    same = decode(one, z[0, :1].expand(4, -1), seed=1, same_noise=True)
    assert torch.equal(same, same[:1].expand_as(same))


def test_maps_of_the_classifier_go_from_fine_to_coarse_and_lead_to_its_features():
    labels = torch.arange(600) % 3
    images = (40 * labels + 60).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    classifier = train_classifier(images, labels, 3)
    pixels = (images[:5] / 255).requires_grad_()
    maps = list(classifier.maps(pixels))
    assert [tuple(x.shape) for x in maps] == [(5, 32, 4, 4), (5, 64, 2, 2), (5, 64, 1, 1)]
    pooled = F.adaptive_avg_pool2d(maps[-1], 2).flatten(1)
    torch.testing.assert_close(pooled, classifier.features(pixels))
    maps[0].sum().backward()
    assert pixels.grad is not None
    assert not any(weight.requires_grad for weight in classifier.parameters())
