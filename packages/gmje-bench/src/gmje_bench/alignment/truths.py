r"""What a truth is: pairs of embeddings whose conditional log-density is known, so that KL to it can be measured.

A conditional is a Gaussian mixture in closed form, or one whose components are the nodes of a quadrature.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from gmje_core import GaussianMixture
from gmje_core.densities.covariance import DiagonalCovariance, SphericalCovariance
from gmje_core.seeds import seeded

__all__ = ["BranchTruth", "LatentTruth", "LiftedTruth", "Truth", "drawn_by"]

# Elements of the largest temporary: contexts times components.
_CHUNK = 2**21
# Places at which a one-dimensional conditional is scanned for its peaks, and the peaks that count.
_SCAN, _MAX_PEAKS, _LEAST_PEAK = 400, 8, 0.1


class Truth(ABC):
    r"""A joint distribution of context and target with a known conditional :math:`p(z_t \mid z_c)`.

    Everything is float64 and in nats. Subclasses say how pairs are drawn and what the conditional is; the truth is
    a model of itself, by the same calls.

    Args:
        name: The name that the command line takes.
        context_dim: ``d_c``.
        target_dim: ``d_t``.
    """

    def __init__(self, name: str, context_dim: int, target_dim: int) -> None:
        self.name, self.context_dim, self.target_dim = name, context_dim, target_dim

    @abstractmethod
    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw pairs.

        Args:
            count: Number of pairs ``n``.
            generator: Source of all randomness.

        Returns:
            Context ``(n, d_c)`` and target ``(n, d_t)``, float64.
        """

    @abstractmethod
    def log_prob(self, target: Tensor, context: Tensor) -> Tensor:
        r""":math:`\log p(z_t \mid z_c)` of pairs, nats.

        Args:
            target: ``(n, d_t)``.
            context: ``(n, d_c)``.

        Returns:
            ``(n,)``, float64.
        """

    @abstractmethod
    def sample_target(self, context: Tensor, count: int, generator: Generator) -> Tensor:
        """Draw targets of given contexts.

        Args:
            context: ``(n, d_c)``.
            count: The number of draws ``S`` for each context.
            generator: Source of all randomness.

        Returns:
            ``(S, n, d_t)``, float64.
        """

    @abstractmethod
    def mean(self, context: Tensor) -> Tensor:
        """Conditional mean ``(n, d_t)`` of contexts ``(n, d_c)``: what least squares can at best find."""

    @abstractmethod
    def modes(self, context: Tensor) -> Tensor:
        """Centres of the branches ``(n, M, d_t)`` of contexts ``(n, d_c)``; rows of NaN where there are fewer."""

    def project(self, target: Tensor) -> Tensor:
        """The coordinates ``(..., d)`` of targets ``(..., d_t)`` that mean something: all, unless lifted."""
        return target


class _MixtureTruth(Truth):
    """A truth whose conditional is held as a Gaussian mixture, evaluated in chunks of contexts."""

    _components: int

    @abstractmethod
    def posterior(self, context: Tensor) -> GaussianMixture:
        """The conditional of contexts ``(n, d_c)``, batch shape ``(n,)``."""

    def log_prob(self, target: Tensor, context: Tensor) -> Tensor:
        """See :meth:`Truth.log_prob`."""
        parts = zip(self._split(target.double()), self._split(context.double()), strict=True)
        return torch.cat([self.posterior(c).log_prob(t) for t, c in parts])

    def sample_target(self, context: Tensor, count: int, generator: Generator) -> Tensor:
        """See :meth:`Truth.sample_target`."""
        with drawn_by(generator):
            return torch.cat([self.posterior(c).sample((count,)) for c in self._split(context.double())], dim=1)

    def mean(self, context: Tensor) -> Tensor:
        """See :meth:`Truth.mean`."""
        return torch.cat([self.posterior(c).mean for c in self._split(context.double())])

    def modes(self, context: Tensor) -> Tensor:
        """See :meth:`Truth.modes`."""
        if self.target_dim == 1:
            return self._peaks(context.double())
        return self.posterior(context.double()).means

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, max(1, _CHUNK // self._components))

    def _peaks(self, context: Tensor) -> Tensor:
        """Local maxima of one-dimensional conditionals, at least a tenth of the highest."""
        low, high = self._range()
        grid = torch.linspace(low, high, _SCAN, dtype=torch.float64)
        rows = context.repeat_interleave(_SCAN, dim=0)
        density = self.log_prob(grid.repeat(len(context)).unsqueeze(1), rows).exp().view(-1, _SCAN)
        inner = density[:, 1:-1]
        peak = (inner > density[:, :-2]) & (inner >= density[:, 2:])
        peak &= inner >= _LEAST_PEAK * density.amax(dim=1, keepdim=True)
        heights, index = torch.where(peak, inner, 0.0).topk(_MAX_PEAKS, dim=1)
        return torch.where(heights > 0, grid[1:-1][index], math.nan).unsqueeze(2)

    def _range(self) -> tuple[float, float]:
        """An interval that holds every peak of a one-dimensional target."""
        _, target = self.sample(4000, torch.Generator().manual_seed(0))
        return float(target.min()), float(target.max())


class BranchTruth(_MixtureTruth):
    """A context of any distribution, and a target that is a Gaussian mixture given it: exact in closed form.

    Args:
        name: The name that the command line takes.
        context_dim: ``d_c``.
        draw_context: A function from a count and a generator to contexts ``(n, d_c)``.
        conditional: A function from contexts ``(n, d_c)`` to the mixture of the target, of batch shape ``(n,)``.

    Examples:
        >>> def conditional(context):                       # one branch, y = x, with variance 0.01
        ...     return GaussianMixture(torch.zeros(1).double(), context.unsqueeze(1),
        ...                            SphericalCovariance(torch.full((1,), 0.01).double(), 1))
        >>> truth = BranchTruth("line", 1, lambda n, g: torch.rand(n, 1, generator=g).double(), conditional)
        >>> context, target = truth.sample(5, torch.Generator().manual_seed(0))
        >>> bool(((target - context).abs() < 0.5).all()), truth.log_prob(context, context)[0].round(decimals=3).item()
        (True, 1.384)
    """

    def __init__(
        self,
        name: str,
        context_dim: int,
        draw_context: Callable[[int, Generator], Tensor],
        conditional: Callable[[Tensor], GaussianMixture],
    ) -> None:
        probe = conditional(draw_context(1, torch.Generator().manual_seed(0)))
        super().__init__(name, context_dim, probe.dim)
        self._components = probe.components
        self._draw_context, self._conditional = draw_context, conditional

    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Truth.sample`."""
        context = self._draw_context(count, generator)
        return context, self.sample_target(context, 1, generator)[0]

    def posterior(self, context: Tensor) -> GaussianMixture:
        """The conditional of contexts ``(n, d_c)``, batch shape ``(n,)``."""
        return self._conditional(context)


class LatentTruth(_MixtureTruth):
    r"""A latent :math:`u` that makes both views, each with isotropic Gaussian noise.

    .. math::
        p(z_t \mid z_c) = \frac{\int p(u)\, N(z_c; f(u), \sigma_c^2 I)\, N(z_t; g(u), \sigma_t^2 I)\, du}
                               {\int p(u)\, N(z_c; f(u), \sigma_c^2 I)\, du}

    Both integrals are sums over the same nodes. The integrands are smooth on the scale of the noise, so that nodes
    closer than it make Gauss-Legendre and trapezoid sums exact to many digits; the conditional is then a Gaussian
    mixture with a component a node.

    Args:
        name: The name that the command line takes.
        draw_latent: A function from a count and a generator to ``(n, d_u)``: the continuous latent, not the nodes.
        maps: The functions ``f`` and ``g`` from latents ``(n, d_u)`` to ``(n, d_c)`` and ``(n, d_t)``.
        nodes: ``(N, d_u)``, the nodes of the quadrature.
        log_weights: ``(N,)``, log-weights of the nodes, which include the density of the latent.
        noise: Standard deviations :math:`\sigma_c` and :math:`\sigma_t`.
        branches: A function from contexts ``(n, d_c)`` to centres ``(n, M, d_t)``; needed where the target has several
            dimensions.
    """

    def __init__(
        self,
        name: str,
        draw_latent: Callable[[int, Generator], Tensor],
        maps: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
        nodes: Tensor,
        log_weights: Tensor,
        noise: tuple[float, float],
        branches: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._maps, self._draw_latent, self._noise, self._branches = maps, draw_latent, noise, branches
        contexts, targets = (function(nodes) for function in maps)
        super().__init__(name, contexts.shape[1], targets.shape[1])
        self._components, self._targets = len(nodes), targets
        variances = [noise[0] ** 2] * self.context_dim + [noise[1] ** 2] * self.target_dim
        covariance = DiagonalCovariance(torch.tensor([variances], dtype=torch.float64))
        self._joint = GaussianMixture(log_weights, torch.cat([contexts, targets], 1), covariance, validate_args=False)
        self._context = self._joint.marginal(range(self.context_dim))

    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Truth.sample`."""
        latent = self._draw_latent(count, generator)
        clean = (function(latent) for function in self._maps)
        context, target = (
            z + sigma * torch.randn(z.shape, generator=generator, dtype=z.dtype)
            for z, sigma in zip(clean, self._noise, strict=True)
        )
        return context, target

    def log_prob(self, target: Tensor, context: Tensor) -> Tensor:
        """See :meth:`Truth.log_prob`."""
        pairs = self._split(torch.cat([context, target], dim=1).double())
        return torch.cat([self._joint.log_prob(z) - self._context.log_prob(z[:, : self.context_dim]) for z in pairs])

    def posterior(self, context: Tensor) -> GaussianMixture:
        """The conditional of contexts ``(n, d_c)``, batch shape ``(n,)``."""
        spherical = SphericalCovariance(torch.full((1,), self._noise[1] ** 2, dtype=torch.float64), self.target_dim)
        return GaussianMixture(self._context.component_log_prob(context), self._targets, spherical, validate_args=False)

    def modes(self, context: Tensor) -> Tensor:
        """See :meth:`Truth.modes`."""
        return super().modes(context) if self._branches is None else self._branches(context.double())


class LiftedTruth(Truth):
    r"""A truth in more dimensions, where each view is padded with Gaussian noise and then rotated at random.

    The padding is independent of everything, so the conditional stays exact:
    :math:`\log p(z_t \mid z_c) = \log p(R_t^\top z_t \mid R_c^\top z_c)_{\text{first dims}} + \log N(\text{padding})`.

    Args:
        base: The truth to lift.
        dim: Size of both views afterwards.
        noise: Standard deviation of the padding.
        seed: Seed of the rotations.

    Raises:
        ValueError: ``dim`` below a size of the base.
    """

    def __init__(self, base: Truth, dim: int = 16, noise: float = 0.05, seed: int = 0) -> None:
        if dim < max(base.context_dim, base.target_dim):
            raise ValueError(f"dim must be at least {max(base.context_dim, base.target_dim)}, got {dim}")
        super().__init__(base.name, dim, dim)
        self.base, self._noise = base, noise
        generator = torch.Generator().manual_seed(seed)
        self._context_rotation, self._target_rotation = _rotation(dim, generator), _rotation(dim, generator)

    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Truth.sample`."""
        context, target = self.base.sample(count, generator)
        return (
            self._lift(context, self._context_rotation, generator),
            self._lift(target, self._target_rotation, generator),
        )

    def log_prob(self, target: Tensor, context: Tensor) -> Tensor:
        """See :meth:`Truth.log_prob`."""
        rest = (target.double() @ self._target_rotation)[:, self.base.target_dim :] / self._noise
        constant = rest.shape[1] * (math.log(self._noise) + 0.5 * math.log(2 * math.pi))
        known = self.base.log_prob(self.project(target), self._base_context(context))
        return known - 0.5 * rest.square().sum(dim=1) - constant

    def sample_target(self, context: Tensor, count: int, generator: Generator) -> Tensor:
        """See :meth:`Truth.sample_target`."""
        target = self.base.sample_target(self._base_context(context), count, generator)
        return self._lift(target, self._target_rotation, generator)

    def mean(self, context: Tensor) -> Tensor:
        """See :meth:`Truth.mean`."""
        return self._lift(self.base.mean(self._base_context(context)), self._target_rotation, None)

    def modes(self, context: Tensor) -> Tensor:
        """See :meth:`Truth.modes`."""
        return self._lift(self.base.modes(self._base_context(context)), self._target_rotation, None)

    def project(self, target: Tensor) -> Tensor:
        """See :meth:`Truth.project`."""
        return (target.double() @ self._target_rotation)[..., : self.base.target_dim]

    def _base_context(self, context: Tensor) -> Tensor:
        return (context.double() @ self._context_rotation)[:, : self.base.context_dim]

    def _lift(self, z: Tensor, rotation: Tensor, generator: Generator | None) -> Tensor:
        shape = (*z.shape[:-1], len(rotation) - z.shape[-1])
        padding = torch.zeros(shape, dtype=z.dtype)
        if generator is not None:
            padding = self._noise * torch.randn(shape, generator=generator, dtype=z.dtype)
        return torch.cat([z, padding], dim=-1) @ rotation.T


@contextmanager
def drawn_by(generator: Generator) -> Iterator[None]:
    """Draw from torch's global random source as if it were the generator, and restore it afterwards.

    ``torch.distributions`` take no generator.

    Args:
        generator: The generator, which one draw advances.

    Examples:
        >>> with drawn_by(torch.Generator().manual_seed(0)):
        ...     first = torch.rand(2)
        >>> with drawn_by(torch.Generator().manual_seed(0)):
        ...     bool((torch.rand(2) == first).all())
        True
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with seeded(seed):
        yield


def _rotation(dim: int, generator: Generator) -> Tensor:
    """Orthogonal, Haar-distributed: signs of the diagonal of R make the QR unique."""
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    rotation: Tensor = q * r.diagonal().sign()
    return rotation
