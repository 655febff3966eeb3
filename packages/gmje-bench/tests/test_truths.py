"""The truths of the synthetic tasks against independent integrals."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from truth_factories import ALL, KOLMOGOROV, generator, normal, pairs

from gmje_bench.alignment import metrics
from gmje_bench.alignment.tasks import make_truth
from gmje_bench.alignment.truths import LiftedTruth


@pytest.mark.parametrize("name", ALL)
def test_conditionals_integrate_to_one(name):
    truth = make_truth(name)
    context, target = truth.sample(2000, generator())
    reach = 4 * target.std(dim=0) + 1.5
    step = 0.05 if truth.target_dim == 2 else 0.004
    axes = [torch.arange(m - r, m + r, step).double() for m, r in zip(target.mean(dim=0), reach, strict=True)]
    grid = torch.cartesian_prod(*axes).view(-1, truth.target_dim)
    for row in context[: 1 if truth.target_dim == 2 else 5]:
        density = truth.log_prob(grid, row.expand(len(grid), -1)).exp()
        assert float(density.sum()) * step**truth.target_dim == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dim", [None, 5])
@pytest.mark.parametrize("name", ALL)
def test_pairs_conditional_samples_and_log_prob_agree(name, dim):
    """Pairs are drawn from the continuous latent, conditional samples from the quadrature: ranks must be uniform."""
    truth = make_truth(name, dim=dim)
    count, draws = 300, 60
    context, target = truth.sample(count, generator(1))
    samples = truth.sample_target(context, draws, generator(2))
    assert samples.shape == (draws, count, truth.target_dim)
    pit = metrics.pit_values(target, samples, generator(3))
    for column in pit.T:
        assert metrics.uniformity_error(column) < KOLMOGOROV / math.sqrt(count)
    rows = context.repeat(draws, 1)
    sample_log_prob = truth.log_prob(samples.reshape(-1, truth.target_dim), rows).view(draws, count)
    ranks = metrics.hpd_ranks(truth.log_prob(target, context), sample_log_prob, generator(4))
    assert metrics.uniformity_error(ranks) < KOLMOGOROV / math.sqrt(count)
    error = math.hypot(float(sample_log_prob.mean(0).std()), float(truth.log_prob(target, context).std()))
    gap = float(truth.log_prob(target, context).mean() - sample_log_prob.mean())  # both are minus the entropy
    assert abs(gap) < 4 * error / math.sqrt(count)
    assert (truth.mean(context) - samples.mean(dim=0)).abs().max() < 6 * samples.std(dim=0).max() / math.sqrt(draws)


def test_a_mixture_is_its_joint_minus_its_marginal():
    truth = make_truth("mixture", seed=3)
    context, target = truth.sample(50, generator())
    joint = truth._conditional.__self__  # the joint density that conditions
    means, covariances, weights = joint.means.numpy(), joint.covariance.dense().numpy(), joint.weights.numpy()
    z = torch.cat([context, target], dim=1).numpy()

    def density(points: np.ndarray, size: int) -> np.ndarray:
        parts = zip(weights, means, covariances, strict=True)
        return sum(w * stats.multivariate_normal(m[:size], c[:size, :size]).pdf(points) for w, m, c in parts)

    expected = np.log(density(z, 4)) - np.log(density(z[:, :2], 2))
    torch.testing.assert_close(truth.log_prob(target, context), torch.from_numpy(expected))
    assert np.abs(covariances[:, :2, 2:]).max(axis=(1, 2)).min() > 0.1, "cross blocks are not zero"
    assert not torch.equal(make_truth("mixture", seed=4).sample(3, generator())[0], context[:3]), "random by seed"


def test_branches_are_what_their_formulas_say():
    context, target = pairs("crossing", 40)
    context, target = context.double(), target.double()
    branch = torch.sin(math.pi * context)
    expected = torch.logaddexp(normal(target, branch, 0.1), normal(target, -branch, 0.1)) - math.log(2)
    torch.testing.assert_close(make_truth("crossing").log_prob(target, context), expected[:, 0])
    deviation = 0.05 + 0.45 / (1 + (-3 * context).exp())
    torch.testing.assert_close(
        make_truth("band").log_prob(target, context), normal(target, torch.sin(2 * context), deviation)[:, 0]
    )


def sine_latent(c: float, t: float) -> float:
    def joint(u: float) -> float:
        return stats.norm.pdf(c, u + 0.3 * math.sin(2 * math.pi * u), 0.05) * stats.norm.pdf(t, u, 0.02)

    return integrate.quad(joint, 0, 1, points=[min(max(t, 0), 1)], limit=400, epsabs=1e-13)[0]


def sine_context(c: float) -> float:
    def density(u: float) -> float:
        return stats.norm.pdf(c, u + 0.3 * math.sin(2 * math.pi * u), 0.05)

    return integrate.quad(density, 0, 1, points=list(np.linspace(0.1, 0.9, 9)), limit=400, epsabs=1e-13)[0]


def test_the_inverse_sine_is_an_adaptive_integral():
    context, target = pairs("inverse-sine", 12)
    rows = zip(context[:, 0].tolist(), target[:, 0].tolist(), strict=True)
    expected = [sine_latent(c, t) / sine_context(c) for c, t in rows]
    found = make_truth("inverse-sine").log_prob(target, context)
    torch.testing.assert_close(found, torch.tensor(expected).double().log(), rtol=1e-6, atol=1e-6)


def test_two_moons_are_an_adaptive_integral():
    def density(y: float | None, x: float) -> float:
        total = 0.0
        for inner in (False, True):

            def point(a: float, inner: bool = inner) -> float:
                px, py = (1 - math.cos(a), 0.5 - math.sin(a)) if inner else (math.cos(a), math.sin(a))
                return stats.norm.pdf(x, px, 0.1) * (1 if y is None else stats.norm.pdf(y, py, 0.1))

            total += integrate.quad(point, 0, math.pi, points=list(np.linspace(0.3, 2.8, 6)), limit=400)[0]
        return total

    context, target = pairs("two-moons", 8)
    rows = zip(context[:, 0].tolist(), target[:, 0].tolist(), strict=True)
    expected = torch.tensor([math.log(density(y, x) / density(None, x)) for x, y in rows]).double()
    torch.testing.assert_close(make_truth("two-moons").log_prob(target, context), expected, rtol=1e-6, atol=1e-6)


def test_the_robot_arm_is_a_finer_sum():
    context, target = pairs("robot-arm", 5)
    shoulder, elbow = np.linspace(-3, 3, 601)[:, None], np.linspace(-6, 6, 1201)[None]
    prior = stats.norm.pdf(shoulder, 0, 0.5) * stats.norm.pdf(elbow, 0, 1.0)
    x = np.cos(shoulder) + 0.8 * np.cos(shoulder + elbow)
    y = np.sin(shoulder) + 0.8 * np.sin(shoulder + elbow)
    expected = []
    for c, t in zip(context.double().numpy(), target.double().numpy(), strict=True):
        weight = prior * stats.norm.pdf(c[0], x, 0.08) * stats.norm.pdf(c[1], y, 0.08)
        kernel = stats.norm.pdf(t[0], shoulder, 0.08) * stats.norm.pdf(t[1], elbow, 0.08)
        expected.append(math.log((weight * kernel).sum() / weight.sum()))
    found = make_truth("robot-arm").log_prob(target, context)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["crossing", "ring"])
def test_lifting_adds_the_padding_and_nothing_else(name):
    base, lifted = make_truth(name), make_truth(name, dim=6)
    assert isinstance(lifted, LiftedTruth)
    context, target = lifted.sample(200, generator())
    low = lifted.project(target)
    rest = target.square().sum(dim=1) - low.square().sum(dim=1)  # a rotation keeps lengths
    size = 6 - base.target_dim
    padding = -0.5 * rest / 0.05**2 - size * math.log(0.05 * math.sqrt(2 * math.pi))
    expected = base.log_prob(low, lifted._base_context(context)) + padding
    torch.testing.assert_close(lifted.log_prob(target, context), expected)
    modes = base.modes(lifted._base_context(context))
    torch.testing.assert_close(lifted.project(lifted.modes(context)), modes, equal_nan=True)
    assert abs(float(rest.mean()) / (size * 0.05**2) - 1) < 0.2
    with pytest.raises(ValueError, match="at least 2"):
        LiftedTruth(make_truth("ring"), 1)


@pytest.mark.parametrize(("name", "context", "modes"), [
    ("crossing", [0.5], [[-1.0], [1.0]]),
    ("band", [0.7], [[math.sin(1.4)]]),
    ("inverse-sine", [0.5], [[0.23], [0.5], [0.77]]),
    ("ring", [1.0], [[math.cos(a), math.sin(a)] for a in math.pi / 8 * (2 * np.arange(8) + 1)]),
    ("robot-arm", [1.0, 0.0], [[0.83, -1.98], [-0.83, 1.98]]),
])  # fmt: skip
def test_modes_are_where_the_branches_are(name, context, modes):
    found = make_truth(name).modes(torch.tensor([context]))[0]
    found = found[~found.isnan().any(dim=1)]
    assert len(found) == len(modes)
    assert torch.cdist(found, torch.tensor(modes).double()).min(dim=0).values.max() < 0.1


def test_an_arm_out_of_reach_has_one_mode():
    truth = make_truth("robot-arm")
    assert int((~truth.modes(torch.tensor([[2.5, 0.0]]))[0].isnan().any(dim=1)).sum()) == 1
