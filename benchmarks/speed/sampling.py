"""A million draws from a mixture beside scikit-learn's ``GaussianMixture.sample`` and ``torch.distributions``."""

import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from _measure import Call, Case, main
from sklearn.mixture import GaussianMixture as PeerMixture
from torch import Tensor

from gmje_core.densities.covariance import DiagonalCovariance, FullCovariance
from gmje_core.densities.mixture import GaussianMixture

COUNT, COMPONENTS, DIM = 1_000_000, 64, 64


def cases() -> Iterator[Case]:
    """Full and diagonal covariances."""
    for kind, multiplies in (("full", DIM * DIM), ("diag", DIM)):
        yield Case(
            f"sample, {kind}, {COUNT:.0e} points, K = {COMPONENTS}, D = {DIM}",
            "scikit-learn sample",
            3.0,
            partial(build, kind),
            flops=2.0 * COUNT * multiplies if kind == "full" else 0.0,
            bytes=4.0 * COUNT * DIM,
            difference=difference,
            tolerance=0.02,
        )


def build(kind: str) -> tuple[Call, Call]:
    """Both draw from the same mixture, each in its own precision: scikit-learn knows float64 only."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(COMPONENTS, generator=generator, dtype=torch.float64) + 0.5
    weights /= weights.sum()
    means = torch.randn(COMPONENTS, DIM, generator=generator, dtype=torch.float64)
    peer = PeerMixture(COMPONENTS, covariance_type=kind, random_state=0)
    peer.weights_, peer.means_ = weights.numpy(), means.numpy()
    if kind == "full":
        factor = 0.1 * torch.randn(COMPONENTS, DIM, DIM, generator=generator, dtype=torch.float64).tril(-1)
        factor += torch.eye(DIM, dtype=torch.float64)
        covariance, peer.covariances_ = FullCovariance(factor.float()), (factor @ factor.mT).numpy()
    else:
        variance = 0.5 + torch.rand(COMPONENTS, DIM, generator=generator, dtype=torch.float64)
        covariance, peer.covariances_ = DiagonalCovariance(variance.float()), variance.numpy()
    peer.precisions_cholesky_ = peer.covariances_  # what the peer takes as a sign that it was fitted
    mixture = GaussianMixture(weights.float().log(), means.float(), covariance)
    return lambda: mixture.sample((COUNT,)), lambda: peer.sample(COUNT)[0]


def difference(ours: Tensor, theirs: np.ndarray) -> float:
    """Largest difference of the standard deviations of the dimensions, which 1e6 points know to .001."""
    return float((ours.double().std(dim=0) - torch.from_numpy(theirs).std(dim=0)).abs().max())


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
