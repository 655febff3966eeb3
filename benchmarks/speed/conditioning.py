"""``condition`` and its mean beside what a user writes by hand with ``torch.distributions``."""

import sys
from collections.abc import Iterator
from functools import partial

import torch
from _measure import Call, Case, main
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gmje_core.densities.joint import JointGaussianMixture

BATCH, COMPONENTS, DIM = 4096, 64, 64


def cases() -> Iterator[Case]:
    """The mean of the target given half of the dimensions, from the joint's parameters."""
    size = DIM // 2
    yield Case(
        f"condition and mean, full, B = {BATCH}, K = {COMPONENTS}, D = {DIM}",
        "torch.distributions by hand",
        20.0,
        build,
        flops=2.0 * BATCH * COMPONENTS * (size * size / 2 + size * size),
        difference=lambda a, b: float((a - b).abs().max()),
        memory=True,
    )
    yield Case(
        f"condition and log_prob, full, B = {BATCH}, K = {COMPONENTS}, D = {DIM}",
        "torch.distributions by hand",
        None,
        partial(build, score=True),
        flops=2.0 * BATCH * COMPONENTS * (size * size / 2 + size * size + size * size / 2),
        difference=lambda a, b: float((a - b).abs().max()),
        memory=True,
    )


def build(score: bool = False) -> tuple[Call, Call]:
    """Both from the same joint mixture."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(COMPONENTS, DIM, generator=generator)
    factor = 0.1 * torch.randn(COMPONENTS, DIM, DIM, generator=generator).tril(-1) + torch.eye(DIM)
    covariance = factor @ factor.mT
    log_weights = torch.randn(COMPONENTS, generator=generator)
    z_context = torch.randn(BATCH, DIM // 2, generator=generator)
    z_target = torch.randn(BATCH, DIM // 2, generator=generator)
    joint = JointGaussianMixture.from_scale_tril(log_weights.exp(), means, factor, DIM // 2)

    def ours() -> Tensor:
        conditional = joint.condition(z_context)
        return conditional.log_prob(z_target) if score else conditional.mean

    def theirs() -> Tensor:
        conditional = by_hand(log_weights, means, covariance, z_context)
        return conditional.log_prob(z_target) if score else conditional.mean

    return ours, theirs


def by_hand(log_weights: Tensor, means: Tensor, covariance: Tensor, z_context: Tensor) -> MixtureSameFamily:
    """The conditional mixture by the textbook's formulas."""
    size = z_context.shape[1]
    cc, tc, tt = covariance[:, :size, :size], covariance[:, size:, :size], covariance[:, size:, size:]
    gain = torch.linalg.solve(cc, tc.mT).mT
    scores = MultivariateNormal(means[:, :size], cc).log_prob(z_context[:, None]) + log_weights
    shifted = torch.einsum("kfg,bkg->bkf", gain, z_context[:, None] - means[:, :size])
    tril = torch.linalg.cholesky(tt - gain @ tc.mT)  # once for all rows; the covariances would be factored for each
    conditional = MultivariateNormal(means[:, size:] + shifted, scale_tril=tril)
    return MixtureSameFamily(Categorical(logits=scores), conditional)


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
