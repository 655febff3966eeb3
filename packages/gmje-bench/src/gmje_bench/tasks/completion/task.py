"""The task gives several answers for what a context does not show, and measures them beside single answers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gmje_bench.alignment.metrics import hpd_ranks
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.calibration import calibration_error
from gmje_bench.tasks.completion.measures import answers_in_like_contexts, errors, mean_pairwise_distance, roughness
from gmje_bench.tasks.completion.regression import train_regression
from gmje_bench.tasks.completion.views import Shown, shown
from gmje_bench.tasks.densities import Scale, conditional_log_prob
from gmje_bench.tasks.density.fits import FITS
from gmje_bench.tasks.sampling.conditional import of_different_classes, to_bytes
from gmje_bench.tasks.subject import Subject, TaskResult
from gmje_core.densities.joint import JointDensity
from gmje_core.seeds import seeded

__all__ = ["completion"]

_SHOWN = 8
# Contexts whose conditionals are held at a time.
_ROWS = 100
# Embeddings whose norms are this near to one are taken to lie on the unit sphere.
_TOLERANCE = 1e-3


def completion(subject: Subject) -> TaskResult:
    r"""Eight answers of a density for the pixels of the target, given the context, beside the one of a predictor.

    An answer is the expectation of the pixels given a sample of :math:`q(z_t \mid z_c)` and :math:`z_c`, by a
    least-squares network that is trained on the training images; so answers differ by what the density leaves open.
    Where views are masked, the pixels are those of the masked box. Kinds of answers are ``learned``, the density that
    answers (``scaled``, the same recipe fitted afterwards, for methods without one), ``gaussian``, one Gaussian on the
    same embeddings, ``predictor``, the one answer of least squares, ``true``, the answer for the true embedding, and
    ``real``, the pixels of the training images whose contexts are nearest. The predictor starts from what the method
    predicts of the target, if it predicts, and from the embedding of the context otherwise.

    - ``completion_best``: error of the best of eight answers, root mean square of pixels in [0, 1], mean over contexts.
    - ``completion_error``: error of one answer.
    - ``completion_wins``: share of contexts where the best of eight is nearer to the truth than the predictor.
    - ``completion_diversity``: mean distance of two of the eight, in the same units.
    - ``completion_sharpness``: mean difference of neighbouring pixels over that of the true pictures.
    - ``completion_nll``: minus the mean of :math:`\log q(z_t \mid z_c)`, nats, of embeddings at unit mean variance.
    - ``completion_calibration``: mean gap between nominal and actual coverage of its highest-density regions.

    Args:
        subject: The encoder, with its training pairs and the way its views were drawn.

    Raises:
        CollapsedError: embeddings that are all the same.
    """
    config = subject.views
    assert config is not None
    embeddings = _Embeddings.of(subject)
    train = subject.shared("completion.train", lambda: shown(subject.train, config, PROTOCOL.completion_images))
    test = subject.shared("completion.test", lambda: shown(subject.test, config))
    context, target = subject.train.context[train.rows], subject.train.target[train.rows]
    decoder = train_regression(embeddings.both(context, target), train.hidden(), subject.seed)
    predicted = _predicted(subject, context)
    units = Scale.of(predicted)
    predictor = train_regression(units.apply(predicted).float(), train.hidden(), subject.seed)
    context, target = subject.test.context, subject.test.target
    answers = {
        "predictor": predictor.expected(units.apply(_predicted(subject, context)))[:, None],
        "true": decoder.expected(embeddings.both(context, target))[:, None],
        "real": answers_in_like_contexts(
            test.context.flatten(1), train.context.flatten(1), train.hidden(), PROTOCOL.completions
        ),
    }
    metrics: dict[str, float] = {}
    choices: dict[str, float | str] = {}
    for kind, density in _densities(subject, choices):
        metrics |= {f"{name}.{kind}": value for name, value in _of_density(density, subject, embeddings).items()}
        samples = embeddings.samples(density, context, subject.seed)
        repeated = context[:, None].expand(-1, samples.shape[1], -1)
        answers[kind] = decoder.expected(embeddings.both(repeated, samples))
    return TaskResult(metrics | _of_answers(answers, test), _pictures(answers, test, subject.test.labels), choices)


@dataclass(frozen=True)
class _Embeddings:
    """The units of a subject's embeddings.

    Attributes:
        context: Scale of the contexts.
        target: Scale of the targets.
        on_sphere: Whether the targets have unit norm; samples are then brought to it.
    """

    context: Scale
    target: Scale
    on_sphere: bool

    @classmethod
    def of(cls, subject: Subject) -> "_Embeddings":
        train = subject.train
        on_sphere = bool((train.target.norm(dim=1) - 1).abs().max() < _TOLERANCE)
        return cls(Scale.of(train.context), Scale.of(train.target), on_sphere)

    def both(self, context: Tensor, target: Tensor) -> Tensor:
        """Context and target ``(..., d)`` each beside each other, ``(..., 2 d)``, at unit mean variance."""
        return torch.cat([self.context.apply(context), self.target.apply(target)], dim=-1).float()

    @torch.no_grad()
    def samples(self, density: JointDensity, context: Tensor, seed: int) -> Tensor:
        """Samples ``(n, 8, d)`` of the target for contexts ``(n, d)``."""
        parts = context.to(density.context.mean.dtype).split(_ROWS)
        with seeded(seed, density.context.mean.device):
            samples = torch.cat([density.condition(part).sample((PROTOCOL.completions,)) for part in parts], dim=1)
        samples = samples.transpose(0, 1)
        return F.normalize(samples, dim=-1) if self.on_sphere else samples


@torch.no_grad()
def _predicted(subject: Subject, context: Tensor) -> Tensor:
    """What least squares starts from: the method's own prediction of the target, or the context as it is."""
    return context if subject.predict is None else subject.predict(context)


def _densities(subject: Subject, choices: dict[str, float | str]) -> Iterator[tuple[str, JointDensity]]:
    """The density that answers, or the same recipe fitted afterwards, and one Gaussian; what was chosen is noted."""
    assert subject.pairs is not None
    fitted = ["gaussian"]
    if subject.density is not None:
        yield "learned", subject.density
    else:
        fitted.insert(0, "scaled")
    for kind in fitted:
        found = FITS[kind](subject.pairs, subject.seed)
        choices |= {f"completion_{kind}_{name}": float(value) for name, value in found.choices.items()}
        yield kind, found.density


def _of_density(density: JointDensity, subject: Subject, embeddings: _Embeddings) -> dict[str, float]:
    """Likelihood of all test targets and calibration of the conditional."""
    context, target = subject.test.context, subject.test.target
    rows = slice(0, PROTOCOL.conditional_pairs)
    with torch.no_grad():
        dtype = density.context.mean.dtype
        parts = zip(context.to(dtype).split(_ROWS), target.to(dtype).split(_ROWS), strict=True)
        log_prob = torch.cat([density.condition(c).log_prob(t).double() for c, t in parts])
    scores = conditional_log_prob(density, context[rows], target[rows], PROTOCOL.conditional_samples, subject.seed)
    ranks = hpd_ranks(*scores, Generator().manual_seed(subject.seed))
    return {
        "completion_nll": -float(log_prob.mean()) - target.shape[1] * math.log(embeddings.target.factor),
        "completion_calibration": calibration_error(ranks),
    }


def _of_answers(answers: dict[str, Tensor], test: Shown) -> dict[str, float]:
    """Measures of answers ``(n, S, P)`` by kind."""
    truth, shape = test.hidden(), test.cut(test.target).shape[1:]
    predicted = errors(answers["predictor"], truth)[:, 0]
    real = roughness(truth.unflatten(1, shape)).mean()
    metrics: dict[str, float] = {}
    for kind, pixels in answers.items():
        found = errors(pixels, truth)
        metrics[f"completion_error.{kind}"] = float(found.mean())
        if kind != "real" and real > 0:
            metrics[f"completion_sharpness.{kind}"] = float(roughness(pixels.unflatten(2, shape)).mean() / real)
        if pixels.shape[1] > 1:
            best = found.min(dim=1).values
            metrics[f"completion_best.{kind}"] = float(best.mean())
            metrics[f"completion_wins.{kind}"] = float((best < predicted).double().mean())
            metrics[f"completion_diversity.{kind}"] = float(mean_pairwise_distance(pixels).mean())
    return metrics


def _pictures(answers: dict[str, Tensor], test: Shown, labels: Tensor) -> dict[str, Tensor]:
    """Pictures of a few test images, as many classes as there are, chosen by a fixed seed: uint8.

    ``completion.context`` and ``.truth`` are ``(8, C, s, s)``; ``.answers.KIND`` ``(8, S, C, s, s)``.
    """
    rows = of_different_classes(labels, _SHOWN)
    every = torch.ones(test.context.shape[-2:], dtype=torch.bool)
    test.cut(every).fill_(False)
    whole = torch.where(every, test.context[rows], test.target[rows])
    found = {"context": test.context[rows], "truth": whole}
    found |= {f"answers.{kind}": test.completed(rows, pixels[rows]) for kind, pixels in answers.items()}
    return {f"completion.{name}": to_bytes(pictures) for name, pictures in found.items()}
