"""Covariances that are diagonal in shared frames, against their own dense matrices."""

import pytest
import torch
from density_cases import Largest, Reads

from gmje_core.densities import blockwise
from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.covariance.framed import FramedCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import NonFiniteError, NotPositiveDefiniteError, ShapeError

pytestmark = pytest.mark.usefixtures("seeded")
# Frames, components of each of them and dimensions.
F, S, D = 3, 2, 4


def covariance(frames: int = F, shared: int = S, dim: int = D) -> FramedCovariance:
    """Frames that are neither orthogonal nor triangular."""
    frame = torch.randn(frames, dim, dim, dtype=torch.float64) + 2 * torch.eye(dim, dtype=torch.float64)
    return FramedCovariance(frame, torch.randn(frames, shared, dim, dtype=torch.float64).exp())


def mixtures(lead: tuple[int, ...], same_means: bool) -> tuple[GaussianMixture, GaussianMixture]:
    """A mixture with framed covariances, and the same one with full ones."""
    framed = covariance()
    means = torch.randn(*lead, F * S, D, dtype=torch.float64)
    if same_means:
        means = means[..., ::S, :].repeat_interleave(S, dim=-2)
    weights = torch.randn(*lead, F * S, dtype=torch.float64)
    full = FullCovariance.from_second_moments(framed.dense())
    return GaussianMixture(weights, means, framed), GaussianMixture(weights, means, full)


def test_dense_is_the_definition():
    framed = covariance()
    for index, dense in enumerate(framed.dense()):
        frame, variances = framed.frame[index // S], framed.variances[index // S, index % S]
        torch.testing.assert_close(dense, frame @ torch.diag(variances) @ frame.T)


def test_shape_diagonal_and_determinant():
    framed = covariance()
    dense = framed.dense()
    assert (framed.shape, framed.dim, framed.tied, framed.dtype) == ((F * S,), D, False, torch.float64)
    torch.testing.assert_close(framed.diagonal(), dense.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(framed.half_log_det(), 0.5 * torch.logdet(dense))


@pytest.mark.parametrize("chunk", [1, 40, 2**18])
@pytest.mark.parametrize("same_means", [True, False], ids=["same-means", "own-means"])
@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
class TestMixtures:
    def test_everything_is_that_of_full_covariances(self, lead, same_means, chunk, monkeypatch):
        monkeypatch.setattr(blockwise, "CHUNK", chunk)
        monkeypatch.setattr(blockwise, "ROWS", 3)
        mine, theirs = mixtures(lead, same_means)
        x = torch.randn(7, *lead, D, dtype=torch.float64)
        torch.testing.assert_close(mine.log_prob(x), theirs.log_prob(x))
        torch.testing.assert_close(mine.component_log_prob(x), theirs.component_log_prob(x))
        torch.testing.assert_close(mine.responsibilities(x), theirs.responsibilities(x))
        torch.testing.assert_close(mine.mean, theirs.mean)
        torch.testing.assert_close(mine.variance, theirs.variance)
        torch.testing.assert_close(mine.covariance_within, theirs.covariance_within)
        torch.testing.assert_close(mine.covariance_matrix, theirs.covariance_matrix)
        for dimensions in ([0], [3, 1]):
            part = x[..., dimensions]
            torch.testing.assert_close(
                mine.marginal(dimensions).log_prob(part), theirs.marginal(dimensions).log_prob(part)
            )
            rest = x[..., [i for i in range(D) if i not in dimensions]]
            torch.testing.assert_close(
                mine.condition(dimensions, part).log_prob(rest), theirs.condition(dimensions, part).log_prob(rest)
            )


def test_samples_have_the_moments_of_the_mixture():
    mixture, count = mixtures((3,), same_means=False)[0], 50_000
    x = mixture.sample((count,))
    error = mixture.variance.sqrt() / count**0.5
    assert ((x.mean(dim=0) - mixture.mean).abs() < 4.5 * error).all()
    centred = x - mixture.mean
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    off = (products.mean(dim=0) - mixture.covariance_matrix).abs()
    assert (off < 4.5 * products.std(dim=0) / count**0.5).all()
    assert mixture.sample((0,)).shape == (0, 3, D)


def test_noise_is_that_of_the_component_that_is_chosen():
    framed, count = covariance(), 40_000
    for component in (0, 1, 4):
        noise = framed.draw(torch.full((count,), component))
        products = noise.unsqueeze(-1) * noise.unsqueeze(-2)
        error = (products.mean(dim=0) - framed.dense()[component]).abs()
        assert (error < 4.5 * products.std(dim=0) / count**0.5).all()


def test_one_covariance_serves_all_components():
    tied = covariance(1, 1)
    assert tied.tied
    weights, x = torch.randn(5, dtype=torch.float64), torch.randn(7, D, dtype=torch.float64)
    for lead in ((), (7,)):
        means = torch.randn(*lead, 5, D, dtype=torch.float64)
        mine = GaussianMixture(weights, means, tied)
        theirs = GaussianMixture(weights, means, FullCovariance.from_second_moments(tied.dense()))
        torch.testing.assert_close(mine.log_prob(x), theirs.log_prob(x))
        torch.testing.assert_close(mine.covariance_matrix, theirs.covariance_matrix)
    assert mine.sample((2,)).shape == (2, 7, D)


def test_noise_is_added():
    framed, variance = covariance(), torch.arange(1.0, D + 1, dtype=torch.float64)
    torch.testing.assert_close(framed.add_diagonal(variance).dense(), framed.dense() + torch.diag(variance))


def test_made_as_full_covariances_are():
    second = covariance().dense()
    made = FramedCovariance.from_second_moments(second)
    assert made.shape == (F * S,)
    torch.testing.assert_close(made.dense(), second)
    sizes = FramedCovariance.unconstrained_sizes(D)
    values = {name: torch.randn(F, size, dtype=torch.float64) for name, size in sizes.items()}
    torch.testing.assert_close(
        FramedCovariance.from_unconstrained(values, D, scale=1.7, floor=0.01).dense(),
        FullCovariance.from_unconstrained(values, D, scale=1.7, floor=0.01).dense(),
    )
    assert FramedCovariance.parameter_count(D) == FullCovariance.parameter_count(D)
    again = FramedCovariance.from_parameters(made.parameters, D)
    assert torch.equal(again.dense(), made.dense())
    assert made.to(torch.float32).dtype == torch.float32


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_distances_are_differentiable_twice(lead, chunk, monkeypatch):
    monkeypatch.setattr(blockwise, "CHUNK", chunk)
    framed = covariance(2, 2, 3)
    x, means = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3), (*lead, 4, 3)))
    inputs = [tensor.detach().requires_grad_() for tensor in (x, means, *framed.parameters)]

    def function(x, means, *parameters):
        return framed.rebuild(*parameters).squared_mahalanobis(x, means)

    torch.autograd.gradcheck(function, inputs)
    torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("spread", [0.0, 100.0], ids=["common-offset", "spread-means"])
@pytest.mark.parametrize("own", [0.0, 100.0], ids=["same-means", "own-means"])
def test_float32_keeps_its_digits_at_an_offset(spread, own):
    basis, _ = torch.linalg.qr(torch.randn(8, 32, 32))
    framed = FramedCovariance(basis, torch.logspace(0, -2, 32) * (0.5 + torch.rand(8, 3, 32)))
    means = 100 + spread * torch.randn(8, 1, 32) + own * torch.randn(8, 3, 32)
    means = means.flatten(0, 1)
    x = means[torch.arange(96) % 24] + torch.randn(96, 32)
    mixture = GaussianMixture(torch.zeros(24), means, framed)
    error = (mixture.log_prob(x).double() - mixture.to(torch.float64).log_prob(x.double())).abs().max()
    assert error < 1e-2


def test_no_matrix_is_made_for_a_component():
    frames, shared, dim, rows = 4, 200, 48, 20
    framed = covariance(frames, shared, dim).to(torch.float32)
    means = torch.randn(rows, frames * shared, dim)
    with Largest() as largest:
        for lead in ((), (rows,)):
            mixture = GaussianMixture(torch.zeros(frames * shared), means if lead else means[0], framed)
            mixture.log_prob(torch.randn(rows, dim))
            mixture.sample()
            assert mixture.mean.shape == mixture.variance.shape == (*lead, dim)
            assert mixture.covariance_matrix.shape == (*lead, dim, dim)
    assert largest.elements <= means.numel()
    assert largest.elements < frames * shared * dim**2 / 2


def test_no_value_is_read_without_validation():
    framed = covariance()
    x, means = torch.randn(D).double(), torch.randn(F * S, D).double()
    with Reads() as reads:
        rebuilt = framed.rebuild(*framed.parameters)
        rebuilt.squared_mahalanobis(x, means)
        rebuilt.squared_mahalanobis(x, means.expand(3, -1, -1))
        rebuilt.half_log_det()
        rebuilt.weighted_sum(torch.ones(F * S).double())
        rebuilt.marginal([2, 1]).dense()
        rebuilt.conditional([0, 1], [2, 3]).covariance.diagonal()
        rebuilt.add_diagonal(torch.tensor(0.5)).dense()
        rebuilt.draw(torch.zeros(4, dtype=torch.long))
    assert reads.names == []


@pytest.mark.parametrize(
    ("frame", "variances", "error", "text"),
    [
        (torch.eye(2), torch.ones(1, 1, 2), ShapeError, r"\(F, D, D\) and \(F, S, D\), but have \(2, 2\) and"),
        (torch.eye(2)[None], torch.ones(1, 2), ShapeError, r"\(1, 2, 2\) and \(1, 2\)"),
        (torch.eye(2)[None], torch.ones(2, 1, 2), ShapeError, r"\(2, 1, 2\)"),
        (torch.ones(1, 2, 3), torch.ones(1, 1, 3), ShapeError, r"\(1, 2, 3\)"),
        (torch.eye(2)[None], torch.ones(1, 1, 3), ShapeError, r"\(1, 1, 3\)"),
        (torch.full((1, 2, 2), torch.nan), torch.ones(1, 1, 2), NonFiniteError, "frame"),
        (torch.eye(2)[None], torch.full((1, 1, 2), torch.inf), NonFiniteError, "variances"),
        (torch.eye(2)[None], -torch.ones(1, 3, 2), NotPositiveDefiniteError, "variances must be positive.*-1"),
        (torch.stack([torch.eye(2), torch.ones(2, 2)]), torch.ones(2, 1, 2), NotPositiveDefiniteError, "component 1"),
        (
            torch.tensor([[[0.1, 0.3], [0.2, 0.6]]]).double(),
            torch.ones(1, 1, 2),
            NotPositiveDefiniteError,
            "invertible",
        ),
    ],
)
def test_bad_parameters(frame, variances, error, text):
    with pytest.raises(error, match=text):
        FramedCovariance(frame, variances)
