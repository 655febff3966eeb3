"""Options of the estimator in scikit-learn's manner: read and changed by name, and checked when they are used."""

import inspect
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from gmje_core.checks import as_integer, as_real, check_at_least, check_choice, check_counts
from gmje_core.densities.covariance import CovarianceType
from gmje_core.errors import ConfigError, unknown_name
from gmje_core.estimation.em import CovarianceForm
from gmje_core.estimation.shrinkage import TargetKind
from gmje_core.estimator.starts import GivenParameters, InitMethod
from gmje_core.estimator.subspace import SubspaceSize

__all__ = ["DTYPES", "EstimatorOptions", "Settings", "check_options", "read_device", "read_seed"]

#: Floating dtypes in which densities are computed.
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class EstimatorOptions:
    """Base of an estimator whose options are the arguments of its ``__init__``, as scikit-learn's tools expect.

    The options are attributes of the same names, stored as they were given.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Options by name, as they were given.

        Args:
            deep: Argument of scikit-learn's interface, without effect here: no option is an estimator.
        """
        return {name: getattr(self, name) for name in _option_names(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Change options; a fitted density stays until the next fit.

        Args:
            **params: New values by the names of the options.

        Returns:
            The estimator.

        Raises:
            ConfigError: an option does not exist.
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
        # Only scikit-learn asks for its tags, so it can be imported here although the library does not depend on it.
        from sklearn.utils import Tags, TargetTags

        target = TargetTags(required=True, multi_output=True, single_output=False)
        return Tags(estimator_type="density_estimator", target_tags=target)


@dataclass(frozen=True)
class Settings:
    """Options of the estimator after they were checked; ``JointEmbeddingMixture`` documents their meaning."""

    n_components: int
    form: CovarianceForm
    covariance_prior: float
    covariance_target: TargetKind
    max_iter: int
    tol: float
    n_init: int
    init_params: InitMethod
    given: GivenParameters
    batch_size: int | None
    device: torch.device | None
    dtype: torch.dtype
    subspace: SubspaceSize | None


def check_options(options: dict[str, Any]) -> Settings:
    """Check the options of the estimator by name, as its ``get_params`` gives them.

    Raises:
        ConfigError: an option is unknown or out of range; the text names it.
    """
    counts = {name: as_integer(name, options[name]) for name in ("n_components", "rank", "max_iter", "n_init")}
    check_counts(**counts)
    batch_size = options["batch_size"]
    if batch_size is not None:
        batch_size = as_integer("batch_size", batch_size)
        check_counts(batch_size=batch_size)
    check_choice("covariance_type", options["covariance_type"], CovarianceType)
    check_choice("covariance_target", options["covariance_target"], TargetKind)
    check_choice("init_params", options["init_params"], InitMethod)
    tied = options["tied"]
    if not isinstance(tied, (bool, np.bool_)):
        raise ConfigError(f"tied must be True or False, got {tied!r}")
    reals = {name: as_real(name, options[name]) for name in ("covariance_prior", "reg_covar", "tol")}
    check_at_least(0, **reals)
    return Settings(
        n_components=counts["n_components"],
        form=CovarianceForm(options["covariance_type"], bool(tied), counts["rank"], reals["reg_covar"]),
        covariance_prior=reals["covariance_prior"],
        covariance_target=options["covariance_target"],
        max_iter=counts["max_iter"],
        tol=reals["tol"],
        n_init=counts["n_init"],
        init_params=options["init_params"],
        given=GivenParameters(options["weights_init"], options["means_init"], options["precisions_init"]),
        batch_size=batch_size,
        device=read_device(options["device"]),
        dtype=_read_dtype(options["dtype"]),
        subspace=_read_subspace(options),
    )


def read_seed(random_state: object) -> int | None:
    """Read a seed, or ``None``.

    Raises:
        ConfigError: the value is not an integer between 0 and ``2**32 - 1``.

    Examples:
        >>> read_seed(np.int64(3))
        3
    """
    if random_state is None:
        return None
    seed = as_integer("random_state (or None)", random_state)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"random_state must lie between 0 and 2**32 - 1, got {seed}")
    return seed


def read_device(device: object) -> torch.device | None:
    """Read a device, or ``None``, and try it.

    Raises:
        ConfigError: the device does not exist or cannot be used.

    Examples:
        >>> read_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return None
    try:
        place = torch.device(device)  # type: ignore[call-overload]
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return place  # type: ignore[no-any-return]


def _read_subspace(options: dict[str, Any]) -> SubspaceSize | None:
    """Read the number of directions in which components differ; it goes with EM of full covariances over all rows."""
    subspace = options["subspace"]
    if subspace is None:
        return None
    if subspace != "auto":
        subspace = as_integer('subspace (or None or "auto")', subspace)
        check_counts(subspace=subspace)
    needed = {"covariance_type": "full", "tied": False, "batch_size": None, "covariance_prior": 0}
    needed |= dict.fromkeys(("weights_init", "means_init", "precisions_init"))
    for name, value in needed.items():
        given = options[name]
        if given is not value and (value is None or given != value):
            raise ConfigError(f"subspace={subspace!r} needs {name}={value!r}, got {given!r}")
    return subspace  # type: ignore[no-any-return]


def _read_dtype(dtype: object) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(unknown_name("dtype", name, DTYPES))
    return DTYPES[name]


def _option_names(estimator: type) -> list[str]:
    """Names of the arguments of a class's ``__init__``."""
    return [name for name in inspect.signature(estimator.__init__).parameters if name != "self"]  # type: ignore[misc]
