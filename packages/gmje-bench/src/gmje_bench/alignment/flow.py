"""A neural spline flow, the flexible conditional density that is not a mixture (Durkan et al., 2019), by zuko."""

import torch
import zuko
from torch import Tensor

from gmje_bench.alignment.conditional import Conditional, principal_axes, whiten
from gmje_bench.alignment.training import train
from gmje_core.seeds import seeded

__all__ = ["fit_flow"]

_TRANSFORMS, _HIDDEN = 3, (128, 128)
_BATCH, _RATE = 512, 3e-3
# Samples that a conditional mean is the average of.
_MEAN_SAMPLES = 256


class _FlowPosterior:
    """The flow at some contexts; the conditional mean of a flow has no closed form and is taken over samples."""

    def __init__(self, distribution: torch.distributions.Distribution) -> None:
        self._distribution = distribution

    @property
    def mean(self) -> Tensor:
        return self.sample((_MEAN_SAMPLES,)).mean(dim=0)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob: Tensor = self._distribution.log_prob(value)
        return log_prob

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self._distribution.sample(torch.Size(sample_shape))


def fit_flow(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """A neural spline flow of the target given the context, on targets whitened by their principal axes.

    It has 3 autoregressive transforms, each by a network of two hidden layers of 128 units.

    Args:
        context: ``(N, d_c)``.
        target: ``(N, d_t)``.
        epochs: Number of passes over the pairs.
        seed: Seed of the split, of the flow's start and of the order of the pairs.

    Returns:
        The conditional, with the parameters that were best on the pairs set aside.
    """
    affine = principal_axes(target)
    center, scale = context.mean(dim=0), context.std()
    with seeded(seed):
        flow = zuko.flows.NSF(target.shape[1], context.shape[1], transforms=_TRANSFORMS, hidden_features=_HIDDEN)

    def loss(c: Tensor, t: Tensor) -> Tensor:
        nll: Tensor = -flow((c - center) / scale).log_prob(t).mean()
        return nll

    train(flow, loss, context, whiten(target, *affine).to(target.dtype), epochs, seed, batch=_BATCH, rate=_RATE)
    return Conditional(lambda z: _FlowPosterior(flow((z - center) / scale)), affine)
