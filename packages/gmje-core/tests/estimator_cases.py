"""Data and quick estimators that the tests of the estimator share."""

import numpy as np
import torch

from gmje_core.estimator import JointEmbeddingMixture

FORMS = [(kind, tied) for kind in ("full", "low_rank", "diag", "spherical") for tied in (False, True)]


def clusters(rows=600, dims=(2, 3), components=3, seed=0, apart=2.0):
    """Pairs from a random mixture with cross blocks: ``(Z_context, Z_target)``."""
    rng = np.random.default_rng(seed)
    dim = sum(dims)
    means = apart * rng.normal(size=(components, dim))
    factors = rng.normal(size=(components, dim, dim)) / np.sqrt(dim)
    chosen = rng.integers(components, size=rows)
    z = means[chosen] + np.einsum("nij,nj->ni", factors[chosen], rng.normal(size=(rows, dim)))
    return z[:, : dims[0]], z[:, dims[0] :]


def halves(z_context, z_target):
    """The first and the second half of the pairs."""
    middle = len(z_context) // 2
    return (z_context[:middle], z_target[:middle]), (z_context[middle:], z_target[middle:])


def estimator(kind="full", tied=False, n_components=3, **options):
    """A quick seeded one."""
    options = {"rank": 2, "random_state": 0, "max_iter": 200} | options
    return JointEmbeddingMixture(n_components, kind, tied=tied, **options)


def values_of(fitted, z_context, z_target):
    """Everything that a fitted estimator says of pairs."""
    return [
        fitted.score_samples(z_context, z_target),
        fitted.predict(z_context),
        fitted.responsibilities(z_context, z_target),
        fitted.weights_,
        fitted.means_,
        fitted.covariances_,
    ]


def finite(value):
    return bool(torch.isfinite(torch.as_tensor(value, dtype=torch.float64)).all())
