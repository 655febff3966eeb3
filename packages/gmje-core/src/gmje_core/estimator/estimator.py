r"""A Gaussian mixture of paired embeddings that already exist, in the manner of scikit-learn's estimators.

The encoders stay frozen: embeddings of both views go in as arrays; densities, predictions and samples come out.
"""

import copy
import os
from dataclasses import replace
from typing import Literal, Self

import torch

from gmje_core.checks import as_integer, check_counts
from gmje_core.densities.covariance import CovarianceType
from gmje_core.errors import ConfigError
from gmje_core.estimation.em import CovarianceForm, total_moments
from gmje_core.estimation.pairs import Embeddings, Pairs
from gmje_core.estimation.seeding import step_generator
from gmje_core.estimation.shrinkage import TargetKind
from gmje_core.estimator import fitting
from gmje_core.estimator.growing import grow_graph
from gmje_core.estimator.options import Settings, check_options, read_device, read_seed
from gmje_core.estimator.questions import DensityQuestions
from gmje_core.estimator.saving import read_fit, write_fit
from gmje_core.estimator.starts import InitMethod
from gmje_core.estimator.subspace import SubspaceSize
from gmje_core.linalg import full_precision

__all__ = ["JointEmbeddingMixture"]


class JointEmbeddingMixture(DensityQuestions):
    r"""Joint density :math:`q(z_c, z_t) = \sum_k w_k N([z_c; z_t]; \mu_k, \Sigma_k)` of frozen paired embeddings.

    It is fitted by EM, in memory that does not grow with rows x components x dimensions, and for ``"low_rank"`` in more
    than 64 dimensions, or four times its rank, not with components x squared dimensions either; with ``batch_size`` by
    online EM over minibatches (Cappé and Moulines, 2009), for memory-mapped arrays larger than memory. From the joint
    density follow, in closed form, the conditional :math:`q(z_t \mid z_c)` with all its modes, marginals and samples
    (method from arXiv 2603.26799).

    It follows scikit-learn's conventions (``get_params``, ``set_params``, ``clone``, pipelines, grid search over
    :meth:`score`) without needing scikit-learn, and agrees with ``sklearn.mixture.GaussianMixture`` on
    ``np.hstack([Z_context, Z_target])`` at the same settings and start. Embeddings are NumPy arrays, tensors, or
    anything that NumPy reads as a matrix of numbers; results come back in the same kind, on the same device and in
    the same floating dtype (half precision as float32, integers as float64).

    Args:
        n_components: Number of components ``K``.
        covariance_type: ``"full"``, ``"low_rank"`` (plus diagonal), ``"diag"`` or ``"spherical"``.
        tied: Whether all components share one covariance.
        rank: Columns of the factor of ``"low_rank"``, at most ``d_c + d_t``.
        reg_covar: Number added to every variance, in squared units of the embeddings.
        covariance_prior: Pseudo-observations :math:`\nu` of a target :math:`T` in each component's covariance,
            :math:`\Sigma_k = (n_k C_k + \nu T) / (n_k + \nu)`: the mode under an inverse-Wishart prior.
        covariance_target: :math:`T`: ``"pooled"``, the covariance of the rows about the nearest mean of the start, or
            ``"isotropic"``, the multiple of the identity with its mean variance. In online EM it follows the running
            covariance within components; low-rank components of more than 64 dimensions then take the isotropic one.
        max_iter: Most rounds of EM; with ``batch_size``, most passes over the rows.
        tol: EM has converged when the mean log-density of a round, in nats, changes by less.
        n_init: Number of starts; the one that ends with the largest lower bound is kept.
        init_params: How the start's centres are found: ``"k-means++"``, ``"kmeans"`` (Lloyd's rounds after that) or
            ``"random_from_data"`` (random rows). Each row then belongs to the nearest centre.
        weights_init: Weights ``(K,)`` to start from.
        means_init: Means ``(K, d_c + d_t)`` to start from.
        precisions_init: Inverse covariances to start from, of the shape of ``covariances_``.
        batch_size: Rows of a minibatch; ``None`` for EM over all rows.
        subspace: Number of directions in which the components differ, or ``"auto"`` to find it: along all others the
            density is one Gaussian, independent of them after whitening. Many components then follow a curved density
            in many dimensions of noise at the price of a few parameters each. For full covariances and EM over all
            rows; ``reg_covar`` counts relative to the mean variance within. ``None`` lets components differ in all.
        random_state: Seed of every draw; ``None`` takes one from torch's global generator.
        device: Device of the computation; ``None`` for that of the embeddings.
        dtype: Dtype of the densities, ``"float64"`` or ``"float32"`` (faster on accelerators); statistics are
            float64.

    Attributes:
        density_: The fitted :class:`~gmje_core.densities.joint.JointGaussianMixture`.
        weights_: ``(K,)``.
        means_: ``(K, D)`` with ``D = d_c + d_t``, context first.
        covariances_: ``(K, D, D)`` for ``full`` and ``low_rank``, ``(K, D)`` for ``diag``, ``(K,)`` for
            ``spherical``; without ``K`` where tied.
        converged_: Whether the last round changed the lower bound by less than ``tol``.
        n_iter_: Rounds of EM, or calls of :meth:`partial_fit`.
        subspace_: Number of directions in which the components differ; ``None`` without the option ``subspace``.
        units_: ``(n, D)`` units of the graph that :meth:`fit_gng` grew, in float64; this and the next two are ``None``
            after any other fit.
        edges_: ``(E, 2)`` indices of the two units of each edge.
        unit_clusters_: ``(n,)`` label from 0 of the connected component of each unit.
        lower_bound_: Mean log-density of a row in nats in the last round, before its update; in EM over all rows with
            the log-density of ``covariance_prior`` divided by ``N``.
        lower_bounds_: The lower bounds of all rounds; after :meth:`partial_fit` of the last batch alone.
        context_dim_: ``d_c``; also ``n_features_in_``.
        target_dim_: ``d_t``.
        n_samples_seen_: Rows fitted so far, counted as often as they were seen.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> context = rng.normal(size=(500, 1))
        >>> target = rng.choice([-1.0, 1.0], size=(500, 1)) * context + 0.1 * rng.normal(size=(500, 1))
        >>> density = JointEmbeddingMixture(2, random_state=0, n_init=3).fit(context, target)
        >>> density.predict([[2.0]])                            # the mean lies between the branches
        array([[-0.17...]])
        >>> posterior = density.predict_distribution([[2.0]])   # they are the modes
        >>> posterior.means.sort(dim=-2).values.flatten()
        tensor([-2.00...,  1.97...], dtype=torch.float64)
        >>> density.score_samples([[2.0], [2.0]], [[2.0], [0.0]]) > -5
        array([ True, False])
        >>> z_context, z_target = density.sample(100, random_state=0)
        >>> z_context.shape, z_target.shape
        ((100, 1), (100, 1))
    """

    def __init__(
        self,
        n_components: int = 16,
        covariance_type: CovarianceType = "full",
        *,
        tied: bool = False,
        rank: int = 8,
        reg_covar: float = 1e-6,
        covariance_prior: float = 0.0,
        covariance_target: TargetKind = "pooled",
        max_iter: int = 100,
        tol: float = 1e-3,
        n_init: int = 1,
        init_params: InitMethod = "k-means++",
        weights_init: Embeddings | None = None,
        means_init: Embeddings | None = None,
        precisions_init: Embeddings | None = None,
        batch_size: int | None = None,
        subspace: SubspaceSize | None = None,
        random_state: int | None = None,
        device: torch.device | str | None = None,
        dtype: Literal["float32", "float64"] | torch.dtype = "float64",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tied = tied
        self.rank = rank
        self.reg_covar = reg_covar
        self.covariance_prior = covariance_prior
        self.covariance_target = covariance_target
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.batch_size = batch_size
        self.subspace = subspace
        self.random_state = random_state
        self.device = device
        self.dtype = dtype

    @torch.no_grad()
    def fit(self, Z_context: Embeddings, Z_target: Embeddings) -> Self:
        """Fit the density to pairs, from new starts.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``; each row is the partner of the same row of ``Z_context``.

        Returns:
            The estimator.

        Raises:
            ConfigError: an option is unknown or out of range.
            BatchSizeError: there are fewer rows than components, or a single one.
            InputTypeError, ShapeError, NonFiniteError: the embeddings are no matrices of finite numbers.
            NotPositiveDefiniteError: a component turned singular, because ``reg_covar`` is too small.

        Warns:
            ConvergenceWarning: ``max_iter`` came first, or there are fewer distinct rows than components.
            ScaleWarning: ``reg_covar`` is larger than the mean variance of the embeddings.
        """
        settings, seed = check_options(self.get_params()), self._seed()
        pairs = self._pairs_to_fit(Z_context, Z_target, settings)
        run = fitting.fit_best(pairs, settings, seed)
        return self._keep(fitting.Fit.of_run(run, pairs, settings, n_iter=len(run.lower_bounds)))

    @torch.no_grad()
    def partial_fit(self, Z_context: Embeddings, Z_target: Embeddings) -> Self:
        r"""Take one step of online EM on a batch, of size :math:`(t + 2)^{-0.6}`.

        ``t`` is the number of such batches seen before, so a fitted or loaded estimator is refined by what it has
        not seen. The first batch is also the start. A component with fewer than ``2 D`` effective rows (4 for
        diagonal forms) is filled up to so many by rows of the isotropic pooled covariance, so that it is not singular.

        Args:
            Z_context: ``(B, d_c)``.
            Z_target: ``(B, d_t)``.

        Returns:
            The estimator.

        Raises:
            ConfigError: an option is unknown or out of range, or ``n_components`` or the form of the covariances (type,
                ``tied``, rank of ``"low_rank"``) has changed since the estimator was fitted.
            BatchSizeError: the first batch has fewer rows than components.
            InputTypeError, ShapeError, NonFiniteError: as in :meth:`fit`; also where the sizes are other than before.
        """
        settings, seed = self._settings_without_subspace("partial_fit"), self._seed()
        pairs = self._pairs_to_fit(Z_context, Z_target, settings)
        with full_precision(pairs.device.type):
            if not hasattr(self, "density_"):
                fitting.require_rows(pairs, settings.n_components)
                fitting.warn_of_small_variance(total_moments(pairs, diagonal=True)[1], settings.form.reg_covar)
                run, steps = fitting.start_online(pairs, settings, step_generator(seed, 0)), 0
            else:
                run, steps = self._run_to_continue(pairs, settings), self.n_iter_
            run = fitting.online_step(run, pairs.rows(slice(None)), settings, step_generator(seed, steps + 1))
        return self._keep(fitting.Fit.of_run(run, pairs, settings, n_iter=steps + 1))

    @torch.no_grad()
    def fit_gng(self, Z_context: Embeddings, Z_target: Embeddings, *, capacity: int = 64, steps: int = 300) -> Self:
        """Fit the density with a number of components that Growing Neural Gas proposes.

        A gas with utility (Fritzke, 1997) grows on the pairs. EM then starts once from its clusters (the connected
        components of its graph) and once from all its units; the fit of lower :meth:`bic` is kept. The option
        ``n_components`` is not used and stays as it is.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``.
            capacity: Most components.
            steps: Number of batches of up to 256 pairs that the gas sees.

        Returns:
            The estimator, also with the graph: ``units_``, ``edges_`` and ``unit_clusters_``.

        Raises:
            ConfigError: an option is out of range, or ``subspace`` is set.
            BatchSizeError, InputTypeError, ShapeError, NonFiniteError: as in :meth:`fit`.

        Examples:
            >>> import numpy as np
            >>> rng = np.random.default_rng(0)
            >>> centers = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])[rng.integers(3, size=1500)]
            >>> rows = centers + rng.normal(size=(1500, 2))
            >>> density = JointEmbeddingMixture(random_state=0).fit_gng(rows[:, :1], rows[:, 1:])
            >>> len(density.weights_)
            3
        """
        check_counts(steps=as_integer("steps", steps), capacity=as_integer("capacity", capacity))
        if capacity < 2:
            raise ConfigError(f"capacity must be at least 2, the units that a gas starts with, got {capacity!r}")
        settings, seed = self._settings_without_subspace("fit_gng"), self._seed()
        pairs = self._pairs_to_fit(Z_context, Z_target, settings)
        fitting.require_rows(pairs, 2)
        graph = grow_graph(pairs, min(capacity, len(pairs)), steps, step_generator(seed, 0))
        candidates = []
        for centres in (graph.centres(), graph.units):
            given = {"weights_init": None, "means_init": centres, "precisions_init": None}
            options = self.get_params() | given | {"n_components": len(centres), "random_state": seed}
            candidates.append(type(self)(**options).fit(Z_context, Z_target))
        best = min(candidates, key=lambda fitted: fitted.bic(Z_context, Z_target))
        return self._keep(replace(best._fit, graph=graph))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one safetensors file with a JSON header.

        The file appears whole or not at all. All options are kept but ``device``, as they are now; the density is that
        of the last fit, whatever they were then.

        Args:
            path: The file; an old one is replaced.

        Raises:
            NotFittedError: the estimator has not been fitted.
            ConfigError: an option was set to a value that is out of range.
            OSError: the file cannot be written there.

        Examples:
            >>> import tempfile
            >>> import numpy as np
            >>> path = os.path.join(tempfile.mkdtemp(), "density.safetensors")
            >>> rows = np.arange(12.0).reshape(6, 2) % 5
            >>> density = JointEmbeddingMixture(1).fit(rows, rows[:, :1] ** 2)
            >>> density.save(path)
            >>> JointEmbeddingMixture.load(path).score(rows, rows[:, :1]) == density.score(rows, rows[:, :1])
            True
        """
        self._fitted_density()
        write_fit(path, self.get_params(), self._fit)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> Self:
        """Read the estimator that :meth:`save` wrote.

        Args:
            path: The file.
            device: The option of that name, and the device of the density; ``None`` for the CPU.

        Raises:
            DensityFileError: the file is damaged or of another kind, or its parts do not fit each other.
            ConfigError: the device does not exist.
            OSError: there is no such file.
        """
        place = read_device(device) or torch.device("cpu")
        options, fit = read_fit(path, cls().get_params(), place)
        return cls(**options | {"device": device})._keep(fit)

    def _seed(self) -> int:
        """Seed of a fit: the one given, or one that torch's global generator draws."""
        seed = read_seed(self.random_state)
        return int(torch.randint(2**31, ())) if seed is None else seed

    def _settings_without_subspace(self, method: str) -> Settings:
        """Checked options for a method that fits components which differ in all directions."""
        settings = check_options(self.get_params())
        if settings.subspace is not None:
            raise ConfigError(f"{method} knows no subspace, but subspace={settings.subspace!r}: set it to None")
        return settings

    def _pairs_to_fit(self, Z_context: Embeddings, Z_target: Embeddings, settings: Settings) -> Pairs:
        pairs = Pairs({"Z_context": Z_context, "Z_target": Z_target}, settings.dtype, settings.device)
        fitting.require_rank(pairs, settings.form)
        fitting.require_directions(pairs, settings.subspace)
        return pairs

    def _run_to_continue(self, pairs: Pairs, settings: Settings) -> fitting.Run:
        """Run from which :meth:`partial_fit` goes on, if the options and the sizes are still those of the density."""
        density, form = self._fitted_density(), settings.form
        self._require_fitted_sizes(pairs)
        fitted = fitting.fitted_form(density.covariance, self._fit.tied, form)
        if (density.components, fitted) != (settings.n_components, form):
            raise ConfigError(
                f"partial_fit goes on from {_asked(density.components, fitted)}, but the options now ask for "
                f"{_asked(settings.n_components, form)}: call fit to begin anew"
            )
        # A step changes its statistics: where it fails, those of the estimator are what they were.
        online = copy.deepcopy(self._fit.online)
        return fitting.continue_online(density.joint.to(pairs.device), online, form, self.n_samples_seen_)


def _asked(components: int, form: CovarianceForm) -> str:
    """The options that ask for a number of components with covariances of a form."""
    rank = f", rank={form.rank}" if form.covariance_type == "low_rank" else ""
    return f"n_components={components}, covariance_type={form.covariance_type!r}{rank}, tied={form.tied}"
