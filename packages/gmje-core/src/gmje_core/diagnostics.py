"""Gauges of a joint-embedding run, and verdicts: is the representation healthy, or does it collapse, and how?

The functions measure embeddings alone, so they serve any method; the criteria add gauges that need a density
(trace ratio, component usage), and :func:`judge` names the condition and what to change.

Gauges of embeddings are computed by NumPy in float64, so that torch is loaded only by who has tensors.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmje_core.errors import CollapsedError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "HEALTHY",
    "Verdict",
    "check_spread",
    "component_usage",
    "effective_rank",
    "embedding_diagnostics",
    "judge",
    "log_det_per_dim",
    "relative_spread",
    "trace_ratio",
]

# Thresholds of the verdicts. A collapsed run is orders of magnitude beyond them, not a few per cent.
SPREAD_FLOOR = 1e-3
RANK_FRACTION_FLOOR = 0.1
USAGE_FLOOR = 0.05
TRAP_TOLERANCE = 0.05
# A share of the energy that float32 cannot tell from none.
_ROUNDING = 1e-12


class Verdict(NamedTuple):
    """A named condition and one sentence saying what to change.

    Attributes:
        name: ``healthy``, ``trace trap``, ``dimensional collapse``, ``complete collapse`` or
            ``dead components``.
        advice: What to change; for a healthy run, that nothing need be.
    """

    name: str
    advice: str


HEALTHY = Verdict("healthy", "Nothing to change.")
TRACE_TRAP = Verdict(
    "trace trap",
    "The covariance is fitted on the batch that it scores, so its Mahalanobis term is constant and pulls no "
    "embedding: score each batch under a density that has not seen it (GJE(moments='running') or GMJE).",
)
COMPLETE_COLLAPSE = Verdict(
    "complete collapse",
    "All embeddings are nearly the same point: train the encoder on dependence (GJE, GMJE) rather than on "
    "likelihood, and lower the learning rate.",
)
DIMENSIONAL_COLLAPSE = Verdict(
    "dimensional collapse",
    "The embeddings fill few of their dimensions: lower the learning rate, enlarge the batch, use more "
    "components, or reduce the embedding size.",
)
DEAD_COMPONENTS = Verdict(
    "dead components",
    "Most components explain no sample: use fewer components, a larger batch, or let re-seeding replace them.",
)


def effective_rank(z: "Tensor") -> "Tensor":
    r"""Effective rank of centred embeddings: the exponential of the entropy of their singular values.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \sigma_i / \sum_j \sigma_j

    This is RankMe (Garrido et al., 2023) after Roy and Vetterli (2007), on embeddings with their mean
    removed, so that a common offset does not count as a dimension.

    Args:
        z: ``(B, d)``, any floating dtype.

    Returns:
        Scalar in ``[1, min(B - 1, d)]``, float64; 1 where every row is the same.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> effective_rank(z).round(decimals=6)
        tensor(2., dtype=torch.float64)
    """
    return _scalar(_effective_rank(_checked(z)))


def log_det_per_dim(z: "Tensor", floor: float = 1e-8) -> "Tensor":
    r"""Log-volume of the embeddings per dimension: :math:`\frac{1}{d} \log |C + \text{floor}\, I|`.

    Args:
        z: ``(B, d)``, any floating dtype.
        floor: Added to the diagonal of the covariance, so that the value is finite when ``B <= d``.

    Returns:
        Scalar in nats per dimension, float64.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[1.0], [-1.0]])
        >>> log_det_per_dim(z)
        tensor(1.0000e-08, dtype=torch.float64)
    """
    return _scalar(_log_det_per_dim(_checked(z), floor))


def relative_spread(z: "Tensor") -> "Tensor":
    r"""Share of the embeddings' energy that varies: :math:`\operatorname{tr} C / \mathbb{E}|z|^2`, in [0, 1].

    Zero when all embeddings are the same point. A property of the encoder, free of scale.

    Args:
        z: ``(B, d)``, any floating dtype.

    Returns:
        Scalar, float64.

    Examples:
        >>> import torch
        >>> relative_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(1., dtype=torch.float64)
        >>> relative_spread(torch.ones(4, 2))
        tensor(0., dtype=torch.float64)
    """
    return _scalar(_relative_spread(_checked(z)))


def check_spread(z: "Tensor", name: str = "the embeddings") -> None:
    """Check that embeddings differ, so that a density can be fitted to them.

    Args:
        z: ``(B, d)``, any floating dtype.
        name: What an error calls them.

    Raises:
        CollapsedError: all rows are the same up to the rounding of float32.

    Examples:
        >>> import torch
        >>> check_spread(torch.ones(4, 2))
        Traceback (most recent call last):
        ...
        gmje_core.errors.CollapsedError: the embeddings are all the same up to rounding: they have no density
    """
    if _relative_spread(_checked(z)) <= _ROUNDING:
        raise CollapsedError(f"{name} are all the same up to rounding: they have no density")


def trace_ratio(squared_mahalanobis: "Tensor", dim: int) -> "Tensor":
    r"""Mean squared Mahalanobis distance per dimension, :math:`\overline{m^2} / D`: the gauge of the trap.

    Under the density's own samples its expectation is 1. A covariance fitted on the very batch that it scores
    gives exactly 1, whatever the embeddings, hence no gradient: the Mahalanobis Trace Trap (arXiv 2603.26799).

    Args:
        squared_mahalanobis: ``(B,)``.
        dim: Number of dimensions ``D`` that the distances are over.

    Returns:
        Scalar, dtype of the input.

    Examples:
        >>> import torch
        >>> trace_ratio(torch.tensor([2.0, 4.0]), dim=3)
        tensor(1.)
    """
    return squared_mahalanobis.mean() / dim


def component_usage(responsibilities: "Tensor") -> "Tensor":
    r"""Perplexity of the mean responsibilities over the number of components, in ``[1 / K, 1]``.

    .. math:: \frac{1}{K} \exp\Big(-\sum_k \bar r_k \log \bar r_k\Big)

    Args:
        responsibilities: ``(B, K)`` rows that sum to one, or ``(K,)`` their mean.

    Returns:
        Scalar, dtype of the input. 1 when every component is used alike.

    Examples:
        >>> import torch
        >>> component_usage(torch.eye(4))
        tensor(1.)
        >>> component_usage(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor(0.2500)
    """
    mean = responsibilities.mean(dim=0) if responsibilities.ndim > 1 else responsibilities
    usage: Tensor = (-mean.xlogy(mean)).sum().exp() / mean.shape[0]
    return usage


def embedding_diagnostics(z_context: "Tensor | NDArray[Any]", z_target: "Tensor | NDArray[Any]") -> dict[str, float]:
    """Gauges of a batch of pairs that need no density, for any method.

    Args:
        z_context: ``(B, d_c)``, a tensor or an array; arrays are measured without torch.
        z_target: ``(B, d_t)``.

    Returns:
        ``effective_rank`` and ``log_det_per_dim`` (nats) and ``relative_spread``, each the smaller of the two
        views'; ``dim``, the largest effective rank that such a batch can have; and ``alignment``, the mean
        cosine similarity of the pairs where both views have the same size.

    Raises:
        ShapeError: not two matrices with the same number of rows, at least 2.
        NonFiniteError: NaN or infinity in either.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> values = embedding_diagnostics(z, z)
        >>> round(values["effective_rank"], 3), values["alignment"], judge(values).name
        (2.0, 1.0, 'healthy')
    """
    if z_context.shape[0] != z_target.shape[0]:
        raise ShapeError(
            f"context and target must hold the same number of rows, but have {tuple(z_context.shape)} and "
            f"{tuple(z_target.shape)}"
        )
    views = [_checked(z_context, "z_context"), _checked(z_target, "z_target")]
    values = {
        "effective_rank": min(_effective_rank(z) for z in views),
        "log_det_per_dim": min(_log_det_per_dim(z) for z in views),
        "relative_spread": min(_relative_spread(z) for z in views),
        "dim": float(min(min(z.shape[1], z.shape[0] - 1) for z in views)),
    }
    if z_context.shape[1] == z_target.shape[1]:
        values["alignment"] = float((_unit_rows(views[0]) * _unit_rows(views[1])).sum(axis=1).mean())
    return values


def judge(values: Mapping[str, float | str]) -> Verdict:
    """Name the condition of a run from its diagnostics.

    The most specific cause comes first: a covariance that scores the batch it was fitted on is a trace trap
    before and after it has collapsed.

    Args:
        values: Keys of :func:`embedding_diagnostics`; of a criterion also ``trace_ratio``, ``self_scored`` (1
            where the covariance was fitted on the batch that it scored) and ``component_usage``. Missing
            keys are not judged.

    Returns:
        The verdict.

    Examples:
        >>> judge({"effective_rank": 3.0, "dim": 128.0, "relative_spread": 0.5}).name
        'dimensional collapse'
        >>> judge({"trace_ratio": 1.0, "self_scored": 1.0}).name
        'trace trap'
        >>> judge({"component_usage": 0.01}).name
        'dead components'
    """

    def value(key: str, default: float) -> float:
        return float(values.get(key, default))

    if value("self_scored", 0.0) == 1.0 and value("trace_ratio", 1.0) <= 1 + TRAP_TOLERANCE:
        return TRACE_TRAP
    if value("relative_spread", 1.0) < SPREAD_FLOOR:
        return COMPLETE_COLLAPSE
    if value("dim", 1.0) > 2 and value("effective_rank", float("inf")) < max(
        1.5, RANK_FRACTION_FLOOR * value("dim", 1.0)
    ):
        return DIMENSIONAL_COLLAPSE
    if value("component_usage", 1.0) < USAGE_FLOOR:
        return DEAD_COMPONENTS
    return HEALTHY


def _effective_rank(z: NDArray[np.float64]) -> float:
    centred = z - z.mean(axis=0)
    scale = max(float(np.square(z).sum()), np.finfo(z.dtype).tiny)
    if np.square(centred).sum() <= scale * np.finfo(z.dtype).eps:
        return 1.0
    # Singular values from the smaller Gram matrix: enough for an entropy, several times faster than an SVD.
    gram = centred.T @ centred if z.shape[1] <= z.shape[0] else centred @ centred.T
    singular = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    p = singular / singular.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def _log_det_per_dim(z: NDArray[np.float64], floor: float = 1e-8) -> float:
    centred = z - z.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh(centred.T @ centred / z.shape[0])
    return float(np.log(eigenvalues.clip(min=0) + floor).mean())


def _relative_spread(z: NDArray[np.float64]) -> float:
    energy = max(float(np.square(z).sum()), np.finfo(z.dtype).tiny)
    return float(np.square(z - z.mean(axis=0)).sum() / energy)


def _unit_rows(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows at unit norm; those that are nearly zero stay so."""
    rows: NDArray[np.float64] = z / np.linalg.norm(z, axis=1, keepdims=True).clip(min=1e-8)
    return rows


def _scalar(value: float) -> "Tensor":
    import torch

    return torch.tensor(value, dtype=torch.float64)


def _checked(z: "Tensor | NDArray[Any]", name: str = "z") -> NDArray[np.float64]:
    """A matrix in float64, in memory: small matrices are exact there, and the same for every device."""
    if z.ndim != 2 or z.shape[0] < 2:
        raise ShapeError(f"{name} must be a matrix (B, d) with at least 2 rows, but has shape {tuple(z.shape)}")
    matrix = np.asarray(z, dtype=np.float64) if isinstance(z, np.ndarray) else z.detach().cpu().double().numpy()
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise NonFiniteError(f"{name} holds NaN or infinity, first in row {int(finite.argmin())} of {len(matrix)}")
    return matrix
