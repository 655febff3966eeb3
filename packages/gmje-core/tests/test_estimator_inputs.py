"""Embeddings of every kind: served with finite numbers in the caller's kind, or refused with a reason."""

import warnings

import numpy as np
import pytest
import torch
from estimator_cases import FORMS, clusters, estimator, finite, values_of

from gmje_core.errors import (
    BatchSizeError,
    ConvergenceWarning,
    GMJEError,
    InputTypeError,
    NonFiniteError,
    NotPositiveDefiniteError,
    ScaleWarning,
    ShapeError,
)


def spoiled(kind, rows=30):
    """A view with something wrong or odd in it."""
    z = np.random.default_rng(1).normal(size=(rows, 2))
    if kind in ("nan", "inf"):
        z[7, 1] = {"nan": np.nan, "inf": -np.inf}[kind]
    make = {
        "vector": lambda: z[:, 0],
        "cube": lambda: z[None],
        "scalar": lambda: 1.0,
        "none": lambda: None,
        "empty": lambda: z[:0],
        "no columns": lambda: z[:, :0],
        "object": lambda: z.astype(object),
        "text": lambda: z.astype(str),
        "complex": lambda: z.astype(complex),
        "ragged": lambda: [[1.0, 2.0], [3.0]],
        "masked": lambda: np.ma.masked_array(z),
        "sparse": lambda: torch.from_numpy(z).to_sparse(),
        "complex tensor": lambda: torch.from_numpy(z).to(torch.complex64),
        "too many": lambda: np.vstack([z, z]),
        "few": lambda: z[:2],
        "overflow": lambda: z * 1e200,
        "constant": lambda: np.full_like(z, 3.0),
        "constant column": lambda: z * [1.0, 0.0] + 1e8,
        "duplicates": lambda: np.repeat(z[:3], rows // 3, axis=0),
        "equal columns": lambda: z[:, [0, 0]],
        "huge": lambda: z * 1e8,
        "tiny": lambda: z * 1e-8,
        "integers": lambda: (5 * z).astype(int),
        "bytes": lambda: np.abs(5 * z).astype(np.uint8),
        "booleans": lambda: z > 0,
        "outlier": lambda: np.vstack([z[1:], [[1e6, -1e6]]]),
    }
    return make.get(kind, lambda: z)()


REFUSED = {
    "nan": (NonFiniteError, "must be finite in torch.float64, but holds nan in row 7"),
    "inf": (NonFiniteError, "holds -inf in row 7"),
    "vector": (ShapeError, r"must have shape \(N, d\) .* but has \(30,\); reshape\(-1, 1\)"),
    "cube": (ShapeError, r"but has \(1, 30, 2\)"),
    "scalar": (ShapeError, r"but has \(\)"),
    "none": (InputTypeError, "must hold real numbers, but is NoneType"),
    "empty": (ShapeError, "at least one row"),
    "no columns": (ShapeError, "one column"),
    "object": (InputTypeError, "dtype object: convert it first"),
    "text": (InputTypeError, "must hold real numbers"),
    "complex": (InputTypeError, "must hold real numbers, but is ndarray of dtype complex128"),
    "ragged": (InputTypeError, "NumPy cannot read it"),
    "masked": (InputTypeError, "masked array"),
    "sparse": (InputTypeError, "must be a dense tensor"),
    "complex tensor": (InputTypeError, "must be a dense tensor of real numbers"),
    "too many": (ShapeError, "same number of rows, one pair each, but hold"),
    "overflow": (NonFiniteError, "beyond what float64 can represent"),
}
SERVED = ["constant", "constant column", "duplicates", "equal columns", "huge", "tiny", "integers", "bytes", "booleans"]


@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("place", [0, 1])
class TestInputs:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_refused_with_a_reason(self, kind, place, batch_size):
        error, message = REFUSED[kind]
        views = [spoiled("fine"), spoiled("fine")]
        views[place] = spoiled(kind)
        with pytest.raises(error, match=message) as caught:
            estimator(batch_size=batch_size).fit(*views)
        assert isinstance(caught.value, GMJEError)
        if kind not in ("too many", "overflow"):
            assert ("Z_context", "Z_target")[place] in str(caught.value)

    @pytest.mark.parametrize("kind", ["nan", "vector", "none", "text", "ragged"])
    def test_refused_when_asked(self, kind, place, batch_size):
        views = [spoiled("fine"), spoiled("fine")]
        fitted = estimator(batch_size=batch_size).fit(*views)
        views[place] = spoiled(kind)
        error, message = REFUSED[kind]
        with pytest.raises(error, match=message):
            fitted.score_samples(*views)
        with pytest.raises(ShapeError, match=r"Z_context must have shape \(N, 2\) as when fitted, but has 3 columns"):
            fitted.predict(np.zeros((4, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("kind", [*SERVED, "outlier"])
@pytest.mark.parametrize(("form", "tied"), FORMS)
def test_odd_embeddings_are_served_with_finite_numbers(kind, form, tied, batch_size):
    views = [spoiled("fine"), spoiled("fine")]
    views[len(kind) % 2] = spoiled(kind)
    fitted = estimator(form, tied, batch_size=batch_size, max_iter=5).fit(*views)
    assert all(finite(value) for value in values_of(fitted, *views))
    assert np.isfinite([fitted.bic(*views), fitted.aic(*views), fitted.lower_bound_]).all()
    assert all(finite(view) for view in fitted.sample(10))
    assert (fitted.density_.covariance.diagonal() > 0).all()


def test_too_few_rows():
    z = spoiled("fine")
    with pytest.raises(BatchSizeError, match="30 pairs for n_components=31"):
        estimator(n_components=31).fit(z, z)
    with pytest.raises(BatchSizeError, match="there are 1 pairs"):
        estimator(n_components=1).fit(z[:1], z[:1])
    with pytest.warns(ConvergenceWarning):
        fitted = estimator(n_components=30, max_iter=1).fit(z, z**2)
    assert all(finite(value) for value in values_of(fitted, z, z))


def test_no_ridge_on_singular_embeddings_is_an_error():
    z = spoiled("constant")
    for kind, tied in FORMS:
        with pytest.raises(NotPositiveDefiniteError):
            estimator(kind, tied, n_components=1, reg_covar=0.0).fit(z, z)


def test_a_ridge_above_the_variance_warns():
    z_context, z_target = clusters()
    with pytest.warns(ScaleWarning, match="scale the embeddings, or lower reg_covar"):
        estimator().fit(1e-8 * z_context, 1e-8 * z_target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = estimator(reg_covar=1e-22).fit(1e-8 * z_context, 1e-8 * z_target)
    scaled = fitted.score(1e-8 * z_context, 1e-8 * z_target)
    assert scaled + 5 * np.log(1e-8) == pytest.approx(
        estimator().fit(z_context, z_target).score(z_context, z_target), abs=0.01
    )


class TestKinds:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
    def test_numpy_in_numpy_out(self, dtype):
        z = [(4 * view).astype(dtype) for view in clusters()]
        fitted = estimator().fit(*z)
        wanted = np.float32 if dtype in (np.float16, np.float32) else np.float64
        for value in (fitted.score_samples(*z), fitted.predict(z[0]), fitted.responsibilities(*z)):
            assert isinstance(value, np.ndarray)
            assert value.dtype == wanted
        for value in (*fitted.sample(2), fitted.weights_, fitted.means_, fitted.covariances_):
            assert isinstance(value, np.ndarray)
        assert isinstance(fitted.predict(torch.tensor(z[0])), torch.Tensor)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_torch_in_torch_out(self, dtype):
        z = [torch.from_numpy(view).to(dtype).requires_grad_() for view in clusters()]
        fitted = estimator(dtype="float32").fit(*z)
        assert fitted.density_.dtype == torch.float32
        for value in (fitted.score_samples(*z), fitted.predict(z[0]), fitted.responsibilities(*z)):
            assert isinstance(value, torch.Tensor)
            assert value.dtype == torch.promote_types(dtype, torch.float32)
            assert not value.requires_grad
        for value in (*fitted.sample(2), fitted.weights_, fitted.means_, fitted.covariances_):
            assert isinstance(value, torch.Tensor)
        assert z[0].requires_grad

    def test_lists_serve(self):
        z_context, z_target = clusters(50)
        fitted = estimator().fit(z_context.tolist(), z_target.tolist())
        np.testing.assert_array_equal(fitted.means_, estimator().fit(z_context, z_target).means_)

    def test_single_precision_is_close(self):
        z = clusters(2000)
        assert estimator(dtype="float32").fit(*z).score(*z) == pytest.approx(estimator().fit(*z).score(*z), abs=1e-3)

    def test_autocast_and_default_dtype_change_nothing(self):
        z = clusters()
        wanted = estimator().fit(*z).means_
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(estimator().fit(*z).means_, wanted)
