"""Linear algebra: what is left untouched, what is repaired, and what is refused by name."""

import itertools
import warnings

import pytest
import torch
from density_cases import Reads

from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    GMJEError,
    JitterWarning,
    NonFiniteError,
    NotPositiveDefiniteError,
    ShapeError,
    unknown_name,
)
from gmje_core.linalg import (
    broadcast_shapes,
    cholesky_or_nan,
    full_precision,
    half_log_det,
    in_full_precision,
    inverse_softplus,
    promote,
    reorder_factor,
    require_finite,
    safe_cholesky,
    slice_or_list,
    triangular_inverse,
    whiten,
)


def factors(*lead, dim=5, condition=10.0, seed=0, dtype=torch.float64):
    """Lower factors of covariances with the given condition number."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(*lead, dim, dim, generator=generator, dtype=torch.float64))
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), dim, dtype=torch.float64)
    return torch.linalg.cholesky((basis * values) @ basis.mT).to(dtype)


class TestSafeCholesky:
    def test_equals_cholesky_where_it_exists(self):
        matrix = factors(3, 4) @ factors(3, 4).mT
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(safe_cholesky(matrix), torch.linalg.cholesky(matrix))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_jitter_reaches_only_members_that_fail(self, dtype):
        good = (factors(dim=3) @ factors(dim=3).mT).to(dtype)
        row = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype)
        singular = 1e4 * row.mT @ row - 1e4 * 3 * torch.finfo(dtype).eps * torch.eye(3, dtype=dtype)
        with pytest.warns(JitterWarning, match=r"1 of 3 members, first component 1"):
            factor = safe_cholesky(torch.stack([good, singular, good]))
        assert torch.equal(factor[0], torch.linalg.cholesky(good))
        assert torch.equal(factor[2], factor[0])
        error = (factor[1] @ factor[1].mT - singular).abs().max()
        assert error <= 1.1e4 * torch.finfo(dtype).eps * singular.diagonal().max()

    def test_indefinite_member_is_named(self):
        matrix = torch.eye(2).repeat(2, 3, 1, 1)
        matrix[1, 2, 0, 0] = -1
        with pytest.raises(NotPositiveDefiniteError, match=r"noise of component \(1, 2\).*eigenvalue is -1"):
            safe_cholesky(matrix, name="noise")

    def test_gradient_of_a_jittered_member_is_finite(self):
        row = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
        matrix = (row.mT @ row).requires_grad_()
        with pytest.warns(JitterWarning):
            half_log_det(safe_cholesky(matrix)).backward()
        assert matrix.grad.isfinite().all()

    def test_nan_and_shape(self):
        with pytest.raises(NonFiniteError, match="covariance must be finite"):
            safe_cholesky(torch.full((2, 2), torch.nan))
        with pytest.raises(ShapeError, match=r"\(2, 3\)"):
            safe_cholesky(torch.zeros(2, 3))


class TestCholeskyOrNan:
    def test_only_members_that_fail_are_nan_and_no_value_is_read(self):
        good = factors(dim=3) @ factors(dim=3).mT
        matrix = torch.stack([good, -good, good])
        with Reads() as reads:
            factor = cholesky_or_nan(matrix)
        assert reads.names == []
        assert torch.equal(factor[0], torch.linalg.cholesky(good))
        assert torch.equal(factor[2], factor[0])
        assert factor[1].isnan().all()

    def test_nan_stays_in_its_member(self):
        factor = cholesky_or_nan(torch.stack([torch.eye(2), torch.full((2, 2), torch.nan)]))
        assert torch.equal(factor[0], torch.eye(2))
        assert factor[1].isnan().all()

    def test_gradient_is_that_of_cholesky(self):
        root = factors(2, dim=3).requires_grad_()
        torch.autograd.gradcheck(lambda x: cholesky_or_nan(x @ x.mT), root)


@pytest.mark.parametrize("indices", [[0], [2, 3, 4], [0, 1], [2, 1], [0, 2]])
def test_a_slice_picks_what_the_list_does(indices):
    x = torch.arange(5)
    chosen = slice_or_list(indices)
    assert torch.equal(x[chosen], x[indices])
    assert isinstance(chosen, slice) == (indices in ([0], [2, 3, 4], [0, 1]))


@pytest.mark.parametrize("indices", [[0], [3], [0, 1, 2], [2, 0, 4], [4, 3, 2, 1, 0], [1, 3]])
def test_reordered_factor_is_that_of_the_reordered_covariance(indices):
    scale_tril = factors(3)
    factor = reorder_factor(scale_tril, indices)
    expected = (scale_tril @ scale_tril.mT)[..., indices, :][..., indices]
    torch.testing.assert_close(factor @ factor.mT, expected, rtol=1e-13, atol=1e-14)
    assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert not factor.triu(1).any()


def test_reordered_factor_keeps_float32_digits_at_condition_1e8():
    scale_tril = factors(8, dim=16, condition=1e8, dtype=torch.float32)
    order = list(range(15, -1, -1))
    factor = reorder_factor(scale_tril, order)
    assert factor.dtype == torch.float32
    truth = reorder_factor(scale_tril.double(), order)
    relative = (factor.double() - truth).diagonal(dim1=-2, dim2=-1) / truth.diagonal(dim1=-2, dim2=-1)
    assert relative.abs().max() < 1e-6


def test_reordered_factor_is_differentiable():
    raw = factors(2, dim=4)
    torch.autograd.gradcheck(lambda x: reorder_factor(x.tril(), [3, 0, 2]), raw.requires_grad_())


def test_inverse_and_whitening():
    scale_tril, x = factors(3), torch.randn(3, 7, 5, dtype=torch.float64)
    eye = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(triangular_inverse(scale_tril) @ scale_tril, eye)
    torch.testing.assert_close(whiten(x, scale_tril), x @ triangular_inverse(scale_tril).mT)
    torch.testing.assert_close(half_log_det(scale_tril), 0.5 * torch.logdet(scale_tril @ scale_tril.mT))


def test_broadcast_shapes_agrees_with_torch():
    shapes = [(), (1,), (3,), (2, 1), (2, 3), (1, 1, 3), (0,), (4, 1, 1)]
    for a, b in itertools.product(map(torch.Size, shapes), repeat=2):
        try:
            expected = torch.broadcast_shapes(a, b)
        except RuntimeError:
            with pytest.raises(ShapeError, match="must broadcast"):
                broadcast_shapes(a, b)
        else:
            assert broadcast_shapes(a, b) == expected


def test_full_precision_turns_autocast_off():
    a = torch.randn(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with full_precision("cpu"):
            assert torch.equal(a @ a, a @ a)
            assert (a @ a).dtype == torch.float32
    with full_precision("meta"):  # a device without autocast
        pass


def test_a_method_in_full_precision_has_autocast_off():
    class Square:
        device = torch.device("cpu")

        @in_full_precision
        def of(self, a, *, times=1):
            """Doc."""
            return times * (a @ a)

    a = torch.randn(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Square().of(a, times=2).to(torch.float32), 2 * Square().of(a))
        assert Square().of(a).dtype == torch.float32
    assert Square.of.__doc__ == "Doc."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([torch.bfloat16, torch.bfloat16], torch.float32),
        ([torch.float16, torch.float32], torch.float32),
        ([torch.bfloat16, torch.float64], torch.float64),
    ],
)
def test_promote(given, expected):
    assert {t.dtype for t in promote(*[torch.ones(2, dtype=d) for d in given])} == {expected}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_require_finite_names_the_first_bad_row(bad):
    x = torch.zeros(4, 3)
    x[2, 1] = bad
    with pytest.raises(NonFiniteError, match=rf"z must be finite, but holds {bad} in row 2 \(1 of 4"):
        require_finite("z", x)
    with pytest.raises(NonFiniteError, match=r"row \(1, 0\)"):
        require_finite("z", x.view(2, 2, 3))


def test_require_finite_accepts_finite_values_whose_sum_overflows():
    require_finite("z", torch.full((4,), torch.finfo(torch.float32).max))


def test_inverse_softplus():
    y = torch.logspace(-6, 2, 50, dtype=torch.float64)
    torch.testing.assert_close(torch.nn.functional.softplus(inverse_softplus(y)), y, rtol=1e-9, atol=0)
    with pytest.raises(NotPositiveDefiniteError, match="-1"):
        inverse_softplus(-1.0)


@pytest.mark.parametrize("error", [ShapeError, NonFiniteError, NotPositiveDefiniteError, BatchSizeError, ConfigError])
def test_errors_are_value_errors(error):
    assert issubclass(error, GMJEError)
    assert issubclass(error, ValueError)


def test_unknown_name_suggests_only_what_is_close():
    assert "did you mean 'spherical'?" in unknown_name("covariance_type", "sperical", ["full", "spherical"])
    assert "did you mean" not in unknown_name("covariance_type", "xyz", ["full", "spherical"])
