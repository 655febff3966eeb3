"""A mixture with a Growing Neural Gas inside, whose units are the components, so that their number adapts."""

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.gas import Insertion, NeuralGas
from gmje_core.estimation.moments import MIN_VARIANCE
from gmje_core.estimation.online import OnlineMixture
from gmje_core.estimation.trainable import TrainableDensity

__all__ = ["GrowingMixture"]


class GrowingMixture(TrainableDensity):
    """A gas that decides which components there are, and online EM that fits them.

    Units are inserted where the error is large and removed where their utility is small. A component's mean, weight
    and covariance follow the batches by online EM from where its unit was inserted.

    Args:
        gas: Units and edges; its capacity is the largest number of components.
        moments: Online EM of as many components.
    """

    wins: Tensor

    def __init__(self, gas: NeuralGas, moments: OnlineMixture) -> None:
        super().__init__(moments.step)
        self.gas, self.moments = gas, moments
        #: Samples of the last batch that each unit won.
        self.register_buffer("wins", torch.zeros(gas.capacity, dtype=torch.float64))

    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The mixture of all places that were ever used, among which those without a living unit have no weight.

        Shapes depend on counters only, so nothing has to be read from the device.
        """
        used = self.gas.counters["used"]
        weights = self.moments.log_weights().masked_fill(~self.gas.alive, -torch.inf)
        return self._part(slice(0, used), weights, dtype)

    def living(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The mixture of the living units alone, for users; the call waits for the device."""
        return self._part(self.gas.alive, self.moments.log_weights(), dtype)

    def _part(self, which: slice | Tensor, weights: Tensor, dtype: torch.dtype | None) -> GaussianMixture:
        dtype = dtype or weights.dtype
        covariance: Covariance = self.moments.covariance().map(lambda tensor: tensor[which])
        means = self.moments.means[which]
        return GaussianMixture(weights[which].to(dtype), means.to(dtype), covariance.to(dtype), validate_args=False)

    def _begin(self, z: Tensor) -> None:
        self.gas.start(z)
        variance = z.double().var(dim=0, unbiased=False).clamp_min(MIN_VARIANCE)
        self.moments.start_at(self.gas.units[:2], variance.mean(), z)
        self.wins.zero_()

    def _learn(self, z: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        assert responsibilities is not None
        shares = responsibilities.new_zeros(len(z), self.gas.capacity)
        shares[:, : responsibilities.shape[1]] = responsibilities
        self.moments.update(z, shares, rare=False)
        self.wins.copy_(self.gas.observe(z))
        self._remove(self.gas.remove_useless())
        for insertion in self.gas.insert():
            self._insert(insertion)

    def _remove(self, units: Tensor) -> None:
        """Leave the components of a mask ``(N,)`` without mass; the others share it."""
        mass = self.moments.mass.masked_fill(units, 0.0)
        self.moments.mass.copy_(torch.where(units.any(), mass / mass.sum(), mass))

    def _insert(self, insertion: Insertion) -> None:
        """Give a new component a third of the mass of the two beside it, and their mean spread."""
        new, worst, beside, happens = insertion
        mass, second = self.moments.mass, self.moments.second
        shape = (-1, *[1] * (second.ndim - 1))
        pair = torch.cat([worst, beside])
        mass[new] = torch.where(happens, mass[pair].sum() / 3, mass[new])
        mass[pair] = torch.where(happens, mass[pair] * 2 / 3, mass[pair])
        self.moments.means[new] = torch.where(happens, self.gas.units[new], self.moments.means[new])
        second[new] = torch.where(happens.view(shape), second[pair].mean(dim=0, keepdim=True), second[new])
