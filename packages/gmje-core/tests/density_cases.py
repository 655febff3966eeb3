"""Covariances, mixtures and joint densities that several test modules share, and the checks that they share."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gmje_core.densities.covariance import (
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
)
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture

TYPES = ["full", "low_rank", "diag", "spherical"]
# Dimensions and rank of the covariances that `make` gives by default.
D, RANK = 6, 2


def make(kind, lead, dim=D, rank=RANK, seed=0, dtype=torch.float64):
    """A random covariance of a type, with leading shape ``lead``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*lead, *shape, generator=generator, dtype=torch.float64).to(dtype)

    if kind == "full":
        return FullCovariance(0.5 * normal(dim, dim).tril(-1) + torch.diag_embed(normal(dim).exp()))
    if kind == "low_rank":
        return LowRankCovariance(normal(dim, rank), normal(dim).exp())
    return DiagonalCovariance(normal(dim).exp()) if kind == "diag" else SphericalCovariance(normal().exp(), dim)


def random_covariance(kind, components, dim, condition=10.0, seed=0):
    """A float64 covariance whose condition number is about the one asked for."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(components, *shape, generator=generator, dtype=torch.float64)

    basis, _ = torch.linalg.qr(normal(dim, dim))
    values = condition ** -torch.linspace(0, 1, dim, dtype=torch.float64)
    if kind == "full":
        scale = normal(1).exp()[..., None]
        return FullCovariance(torch.linalg.cholesky(scale * (basis * values) @ basis.mT))
    if kind == "low_rank":
        rank = max(1, dim // 2)
        return LowRankCovariance(basis[..., :rank], (0.5 + normal(dim).sigmoid()) / condition)
    if kind == "diag":
        return DiagonalCovariance(values[torch.stack([torch.randperm(dim, generator=generator) for _ in normal()])])
    return SphericalCovariance(normal().exp(), dim)


def random_joint(kind="full", components=3, dims=(2, 3), condition=10.0, tied=False, seed=0):
    """A joint density, and pairs drawn from it."""
    generator = torch.Generator().manual_seed(100 + seed)
    dim = sum(dims)
    density = JointGaussianMixture(
        torch.randn(components, generator=generator, dtype=torch.float64),
        torch.randn(components, dim, generator=generator, dtype=torch.float64),
        random_covariance(kind, 1 if tied else components, dim, condition, seed),
        context_dim=dims[0],
    )
    torch.manual_seed(seed)
    return density, *density.sample((11,))


def scaled_covariance(kind, components=3, dim=5, scale=1.0):
    """Float64 covariances with variances of about ``scale``, different in every component."""
    sizes = scale * torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)[torch.arange(components) % 3]
    if kind == "spherical":
        return SphericalCovariance(sizes, dim)
    variance = sizes[:, None] * (0.5 + torch.rand(components, dim, dtype=torch.float64))
    if kind == "diag":
        return DiagonalCovariance(variance)
    factor = sizes.sqrt()[:, None, None] * torch.randn(components, dim, 2, dtype=torch.float64)
    if kind == "low_rank":
        return LowRankCovariance(factor, variance)
    return FullCovariance.from_second_moments(factor @ factor.mT + torch.diag_embed(variance))


def mixture_of(kind, components=3, dim=5, scale=1.0):
    means = 2 * math.sqrt(scale) * torch.randn(components, dim, dtype=torch.float64)
    return GaussianMixture(
        torch.randn(components, dtype=torch.float64), means, scaled_covariance(kind, components, dim, scale)
    )


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operator returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


class Reads(TorchDispatchMode):
    """Records the operators that read a value of a tensor: on a GPU, the program waits for each of them."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def parameters_of(mixture, indices=slice(None)):
    """Weights, means and dense covariances of chosen dimensions."""
    dense = mixture.covariance.dense().expand(mixture.components, -1, -1)
    return mixture.weights, mixture.means[:, indices], dense[:, indices][:, :, indices]


def assert_relative(actual, expected, tolerance):
    error = ((actual - expected).abs() / expected.abs().clamp_min(1)).max()
    assert error < tolerance, f"relative error {float(error):.1e} above {tolerance:.0e}"


def within_four(x, expected, count):
    """Means of samples within four standard errors."""
    error = (x.mean(dim=0) - expected).abs()
    assert (error <= 4 * x.std(dim=0) / count**0.5).all(), f"off by {float((error / x.std(dim=0)).max() * count**0.5)}"


def assert_mass_is_one(mixture, points=81):
    """Integrate one Gaussian over a grid in the axes of its own dense covariance."""
    dense = mixture.covariance.dense()[0].double()
    values, vectors = torch.linalg.eigh(dense)
    axis = torch.linspace(-7, 7, points, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[axis] * mixture.dim, indexing="ij"), dim=-1).flatten(0, -2)
    x = mixture.means[0].double() + grid * values.sqrt() @ vectors.T
    cell = (axis[1] - axis[0]) ** mixture.dim * values.prod().sqrt()
    mass = float(mixture.to(torch.float64).log_prob(x).exp().sum() * cell)
    assert abs(mass - 1) < 1e-3


def assert_calibrated(mixture, x):
    """The mean squared Mahalanobis distance by responsibility is the dimension, within five standard errors."""
    distances = mixture.covariance.squared_mahalanobis(x, mixture.means)
    assert_mean_is((mixture.responsibilities(x) * distances).sum(dim=1), mixture.dim)


def assert_mean_is(values, expected):
    error = abs(float(values.mean()) - expected)
    assert error <= 5 * float(values.std()) / len(values) ** 0.5, f"{float(values.mean())} for {expected}"
