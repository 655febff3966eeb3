"""Scores of how typical an image is, by the features or embeddings of the training images: larger is more typical."""

import torch
import torch.nn.functional as F
from sklearn.covariance import EmpiricalCovariance
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["knn_score", "mahalanobis_score"]

# Rows whose distances to all training rows are held at a time.
_ROWS = 500


def mahalanobis_score(train: Tensor, rows: Tensor, labels: Tensor | None = None) -> Tensor:
    r"""Minus the squared Mahalanobis distance to the training mean, or to the nearest class mean.

    .. math:: -\min_c\, (x - \mu_c)^\top \Sigma^{+} (x - \mu_c)

    With labels every class has its own mean and all share one covariance, that of the training rows about the means of
    their classes (Lee et al., 2018); without labels there is one mean. :math:`\Sigma^{+}` is the pseudo-inverse, so
    that features that never change do not count.

    Args:
        train: ``(N, d)``, features or embeddings of the training images.
        rows: ``(M, d)``, those of the images that are scored.
        labels: int64 ``(N,)``, classes of the training images; without them the score uses no class.

    Returns:
        ``(M,)`` float64, at most 0.

    Examples:
        >>> train = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]])
        >>> mahalanobis_score(train, torch.tensor([[0.0, 0.0], [1.0, 0.0]])).round(decimals=6).tolist()
        [-0.0, -2.0]
    """
    x, z = train.double(), rows.double()
    owners = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels
    kinds = owners.unique()
    means = torch.stack([x[owners == kind].mean(dim=0) for kind in kinds])
    centred = x - means[torch.searchsorted(kinds, owners)]
    # One thread keeps the order of sums, so that the scores are the same on any machine of a kind.
    with threadpool_limits(1, user_api="blas"):
        covariance = EmpiricalCovariance(assume_centered=True).fit(centred.numpy())
        precision = torch.from_numpy(covariance.get_precision())
        del centred
        middle = x.mean(dim=0)
        return -_nearest(z - middle, means - middle, precision)


def _nearest(z: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    """Squared distance ``(M,)`` of rows to the nearest mean; one product with the matrix serves all means."""
    if len(means) == 1:
        away = z - means
        return (away @ precision * away).sum(dim=1).clamp_min(0)
    weighted = means @ precision
    own = (weighted * means).sum(dim=1)
    nearest = [
        ((part @ precision * part).sum(dim=1, keepdim=True) - 2 * part @ weighted.T + own).min(dim=1).values
        for part in z.split(_ROWS)
    ]
    return torch.cat(nearest).clamp_min(0)


def knn_score(train: Tensor, rows: Tensor, k: int) -> Tensor:
    r"""Minus the distance to the ``k``-th nearest training row, all rows brought to unit norm (Sun et al., 2022).

    Args:
        train: ``(N, d)``, features or embeddings of the training images.
        rows: ``(M, d)``, those of the images that are scored.
        k: Which neighbour, from 1; the last one where there are fewer.

    Returns:
        ``(M,)`` float64, between -2 and 0.

    Examples:
        >>> train = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> knn_score(train, torch.tensor([[2.0, 0.0]]), k=1).tolist()
        [-0.0]
        >>> round(float(knn_score(train, torch.tensor([[2.0, 0.0]]), k=2)), 4)
        -1.4142
    """
    bank = F.normalize(train.double(), dim=1)
    parts = F.normalize(rows.double(), dim=1).split(_ROWS)
    nearest = [(part @ bank.T).topk(min(k, len(bank)), dim=1).values[:, -1] for part in parts]
    # Of unit vectors, the squared distance is 2 - 2 cos.
    return -(2 - 2 * torch.cat(nearest)).clamp_min(0).sqrt()
