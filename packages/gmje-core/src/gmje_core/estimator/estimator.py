r"""A Gaussian mixture of paired embeddings that anyone already has, with the manners of scikit-learn's estimators.

The encoders stay frozen: embeddings of both views go in as arrays; densities, predictions and samples come out.
"""

import copy
import inspect
import math
import numbers
import operator
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from gmje_core.checks import check_at_least, check_choice, check_counts
from gmje_core.densities.covariance import (
    Covariance,
    CovarianceType,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
)
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    ConvergenceWarning,
    DensityFileError,
    GMJEError,
    InputTypeError,
    NotFittedError,
    ScaleWarning,
    ShapeError,
    unknown_name,
)
from gmje_core.estimation.em import CovarianceForm, block_rows, total_moments
from gmje_core.estimation.online import OnlineMixture
from gmje_core.estimation.pairs import Array, Embeddings, Kind, Pairs, to_kind
from gmje_core.estimation.seeding import step_generator
from gmje_core.estimator.density_file import read_density, write_density
from gmje_core.estimator.fitting import Run, Settings, fit_online, fit_whole, online_step, resume, start_online
from gmje_core.estimator.growing import grow
from gmje_core.estimator.starts import Given, Init
from gmje_core.linalg import full_precision, require_finite

__all__ = ["ConvergenceWarning", "DensityFileError", "InputTypeError", "JointEmbeddingMixture"]

# Elements of the conditional means of one block of predictions, rows x components x d_t.
_PREDICT_BLOCK = 2**22
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_ARRAYS = ("weights_init", "means_init", "precisions_init")
# Fitted attributes that a file holds as JSON.
_SCALARS = ("context_dim_", "converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_samples_seen_")


class JointEmbeddingMixture:
    r"""Joint density :math:`q(z_c, z_t) = \sum_k w_k N([z_c; z_t]; \mu_k, \Sigma_k)` of frozen paired embeddings.

    Fitted by EM, in memory that does not grow with rows x components x dimensions; with ``batch_size`` by online EM
    over minibatches (Cappé and Moulines, 2009), for memory-mapped arrays larger than memory. From the joint density
    follow, in closed form, the conditional :math:`q(z_t \mid z_c)` with all its modes, marginals and samples (method
    from arXiv 2603.26799).

    It follows scikit-learn's conventions (``get_params``, ``set_params``, ``clone``, pipelines, grid search over
    :meth:`score`) without needing scikit-learn, and agrees with ``sklearn.mixture.GaussianMixture`` on
    ``np.hstack([Z_context, Z_target])`` at the same settings and start. Embeddings are NumPy arrays, tensors, or
    anything that NumPy reads as a matrix of numbers; results come back in the same kind, on the same device and in
    the same floating dtype (half precision as float32, integers as float64).

    Args:
        components: ``K``.
        covariance_type: ``"full"``, ``"low_rank"`` (plus diagonal), ``"diag"`` or ``"spherical"``.
        tied: One covariance for all components.
        rank: Columns of the factor of ``"low_rank"``, at most ``d_c + d_t``.
        reg_covar: Added to every variance, in squared units of the embeddings.
        max_iter: Most rounds of EM; with ``batch_size``, most passes over the rows.
        tol: EM has converged when the mean log-density of a round, in nats, changes by less.
        n_init: Starts; the one with the largest lower bound is kept.
        init: How the start's centres are found: ``"kmeans++"``, ``"kmeans"`` (Lloyd's rounds after that) or
            ``"random"`` rows. Each row then belongs to the nearest centre.
        weights_init: ``(K,)`` weights to start from.
        means_init: ``(K, d_c + d_t)`` means to start from.
        precisions_init: Inverse covariances to start from, of the shape of ``covariances_``.
        batch_size: Rows of a minibatch; ``None`` for EM over all rows.
        random_state: Seed of every draw; ``None`` takes one from torch's global generator.
        device: Where to compute; ``None`` for where the embeddings are.
        dtype: ``"float64"`` or ``"float32"`` (faster on accelerators) of the densities; statistics are float64.

    Attributes:
        density_: The fitted :class:`~gmje_core.densities.joint.JointGaussianMixture`.
        weights_: ``(K,)``.
        means_: ``(K, D)`` with ``D = d_c + d_t``, context first.
        covariances_: ``(K, D, D)`` for ``full`` and ``low_rank``, ``(K, D)`` for ``diag``, ``(K,)`` for
            ``spherical``; without ``K`` where tied.
        converged_: Whether the last round changed the lower bound by less than ``tol``.
        n_iter_: Rounds of EM, or calls of :meth:`partial_fit`.
        lower_bound_: Mean log-density of a row in nats in the last round, before its update.
        lower_bounds_: The same of every round; after :meth:`partial_fit` of the last batch alone.
        context_dim_: ``d_c``; also ``n_features_in_``.
        target_dim_: ``d_t``.
        n_samples_seen_: Rows fitted so far, counted as often as they were seen.

    Examples:
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
        components: int = 16,
        covariance_type: CovarianceType = "full",
        *,
        tied: bool = False,
        rank: int = 8,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        tol: float = 1e-3,
        n_init: int = 1,
        init: Init = "kmeans++",
        weights_init: Embeddings | None = None,
        means_init: Embeddings | None = None,
        precisions_init: Embeddings | None = None,
        batch_size: int | None = None,
        random_state: int | None = None,
        device: torch.device | str | None = None,
        dtype: Literal["float32", "float64"] | torch.dtype = "float64",
    ) -> None:
        self.components = components
        self.covariance_type = covariance_type
        self.tied = tied
        self.rank = rank
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.init = init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.dtype = dtype

    @torch.no_grad()
    def fit(self, Z_context: Embeddings, Z_target: Embeddings) -> Self:
        """Fit the density to pairs, from new starts.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``, row by row the partners.

        Returns:
            The estimator.

        Raises:
            ConfigError: an option that is unknown or out of range.
            BatchSizeError: fewer rows than components, or a single one.
            InputTypeError, ShapeError, NonFiniteError: embeddings that are no matrices of finite numbers.
            NotPositiveDefiniteError: a component turned singular; ``reg_covar`` is too small.

        Warns:
            ConvergenceWarning: ``max_iter`` came first, or there are fewer distinct rows than components.
            ScaleWarning: ``reg_covar`` is larger than the mean variance of the embeddings.
        """
        settings, seed = self._settings(), self._draw_seed()
        pairs = self._pairs(Z_context, Z_target, settings)
        _require_rows(pairs, settings.components)
        with full_precision(pairs.device.type):
            pooled = settings.form.tied and not settings.form.diagonal
            total = total_moments(pairs, diagonal=not pooled)
            _warn_if_tiny(total[1].diagonal() if pooled else total[1], settings.form.reg_covar)
            fit = fit_online if settings.batch_size else fit_whole
            starts = 1 if settings.given.whole else settings.n_init
            best: Run | None = None
            for attempt in range(starts):
                run = fit(pairs, settings, total, step_generator(seed, attempt))
                best = run if best is None or run.lower_bounds[-1] > best.lower_bounds[-1] else best
        assert best is not None
        if not best.converged:
            warnings.warn(
                f"EM did not converge in {settings.max_iter} rounds: the lower bound still changed by at least "
                f"{settings.tol:g} nats; raise max_iter or tol, or try another init",
                ConvergenceWarning,
                stacklevel=3,  # no_grad wraps the method
            )
        self._take(best, pairs, settings, rounds=len(best.lower_bounds))
        return self

    @torch.no_grad()
    def partial_fit(self, Z_context: Embeddings, Z_target: Embeddings) -> Self:
        r"""One step of online EM on a batch, of size :math:`(t + 2)^{-0.6}`.

        ``t`` is the number of such batches seen before, so a fitted or loaded estimator is refined by what it has
        not seen. The first batch is also the start. A component with fewer than ``2 D`` effective rows (4 for
        diagonal forms) has the rest of them filled up by the isotropic pooled covariance, so that it is not singular.

        Args:
            Z_context: ``(B, d_c)``.
            Z_target: ``(B, d_t)``.

        Returns:
            The estimator.

        Raises:
            ConfigError: options changed since the estimator was fitted.
            BatchSizeError: a first batch with fewer rows than components.
            InputTypeError, ShapeError, NonFiniteError: as of :meth:`fit`; also other sizes than before.
        """
        settings, seed = self._settings(), self._draw_seed()
        pairs = self._pairs(Z_context, Z_target, settings)
        with full_precision(pairs.device.type):
            if not hasattr(self, "density_"):
                _require_rows(pairs, settings.components)
                _warn_if_tiny(total_moments(pairs, diagonal=True)[1], settings.form.reg_covar)
                run, rounds = start_online(pairs, settings, step_generator(seed, 0)), 0
            else:
                run, rounds = self._resume(pairs, settings.form), self.n_iter_
            generator = step_generator(seed, rounds + 1)
            run = online_step(run, pairs.rows(slice(None)), settings, generator)
        self._take(run, pairs, settings, rounds=rounds + 1)
        return self

    @torch.no_grad()
    def fit_gng(self, Z_context: Embeddings, Z_target: Embeddings, *, capacity: int = 64, steps: int = 300) -> Self:
        """Fit the density with a number of components that Growing Neural Gas proposes.

        A gas with utility (Fritzke, 1997) grows on the pairs. EM then starts once from its clusters (the connected
        components of its graph) and once from all its units; the fit of lower :meth:`bic` is kept. The option
        ``components`` is not used and stays as it is.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``.
            capacity: Most components.
            steps: Batches of up to 256 pairs that the gas sees.

        Returns:
            The estimator, also with ``units_`` (n, D), ``edges_`` (E, 2) and ``unit_clusters_`` (n,).

        Raises:
            ConfigError: an option out of range.
            BatchSizeError, InputTypeError, ShapeError, NonFiniteError: as of :meth:`fit`.

        Examples:
            >>> rng = np.random.default_rng(0)
            >>> centers = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])[rng.integers(3, size=1500)]
            >>> rows = centers + rng.normal(size=(1500, 2))
            >>> density = JointEmbeddingMixture(random_state=0).fit_gng(rows[:, :1], rows[:, 1:])
            >>> len(density.weights_)
            3
        """
        check_counts(steps=_integer("steps", steps), capacity=_integer("capacity", capacity))
        if capacity < 2:
            raise ConfigError(f"capacity must be at least 2, the units that a gas starts with, got {capacity!r}")
        settings, seed = self._settings(), self._draw_seed()
        pairs = self._pairs(Z_context, Z_target, settings)
        _require_rows(pairs, 2)
        grown = grow(pairs, min(capacity, len(pairs)), steps, step_generator(seed, 0))
        best: Self | None = None
        for centres in (grown.centres(), grown.units):
            trial = copy.copy(self).set_params(
                components=len(centres), means_init=centres, weights_init=None, precisions_init=None, random_state=seed
            )
            trial.fit(Z_context, Z_target)
            if best is None or trial.bic(Z_context, Z_target) < best.bic(Z_context, Z_target):
                best = trial
        assert best is not None
        options = self.get_params()
        vars(self).update(vars(best))
        self.set_params(**options)
        self.units_ = to_kind(grown.units, self._kind, pairs.device)
        self.edges_ = to_kind(grown.edges, self._kind, pairs.device)
        self.unit_clusters_ = to_kind(grown.clusters, self._kind, pairs.device)
        return self

    def score_samples(self, Z_context: Embeddings, Z_target: Embeddings) -> Array:
        r""":math:`\log q(z_c, z_t)` of each pair, in nats.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``.

        Returns:
            ``(N,)``.

        Raises:
            NotFittedError: before :meth:`fit`.
            InputTypeError, ShapeError, NonFiniteError: embeddings that are no matrices of the fitted sizes.
        """
        joint = self._fitted().joint
        return self._map_pairs(joint.log_prob, Z_context, Z_target)

    def score(self, Z_context: Embeddings, Z_target: Embeddings) -> float:
        """Mean of :meth:`score_samples`, in nats per pair; errors are the same."""
        joint = self._fitted().joint
        pairs = self._fitted_pairs(Z_context=Z_context, Z_target=Z_target)
        blocks = pairs.blocks(block_rows(joint.components, joint.dim))
        return math.fsum(float(joint.log_prob(block).double().sum()) for block in blocks) / len(pairs)

    def responsibilities(self, Z_context: Embeddings, Z_target: Embeddings) -> Array:
        r""":math:`p(k \mid z_c, z_t)`, ``(N, K)``; arguments and errors as of :meth:`score_samples`."""
        return self._map_pairs(self._fitted().joint.responsibilities, Z_context, Z_target)

    def predict(self, Z_context: Embeddings) -> Array:
        r"""Conditional mean :math:`\mathbb{E}[z_t \mid z_c]`, which lies between the modes where there are several.

        Args:
            Z_context: ``(N, d_c)``.

        Returns:
            ``(N, d_t)``.

        Raises:
            NotFittedError: before :meth:`fit`.
            InputTypeError, ShapeError, NonFiniteError: embeddings that are no matrix of the fitted size.
        """
        density = self._fitted()
        pairs = self._fitted_pairs(Z_context=Z_context)
        size = max(1, _PREDICT_BLOCK // (density.components * density.target_dim))
        return pairs.back(torch.cat([density.condition(block).mean for block in pairs.blocks(size)]))

    def predict_distribution(self, Z_context: Embeddings) -> GaussianMixture:
        r"""Conditional density :math:`q(z_t \mid z_c)` of each row, with all its modes.

        Args:
            Z_context: ``(N, d_c)``; for many rows ask in parts, as the means of all are ``(N, K, d_t)``.

        Returns:
            A torch distribution of batch shape ``(N,)``, on the device and in the dtype of ``density_``.

        Raises:
            NotFittedError, InputTypeError, ShapeError, NonFiniteError: as of :meth:`predict`.
        """
        density = self._fitted()
        return density.condition(self._fitted_pairs(Z_context=Z_context).rows(slice(None)))

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> tuple[Array, Array]:
        """Draw pairs from the density.

        Args:
            n_samples: How many.
            random_state: Seed; ``None`` for the estimator's own, and where that is ``None`` too, torch's global
                generator.

        Returns:
            ``(n, d_c)`` and ``(n, d_t)``, in the kind that was fitted.

        Raises:
            NotFittedError: before :meth:`fit`.
            ConfigError: ``n_samples`` or ``random_state`` out of range.
        """
        density = self._fitted()
        n_samples = _integer("n_samples", n_samples)
        check_counts(n_samples=n_samples)
        seed = _seed(self.random_state if random_state is None else random_state)
        devices = [density.device] if density.device.type == "cuda" else []
        if seed is None:
            views = density.sample((n_samples,))
        else:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                views = density.sample((n_samples,))
        context, target = (to_kind(view.contiguous(), self._kind, density.device) for view in views)
        return context, target

    def bic(self, Z_context: Embeddings, Z_target: Embeddings) -> float:
        r"""Bayesian information criterion :math:`-2 \sum_i \log q(z_i) + p \log N`: the lower the better.

        Args:
            Z_context: ``(N, d_c)``.
            Z_target: ``(N, d_t)``.

        Returns:
            In nats, twice; ``p`` counts the free parameters of the covariances' form.

        Raises:
            NotFittedError, InputTypeError, ShapeError, NonFiniteError: as of :meth:`score_samples`.
        """
        return self._criterion(Z_context, Z_target, lambda rows: math.log(rows))

    def aic(self, Z_context: Embeddings, Z_target: Embeddings) -> float:
        r"""Akaike's information criterion :math:`-2 \sum_i \log q(z_i) + 2 p`; otherwise as :meth:`bic`."""
        return self._criterion(Z_context, Z_target, lambda rows: 2.0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one safetensors file with a JSON header.

        The file appears whole or not at all. All options are kept but ``device``.

        Args:
            path: The file; an old one is replaced.

        Raises:
            NotFittedError: before :meth:`fit`.
            OSError: it cannot be written there.

        Examples:
            >>> import tempfile
            >>> path = os.path.join(tempfile.mkdtemp(), "density.safetensors")
            >>> rows = np.arange(12.0).reshape(6, 2) % 5
            >>> density = JointEmbeddingMixture(1).fit(rows, rows[:, :1] ** 2)
            >>> density.save(path)
            >>> JointEmbeddingMixture.load(path).score(rows, rows[:, :1]) == density.score(rows, rows[:, :1])
            True
        """
        density = self._fitted()
        tensors = {"log_weights": density.log_weights, "means": density.means}
        tensors |= {f"covariance.{i}": tensor for i, tensor in enumerate(density.covariance.parameters)}
        if self._online is not None:
            tensors |= {f"online.{name}": tensor for name, tensor in self._online.state_dict().items()}
        params = self.get_params()
        settings = self._settings()
        for name in _ARRAYS:
            value = params.pop(name)
            if value is not None:
                array = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
                tensors[f"params.{name}"] = array.double()
        params |= {"dtype": str(settings.dtype).removeprefix("torch."), "device": None}
        header = {
            "params": {name: _plain(value) for name, value in params.items()},
            "fitted": {name: getattr(self, name) for name in _SCALARS},
            "kind": self._kind,
            "covariance_type": density.covariance.covariance_type,
            "tied": self._tied,
        }
        write_density(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> Self:
        """The estimator that :meth:`save` wrote.

        Args:
            path: The file.
            device: The option of that name, and where the density goes; ``None`` for the CPU.

        Raises:
            DensityFileError: a damaged or foreign file, or parts that do not fit each other; named.
            ConfigError: a device that does not exist.
            OSError: no such file.
        """
        where = _device(device) or torch.device("cpu")
        tensors, header = read_density(path)
        try:
            estimator = cls._rebuild(tensors, header, where)
        except (GMJEError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            detail = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise DensityFileError(f"{path} holds no density that can be rebuilt: {detail}") from error
        estimator.device = device
        return estimator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name, as they were given; ``deep`` is scikit-learn's and changes nothing here."""
        return {name: getattr(self, name) for name in _option_names(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Change options; a fitted density stays until the next fit.

        Raises:
            ConfigError: an option that does not exist.
        """
        names = _option_names(type(self))
        for name in params:
            if name not in names:
                raise ConfigError(unknown_name("option", name, names))
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if repr(value) != repr(defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        # Only scikit-learn asks for its tags, so it is there to be imported.
        from sklearn.utils import Tags, TargetTags

        target = TargetTags(required=True, multi_output=True, single_output=False)
        return Tags(estimator_type="density_estimator", target_tags=target)

    def _settings(self) -> Settings:
        """The options, checked now: ``set_params`` may have changed them."""
        integers = {name: _integer(name, getattr(self, name)) for name in ("components", "rank", "max_iter", "n_init")}
        check_counts(**integers)
        batch_size = None if self.batch_size is None else _integer("batch_size", self.batch_size)
        if batch_size is not None:
            check_counts(batch_size=batch_size)
        check_choice("covariance_type", self.covariance_type, CovarianceType)
        check_choice("init", self.init, Init)
        if not isinstance(self.tied, (bool, np.bool_)):
            raise ConfigError(f"tied must be True or False, got {self.tied!r}")
        reals = {name: _real(name, getattr(self, name)) for name in ("reg_covar", "tol")}
        check_at_least(0, **reals)
        return Settings(
            components=integers["components"],
            form=CovarianceForm(self.covariance_type, bool(self.tied), integers["rank"], reals["reg_covar"]),
            max_iter=integers["max_iter"],
            tol=reals["tol"],
            n_init=integers["n_init"],
            init=self.init,
            given=Given(self.weights_init, self.means_init, self.precisions_init),
            batch_size=batch_size,
            device=_device(self.device),
            dtype=_dtype(self.dtype),
        )

    def _draw_seed(self) -> int:
        seed = _seed(self.random_state)
        return int(torch.randint(2**31, ())) if seed is None else seed

    def _pairs(self, Z_context: Embeddings, Z_target: Embeddings, settings: Settings) -> Pairs:
        pairs = Pairs({"Z_context": Z_context, "Z_target": Z_target}, settings.dtype, settings.device)
        if settings.form.covariance_type == "low_rank" and settings.form.rank > pairs.dim:
            raise ConfigError(f"rank must lie between 1 and d_c + d_t = {pairs.dim}, got {settings.form.rank}")
        return pairs

    def _take(self, run: Run, pairs: Pairs, settings: Settings, rounds: int) -> None:
        """Become what a run found."""
        joint = run.mixture.to(settings.dtype)
        # As a file holds it: products of the same numbers in another layout round differently.
        joint = GaussianMixture._trusted(
            joint.log_weights.contiguous(),
            joint.means.contiguous(),
            joint.covariance.map(Tensor.contiguous),
            joint._validate_args,
        )
        density = JointGaussianMixture.from_mixture(joint, pairs.dims[0])
        self._adopt(density, pairs.kind, settings.form.tied, run.online)
        self.converged_ = run.converged
        self.n_iter_ = rounds
        self.lower_bounds_ = run.lower_bounds
        self.lower_bound_ = run.lower_bounds[-1]
        self.n_samples_seen_ = run.seen

    def _adopt(self, density: JointGaussianMixture, kind: Kind, tied: bool, online: OnlineMixture | None) -> None:
        """Take a density and tell of it in arrays."""
        self.density_ = density
        self._kind, self._tied, self._online = kind, tied, online
        self.weights_ = to_kind(density.weights, kind, density.device)
        self.means_ = to_kind(density.means, kind, density.device)
        self.covariances_ = to_kind(_matrices(density.covariance, tied), kind, density.device)
        self.context_dim_ = self.n_features_in_ = density.context_dim
        self.target_dim_ = density.target_dim

    def _resume(self, pairs: Pairs, form: CovarianceForm) -> Run:
        """What :meth:`partial_fit` goes on from, where the options and the sizes are still those of the density."""
        density = self._fitted()
        self._check_sizes(pairs)
        had = (density.components, density.covariance.covariance_type)
        wanted = (_integer("components", self.components), form.covariance_type)
        if had != wanted or self._tied != form.tied:
            raise ConfigError(
                f"partial_fit goes on from {density}, but the options now ask for components={wanted[0]}, "
                f"covariance_type={wanted[1]!r} and tied={form.tied}: call fit to begin anew"
            )
        return resume(density.joint.to(pairs.device), self._online, form, self.n_samples_seen_)

    @classmethod
    def _rebuild(cls, tensors: dict[str, Tensor], header: dict[str, Any], device: torch.device) -> Self:
        """The estimator of a file's tensors and header; any error means that they do not fit."""
        given = {name: tensors.pop(f"params.{name}", None) for name in _ARRAYS}
        arrays: dict[str, Any] = {name: None if tensor is None else tensor.numpy() for name, tensor in given.items()}
        estimator = cls(**header["params"], **arrays)
        settings, fitted = estimator._settings(), header["fitted"]
        online = {
            name.removeprefix("online."): tensors.pop(name) for name in list(tensors) if name.startswith("online.")
        }
        mixture = _read_mixture(tensors, header["covariance_type"])
        density = JointGaussianMixture.from_mixture(
            mixture.to(device), _integer("context_dim_", fitted["context_dim_"])
        )
        kind, tied = header["kind"], header["tied"]
        check_choice("kind", kind, Kind)
        if density.covariance.tied != (tied or density.components == 1):
            raise ConfigError(f"the header says tied={tied}, but the covariance is {density.covariance}")
        state: OnlineMixture | None = None
        if online:
            state = resume(mixture, None, settings.form, 1).online
            assert state is not None
            for name, tensor in online.items():
                require_finite(name, tensor)
            state.load_state_dict(online)
            state = state.to(device)
        estimator._adopt(density, kind, tied, state)
        for name in _SCALARS:
            setattr(estimator, name, fitted[name])
        return estimator

    def _fitted(self) -> JointGaussianMixture:
        density: JointGaussianMixture | None = getattr(self, "density_", None)
        if density is None:
            raise NotFittedError(f"this {type(self).__name__} has no density yet: call fit or partial_fit first")
        return density

    def _fitted_pairs(self, **views: Embeddings) -> Pairs:
        density = self._fitted()
        pairs = Pairs(views, density.dtype, density.device)
        self._check_sizes(pairs)
        return pairs

    def _check_sizes(self, pairs: Pairs) -> None:
        sizes = (self.context_dim_, self.target_dim_)
        for name, size, wanted in zip(("Z_context", "Z_target"), pairs.dims, sizes, strict=False):
            if size != wanted:
                raise ShapeError(f"{name} must have shape (N, {wanted}) as when fitted, but has {size} columns")

    def _map_pairs(self, function: Callable[[Tensor], Tensor], Z_context: Embeddings, Z_target: Embeddings) -> Array:
        pairs = self._fitted_pairs(Z_context=Z_context, Z_target=Z_target)
        size = block_rows(self.density_.components, pairs.dim)
        return pairs.back(torch.cat([function(block) for block in pairs.blocks(size)]))

    def _criterion(self, Z_context: Embeddings, Z_target: Embeddings, price: Callable[[int], float]) -> float:
        density = self._fitted()
        pairs = self._fitted_pairs(Z_context=Z_context, Z_target=Z_target)
        covariance = density.covariance
        rank = covariance.rank if isinstance(covariance, LowRankCovariance) else 1
        form = CovarianceForm(covariance.covariance_type, covariance.tied, rank, 0.0)
        parameters = form.parameter_count(density.components, density.joint.dim)
        return -2 * self.score(Z_context, Z_target) * len(pairs) + parameters * price(len(pairs))


def _read_mixture(tensors: dict[str, Tensor], covariance_type: str) -> GaussianMixture:
    """A mixture of the tensors of a file, checked; what it computes is bit-equal to what was saved."""
    log_weights, means = tensors.pop("log_weights"), tensors.pop("means")
    parameters = [tensors.pop(f"covariance.{i}") for i in range(len(tensors))]
    if means.ndim != 2 or any(t.dtype not in _DTYPES.values() for t in (log_weights, means, *parameters)):
        raise ShapeError(f"means must have shape (K, D) and be floating point, got {means.dtype} {tuple(means.shape)}")
    check_choice("covariance_type", covariance_type, CovarianceType)
    covariance = _read_covariance(parameters, covariance_type, means.shape[1])
    checked = GaussianMixture(log_weights, means, covariance, validate_args=True)
    if not torch.allclose(checked.log_weights, log_weights):
        raise ConfigError("the weights do not sum to 1")
    return GaussianMixture._trusted(log_weights, means, covariance, checked._validate_args)


def _read_covariance(parameters: list[Tensor], covariance_type: str, dim: int) -> Covariance:
    if covariance_type == "low_rank":
        factor, variance = parameters
        return LowRankCovariance(factor, variance)
    (parameter,) = parameters
    if covariance_type == "spherical":
        return SphericalCovariance(parameter, dim)
    return FullCovariance(parameter) if covariance_type == "full" else DiagonalCovariance(parameter)


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's, for JSON."""
    return value.item() if isinstance(value, np.generic) else value


def _option_names(estimator: type) -> list[str]:
    return [name for name in inspect.signature(estimator.__init__).parameters if name != "self"]  # type: ignore[misc]


def _require_rows(pairs: Pairs, components: int) -> None:
    if len(pairs) < max(2, components):
        raise BatchSizeError(
            f"at least as many pairs as components are needed, and 2, but there are {len(pairs)} pairs for "
            f"components={components}"
        )


def _warn_if_tiny(variance: Tensor, reg_covar: float) -> None:
    mean = float(variance.mean())
    if 0 < mean < reg_covar:
        warnings.warn(
            f"reg_covar={reg_covar:g} is larger than the mean variance {mean:.3g} of an embedding dimension, so the "
            "density is mostly regularisation: scale the embeddings, or lower reg_covar",
            ScaleWarning,
            stacklevel=4,
        )


def _matrices(covariance: Covariance, tied: bool) -> Tensor:
    """Covariances in scikit-learn's shapes."""
    form = covariance.covariance_type
    if isinstance(covariance, SphericalCovariance):
        tensor = covariance.variance
    else:
        tensor = covariance.diagonal() if form == "diag" else covariance.dense()
    return tensor[0] if tied else tensor


def _integer(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name} must be an integer, got {value!r}") from None


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def _seed(random_state: object) -> int | None:
    if random_state is None:
        return None
    seed = _integer("random_state (or None)", random_state)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"random_state must lie between 0 and 2**32 - 1, got {seed}")
    return seed


def _device(device: object) -> torch.device | None:
    if device is None:
        return None
    try:
        place = torch.device(device)  # type: ignore[call-overload]
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return place  # type: ignore[no-any-return]


def _dtype(dtype: object) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(unknown_name("dtype", name, _DTYPES))
    return _DTYPES[name]
