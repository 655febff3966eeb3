"""The eight alignment tasks: small joint distributions on which a single answer, or a single Gaussian, is wrong.

Each has one or two dimensions a view and an exact conditional; :func:`make_truth` lifts them to more.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from gmje_bench.alignment.truths import BranchTruth, LatentTruth, LiftedTruth, Truth, drawn_by
from gmje_bench.errors import OptionError, did_you_mean
from gmje_core import GaussianMixture, JointGaussianMixture
from gmje_core.densities.covariance import SphericalCovariance

__all__ = ["TASKS", "Task", "make_truth"]

_PI = math.pi
# Half-width of a normal latent's quadrature, in standard deviations: 6e-7 of the mass is beyond.
_REACH = 5.0


class Task(NamedTuple):
    """One task.

    Attributes:
        name: The name that the command line takes.
        title: Words for tables and figures.
        summary: What is hard about the task.
        make: A function from a seed to the truth; only the random mixture depends on the seed.
        gaussian_mixture: Whether the joint is a Gaussian mixture.
        axes: Words for the axes of its picture, the first of the context where both views have one dimension, of
            the target otherwise.
        shown: Contexts at which its picture shows the target, where the target has two dimensions.
    """

    name: str
    title: str
    summary: str
    make: Callable[[int], Truth]
    gaussian_mixture: bool = False
    axes: tuple[str, str] = ("context", "target")
    shown: tuple[tuple[float, ...], ...] = ()


def make_truth(name: str, seed: int = 0, dim: int | None = None) -> Truth:
    """Make the truth of a task.

    Args:
        name: One of :data:`TASKS`.
        seed: Seed of the parameters of the random mixture and of the rotations of lifted tasks.
        dim: Lift both views to so many dimensions; ``None`` leaves the task's own one or two.

    Raises:
        OptionError: an unknown name, or a ``dim`` below 2.

    Examples:
        >>> truth = make_truth("ring")
        >>> truth.context_dim, truth.target_dim, make_truth("ring", dim=16).target_dim
        (1, 2, 16)
        >>> make_truth("rings")
        Traceback (most recent call last):
        gmje_bench.errors.OptionError: unknown alignment task 'rings'; did you mean ring? (choose from mixture, ...)
    """
    if name not in TASKS:
        raise OptionError(f"unknown alignment task {name!r}{did_you_mean(name, TASKS)}")
    if dim is not None and dim < 2:
        raise OptionError(f"tasks are lifted to at least 2 dimensions, got {dim}")
    truth = TASKS[name].make(seed)
    return truth if dim is None else LiftedTruth(truth, dim, seed=seed)


def _mixture(seed: int) -> Truth:
    """Four Gaussians on 2 + 2 dimensions that share contexts, each with its own cross block."""
    generator = torch.Generator().manual_seed(seed)
    components, half = 4, 2
    angles = 2 * _PI * (torch.arange(components).double() + torch.rand(components, generator=generator)) / components
    target = 2.5 * torch.stack([angles.cos(), angles.sin()], dim=1)
    context = 0.6 * torch.randn(components, half, generator=generator, dtype=torch.float64)
    # Given the context: z_t = target + gain (z_c - context) + noise.
    gains = 0.6 * torch.randn(components, half, half, generator=generator, dtype=torch.float64)
    factors = torch.eye(half).double() + 0.4 * torch.randn(
        components, half, half, generator=generator, dtype=torch.float64
    )
    noise = 0.35 * torch.eye(half).double() + 0.1 * torch.randn(
        components, half, half, generator=generator, dtype=torch.float64
    )
    lower = torch.cat([torch.cat([factors, torch.zeros_like(factors)], 2), torch.cat([gains @ factors, noise], 2)], 1)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
    joint = JointGaussianMixture.from_moments(weights, torch.cat([context, target], 1), lower @ lower.mT, half)
    return BranchTruth("mixture", half, lambda n, g: _draw(joint.context, n, g), joint.condition)


def _inverse_sine(seed: int) -> Truth:
    nodes, log_weights = _uniform_nodes(0.0, 1.0, 300)
    return LatentTruth(
        "inverse-sine",
        lambda n, g: torch.rand(n, 1, generator=g, dtype=torch.float64),
        (lambda t: t + 0.3 * torch.sin(2 * _PI * t), lambda t: t),
        nodes[:, None],
        log_weights,
        noise=(0.05, 0.02),
    )


def _crossing(seed: int) -> Truth:
    def conditional(context: Tensor) -> GaussianMixture:
        branch = torch.sin(_PI * context)
        return _gaussians(torch.zeros(2), torch.stack([branch, -branch], dim=1), 0.1)

    return BranchTruth("crossing", 1, lambda n, g: 2 * torch.rand(n, 1, generator=g).double() - 1, conditional)


def _two_moons(seed: int) -> Truth:
    arc, log_weights = _uniform_nodes(0.0, _PI, 200)

    def draw(count: int, generator: Generator) -> Tensor:
        moon = torch.randint(2, (count,), generator=generator).double()
        return torch.stack([moon, _PI * torch.rand(count, generator=generator, dtype=torch.float64)], dim=1)

    def points(latent: Tensor) -> tuple[Tensor, Tensor]:
        inner, angle = latent[:, 0] > 0.5, latent[:, 1]
        return (
            torch.where(inner, 1 - angle.cos(), angle.cos())[:, None],
            torch.where(inner, 0.5 - angle.sin(), angle.sin())[:, None],
        )

    nodes = torch.cartesian_prod(torch.arange(2).double(), arc)
    maps = (lambda u: points(u)[0], lambda u: points(u)[1])
    return LatentTruth("two-moons", draw, maps, nodes, log_weights.repeat(2), noise=(0.1, 0.1))


def _pinwheel(seed: int) -> Truth:
    arms, mean, deviation, rate = 5, 1.0, 0.25, 0.25
    radii, log_weights = _normal_nodes(mean, deviation, 600)

    def draw(count: int, generator: Generator) -> Tensor:
        arm = torch.randint(arms, (count,), generator=generator).double()
        radius = mean + deviation * torch.randn(count, generator=generator, dtype=torch.float64)
        return torch.stack([arm, radius], dim=1)

    def angle(latent: Tensor) -> Tensor:
        return 2 * _PI * latent[:, 0] / arms + rate * latent[:, 1].exp()

    maps = (
        lambda u: (u[:, 1] * angle(u).cos())[:, None],
        lambda u: (u[:, 1] * angle(u).sin())[:, None],
    )
    nodes = torch.cartesian_prod(torch.arange(arms).double(), radii)
    return LatentTruth("pinwheel", draw, maps, nodes, log_weights.repeat(arms), noise=(0.06, 0.06))


def _ring(seed: int) -> Truth:
    modes = 8
    places = 2 * _PI * torch.arange(modes).double() / modes
    logits = 0.5 * places.cos()

    def conditional(context: Tensor) -> GaussianMixture:
        angles = places + _PI / modes * context
        return _gaussians(logits, torch.stack([angles.cos(), angles.sin()], dim=2), 0.1)

    return BranchTruth("ring", 1, lambda n, g: 2 * torch.rand(n, 1, generator=g).double() - 1, conditional)


def _band(seed: int) -> Truth:
    def conditional(context: Tensor) -> GaussianMixture:
        deviation = 0.05 + 0.45 * torch.sigmoid(3 * context)
        return _gaussians(torch.zeros(1), torch.sin(2 * context).unsqueeze(1), deviation)

    return BranchTruth("band", 1, lambda n, g: 4 * torch.rand(n, 1, generator=g).double() - 2, conditional)


def _robot_arm(seed: int) -> Truth:
    """The place of the hand gives the two joint angles, elbow up or down; both are measured with noise."""
    first, second, deviations = 1.0, 0.8, (0.5, 1.0)
    shoulder, shoulder_weights = _normal_nodes(0.0, deviations[0], 100)
    elbow, elbow_weights = _normal_nodes(0.0, deviations[1], 135)

    def draw(count: int, generator: Generator) -> Tensor:
        return torch.randn(count, 2, generator=generator, dtype=torch.float64) * torch.tensor(deviations).double()

    def hand(angles: Tensor) -> Tensor:
        total = angles.sum(dim=1)
        return torch.stack(
            [
                first * angles[:, 0].cos() + second * total.cos(),
                first * angles[:, 0].sin() + second * total.sin(),
            ],
            dim=1,
        )

    def branches(context: Tensor) -> Tensor:
        """Both solutions of the law of cosines; one stretched or folded arm for a hand out of reach."""
        cosine = (context.square().sum(dim=1) - first**2 - second**2) / (2 * first * second)
        bend = cosine.clamp(-1, 1).acos()
        direction = torch.atan2(context[:, 1], context[:, 0])
        offset = torch.atan2(second * bend.sin(), first + second * bend.cos())
        down, up = torch.stack([direction - offset, bend], 1), torch.stack([direction + offset, -bend], 1)
        return torch.stack([down, torch.where(bend[:, None] > 0, up, math.nan)], dim=1)

    return LatentTruth(
        "robot-arm",
        draw,
        (hand, lambda angles: angles),
        torch.cartesian_prod(shoulder, elbow),
        (shoulder_weights[:, None] + elbow_weights).flatten(),
        noise=(0.08, 0.08),
        branches=branches,
    )


def _gaussians(logits: Tensor, means: Tensor, deviation: Tensor | float) -> GaussianMixture:
    """Spherical components ``(n, K, d)`` with a deviation for all, or ``(n, 1)`` of each context."""
    variance = torch.as_tensor(deviation, dtype=torch.float64).square().expand(len(means), 1)
    if isinstance(deviation, float):
        variance = variance[:1].squeeze(0)
    return GaussianMixture(logits.double(), means, SphericalCovariance(variance, means.shape[-1]))


def _draw(mixture: GaussianMixture, count: int, generator: Generator) -> Tensor:
    with drawn_by(generator):
        return mixture.sample((count,))


def _uniform_nodes(low: float, high: float, count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and log-weights of a uniform latent."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(low + (high - low) * (nodes + 1) / 2), torch.from_numpy(np.log(weights / 2))


def _normal_nodes(mean: float, deviation: float, count: int) -> tuple[Tensor, Tensor]:
    """Equidistant nodes and log-weights of a normal latent: the trapezoid sum of a smooth, vanishing integrand."""
    places = torch.linspace(-_REACH, _REACH, count, dtype=torch.float64)
    return mean + deviation * places, (-0.5 * places.square()).log_softmax(dim=0)


#: All tasks by name, in the order of tables and pictures.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "mixture",
            "random Gaussian mixture",
            "four overlapping contexts, each with its own linear answer",
            _mixture,
            gaussian_mixture=True,
            axes=("target 1", "target 2"),
            shown=((0.0, 0.0), (1.0, -1.0)),
        ),
        Task("inverse-sine", "inverse sine", "x = t + 0.3 sin(2 pi t) inverted: up to three answers", _inverse_sine),
        Task("crossing", "crossing branches", "two equally likely answers that meet and part", _crossing),
        Task("two-moons", "two moons", "one or two answers along two arcs", _two_moons),
        Task("pinwheel", "pinwheel", "up to three answers along five curved arms", _pinwheel),
        Task(
            "ring",
            "8-mode ring",
            "eight answers of unequal weight that turn with the context",
            _ring,
            axes=("target 1", "target 2"),
            shown=((0.0,),),
        ),
        Task("band", "heteroscedastic band", "one answer whose spread grows tenfold", _band),
        Task(
            "robot-arm",
            "two-link robot arm",
            "joint angles from the hand's place: elbow up or down",
            _robot_arm,
            axes=("shoulder angle [rad]", "elbow angle [rad]"),
            shown=((1.0, 0.0), (1.5, 0.5), (1.7, -0.4)),
        ),
    )
}
