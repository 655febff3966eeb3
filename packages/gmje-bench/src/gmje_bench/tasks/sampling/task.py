"""The task compares every source of samples with the test embeddings, beside the floor that real embeddings set."""

import math

import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.sampling.classifier import Classifier, small, train_classifier
from gmje_bench.tasks.sampling.conditional import conditional_pictures, to_bytes
from gmje_bench.tasks.sampling.decoder import decode, train_decoder
from gmje_bench.tasks.sampling.measures import frechet_distance, manifold_measures, maximum_mean_discrepancy
from gmje_bench.tasks.sampling.nearest import nearest_images
from gmje_bench.tasks.sampling.sources import FITTED, Source, of_joint
from gmje_bench.tasks.subject import PICTURE_SIDE, Subject, TaskResult

__all__ = ["sampling"]

_SHOWN = 16
# At most this share of the training images is kept from the decoder, for the floor; all sources have as many samples.
_ASIDE = 0.2


def sampling(subject: Subject) -> TaskResult:
    """Quality of samples of the learned density, and of three densities fitted to the same embeddings.

    The embeddings are those of random views, which densities are learned on, brought to zero mean and unit mean
    variance, so that methods of any scale compare. As many samples are drawn as there are test images, at most 2,000
    and a fifth of the training images. ``frechet``, ``precision``, ``recall``, ``density``, ``coverage`` and ``mmd``
    compare them with the test embeddings; ``nll`` is minus the mean log-density of the test embeddings, nats.

    A decoder draws the image, without augmentation, from the embedding of a view. In the features of a classifier,
    ``image_frechet`` compares decoded samples with the test images, and ``decoded_frechet`` with decoded embeddings of
    the views of the test images, which leaves out what the decoder lacks. ``nearest_frechet`` compares training images
    whose views are nearest to the samples with the test images: its floor is that of real images.

    The source ``real`` holds embeddings of training images that the decoder was not trained on: what a perfect density
    would reach.

    Args:
        subject: The encoder.

    Raises:
        CollapsedError: embeddings that are all the same.
    """
    scale = Scale.of(subject.train.context)
    train, target, test = (scale.apply(z) for z in (subject.train.context, subject.train.target, subject.test.context))
    test = test[: PROTOCOL.samples]
    sources = {name: fit(train, subject.seed) for name, fit in FITTED.items()}
    if subject.density is not None:
        sources["learned"] = _scaled(of_joint(subject.density), scale)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(subject.seed))
    count = min(len(test), max(2, round(_ASIDE * len(train))))
    aside, seen = order[:count], order[count:]
    clouds = {"real": train[aside]} | {name: s.sample(count, subject.seed) for name, s in sources.items()}
    images = subject.pictures()

    def trained(seed: int) -> Classifier:
        return train_classifier(images, subject.train.labels, len(subject.classes), seed)

    # The decoder must not be trained by the features that it is measured in.
    teacher = subject.shared("sampling.teacher", lambda: trained(1))
    views = torch.stack([train[seen], target[seen]]).float()
    decoder = train_decoder(views, images[seen], teacher.maps, subject.seed)
    classifier = subject.shared("classifier", lambda: trained(0))
    originals = small(subject.test.images.select(torch.arange(len(test))).reduced(PICTURE_SIDE))
    of_images = classifier.features(originals)
    of_decoded = classifier.features(decode(decoder, test, subject.seed))
    metrics: dict[str, float] = {f"nll.{name}": float(-s.log_prob(test).mean()) for name, s in sources.items()}
    artifacts: dict[str, Tensor] = {"sampling.pictures.original": to_bytes(originals[:_SHOWN])}
    for name, cloud in clouds.items():
        pictures = decode(decoder, cloud, subject.seed + 1)
        artifacts[f"sampling.pictures.{name}"] = to_bytes(pictures[:_SHOWN])
        features = classifier.features(pictures)
        nearest = seen[nearest_images(cloud, views, subject.seed)]
        of_nearest = classifier.features(small(images[nearest]))
        covered = manifold_measures(test, cloud, min(PROTOCOL.neighbours, len(cloud) - 1))
        found = covered._asdict() | {
            "frechet": frechet_distance(test, cloud),
            "mmd": maximum_mean_discrepancy(test, cloud),
            "image_frechet": frechet_distance(of_images, features),
            "decoded_frechet": frechet_distance(of_decoded, features),
            "nearest_frechet": frechet_distance(of_images, of_nearest),
        }
        metrics |= {f"{measure}.{name}": value for measure, value in found.items()}
    return TaskResult(metrics, artifacts | conditional_pictures(subject, decoder, scale))


def _scaled(source: Source, scale: Scale) -> Source:
    """The source in scaled coordinates, whose log-density is corrected for the change of volume."""
    return Source(
        lambda count, seed: scale.apply(source.sample(count, seed)),
        lambda z: source.log_prob(z * scale.factor + scale.center) + z.shape[1] * math.log(scale.factor),
    )
