"""How time grows with the batch, the components and the dimension, over a decade each."""

import sys
from collections.abc import Iterator
from functools import partial

import torch
from _measure import Call, Growth, main

from gmje_core.densities.covariance import DiagonalCovariance, FullCovariance
from gmje_core.densities.mixture import GaussianMixture

USUAL = {"B": 1024, "K": 64, "D": 64}
SIZES = {"B": (512, 1024, 2048, 5120), "K": (32, 64, 128, 320), "D": (32, 64, 128, 320)}
#: The power of the size that the arithmetic grows with.
POWERS = {"full": {"B": 1.0, "K": 1.0, "D": 2.0}, "diag": {"B": 1.0, "K": 1.0, "D": 1.0}}


def cases() -> Iterator[Growth]:
    """Log-densities against every size; a slope below the power means that small sizes do not fill the processor."""
    for kind, powers in POWERS.items():
        for name, power in powers.items():
            yield Growth(f"log_prob, {kind}, against {name}", SIZES[name], partial(build, kind, name), power)


def build(kind: str, name: str, size: int) -> Call:
    """The call where one size is another than usual."""
    batch, components, dim = (size if key == name else usual for key, usual in USUAL.items())
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(components, dim, generator=generator)
    x = torch.randn(batch, dim, generator=generator)
    if kind == "full":
        factor = 0.1 * torch.randn(components, dim, dim, generator=generator).tril(-1) / dim**0.5 + torch.eye(dim)
        mixture = GaussianMixture(torch.zeros(components), means, FullCovariance(factor))
    else:
        variance = 0.5 + torch.rand(components, dim, generator=generator)
        mixture = GaussianMixture(torch.zeros(components), means, DiagonalCovariance(variance))

    def call() -> torch.Tensor:
        with torch.no_grad():
            return mixture.log_prob(x)

    return call


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
