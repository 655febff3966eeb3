r"""A mixture density network, which gives the distribution of the target for each context.

The network maps a context to the weights, means and covariances of a Gaussian mixture of the target (Bishop, 1994).
"""

import math

import torch
from torch import Tensor, nn

from gmje_core.densities.covariance import Covariance, CovarianceType, covariance_class
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ShapeError
from gmje_core.linalg import full_precision
from gmje_core.seeds import seeded

__all__ = ["MixtureDensityNetwork"]

# Spread of the components' means at the start, in standard deviations of the target.
_START_SPREAD, _START_DEVIATION = 0.5, 0.5
# Outputs that say where the components are and how heavy; the others are those of the covariances.
_LOCATED = ("logits", "means")


class MixtureDensityNetwork(nn.Module):
    r"""A multi-layer perceptron to :math:`q(z_t \mid z_c) = \sum_k w_k(z_c)\, N(z_t; m_k(z_c), S_k(z_c))`.

    The network works in units of the first batch, which :meth:`start` takes, so that one learning rate serves
    embeddings of any scale. Standard deviations are
    :math:`\text{scale} \cdot (\operatorname{softplus}(\rho) + \text{floor})`; the means add a linear map of the context
    to the network's output.

    Args:
        context_dim: Size ``d_c`` of a context embedding.
        target_dim: Size ``d_t`` of a target embedding.
        components: Number of components ``K``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"`` covariances of the target.
        rank: Number of columns of the factor of ``"low_rank"``.
        hidden: Width of the hidden layers.
        hidden_layers: Number of hidden layers.
        variance_floor: Least variance of a component, in units of the variance of a target dimension.
        seed: Seed of the initial weights.

    Examples:
        >>> network = MixtureDensityNetwork(2, 3, components=4)
        >>> network(torch.randn(5, 2))
        GaussianMixture(diag, components=4, batch_shape=(5,), event_shape=(3,))
    """

    context_center: Tensor
    context_scale: Tensor
    target_center: Tensor
    target_scale: Tensor

    def __init__(
        self,
        context_dim: int,
        target_dim: int,
        components: int = 8,
        *,
        covariance_type: CovarianceType = "diag",
        rank: int = 8,
        hidden: int = 256,
        hidden_layers: int = 2,
        variance_floor: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.covariance_type: CovarianceType = covariance_type
        self.form, self.rank, self.floor = covariance_class(covariance_type), rank, math.sqrt(variance_floor)
        self.components, self.context_dim, self.target_dim = components, context_dim, target_dim
        sizes = {"logits": components, "means": components * target_dim}
        sizes |= {name: components * size for name, size in self.form.unconstrained_sizes(target_dim, rank).items()}
        self.sizes = sizes
        with seeded(seed, torch.get_default_device()):
            body: list[nn.Module] = []
            for index in range(hidden_layers):
                body += [nn.Linear(hidden if index else context_dim, hidden), nn.SiLU()]
            self.body = nn.Sequential(*body)
            self.head = nn.Linear(hidden, sum(sizes.values()))
            self.skip = nn.Linear(context_dim, target_dim, bias=False)
            self._initialise()
        self.register_buffer("context_center", torch.zeros(context_dim, dtype=torch.float64))
        self.register_buffer("context_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("target_center", torch.zeros(target_dim, dtype=torch.float64))
        self.register_buffer("target_scale", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def _initialise(self) -> None:
        """Make the outputs nearly constant, with means apart from each other, around the context where sizes allow."""
        nn.init.normal_(self.head.weight, std=0.1 / math.sqrt(self.head.in_features))
        nn.init.zeros_(self.head.bias)
        nn.init.eye_(self.skip.weight) if self.context_dim == self.target_dim else nn.init.zeros_(self.skip.weight)
        biases = dict(zip(self.sizes, self.head.bias.split(list(self.sizes.values())), strict=True))
        biases["deviations"].fill_(math.log(math.expm1(_START_DEVIATION)))  # the inverse of softplus
        if self.components > 1:
            biases["means"].normal_(std=_START_SPREAD)
        if "factor" in biases:  # a factor of zeros would have no gradient
            biases["factor"].normal_(std=0.1 / math.sqrt(self.rank))

    @torch.no_grad()
    def start(self, z_context: Tensor, z_target: Tensor) -> None:
        """Take centre and scale from a first batch; the weights stay as they are."""
        for name, z in (("context", z_context), ("target", z_target)):
            center = z.double().mean(dim=0)
            variance = (z.double() - center).square().mean()
            # Where all rows are one point, its size is the only scale there is.
            scale = torch.where(variance > 0, variance, center.square().mean()).sqrt()
            getattr(self, f"{name}_center").copy_(center)
            getattr(self, f"{name}_scale").copy_(torch.where(scale > 0, scale, 1.0).clamp_min(1e-12))

    def forward(self, z_context: Tensor, validate_args: bool = True) -> GaussianMixture:
        """The mixture of the target for each context.

        Args:
            z_context: ``(B, d_c)``.
            validate_args: Whether the mixture checks its parameters and what it is asked about.

        Returns:
            Mixture of batch shape ``(B,)``.

        Raises:
            ShapeError: the contexts have another size.
            NonFiniteError: the contexts or the parameters give no finite mixture.
        """
        if z_context.ndim != 2 or z_context.shape[1] != self.context_dim:
            raise ShapeError(f"z_context must have shape (B, {self.context_dim}), but has {tuple(z_context.shape)}")
        weight = self.head.weight
        with full_precision(z_context.device.type):
            x = ((z_context - self.context_center) / self.context_scale).to(weight.dtype)
            outputs = self.head(self.body(x)).split(list(self.sizes.values()), dim=1)
            values = dict(zip(self.sizes, outputs, strict=True))
            shape = (len(x), self.components, self.target_dim)
            scale = self.target_scale.to(weight.dtype)
            locations = self.skip(x)[:, None] + values["means"].view(shape)
            means = self.target_center.to(weight.dtype) + scale * locations
            covariance = self._covariance({name: values[name] for name in values if name not in _LOCATED}, scale)
            return GaussianMixture(values["logits"], means, covariance, validate_args)

    def _covariance(self, values: dict[str, Tensor], scale: Tensor) -> Covariance:
        shaped = {name: value.view(len(value), self.components, -1) for name, value in values.items()}
        return self.form.from_unconstrained(shaped, self.target_dim, scale=scale, floor=self.floor)
