"""GMJE-GNG: Growing Neural Gas decides, while training, how many components the critic has.

Every unit of the gas is a component. Units are inserted where the error is large and removed where their utility is
small, so that the mixture grows to what the embeddings need and follows them when they move.
"""

from torch import Tensor

from gmje_core.checks import check_at_least, check_choice, check_counts, check_positive, check_share
from gmje_core.criteria.batch import share_of_batch
from gmje_core.criteria.channel import NoiseChannel
from gmje_core.criteria.gmje import PrototypeCriterion
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.diagnostics import component_usage
from gmje_core.errors import ConfigError
from gmje_core.estimation.gas import NeuralGas
from gmje_core.estimation.growing import GrowingMixture
from gmje_core.estimation.online import MomentType, OnlineMixture

__all__ = ["GMJEGNG"]


class GMJEGNG(PrototypeCriterion):
    r"""Gaussian Mixture Joint Embeddings with Growing Neural Gas (arXiv 2603.26799).

    A Growing Neural Gas with utility (GNG-U; Fritzke, 1995 and 1997) lives on the joint embeddings: a sample's
    nearest unit and its neighbours move toward it, the two nearest are joined by an edge, edges that are not
    renewed grow old and go, and every ``insert_every`` samples a unit is inserted beside the one of largest error.
    Units of small utility are removed. Each unit is a component whose mean, weight and covariance follow the
    embeddings by online EM from where the unit was inserted. All of it is a function of the global batch alone.

    The encoder's loss is that of :class:`gmje_core.GMJE`: minus the mean pointwise mutual information behind a noise
    channel, under the critic before it has seen the batch and the batch's own pairs.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        capacity: Largest number of components alive at one time, at least 2.
        covariance_type: ``"full"``, ``"diag"`` or ``"spherical"`` local covariances.
        temperature: Variance of the noise channel, in units of the mean squared norm of a view's embeddings.
        batch_share: Weight :math:`\lambda` in ``[0, 1]`` of the batch's own pairs in the density that scores encoders;
            ``None`` for 0.9, and 0 where the views differ in size.
        step: Step of online EM in ``(0, 1]``.
        insert_every: Samples between two insertions.
        winner_rate: Share of the way that a sample's nearest unit moves toward it.
        neighbor_rate: Share of the way that its neighbours move toward it.
        max_age: Age above which an edge is removed, in samples won by its ends since it was last renewed.
        split_factor: Share of their errors that two units keep when a unit is inserted between them.
        error_decay: Share of errors and utilities that is forgotten with each sample.
        utility_factor: The unit of least utility is removed when the largest error is this many times its utility.
        weight_prior: Pseudo-observations of each component in the Dirichlet prior of the weights.
        covariance_prior: Pseudo-observations of each component in the inverse-Wishart prior of the covariances;
            ``None`` for 2, with full covariances for ``D``.
        variance_floor: Least variance of a component, in units of the mean variance of an embedding dimension.
        check_every: Steps between automatic collapse checks; 0 to make none.
        density_components: Components of the density that :meth:`consolidate` fits; 0 for 60, held only from then on.

    Raises:
        ConfigError: an argument is out of range.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> criterion = GMJEGNG(dim=2, capacity=16)
        >>> centers = 5 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> for _ in range(200):
        ...     loss = criterion(*(centers[torch.randint(4, (128,))] + 0.2 * torch.randn(2, 128, 2)))
        >>> criterion.clusters          # connected components of the graph
        4
        >>> units, edges = criterion.graph()
        >>> units.shape[1], edges.shape[1]
        (4, 2)
    """

    def __init__(
        self,
        dim: int | tuple[int, int],
        capacity: int = 512,
        *,
        covariance_type: MomentType = "spherical",
        temperature: float = 0.1,
        batch_share: float | None = None,
        step: float = 0.05,
        insert_every: int = 100,
        winner_rate: float = 0.05,
        neighbor_rate: float = 0.0006,
        max_age: float = 88.0,
        split_factor: float = 0.5,
        error_decay: float = 0.0005,
        utility_factor: float = 15.0,
        weight_prior: float = 1.0,
        covariance_prior: float | None = None,
        variance_floor: float = 1e-4,
        check_every: int = 100,
        density_components: int = 0,
    ) -> None:
        super().__init__(dim, check_every=check_every, density_components=density_components)
        check_choice("covariance_type", covariance_type, MomentType)
        check_counts(capacity=capacity, insert_every=insert_every)
        if capacity < 2:
            raise ConfigError(f"capacity must be at least 2, the units that a gas starts with, got {capacity!r}")
        check_positive(
            temperature=temperature,
            max_age=max_age,
            utility_factor=utility_factor,
            variance_floor=variance_floor,
            weight_prior=weight_prior,
        )
        check_share(step=step, least=False)
        check_share(winner_rate=winner_rate, neighbor_rate=neighbor_rate, split_factor=split_factor)
        check_share(error_decay=error_decay, most=False)
        if covariance_prior is not None:
            check_at_least(0, covariance_prior=covariance_prior)
        self.capacity = capacity
        self.batch_share = share_of_batch(self.context_dim, self.target_dim, batch_share)
        gas = NeuralGas(
            capacity,
            self.dim,
            winner_rate=winner_rate,
            neighbor_rate=neighbor_rate,
            insert_every=insert_every,
            max_age=max_age,
            split_factor=split_factor,
            error_decay=error_decay,
            utility_factor=utility_factor,
        )
        moments = OnlineMixture(
            capacity,
            self.dim,
            covariance_type=covariance_type,
            tied=False,
            weight_prior=weight_prior,
            covariance_prior=covariance_prior,
            variance_floor=variance_floor,
            step=step,
        )
        self.critic: GrowingMixture = GrowingMixture(gas, moments)
        self.channel = NoiseChannel(self.context_dim, self.target_dim, temperature)

    @property
    def components(self) -> int:
        """Number of components alive."""
        return int(self.critic.gas.alive.sum())

    @property
    def clusters(self) -> int:
        """Number of connected components of the graph: clusters that no edge joins."""
        return int(self.critic.gas.clusters().max()) + 1

    def graph(self) -> tuple[Tensor, Tensor]:
        """The living units, ``(n, D)`` in float64, and the edges between them, ``(E, 2)`` indices into these units."""
        gas = self.critic.gas
        order = gas.alive.cumsum(dim=0) - 1
        return gas.units[gas.alive].clone(), order[gas.edges]

    def _known(self) -> GaussianMixture:
        super()._known()
        return self.critic.living(self._dtype)

    def _more_gauges(self, responsibilities: Tensor | None) -> dict[str, Tensor | float]:
        # Units share out the samples evenly in a good gas; the weights that EM gives to components need not be even.
        wins, alive = self.critic.wins, self.critic.gas.alive.sum()
        usage = component_usage(wins / wins.sum().clamp_min(1)) * self.capacity / alive
        return {"component_usage": usage, "components": alive}
