"""Conditionals of a mixture with scales at many contexts, each under the few factors that are likely there.

Rows that share a factor are held together, so that a rank costs products of matrices and no matrix for each row.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.exponentials import logsumexp
from gmje_core.linalg import triangular_inverse

__all__ = ["Conditionals"]

# A context is conditioned under so many factors at least, and as many as hold so much of the probability on average;
# contexts at a time.
_LEAST, _HELD, _ROWS = 4, 0.99, 512


@dataclass(frozen=True)
class Conditionals:
    """Conditionals of a density at ``M`` contexts, each of the ``F`` factors that are likeliest there.

    Factors of embeddings lie apart, so that a few of them hold nearly all probability; as many are kept as that takes.

    Attributes:
        target: ``(M, d_t)`` what followed each context.
        log_weights: ``(M, F, B)``, normalised.
        means: ``(M, F, d_t)``.
        places: For each factor of the density the ``m`` and ``f`` that it stands at, as two index tensors.
        tril: ``(K, d_t, d_t)`` factors of the conditional covariances.
        scales: ``(B,)``.
    """

    target: Tensor
    log_weights: Tensor
    means: Tensor
    places: list[tuple[Tensor, ...]]
    tril: Tensor
    scales: Tensor

    @classmethod
    def of(cls, density: ScaledJointMixture, context: Tensor, target: Tensor) -> Self:
        """Those at the contexts ``(M, d_c)`` of held-out pairs."""
        _, context_means, target_means, _, gain, tril = density.parameters
        context, target = context.to(gain), target.to(gain)
        scores = torch.cat(
            [
                logsumexp(density.view_scores(*block)[0].unsqueeze(3) + density.log_weights, dim=2)
                for block in zip(context.split(_ROWS), target.split(_ROWS), strict=True)
            ]
        )
        probabilities = scores.logsumexp(dim=2).softmax(dim=1)
        held = probabilities.sort(dim=1, descending=True).values.mean(dim=0).cumsum(dim=0)
        enough = min(len(held), max(_LEAST, int((held < _HELD).sum()) + 1))
        most = probabilities.topk(enough, dim=1).indices
        log_weights = scores.gather(1, most.unsqueeze(2).expand(-1, -1, scores.shape[2]))
        places = [(most == k).nonzero(as_tuple=True) for k in range(len(gain))]
        means = target_means[most]
        for k, (rows, slots) in enumerate(places):
            means[rows, slots] += (context[rows] - context_means[k]) @ gain[k].T
        log_weights = log_weights - log_weights.logsumexp(dim=(1, 2), keepdim=True)
        return cls(target, log_weights, means, places, tril, density.scales[1])

    def mean_rank(self, factor: float, count: int, seed: int) -> float:
        """Mean share of samples that are likelier than the target.

        Args:
            factor: What the covariances are multiplied by.
            count: Samples at each context.
            seed: Their seed.
        """
        points = torch.cat([self.sample(factor, count, seed), self.target.unsqueeze(1)], dim=1)
        log_prob = self.log_prob(points, factor)
        return float((log_prob[:, :-1] > log_prob[:, -1:]).double().mean())

    def sample(self, factor: float, count: int, seed: int) -> Tensor:
        """Samples ``(M, count, d_t)`` at covariances multiplied by a factor."""
        generator = torch.Generator(self.means.device).manual_seed(seed)
        scales = factor * self.scales
        drawn = self.log_weights.flatten(1).exp().multinomial(count, replacement=True, generator=generator)
        slots, scale = drawn // len(scales), drawn % len(scales)
        noise = torch.randn(*drawn.shape, self.means.shape[2], generator=generator, device=self.means.device)
        samples = self.means.gather(1, slots.unsqueeze(2).expand_as(noise))
        for k, (rows, of_rows) in enumerate(self.places):
            own = slots[rows] == of_rows.unsqueeze(1)
            chosen = rows.unsqueeze(1).expand_as(own)[own], own.nonzero()[:, 1]
            samples[chosen] += noise[chosen] @ self.tril[k].T * scales[scale[chosen]].sqrt().unsqueeze(1)
        return samples

    def log_prob(self, points: Tensor, factor: float) -> Tensor:
        """Log-densities ``(M, n)`` of points ``(M, n, d_t)``, up to a constant, at covariances times a factor."""
        scales, dim = factor * self.scales, self.means.shape[2]
        at_mean = self.log_weights - 0.5 * dim * scales.log()
        distances = points.new_empty(*points.shape[:2], self.means.shape[1])
        volumes = self.tril.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        for k, (inverse, (rows, of_rows)) in enumerate(zip(triangular_inverse(self.tril), self.places, strict=True)):
            residual = (points[rows] - self.means[rows, of_rows].unsqueeze(1)) @ inverse.T
            distances[rows, :, of_rows] = residual.square().sum(dim=2)
            at_mean[rows, of_rows] -= volumes[k]
        return logsumexp(at_mean.unsqueeze(1) - 0.5 * distances.unsqueeze(3) / scales, dim=(2, 3))
