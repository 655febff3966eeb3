"""What all covariances share, against their own dense matrices: over tied and batched shapes, in bounded memory."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from density_cases import RANK, TYPES, D, Largest, Reads, assert_mass_is_one, make, mixture_of

from gmje_core.densities import blockwise
from gmje_core.densities.covariance import (
    COVARIANCE_TYPES,
    Conditional,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
    covariance_class,
    covariance_from_dense,
)
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError, ShapeError

pytestmark = pytest.mark.usefixtures("seeded")


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


@pytest.mark.parametrize("kind", TYPES)
def test_mass_behind_noise_is_one(kind):
    mixture = mixture_of(kind, components=1, dim=2)
    noisy = mixture.covariance.add_diagonal(torch.tensor([0.3, 0.7]).double())
    expected = mixture.covariance.dense() + torch.diag(torch.tensor([0.3, 0.7]).double())
    torch.testing.assert_close(noisy.dense(), expected)
    assert_mass_is_one(GaussianMixture(mixture.log_weights, mixture.means, noisy))


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


@pytest.mark.parametrize("kind", TYPES)
class TestFromUnconstrained:
    """Any real numbers give a covariance, which is that of the definition."""

    def values(self, kind, *lead):
        sizes = covariance_class(kind).unconstrained_sizes(D, RANK)
        return {name: torch.randn(*lead, size, dtype=torch.float64) for name, size in sizes.items()}

    @pytest.mark.parametrize("lead", [(4,), (7, 4)])
    def test_is_that_of_the_definition(self, kind, lead):
        values = self.values(kind, *lead)
        scale, floor = 1.7, 0.01
        covariance = covariance_class(kind).from_unconstrained(values, D, scale=scale, floor=floor)
        diagonal = torch.diag_embed((scale * (F.softplus(values["deviations"]) + floor)).expand(*lead, D))
        if kind == "full":
            rows, columns = torch.tril_indices(D, D, offset=-1)
            diagonal[..., rows, columns] = scale * values["off_diagonal"]
        expected = diagonal @ diagonal.mT
        if kind == "low_rank":
            factor = scale * values["factor"].view(*lead, D, RANK)
            expected = expected + factor @ factor.mT
        assert (covariance.covariance_type, covariance.shape, covariance.dim) == (kind, lead, D)
        torch.testing.assert_close(covariance.dense(), expected)

    def test_gradients_reach_every_number(self, kind):
        values = {name: value.requires_grad_() for name, value in self.values(kind, 2).items()}
        covariance = covariance_class(kind).from_unconstrained(values, D, scale=1.0, floor=0.01)
        covariance.dense().square().sum().backward()
        assert all((value.grad != 0).all() for value in values.values())

    def test_there_are_as_many_numbers_as_parameters(self, kind):
        sizes = covariance_class(kind).unconstrained_sizes(D, RANK)
        count = covariance_class(kind).parameter_count(D, RANK)
        rotations = RANK * (RANK - 1) // 2 if kind == "low_rank" else 0
        assert sum(sizes.values()) - rotations == count


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("lead", [(1,), (3,), (5, 3)])
def test_no_value_is_read_without_validation(kind, lead):
    source = make(kind, lead)
    values = {name: torch.randn(*lead, size) for name, size in source.unconstrained_sizes(D, RANK).items()}
    x, means = torch.randn(*lead[:-1], D).double(), torch.randn(3, D).double()
    with Reads() as reads:
        covariance = source.rebuild(*source.parameters)
        covariance.squared_mahalanobis(x, means)
        covariance.half_log_det()
        covariance.marginal([4, 1]).dense()
        covariance.conditional([0, 1], [2, 3, 4, 5]).covariance.diagonal()
        covariance.conditional([5, 1], [0, 2, 3, 4]).means(x[..., [5, 1]], means[:, [5, 1]], means[:, [0, 2, 3, 4]])
        covariance.add_diagonal(torch.tensor(0.5)).dense()
        covariance.draw(torch.zeros(4, *lead[:-1], dtype=torch.long))
        covariance_class(kind).from_unconstrained(values, D, scale=1.0, floor=0.1).dense()
        covariance_class(kind).from_second_moments(covariance.dense(), rank=RANK, validate=False).dense()
    assert reads.names == []
    with Reads() as reads:
        covariance_class(kind).from_second_moments(source.dense(), rank=RANK)
    assert reads.names  # the counter sees the checks


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_variance_is_that_of_every_dimension(kind, shape):
    covariance = make(kind, (3,))
    noisy = covariance.add_diagonal(torch.full(shape, 0.3).double())
    assert noisy.covariance_type == kind
    torch.testing.assert_close(noisy.dense(), covariance.dense() + 0.3 * torch.eye(D).double())


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_diagonals_of_second_moments_are_enough(kind):
    second = make("full", (3,)).dense()
    form = covariance_class(kind)
    assert form.diagonal_moments
    diagonals = form.from_second_moments(second.diagonal(dim1=-2, dim2=-1))
    assert torch.equal(diagonals.dense(), form.from_second_moments(second).dense())
    with pytest.raises(ShapeError, match=r"\(K, D\), but have \(2, 3, 6\)"):
        form.from_second_moments(torch.ones(2, 3, D))


def test_the_table_holds_every_form_by_its_name():
    assert list(COVARIANCE_TYPES) == TYPES
    for name, form in COVARIANCE_TYPES.items():
        assert form.covariance_type == name
        assert covariance_class(name) is form
    with pytest.raises(ConfigError, match="did you mean 'diag'"):
        covariance_class("diagg")


def test_covariances_are_immutable():
    covariance = make("diag", (2,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        covariance.variance = torch.ones(2, D)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make("spherical", (2,)).variance = torch.ones(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Conditional(covariance).encode = torch.ones(1)


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
        (lambda: LowRankCovariance.unconstrained_sizes(2), ConfigError, "needs a rank"),
        (lambda: covariance_from_dense(torch.eye(2)), ShapeError, r"\(2, 2\)"),
        (lambda: covariance_from_dense(-torch.eye(2)[None]), NotPositiveDefiniteError, "component 0"),
    ],
)
def test_bad_parameters(build, error, text):
    with pytest.raises(error, match=text):
        build()


@pytest.mark.parametrize("kind", TYPES)
def test_parameters_make_the_covariance_again(kind):
    covariance = make(kind, (4,))
    again = covariance_class(kind).from_parameters(covariance.parameters, covariance.dim)
    assert torch.equal(again.dense(), covariance.dense())
    with pytest.raises(ValueError, match="unpack"):
        covariance_class(kind).from_parameters((*covariance.parameters, covariance.parameters[0]), covariance.dim)
    broken = tuple(torch.full_like(tensor, torch.nan) for tensor in covariance.parameters)
    with pytest.raises(NonFiniteError):
        covariance_class(kind).from_parameters(broken, covariance.dim)
