"""The four covariances against their own dense matrices, over tied and batched shapes, and their bounds on memory."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gmje_core.densities import blockwise
from gmje_core.densities.covariance import (
    Conditional,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
    covariance_from_dense,
)
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError, ShapeError

TYPES = ["full", "low_rank", "diag", "spherical"]
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


def conditioned(kind, components, dim, condition):
    """Float32 covariances whose condition number is bounded."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(components, dim, dim, generator=generator))
    if kind == "full":
        values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), dim)
        return FullCovariance(torch.linalg.cholesky((basis * values) @ basis.mT))
    if kind == "low_rank":
        return LowRankCovariance(basis[..., :4] * condition**0.5, torch.ones(components, dim))
    variance = condition ** -torch.rand(components, dim, generator=generator)
    return DiagonalCovariance(variance) if kind == "diag" else SphericalCovariance(variance[:, 0], dim)


def distances(covariance, x, means):
    """The definition, by dense solves."""
    difference = x.unsqueeze(-2) - means
    solved = torch.linalg.solve(covariance.dense(), difference.unsqueeze(-1)).squeeze(-1)
    return (difference * solved).sum(dim=-1)


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


@pytest.mark.parametrize("lead", [(1,), (4,), (3, 4), (3, 1), (2, 1, 4)])
@pytest.mark.parametrize("kind", TYPES)
class TestAgainstDense:
    def test_shape_diagonal_and_determinant(self, kind, lead):
        covariance = make(kind, lead)
        dense = covariance.dense()
        assert (covariance.shape, covariance.dim, covariance.covariance_type) == (lead, D, kind)
        assert covariance.tied == (lead[-1] == 1)
        assert dense.shape == (*lead, D, D)
        torch.testing.assert_close(covariance.diagonal(), dense.diagonal(dim1=-2, dim2=-1))
        torch.testing.assert_close(covariance.half_log_det(), 0.5 * torch.logdet(dense))

    @pytest.mark.parametrize("chunk", [1, 40, 2**18])
    @pytest.mark.parametrize("sample", [(), (5,), (2, 5)])
    def test_squared_mahalanobis(self, kind, lead, sample, chunk, monkeypatch):
        monkeypatch.setattr(blockwise, "CHUNK", chunk)
        monkeypatch.setattr(blockwise, "ROWS", 3)
        covariance = make(kind, lead)
        means = torch.randn(4, D, dtype=torch.float64)
        x = torch.randn(*sample, *lead[:-1], D, dtype=torch.float64)
        torch.testing.assert_close(
            covariance.squared_mahalanobis(x, means), distances(covariance, x, means), rtol=1e-9, atol=1e-10
        )

    @pytest.mark.parametrize("indices", [[0, 1], [2, 3, 4], [5, 0, 3]])
    def test_marginal(self, kind, lead, indices):
        covariance = make(kind, lead)
        expected = covariance.dense()[..., indices, :][..., indices]
        torch.testing.assert_close(covariance.marginal(indices).dense(), expected)

    @pytest.mark.parametrize(
        ("given", "free"), [([0, 1], [2, 3, 4, 5]), ([2, 5, 3], [4, 0, 1]), ([1, 2, 3, 4, 5], [0])]
    )
    def test_conditional(self, kind, lead, given, free):
        covariance = make(kind, lead)
        dense = covariance.dense()
        block = lambda rows, columns: dense[..., rows, :][..., columns]  # noqa: E731
        gain = torch.linalg.solve(block(given, given), block(given, free)).mT
        conditional = covariance.conditional(given, free)
        torch.testing.assert_close(
            conditional.covariance.dense(), block(free, free) - gain @ block(given, free), rtol=1e-9, atol=1e-10
        )
        assert conditional.covariance.covariance_type == kind
        means = torch.randn(*lead[:-1], 4, D, dtype=torch.float64)
        values = torch.randn(7, *lead[:-1], len(given), dtype=torch.float64)
        difference = values.unsqueeze(-2) - means[..., given]
        expected = means[..., free] + (gain @ difference.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(conditional.means(values, means[..., given], means[..., free]), expected)

    def test_noise_has_the_covariance_of_its_component(self, kind, lead):
        covariance = make(kind, lead, seed=3)
        torch.manual_seed(0)
        count = 40_000
        dense = covariance.dense().expand(*lead[:-1], 4, D, D)
        for component in (0, 3):
            noise = covariance.draw(torch.full((count, *lead[:-1]), component))
            products = noise.unsqueeze(-1) * noise.unsqueeze(-2)
            error = (products.mean(dim=0) - dense[..., component, :, :]).abs()
            assert (error < 4.5 * products.std(dim=0) / count**0.5).all()
            assert (noise.mean(dim=0).abs() < 4.5 * noise.std(dim=0) / count**0.5).all()

    def test_conversion_keeps_the_form(self, kind, lead):
        covariance = make(kind, lead)
        assert covariance.to(torch.float32).dtype == torch.float32
        assert torch.equal(covariance.detach().dense(), covariance.dense())
        assert torch.equal(covariance.rebuild(*covariance.parameters).dense(), covariance.dense())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_distances_are_differentiable_twice(kind, tied, chunk, monkeypatch):
    monkeypatch.setattr(blockwise, "CHUNK", chunk)
    covariance = make(kind, (1,) if tied else (3,), dim=3, rank=1)
    x, means = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    inputs = [t.detach().requires_grad_() for t in (x, means, *covariance.parameters)]

    def function(x, means, *parameters):
        parameters = [p.tril() for p in parameters] if kind == "full" else parameters
        return covariance.rebuild(*parameters).squared_mahalanobis(x, means)

    torch.autograd.gradcheck(function, inputs)
    torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("kind", TYPES)
def test_distances_in_chunks_never_hold_rows_times_components_times_dim(kind):
    batch, components, dim = 1024, 256, 32
    covariance = make(kind, (components,), dim=dim, dtype=torch.float32)
    leaves = [t.detach().requires_grad_() for t in covariance.parameters]
    x, means = torch.randn(batch, dim, requires_grad=True), torch.randn(components, dim, requires_grad=True)
    with Largest() as largest:
        covariance.rebuild(*leaves).squared_mahalanobis(x, means).sum().backward()
    # The result, its chunk, or the factors: nothing comes near B x K x D = 8.4 million.
    assert largest.elements <= max(blockwise.CHUNK, 2 * batch * components, components * dim**2)
    assert largest.elements < batch * components * dim / 10


def test_low_rank_never_builds_a_square_matrix():
    dim, context = 20_000, 12_000
    covariance = make("low_rank", (3,), dim=dim, rank=4, dtype=torch.float32)
    means, x = torch.randn(3, dim), torch.randn(5, dim)
    mixture = GaussianMixture(torch.zeros(3), means, covariance)
    with Largest() as largest:
        posterior = mixture.condition(range(context), x[:, :context])
        conditional = posterior.log_prob(x[:, context:])
        marginal = mixture.marginal(range(context)).log_prob(x[:, :context])
        joint = mixture.log_prob(x)
        posterior.sample((2,))
        assert posterior.variance.shape == (5, dim - context)
    assert largest.elements <= 2**21  # a square matrix would hold 4e8
    assert posterior.covariance.covariance_type == "low_rank"
    torch.testing.assert_close(conditional + marginal, joint, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("spread", [0.0, 100.0], ids=["common-offset", "spread-means"])
def test_float32_keeps_its_digits_at_an_offset(kind, spread):
    covariance = conditioned(kind, 8, 32, condition=100.0)
    generator = torch.Generator().manual_seed(1)
    means = 100 + spread * torch.randn(8, 32, generator=generator)
    x = means[torch.arange(64) % 8] + torch.randn(64, 32, generator=generator)
    mixture = GaussianMixture(torch.zeros(8), means, covariance)
    error = (mixture.log_prob(x).double() - mixture.to(torch.float64).log_prob(x.double())).abs().max()
    assert error < 1e-2


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize("tied", [False, True])
def test_from_dense_recovers_its_own_kind(kind, tied):
    source = make(kind, (3,), seed=5).dense()
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    covariance = covariance_from_dense(source, kind, tied=tied, weights=weights)
    assert covariance.covariance_type == kind
    assert covariance.shape == ((1,) if tied else (3,))
    expected = (weights[:, None, None] * source).sum(dim=0, keepdim=True) if tied else source
    torch.testing.assert_close(covariance.dense(), expected, rtol=0, atol=1e-12)


def divergence(source, fitted):
    """KL of centred Gaussians from dense matrices to a covariance, nats."""
    trace = torch.linalg.solve(fitted.dense(), source).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return 0.5 * (trace - source.shape[-1] - torch.logdet(source)) + fitted.half_log_det()


def test_low_rank_from_dense_is_factor_analysis():
    source = make("low_rank", (20,), dim=12, seed=5).dense()
    fitted = covariance_from_dense(source, "low_rank", rank=RANK)
    assert fitted.rank == RANK
    torch.testing.assert_close(fitted.diagonal(), source.diagonal(dim1=-2, dim2=-1))
    assert divergence(source, fitted).max() < 1e-3
    # One factor too few: worse than the right number, better than none, and still keeps the variances.
    short = covariance_from_dense(source, "low_rank", rank=1)
    torch.testing.assert_close(short.diagonal(), source.diagonal(dim1=-2, dim2=-1))
    assert (divergence(source, short) > divergence(source, fitted)).all()
    assert (divergence(source, short) < divergence(source, covariance_from_dense(source, "diag"))).all()


def test_spherical_from_dense_is_spherical():
    covariance = covariance_from_dense(make("full", (3,)).dense(), "spherical")
    assert (covariance.diagonal() == covariance.diagonal()[:, :1]).all()


def test_covariances_are_immutable():
    covariance = make("diag", (2,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        covariance.variance = torch.ones(2, D)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make("spherical", (2,)).variance = torch.ones(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Conditional(covariance).encode = torch.ones(1)


def test_no_factor_goes_stale():
    scale_tril = torch.eye(2).repeat(2, 1, 1)
    covariance = FullCovariance(scale_tril)
    x, means = torch.ones(1, 2), torch.zeros(2, 2)
    before = covariance.squared_mahalanobis(x, means)
    scale_tril.mul_(2)
    torch.testing.assert_close(covariance.squared_mahalanobis(x, means), before / 4)


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: FullCovariance(torch.eye(2)), ShapeError, r"\(\.\.\., K, D, D\).*\(2, 2\)"),
        (lambda: FullCovariance(torch.ones(1, 2, 2)), NotPositiveDefiniteError, "lower triangular"),
        (lambda: FullCovariance(-torch.eye(2)[None]), NotPositiveDefiniteError, "diagonal of scale_tril.*-1"),
        (lambda: FullCovariance(torch.full((1, 2, 2), torch.nan)), NonFiniteError, "scale_tril"),
        (lambda: LowRankCovariance(torch.ones(1, 3, 1), torch.ones(1, 2)), ShapeError, r"\(1, 3, 1\) and \(1, 2\)"),
        (lambda: LowRankCovariance(torch.ones(1, 2, 1), torch.zeros(1, 2)), NotPositiveDefiniteError, "component: 0"),
        (lambda: DiagonalCovariance(torch.ones(3)), ShapeError, r"\(3,\)"),
        (lambda: DiagonalCovariance(torch.tensor([[1.0], [-2.0]])), NotPositiveDefiniteError, "-2.*component: 1"),
        (lambda: DiagonalCovariance(torch.tensor([[torch.inf]])), NonFiniteError, "variance"),
        (lambda: SphericalCovariance(torch.tensor([1.0, 0.0]), 3), NotPositiveDefiniteError, "component: 1"),
        (lambda: SphericalCovariance(torch.tensor([1.0]), 0), ShapeError, "at least 1"),
        (lambda: covariance_from_dense(torch.eye(2)[None], "ful"), ConfigError, "did you mean 'full'"),
        (lambda: covariance_from_dense(torch.eye(2)[None], "low_rank"), ConfigError, "needs a rank"),
        (lambda: covariance_from_dense(torch.eye(2)[None], "low_rank", rank=3), ConfigError, "between 1 and D = 2"),
        (lambda: covariance_from_dense(torch.eye(2)), ShapeError, r"\(2, 2\)"),
        (lambda: covariance_from_dense(-torch.eye(2)[None]), NotPositiveDefiniteError, "component 0"),
    ],
)
def test_bad_parameters(build, error, text):
    with pytest.raises(error, match=text):
        build()
