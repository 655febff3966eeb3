r"""Questions to a fitted density of pairs: log-densities, predictions, samples and information criteria."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor

from gmje_core.checks import as_integer, check_counts
from gmje_core.densities.covariance import LowRankCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import NotFittedError, ShapeError
from gmje_core.estimation.em import CovarianceForm, block_rows
from gmje_core.estimation.pairs import Array, Embeddings, Pairs, to_kind
from gmje_core.estimation.subspace import subspace_parameter_count
from gmje_core.estimator.arrays import covariances_array
from gmje_core.estimator.fitting import Fit
from gmje_core.estimator.options import EstimatorOptions, read_seed
from gmje_core.seeds import seeded

__all__ = ["DensityQuestions"]

# Most elements of the conditional means of one block of predictions, rows x components x d_t.
_PREDICTION_ELEMENTS = 2**22


class DensityQuestions(EstimatorOptions):
    """Base of an estimator of a joint density: it keeps a fit, shows it as attributes and answers questions about it.

    :class:`~gmje_core.estimator.JointEmbeddingMixture` documents the attributes and adds the ways to fit.
    """

    random_state: int | None
    _fit: Fit

    def score_samples(self, Z_context: Embeddings, Z_target: Embeddings) -> Array:
        r"""Log-density :math:`\log q(z_c, z_t)` of each pair, in nats.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``.

        Returns:
            ``(N,)``.

        Raises:
            NotFittedError: the estimator has not been fitted.
            InputTypeError, ShapeError, NonFiniteError: the embeddings are no matrices of the fitted sizes.
        """
        return self._for_each_pair(self._fitted_density().joint.log_prob, Z_context, Z_target)

    def score(self, Z_context: Embeddings, Z_target: Embeddings) -> float:
        """Mean of :meth:`score_samples`, in nats per pair; the errors are the same."""
        joint = self._fitted_density().joint
        pairs = self._pairs_to_ask(Z_context=Z_context, Z_target=Z_target)
        blocks = pairs.blocks(block_rows(joint.components, joint.dim))
        return math.fsum(float(joint.log_prob(block).double().sum()) for block in blocks) / len(pairs)

    def responsibilities(self, Z_context: Embeddings, Z_target: Embeddings) -> Array:
        r"""Shares :math:`p(k \mid z_c, z_t)`, ``(N, K)``; arguments and errors are those of :meth:`score_samples`."""
        return self._for_each_pair(self._fitted_density().joint.responsibilities, Z_context, Z_target)

    def predict(self, Z_context: Embeddings) -> Array:
        r"""Conditional mean :math:`\mathbb{E}[z_t \mid z_c]`, which lies between the modes where there are several.

        Args:
            Z_context: ``(N, d_c)``.

        Returns:
            ``(N, d_t)``.

        Raises:
            NotFittedError: the estimator has not been fitted.
            InputTypeError, ShapeError, NonFiniteError: the embeddings are no matrix of the fitted size.
        """
        density = self._fitted_density()
        pairs = self._pairs_to_ask(Z_context=Z_context)
        size = max(1, _PREDICTION_ELEMENTS // (density.components * density.target_dim))
        return pairs.as_given(torch.cat([density.condition(block).mean for block in pairs.blocks(size)]))

    def predict_distribution(self, Z_context: Embeddings) -> GaussianMixture:
        r"""Conditional density :math:`q(z_t \mid z_c)` of each row, with all its modes.

        Args:
            Z_context: ``(N, d_c)``; for many rows ask in parts, as the means of all are ``(N, K, d_t)``.

        Returns:
            A torch distribution of batch shape ``(N,)``, on the device and in the dtype of ``density_``.

        Raises:
            NotFittedError, InputTypeError, ShapeError, NonFiniteError: as in :meth:`predict`.
        """
        density = self._fitted_density()
        return density.condition(self._pairs_to_ask(Z_context=Z_context).rows(slice(None)))

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> tuple[Array, Array]:
        """Draw pairs from the density.

        Args:
            n_samples: Number of pairs.
            random_state: Seed; ``None`` for the estimator's own, and where that is ``None`` too, torch's global
                generator.

        Returns:
            ``(n, d_c)`` and ``(n, d_t)``, in the kind that was fitted.

        Raises:
            NotFittedError: the estimator has not been fitted.
            ConfigError: ``n_samples`` or ``random_state`` is out of range.
        """
        density = self._fitted_density()
        n_samples = as_integer("n_samples", n_samples)
        check_counts(n_samples=n_samples)
        seed = read_seed(self.random_state if random_state is None else random_state)
        with nullcontext() if seed is None else seeded(seed, density.device):
            views = density.sample((n_samples,))
        context, target = (to_kind(view.contiguous(), self._fit.kind, density.device) for view in views)
        return context, target

    def bic(self, Z_context: Embeddings, Z_target: Embeddings) -> float:
        r"""Bayesian information criterion :math:`-2 \sum_i \log q(z_i) + p \log N`: the lower the better.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``.

        Returns:
            The criterion in nats, twice; ``p`` counts the free parameters of the covariances' form.

        Raises:
            NotFittedError, InputTypeError, ShapeError, NonFiniteError: as in :meth:`score_samples`.
        """
        return self._information_criterion(Z_context, Z_target, lambda rows: math.log(rows))

    def aic(self, Z_context: Embeddings, Z_target: Embeddings) -> float:
        r"""Akaike's information criterion :math:`-2 \sum_i \log q(z_i) + 2 p`; otherwise as :meth:`bic`."""
        return self._information_criterion(Z_context, Z_target, lambda rows: 2.0)

    def _keep(self, fit: Fit) -> Self:
        """Keep a fit, in place of an earlier one, and show it as attributes."""
        density, kind = fit.density, fit.kind
        self._fit = fit
        self.density_ = density
        self.weights_ = to_kind(density.weights, kind, density.device)
        self.means_ = to_kind(density.means, kind, density.device)
        self.covariances_ = to_kind(covariances_array(density.covariance, tied=fit.tied), kind, density.device)
        self.context_dim_ = self.n_features_in_ = density.context_dim
        self.target_dim_ = density.target_dim
        self.converged_ = fit.converged
        self.n_iter_ = fit.n_iter
        self.lower_bounds_ = fit.lower_bounds
        self.lower_bound_ = fit.lower_bounds[-1]
        self.n_samples_seen_ = fit.n_samples_seen
        self.subspace_ = fit.subspace
        graph: list[Array | None] = [None, None, None]
        if fit.graph is not None:
            graph = [to_kind(part, kind, density.device) for part in fit.graph]
        self.units_, self.edges_, self.unit_clusters_ = graph
        return self

    def _fitted_density(self) -> JointGaussianMixture:
        """The density, or an error where there is none yet."""
        density: JointGaussianMixture | None = getattr(self, "density_", None)
        if density is None:
            raise NotFittedError(f"this {type(self).__name__} has no density yet: call fit or partial_fit first")
        return density

    def _pairs_to_ask(self, **views: Embeddings) -> Pairs:
        """Embeddings of one or both views, of the fitted sizes."""
        density = self._fitted_density()
        pairs = Pairs(views, density.dtype, density.device)
        self._require_fitted_sizes(pairs)
        return pairs

    def _require_fitted_sizes(self, pairs: Pairs) -> None:
        sizes = (self.context_dim_, self.target_dim_)
        for name, size, wanted in zip(("Z_context", "Z_target"), pairs.dims, sizes, strict=False):
            if size != wanted:
                raise ShapeError(f"{name} must have shape (N, {wanted}) as when fitted, but has {size} columns")

    def _for_each_pair(
        self, function: Callable[[Tensor], Tensor], Z_context: Embeddings, Z_target: Embeddings
    ) -> Array:
        """Results of a function of joint rows, block by block."""
        pairs = self._pairs_to_ask(Z_context=Z_context, Z_target=Z_target)
        size = block_rows(self.density_.components, pairs.dim)
        return pairs.as_given(torch.cat([function(block) for block in pairs.blocks(size)]))

    def _information_criterion(
        self, Z_context: Embeddings, Z_target: Embeddings, price: Callable[[int], float]
    ) -> float:
        """Deviance of the pairs, and for each free parameter a price that may depend on the number of pairs."""
        density = self._fitted_density()
        pairs = self._pairs_to_ask(Z_context=Z_context, Z_target=Z_target)
        covariance = density.covariance
        rank = covariance.rank if isinstance(covariance, LowRankCovariance) else 1
        form = CovarianceForm(covariance.covariance_type, covariance.tied, rank, 0.0)
        parameters = form.parameter_count(density.components, density.joint.dim)
        if self._fit.subspace is not None:
            parameters = subspace_parameter_count(density.components, density.joint.dim, self._fit.subspace)
        return -2 * self.score(Z_context, Z_target) * len(pairs) + parameters * price(len(pairs))
