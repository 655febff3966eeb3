"""The example of captions and images: its measures by definition, and what it finds."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "retrieval.py"


@pytest.fixture(scope="module")
def retrieval():
    spec = importlib.util.spec_from_file_location("retrieval", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_captions_are_true_of_their_own_images(retrieval):
    names = ["Sneaker", "Bag", "Coat", "T-shirt"] * 50
    shades = np.arange(200) % 3
    captions, meanings = retrieval.write_captions(names, shades, np.random.default_rng(0))
    assert all(retrieval.fits(m, name, int(shade)) for m, name, shade in zip(meanings, names, shades, strict=True))
    assert 0.55 < np.mean([said is not None for _, said in meanings]) < 0.85
    assert any("shoe" in caption for caption in captions)
    assert not retrieval.fits((frozenset({"Bag"}), None), "Coat", 0)
    assert not retrieval.fits((frozenset({"Bag"}), 1), "Bag", 0)


def test_equal_words_have_equal_vectors(retrieval):
    z = retrieval.embed_captions(["a dark shoe", "dark a shoe", "a light shoe"])
    np.testing.assert_allclose(z[0], z[1])
    assert np.abs(z[0] - z[2]).max() > 0.1


def test_measures_of_a_known_posterior(retrieval):
    # The own image is first, second and third likeliest; the caption fits two images each.
    probabilities = np.array([[[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]])
    truth = np.array([[[1, 1, 0], [1, 1, 0], [0, 1, 1]]], dtype=bool)
    found = retrieval.measure(probabilities, truth)
    assert found["recall@1"] == pytest.approx(100 / 3)
    assert found["recall@5"] == pytest.approx(100)
    assert found["precision@10"] == pytest.approx(100 * 6 / 9)
    assert found["log-loss"] == pytest.approx(-np.log([0.5, 0.3, 0.2]).mean())


def test_calibration_error_is_zero_for_true_probabilities_and_the_gap_for_others(retrieval):
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    right = rng.random(20_000) < p
    assert retrieval.calibration_error(p, right) < 0.015
    assert retrieval.calibration_error(np.full(10_000, 0.9), rng.random(10_000) < 0.5) == pytest.approx(0.4, abs=0.02)


def test_the_mixture_knows_more_than_its_rivals(retrieval, monkeypatch):
    monkeypatch.setattr(retrieval, "SETTINGS", ((16, 0.3, 100.0),))
    found = retrieval.compare(retrieval.Pairs(limit=2000), size=50)
    mixture = found.pop("joint mixture")
    allowed = found.pop("what the captions allow")
    assert allowed["log-loss"] < mixture["log-loss"] < min(rival["log-loss"] for rival in found.values())
    assert mixture["recall@10"] > max(rival["recall@10"] for rival in found.values())
    assert mixture["ECE, first"] < 0.1
    assert mixture["log-loss"] < np.log(50)
