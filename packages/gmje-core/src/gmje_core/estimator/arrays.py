"""Parameters of a mixture as arrays in scikit-learn's shapes, read and written."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, DiagonalCovariance, SphericalCovariance, covariance_class
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.estimation.em import CovarianceForm
from gmje_core.linalg import require_finite, safe_cholesky

__all__ = ["covariance_from_precisions", "covariances_array", "precisions_shape", "read_array"]


def covariances_array(covariance: Covariance, *, tied: bool) -> Tensor:
    """Covariances in the shape of scikit-learn's ``covariances_``.

    Args:
        covariance: Covariance of ``K`` components.
        tied: Whether one covariance is shared, so that the result has no ``K`` axis.

    Returns:
        ``(K, D, D)`` for ``full`` and ``low_rank``, ``(K, D)`` for ``diag`` and ``(K,)`` for ``spherical``; without
        ``K`` where tied.

    Examples:
        >>> covariances_array(DiagonalCovariance(torch.tensor([[1.0, 2.0]])), tied=True)
        tensor([1., 2.])
    """
    (array,) = covariance.parameters if covariance.axis_aligned else (covariance.dense(),)
    return array[0] if tied else array


def precisions_shape(form: CovarianceForm, components: int, dim: int) -> tuple[int, ...]:
    """Shape of the precisions of a form, which is that of its covariances.

    Examples:
        >>> precisions_shape(CovarianceForm("diag", False, 1, 0.0), components=3, dim=2)
        (3, 2)
    """
    matrix = {"diag": (dim,), "spherical": ()}.get(form.covariance_type, (dim, dim))
    return matrix if form.tied else (components, *matrix)


def covariance_from_precisions(precisions: Tensor, form: CovarianceForm, dim: int) -> Covariance:
    """Covariance with the given precisions.

    Args:
        precisions: Inverse covariances of the shape that :func:`precisions_shape` gives.
        form: Form of the covariance.
        dim: Dimension ``D``.

    Raises:
        ConfigError: the precisions are not positive or not symmetric.
        NotPositiveDefiniteError: a matrix of precisions is not positive definite.

    Examples:
        >>> covariance_from_precisions(torch.tensor([0.5, 0.25]), CovarianceForm("spherical", False, 1, 0.0), 3)
        SphericalCovariance(...)
    """
    if form.tied:
        precisions = precisions.unsqueeze(0)
    if form.diagonal:
        if bool((precisions <= 0).any()):
            raise ConfigError(f"precisions_init must be positive, but its least is {float(precisions.min()):.6g}")
        diagonal = form.covariance_type == "diag"
        return DiagonalCovariance(1 / precisions) if diagonal else SphericalCovariance(1 / precisions, dim)
    if not torch.allclose(precisions, precisions.mT):
        raise ConfigError("precisions_init must be symmetric matrices")
    if bool((precisions.diagonal(dim1=-2, dim2=-1) <= 0).any()):
        raise ConfigError("precisions_init must have positive diagonals")
    factor = safe_cholesky(precisions, name="precisions_init")
    return covariance_class(form.covariance_type).from_second_moments(torch.cholesky_inverse(factor), rank=form.rank)


def read_array(name: str, value: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Read an array that a user gives for a parameter.

    Args:
        name: Name of the option, for errors.
        value: Tensor, array or nested lists.
        shape: Shape that it must have.
        device: Device of the result.

    Returns:
        Float64 tensor of that shape.

    Raises:
        ConfigError: the value does not hold numbers.
        ShapeError: the value has another shape.
        NonFiniteError: the value holds NaN or infinity.

    Examples:
        >>> read_array("means_init", [[1, 2]], (1, 2), torch.device("cpu"))
        tensor([[1., 2.]], dtype=torch.float64)
    """
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        tensor = torch.from_numpy(np.array(array, dtype=np.float64)).to(device)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} must be an array of numbers of shape {shape}, got {value!r}") from error
    if tuple(tensor.shape) != shape:
        raise ShapeError(f"{name} must have shape {shape}, but has {tuple(tensor.shape)}")
    require_finite(name, tensor)
    return tensor
