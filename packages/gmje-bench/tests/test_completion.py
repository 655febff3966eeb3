"""Completing pictures: measures by definition, views as they were embedded, and a density with two known answers."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from gmje_bench.datasets.base import ResidentImages, Split
from gmje_bench.methods import Setting, build_objective
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import METRICS
from gmje_bench.tasks.completion import completion
from gmje_bench.tasks.completion.measures import answers_in_like_contexts, errors, mean_pairwise_distance, roughness
from gmje_bench.tasks.completion.views import shown
from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.subject import Embedded, Subject, TrainingPairs
from gmje_bench.views import TwoViews, ViewConfig, configured
from gmje_core import JointGaussianMixture
from gmje_core.errors import CollapsedError

SIDE, NOISE, STEP = 8, 0.05, 60.0
PLAIN = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": 0.0, "jitter_probability": 0.0}
HALVES = configured(SIDE, 1, PLAIN | {"masked": [0.5, 1.0, 0.0, 1.0]})


def randn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part(count: int, seed: int) -> Embedded:
    """Striped images whose lower half is lighter or darker than the upper one by a step, either as likely."""
    level, sign = randn(count, 1, seed=seed), randn(count, 1, seed=seed + 1).sign()
    lower = level / 6 + sign
    stripes = torch.tensor([1.0, 0.5]).repeat(SIDE // 2)
    rows = torch.cat([100 + STEP / 6 * level.expand(-1, 4), (100 + STEP * lower).expand(-1, 4)], dim=1)
    images = (rows[:, None, :, None] * stripes).round().clamp(0, 255).to(torch.uint8)
    context = torch.cat([level, randn(count, 1, seed=seed + 2)], dim=1)
    target = torch.cat([lower + NOISE * randn(count, 1, seed=seed + 3), randn(count, 1, seed=seed + 4)], dim=1)
    labels = torch.arange(count) % 2
    split = Split.whole(ResidentImages(images), labels)
    return Embedded(labels, context.float(), split, context.float(), context.float(), target.float())


def true_density() -> JointGaussianMixture:
    means = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0]]).double()
    covariance = torch.eye(4).double()
    covariance[0, 2] = covariance[2, 0] = 1 / 6
    covariance[2, 2] = 1 / 36 + NOISE**2
    return JointGaussianMixture.from_moments(torch.ones(2).double(), means, covariance.expand(2, -1, -1), 2)


def make_subject(**changes: object) -> Subject:
    train, test, held_out = part(600, 0), part(200, 10), part(100, 20)
    pairs = TrainingPairs(train.context, train.target, (held_out.context, held_out.target))
    subject = Subject("gmje", 0, ("a", "b"), train, test, {}, true_density(), pairs=pairs, views=HALVES)
    return dataclasses.replace(subject, **changes)


@pytest.fixture(scope="module")
def found():
    """What the task finds of the subject."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOL.__dict__, "regression_steps", 250)
        yield completion(make_subject())


# Measures


def test_measures_by_definition():
    answers, truth = randn(5, 4, 6, seed=0), randn(5, 6, seed=1)
    for i, j in itertools.product(range(5), range(4)):
        expected = math.sqrt(sum(float(a - b) ** 2 for a, b in zip(answers[i, j], truth[i], strict=True)) / 6)
        assert float(errors(answers, truth)[i, j]) == pytest.approx(expected, rel=1e-12)
    pairs = list(itertools.combinations(range(4), 2))
    for i in range(5):
        distances = [float((answers[i, a] - answers[i, b]).square().mean().sqrt()) for a, b in pairs]
        assert float(mean_pairwise_distance(answers)[i]) == pytest.approx(sum(distances) / len(pairs), rel=1e-9)
    picture = randn(2, 3, 4, seed=2)
    steps = [abs(float(p[r + 1, c] - p[r, c])) for p in picture for r in range(2) for c in range(4)]
    steps += [abs(float(p[r, c + 1] - p[r, c])) for p in picture for r in range(3) for c in range(3)]
    assert float(roughness(picture)) == pytest.approx(sum(steps) / len(steps), rel=1e-12)


def test_like_contexts_are_the_nearest_ones():
    asked, seen, shown_ = randn(7, 3, seed=0), randn(30, 3, seed=1), randn(30, 2, seed=2)
    found = answers_in_like_contexts(asked, seen, shown_, count=4)
    for i in range(7):
        order = (seen - asked[i]).square().sum(dim=1).argsort()[:4]
        assert torch.equal(found[i], shown_[order])


# Views


def test_pictures_are_of_the_views_that_were_embedded():
    train = part(600, 0)
    config = configured(SIDE, 1, {"masked": [0.25, 0.75, 0.5, 1.0]})
    found = shown(train, config)
    assert found.box == ((2, 6), (4, 8))
    assert torch.equal(found.rows, torch.arange(600))
    number = 1  # the second chunk of the features
    rows = torch.arange(600).split(PROTOCOL.feature_batch)[number]
    views = TwoViews(config, PROTOCOL.view_seed)(train.images[rows], epoch=0, step=number)
    for mine, view in zip((found.context, found.target), views, strict=True):
        pixels = view * torch.tensor(config.std)[:, None, None] + torch.tensor(config.mean)[:, None, None]
        torch.testing.assert_close(mine[rows], pixels, atol=0.51 / 255, rtol=0)


def test_some_chunks_stand_for_many_images():
    train = part(600, 0)
    every, some = shown(train, HALVES), shown(train, HALVES, largest=300)
    assert len(some.rows) in (100, 250)
    assert torch.equal(some.context, every.context[some.rows])
    assert torch.equal(some.hidden(), every.hidden()[some.rows])


def test_answers_fill_the_box_and_nothing_else():
    pictures = shown(part(9, 0), HALVES)
    rows, answers = torch.tensor([2, 5]), torch.rand(2, 3, SIDE * 4)
    found = pictures.completed(rows, answers)
    assert torch.equal(pictures.cut(found).flatten(2), answers)
    assert torch.equal(found[:, :, :, :4], pictures.context[rows, None, :, :4].expand(-1, 3, -1, -1, -1))
    assert torch.equal(pictures.context, shown(part(9, 0), HALVES).context), "the contexts themselves stay"


def test_views_that_are_not_masked_are_completed_as_a_whole():
    pictures = shown(part(9, 0), configured(SIDE, 1, {}))
    assert pictures.box == ((0, SIDE), (0, SIDE))
    assert pictures.hidden().shape == (9, SIDE * SIDE)


# The task


def test_two_answers_are_both_given(found):
    m = found.metrics
    assert set(m) <= {name for name, metric in METRICS.items() if metric.task == "completion"}
    step = STEP * math.sqrt((1 + 0.5**2) / 2) / 255  # of the striped half, root mean square
    assert m["completion_error.predictor"] == pytest.approx(step, rel=0.1), "the mean of two answers is a step away"
    assert m["completion_best.learned"] < 0.1 * step
    assert m["completion_best.learned"] < m["completion_best.gaussian"] < m["completion_error.predictor"]
    assert m["completion_wins.learned"] > 0.95
    assert m["completion_diversity.learned"] == pytest.approx(step, rel=0.15), "half of the pairs are two steps apart"
    assert m["completion_diversity.real"] == pytest.approx(step, rel=0.15)
    assert m["completion_error.true"] < 0.1 * step
    assert m["completion_sharpness.true"] == pytest.approx(1, abs=0.1)
    assert m["completion_calibration.learned"] < 0.06
    assert "completion_best.scaled" not in m


def test_likelihood_is_that_of_targets_at_unit_variance(found):
    subject, metrics = make_subject(), found.metrics
    test, scale = subject.test, Scale.of(subject.train.target)
    context, target = test.context.double(), test.target.double()
    density = true_density()
    log_prob = density.log_prob(context, target) - density.context.log_prob(context)
    expected = -float(log_prob.mean()) - target.shape[1] * math.log(scale.factor)
    assert metrics["completion_nll.learned"] == pytest.approx(expected, rel=1e-5)
    assert metrics["completion_nll.learned"] < metrics["completion_nll.gaussian"] - 0.5


def test_a_method_without_a_density_gets_the_recipe_and_its_own_prediction(found, monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "regression_steps", 250)
    asked = []

    def predict(z: Tensor) -> Tensor:
        asked.append(len(z))
        return z

    other = completion(make_subject(density=None, predict=predict)).metrics
    assert asked == [600, 200], "the training contexts, then those of the test images"
    assert "completion_best.learned" not in other
    assert other["completion_nll.scaled"] < other["completion_nll.gaussian"]
    same = (
        "completion_nll.gaussian",
        "completion_best.gaussian",
        "completion_error.predictor",
        "completion_error.true",
    )
    assert all(other[name] == found.metrics[name] for name in same), "numbers are a function of the seed"


def test_a_collapsed_prediction_is_an_error(monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "regression_steps", 2)
    with pytest.raises(CollapsedError):
        completion(make_subject(predict=torch.zeros_like))


def test_pictures_show_the_context_in_every_answer(found):
    pictures = {name.removeprefix("completion."): tensor for name, tensor in found.artifacts.items()}
    assert pictures["context"].shape == pictures["truth"].shape == (8, 1, SIDE, SIDE)
    assert pictures["answers.learned"].shape == (8, 8, 1, SIDE, SIDE)
    assert pictures["answers.predictor"].shape == (8, 1, 1, SIDE, SIDE)
    assert all(tensor.dtype == torch.uint8 for tensor in pictures.values())
    for name in ("learned", "gaussian", "predictor", "true", "real"):
        upper = pictures[f"answers.{name}"][:, :, :, :4]
        assert torch.equal(upper, pictures["context"][:, None, :, :4].expand_as(upper))
    assert torch.equal(pictures["truth"][:, :, :4], pictures["context"][:, :, :4])
    assert pictures["truth"][:, 0, 4:, 0].float().std() > 30, "the lower half is that of the target"


def test_a_picture_of_one_colour_has_no_sharpness(monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "regression_steps", 2)
    subject = make_subject()
    black = [
        Split.whole(ResidentImages(torch.zeros(len(p.labels), 1, SIDE, SIDE, dtype=torch.uint8)), p.labels)
        for p in (subject.train, subject.test)
    ]
    train, test = (
        dataclasses.replace(p, images=images) for p, images in zip((subject.train, subject.test), black, strict=True)
    )
    metrics = completion(dataclasses.replace(subject, train=train, test=test)).metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert not any("sharpness" in name for name in metrics)


@pytest.mark.parametrize("method", ["jepa", "byol", "simsiam"])
def test_predictors_say_what_they_expect(method):
    criterion = build_objective(method, Setting(4, 3), {}).criterion.eval()
    z = randn(5, 4, seed=0).float()
    assert torch.equal(criterion.predict(z), criterion.loss.predictor(z))


def test_a_box_is_checked_and_counted_in_whole_pixels():
    assert isinstance(HALVES, ViewConfig)
    assert configured(28, 1, {"masked": [0.0, 0.5, 0.25, 0.75]}).box == ((0, 14), (7, 21))
