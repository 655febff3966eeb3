"""Captions and images with ambiguous matches: which of a hundred images does a caption mean, and how sure can one be?

Two encoders that know nothing of each other embed the pairs: principal components of the pixels, and sums of word
vectors of captions such as "a dark shoe". Many images fit a caption. ``JointEmbeddingMixture`` learns the joint density
of the pairs; of candidates among which one belongs to the caption and the others were drawn at random, candidate ``j``
is the right one with a probability in proportion to ``q(z_j | z_caption) / q(z_j)``.

    python docs/examples/retrieval.py
"""

import argparse
import hashlib
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor

from gmje_bench.datasets import load_dataset
from gmje_core import JointEmbeddingMixture
from gmje_core.errors import ConvergenceWarning

Floats = NDArray[np.float64]
#: Maps embeddings of captions ``(Q, d_c)`` and of candidates ``(N, d_t)`` to scores ``(Q, N)``, larger for likelier.
Scorer = Callable[[Floats, Floats], Floats]

NOUNS = {
    "shoe": ("Sandal", "Sneaker", "Ankle boot"),
    "top": ("T-shirt", "Pullover", "Coat", "Shirt"),
    "garment": ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Shirt"),
}
SHADES = (("dark", "black"), ("grey", "dull"), ("light", "bright"))
OPENINGS = ("a", "one", "this is a", "photo of a")
IMAGE_DIM, TEXT_DIM, POOL = 24, 16, 100
#: Components, what is added to their variances, and pseudo-observations of the pooled covariance, which are tried.
SETTINGS = ((16, 0.3, 100.0), (48, 0.3, 100.0), (48, 0.3, 300.0))
TEMPERATURES = tuple(np.geomspace(1e-2, 100, 41))


def shades_of(images: Tensor, bounds: Floats) -> NDArray[np.int64]:
    """How bright the garment is: 0, 1 or 2, by the mean of the pixels that are not background."""
    x = images.flatten(1).double()
    brightness = x.sum(dim=1) / (x > 0).sum(dim=1).clamp_min(1)
    return np.searchsorted(bounds, brightness.numpy())


def brightness_bounds(images: Tensor) -> Floats:
    """The terciles of brightness."""
    x = images.flatten(1).double()
    return np.quantile((x.sum(dim=1) / (x > 0).sum(dim=1).clamp_min(1)).numpy(), [1 / 3, 2 / 3])


def write_captions(
    names: list[str], shades: NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[str], list[tuple[frozenset[str], int | None]]]:
    """A caption of each image, and what it says: the classes it is true of, and the shade or nothing.

    Half of the captions name the class, the others something wider; three in ten say nothing of the shade.
    """
    captions, meanings = [], []
    for name, shade in zip(names, shades, strict=True):
        wider = [noun for noun, classes in NOUNS.items() if name in classes]
        noun = str(rng.choice(wider)) if wider and rng.random() < 0.5 else name
        said = int(shade) if rng.random() < 0.7 else None
        words = [str(rng.choice(OPENINGS)), *([] if said is None else [str(rng.choice(SHADES[said]))]), noun]
        captions.append(" ".join(words))
        meanings.append((frozenset(NOUNS.get(noun, (noun,))), said))
    return captions, meanings


def fits(meaning: tuple[frozenset[str], int | None], name: str, shade: int) -> bool:
    """Whether a caption is true of an image."""
    classes, said = meaning
    return name in classes and said in (None, shade)


def embed_captions(captions: list[str], dim: int = TEXT_DIM) -> Floats:
    """Sums of word vectors ``(N, dim)``, which are drawn by a hash of the word."""

    def vector(word: str) -> Floats:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=dim)

    return np.stack([sum(vector(word) for word in caption.split()) for caption in captions])


class Pairs:
    """Embeddings of captions and images at unit mean variance, with what is true of them.

    Args:
        limit: At most so many training images.
        seed: Seed of the captions.
    """

    def __init__(self, limit: int | None = None, seed: int = 0) -> None:
        data = load_dataset("fashion_mnist_12k", limit=limit)
        parts = {"train": data.train[:], "test": data.test[:]}
        bounds = brightness_bounds(parts["train"])
        pixels = {part: images.flatten(1).numpy() / 255 for part, images in parts.items()}
        encoder = PCA(min(IMAGE_DIM, len(pixels["train"]) // 2), random_state=0).fit(pixels["train"])
        labels = {"train": data.train.labels, "test": data.test.labels}
        rng = np.random.default_rng(seed)
        self.names = {part: [data.classes[int(label)] for label in labels[part]] for part in parts}
        self.shades = {part: shades_of(images, bounds) for part, images in parts.items()}
        written = {part: write_captions(self.names[part], self.shades[part], rng) for part in parts}
        self.captions = {part: captions for part, (captions, _) in written.items()}
        self.meanings = {part: meanings for part, (_, meanings) in written.items()}
        self.text = _unit_variance({part: embed_captions(captions) for part, captions in self.captions.items()})
        self.image = _unit_variance({part: encoder.transform(pixels[part]) for part in parts})


def _unit_variance(parts: dict[str, Floats]) -> dict[str, Floats]:
    """All parts with the centre and the one scale of the training part."""
    centre, scale = parts["train"].mean(axis=0), np.sqrt(parts["train"].var(axis=0).mean())
    return {part: (z - centre) / scale for part, z in parts.items()}


def density_scorer(density: JointEmbeddingMixture) -> Scorer:
    """Pointwise mutual information of caption and candidate, nats: the log-odds up to a constant of the pool."""

    def score(text: Floats, image: Floats) -> Floats:
        posterior = density.predict_distribution(text)
        z = torch.as_tensor(image, dtype=density.density_.dtype)
        conditional = posterior.log_prob(z[:, None].expand(-1, len(text), -1))
        return (conditional - density.density_.target.log_prob(z)[:, None]).T.double().numpy()

    return score


def fit_density(text: Floats, image: Floats, components: int, reg_covar: float, prior: float) -> Scorer:
    """A joint mixture of the pairs; what is added to the variances also spreads captions, of which there are few."""
    mixture = JointEmbeddingMixture(
        components, reg_covar=reg_covar, covariance_prior=prior, max_iter=20, random_state=0, dtype="float32"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a likelihood that could still rise is good enough
        return density_scorer(mixture.fit(text, image))


def fit_ridge(text: Floats, image: Floats) -> Scorer:
    """Minus the squared distance of a candidate from what a regression of the captions expects."""
    model = Ridge(1.0).fit(text, image)
    return lambda z_text, z_image: -((model.predict(z_text)[:, None] - z_image[None]) ** 2).sum(axis=2)


def fit_cca(text: Floats, image: Floats) -> Scorer:
    """Cosine of canonical variates, each weighted by its correlation."""

    def whitener(z: Floats) -> Floats:
        values, vectors = np.linalg.eigh(np.cov(z.T) + 1e-3 * np.eye(z.shape[1]))
        return vectors / np.sqrt(values)

    of_text, of_image = whitener(text), whitener(image)
    left, correlations, right = np.linalg.svd(of_text.T @ (text.T @ image / len(text)) @ of_image, full_matrices=False)
    of_text, of_image = of_text @ left * correlations, of_image @ right.T
    return lambda z_text, z_image: _unit(z_text @ of_text) @ _unit(z_image @ of_image).T


def _unit(z: Floats) -> Floats:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def pools(rows: NDArray[np.int64], size: int = POOL) -> list[NDArray[np.int64]]:
    """Rows of pairs in pools of candidates; the caption of each pair asks for its image among those of its pool."""
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def logits(score: Scorer, pairs: Pairs, part: str, groups: list[NDArray[np.int64]]) -> Floats:
    """Scores ``(P, n, n)`` of each candidate, for every caption of every pool."""
    return np.stack([score(pairs.text[part][rows], pairs.image[part][rows]) for rows in groups])


def posteriors(scores: Floats, temperature: float) -> Floats:
    """Probabilities of the candidates, which add up to one along the last axis."""
    odds = np.exp((scores - scores.max(axis=2, keepdims=True)) / temperature)
    return odds / odds.sum(axis=2, keepdims=True)


def log_loss(probabilities: Floats) -> float:
    """Minus the mean log-probability of the right candidate, nats."""
    return float(-np.log(np.diagonal(probabilities, axis1=1, axis2=2).clip(1e-12)).mean())


def best_temperature(scores: Floats) -> float:
    """The temperature of the smallest log-loss."""
    return min(TEMPERATURES, key=lambda value: log_loss(posteriors(scores, value)))


def calibration_error(probabilities: Floats, right: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error: mean gap of probability and frequency, over bins of equally many cases.

    Args:
        probabilities: ``(n,)``.
        right: ``(n,)``, what came true.
        bins: Number of bins.

    Examples:
        >>> calibration_error(np.full(100, 0.25), np.arange(100) % 4 == 0, bins=1)
        0.0
    """
    parts = np.array_split(np.argsort(probabilities, kind="stable"), bins)
    return sum(len(p) * abs(probabilities[p].mean() - right[p].mean()) for p in parts) / len(probabilities)


def measure(probabilities: Floats, truth: NDArray[np.bool_]) -> dict[str, float]:
    """Figures of merit of posteriors ``(P, n, n)``; ``truth`` says which images fit which caption, whatever its own.

    Returns:
        Recall of the caption's own image among the first 1, 5 and 10, and the share of the first 10 that fit the
        caption, all in %; the log-loss in nats; and the calibration error of the probability to be the own image, for
        the first candidate of each caption and for all candidates with more than half of an equal share.
    """
    own = np.broadcast_to(np.eye(probabilities.shape[1], dtype=bool), probabilities.shape)
    order = np.argsort(-probabilities, axis=2, kind="stable")
    hits, fit = (np.take_along_axis(what, order, axis=2) for what in (own, truth))
    found = {f"recall@{k}": 100 * float(hits[:, :, :k].any(axis=2).mean()) for k in (1, 5, 10)}
    first = np.take_along_axis(probabilities, order[:, :, :1], axis=2).ravel()
    likely = probabilities > 1 / (2 * probabilities.shape[1])
    return found | {
        "precision@10": 100 * float(fit[:, :, :10].mean()),
        "log-loss": log_loss(probabilities),
        "ECE, first": calibration_error(first, hits[:, :, 0].ravel()),
        "ECE, likely": calibration_error(probabilities[likely], own[likely]),
    }


def ceiling(truth: NDArray[np.bool_]) -> dict[str, float]:
    """What the captions allow: the posterior of who knows which images fit each, all of them equally likely."""
    return measure(truth / truth.sum(axis=2, keepdims=True), truth)


def compare(pairs: Pairs, size: int = POOL) -> dict[str, dict[str, float]]:
    """Fit every method on nine tenths of the training pairs, choose on the rest, and measure on the test pairs.

    Settings and temperatures are those of the smallest log-loss in pools of the held-out training pairs. A log-density
    ratio needs no temperature, so that the one that is chosen for it says how sure the density is of itself: above one,
    too sure.
    """
    order = np.random.default_rng(0).permutation(len(pairs.names["train"]))
    rest, held_out = np.split(order, [round(0.9 * len(order))])
    seen = pairs.text["train"][rest], pairs.image["train"][rest]
    choice, test = pools(held_out, size), pools(np.arange(len(pairs.names["test"])), size)
    truth = np.stack([truth_of(pairs, rows) for rows in test])
    candidates: dict[str, list[Scorer]] = {
        "joint mixture": [fit_density(*seen, *setting) for setting in SETTINGS],
        "one joint Gaussian": [fit_density(*seen, 1, 1e-3, 0.0)],
        "ridge regression": [fit_ridge(*seen)],
        "CCA, cosine": [fit_cca(*seen)],
    }
    found = {"what the captions allow": {**ceiling(truth), "temperature": 1.0}}
    for name, scorers in candidates.items():
        tried = []
        for score in scorers:
            held = logits(score, pairs, "train", choice)
            temperature = best_temperature(held)
            tried.append((log_loss(posteriors(held, temperature)), temperature, score))
        _, temperature, score = min(tried, key=lambda entry: entry[0])
        probabilities = posteriors(logits(score, pairs, "test", test), temperature)
        found[name] = {**measure(probabilities, truth), "temperature": temperature}
    return found


def truth_of(pairs: Pairs, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the caption of each test pair (first axis) is true of each image (second axis)."""
    names, shades, meanings = (getattr(pairs, name)["test"] for name in ("names", "shades", "meanings"))
    return np.array([[fits(meanings[i], names[j], int(shades[j])) for j in rows] for i in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="at most so many training pairs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the captions")
    options = parser.parse_args()
    pairs = Pairs(options.limit, options.seed)
    print(f"{len(set(pairs.captions['train']))} captions, such as {', '.join(pairs.captions['train'][:3])!r}\n")
    found = compare(pairs)
    names = list(next(iter(found.values())))
    print(f"| method | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}")
    for method, values in found.items():
        cells = (f"{value:.{1 if value > 5 else 3}f}" for value in values.values())
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
