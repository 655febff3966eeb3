"""``JointEmbeddingMixture.fit`` beside scikit-learn's ``GaussianMixture``: the same start, the same rounds.

Both start from the same weights, means and precisions and run the same number of rounds, so that they end with the
same lower bound; the difference that is compared is that of the bounds, in nats per pair.
"""

import sys
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from _measure import Call, Case, main
from sklearn.mixture import GaussianMixture as PeerMixture
from threadpoolctl import threadpool_limits

from gmje_core.estimator import JointEmbeddingMixture

ROWS, DIM, COMPONENTS, ROUNDS = 40_000, 64, 64, 10
#: Sizes of the forms for which there is no goal.
FEW_ROWS, FEW_COMPONENTS = 4_000, 16
GOALS = {"float64": 3.0, "float32": 5.0}
#: By scikit-learn's names: ``covariance_type`` and ``tied`` of ours.
FORMS: dict[str, tuple[Any, bool]] = {
    "full": ("full", False),
    "diag": ("diag", False),
    "tied": ("full", True),
    "spherical": ("spherical", False),
}


def cases() -> Iterator[Case]:
    """Both forms in both precisions; scikit-learn computes in the precision of the rows."""
    products = 2.0 * ROWS * COMPONENTS * ROUNDS
    # Scores and moments: a triangle of products of two dimensions each, or squares and rows.
    multiplies = {"full": (DIM + 1) * (DIM + 2) / 2, "diag": 2 * DIM + 1}
    for dtype, goal in GOALS.items():
        for kind, count in multiplies.items():
            yield Case(
                f"fit, {kind}, {dtype}, N = {ROWS}, D = {DIM}, K = {COMPONENTS}, {ROUNDS} rounds",
                "scikit-learn GaussianMixture",
                goal,
                partial(build, kind, dtype, ROWS, COMPONENTS),
                # The measured peak is that of float32; float64 takes twice as long.
                flops=2 * products * count * (2 if dtype == "float64" else 1),
                difference=lambda ours, theirs: abs(ours - theirs),
                tolerance=1e-6 if dtype == "float64" else 1e-2,
            )
    for kind in ("tied", "spherical"):
        yield Case(
            f"fit, {kind}, float64, N = {FEW_ROWS}, D = {DIM}, K = {FEW_COMPONENTS}, {ROUNDS} rounds",
            "scikit-learn GaussianMixture",
            None,
            partial(build, kind, "float64", FEW_ROWS, FEW_COMPONENTS),
            difference=lambda ours, theirs: abs(ours - theirs),
            tolerance=1e-6,
        )


def build(kind: str, dtype: str, count: int, components: int) -> tuple[Call, Call]:
    """Both fits of the same rows."""
    z, means = (part.astype(dtype) for part in rows(count, components))
    precisions = {
        "full": np.broadcast_to(np.eye(DIM), (components, DIM, DIM)),
        "diag": np.ones((components, DIM)),
        "tied": np.eye(DIM),
        "spherical": np.ones(components),
    }[kind]
    start: dict[str, Any] = {
        "weights_init": np.full(components, 1 / components, dtype),
        "means_init": means,
        "precisions_init": precisions.astype(dtype),
    }
    form, tied = FORMS[kind]
    # A tolerance of zero: every round is run.
    common: dict[str, Any] = {"reg_covar": 1e-6, "max_iter": ROUNDS, "tol": 0.0, "random_state": 0}
    half = DIM // 2

    def ours() -> float:
        with warnings.catch_warnings(action="ignore"):
            fitted = JointEmbeddingMixture(components, form, tied=tied, **common, **start, dtype=dtype)
            return fitted.fit(z[:, :half], z[:, half:]).lower_bound_

    def theirs() -> float:
        with warnings.catch_warnings(action="ignore"), threadpool_limits(1):
            return float(PeerMixture(components, covariance_type=kind, **common, **start).fit(z).lower_bound_)

    return ours, theirs


def rows(count: int, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings ``(N, D)`` in correlated clusters, and means ``(K, D)`` near those of the clusters."""
    rng = np.random.default_rng(0)
    means = 1.5 * rng.normal(size=(components, DIM))
    factors = 0.3 * np.tril(rng.normal(size=(components, DIM, DIM)), -1) / DIM**0.5 + np.eye(DIM)
    cluster = rng.integers(components, size=count)
    z = rng.normal(size=(count, DIM))
    for k in range(components):
        z[cluster == k] = z[cluster == k] @ factors[k].T + means[k]
    return z, means + 0.3 * rng.normal(size=means.shape)


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
