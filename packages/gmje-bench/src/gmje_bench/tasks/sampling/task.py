"""The task compares every source of samples with the test embeddings, beside the floor that real embeddings set."""

import math

import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.sampling.measures import frechet_distance, manifold_measures, maximum_mean_discrepancy
from gmje_bench.tasks.sampling.pictures import Classifier, decode, small, train_classifier, train_decoder
from gmje_bench.tasks.sampling.sources import Source, fit_gaussian, fit_kernel, fit_mixture, of_joint
from gmje_bench.tasks.subject import Subject, TaskResult

__all__ = ["sampling"]

_SHOWN = 16


def sampling(subject: Subject) -> TaskResult:
    """Quality of samples of the learned density, and of three densities fitted to the same embeddings.

    The embeddings are those of random views, which densities are learned on, brought to zero mean and unit mean
    variance, so that methods of any scale compare. As many samples are drawn as there are test images (2,000 at most);
    ``frechet``, ``precision``, ``recall``, ``density``, ``coverage`` and ``mmd`` compare them with the test embeddings;
    ``nll`` is minus the mean log-density of the test embeddings, nats; ``image_frechet`` compares decoded samples with
    the test images, in the features of a classifier. The source ``real`` is a sample of the training embeddings: what
    a perfect density would reach.

    Args:
        subject: The encoder.

    Raises:
        CollapsedError: embeddings that are all the same.
    """
    scale = Scale.of(subject.train.context)
    train, test = scale.apply(subject.train.context), scale.apply(subject.test.context)
    test = test[: PROTOCOL.samples]
    sources = {
        "gaussian": fit_gaussian(train, subject.seed),
        "kde": fit_kernel(train, subject.seed),
        "mixture": fit_mixture(train, subject.seed),
    }
    if subject.density is not None:
        sources["learned"] = _scaled(of_joint(subject.density), scale)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(subject.seed))[: len(test)]
    clouds = {"real": train[chosen]} | {name: s.sample(len(test), subject.seed) for name, s in sources.items()}
    images = subject.pictures()
    channels = images.shape[1]

    def trained() -> Classifier:
        return train_classifier(images, subject.train.labels, len(subject.classes))

    classifier = subject.shared("classifier", trained)
    decoder = train_decoder(train.float(), images, subject.seed)
    originals = small(subject.test.images[: len(test)])
    reference = classifier.features(originals)
    metrics: dict[str, float] = {f"nll.{name}": float(-s.log_prob(test).mean()) for name, s in sources.items()}
    artifacts: dict[str, Tensor] = {"sampling.pictures.original": _bytes(originals)}
    for name, cloud in clouds.items():
        pictures = decode(decoder, cloud, channels)
        artifacts[f"sampling.pictures.{name}"] = _bytes(pictures)
        covered = manifold_measures(test, cloud, min(PROTOCOL.neighbours, len(test) - 1))
        found = covered._asdict() | {
            "frechet": frechet_distance(test, cloud),
            "mmd": maximum_mean_discrepancy(test, cloud),
            "image_frechet": frechet_distance(reference, classifier.features(pictures)),
        }
        metrics |= {f"{measure}.{name}": value for measure, value in found.items()}
    return TaskResult(metrics, artifacts)


def _scaled(source: Source, scale: Scale) -> Source:
    """The source in scaled coordinates, whose log-density is corrected for the change of volume."""
    return Source(
        lambda count, seed: scale.apply(source.sample(count, seed)),
        lambda z: source.log_prob(z * scale.factor + scale.center) + z.shape[1] * math.log(scale.factor),
    )


def _bytes(pixels: Tensor) -> Tensor:
    return (255 * pixels[:_SHOWN]).round().clamp(0, 255).to(torch.uint8)
