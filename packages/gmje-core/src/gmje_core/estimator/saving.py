"""A fitted estimator as tensors and a JSON header, and back; every part is checked when it is read."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmje_core.checks import as_integer, as_real, check_choice, check_counts
from gmje_core.densities.covariance import CovarianceType, covariance_class
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, DensityFileError, GMJEError, ShapeError, unknown_name
from gmje_core.estimation.em import CovarianceForm
from gmje_core.estimation.online import OnlineMixture
from gmje_core.estimation.pairs import Kind
from gmje_core.estimator.density_file import read_density, write_density
from gmje_core.estimator.fitting import Fit, continue_online, fitted_form
from gmje_core.estimator.growing import GrownGraph
from gmje_core.estimator.options import DTYPES, check_options
from gmje_core.linalg import require_finite

__all__ = ["read_fit", "write_fit"]

# Options that are arrays, which a file holds as tensors.
_ARRAY_OPTIONS = ("weights_init", "means_init", "precisions_init")


def write_fit(path: str | os.PathLike[str], options: dict[str, Any], fit: Fit) -> None:
    """Write the options of an estimator and its fit to one safetensors file with a JSON header.

    Args:
        path: The file; an old one is replaced.
        options: Options of the estimator by name; ``device`` is not kept.
        fit: What the estimator was fitted to.

    Raises:
        ConfigError: an option is unknown or out of range.
        OSError: the file cannot be written there.
    """
    options, settings, density = dict(options), check_options(options), fit.density
    tensors = {"log_weights": density.log_weights, "means": density.means}
    tensors |= {f"covariance.{i}": tensor for i, tensor in enumerate(density.covariance.parameters)}
    if fit.online is not None:
        tensors |= {f"online.{name}": tensor for name, tensor in fit.online.state_dict().items()}
    if fit.graph is not None:
        tensors |= {f"graph.{name}": tensor for name, tensor in fit.graph._asdict().items()}
    for name in _ARRAY_OPTIONS:
        value = options.pop(name)
        if value is not None:
            array = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
            tensors[f"params.{name}"] = array.double()
    options |= {"dtype": str(settings.dtype).removeprefix("torch."), "device": None}
    header = {
        "params": {name: _json_value(value) for name, value in options.items()},
        "fitted": {
            "context_dim_": density.context_dim,
            "converged_": fit.converged,
            "n_iter_": fit.n_iter,
            "lower_bounds_": fit.lower_bounds,
            "n_samples_seen_": fit.n_samples_seen,
            "subspace_": fit.subspace,
        },
        "kind": fit.kind,
        "covariance_type": density.covariance.covariance_type,
        "tied": fit.tied,
    }
    # safetensors refuses tensors that share memory.
    write_density(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)


def read_fit(
    path: str | os.PathLike[str], defaults: dict[str, Any], device: torch.device
) -> tuple[dict[str, Any], Fit]:
    """Read the options and the fit that :func:`write_fit` wrote.

    Args:
        path: The file.
        defaults: Default of each option of the estimator.
        device: Device of the density.

    Returns:
        The options by name, and the fit.

    Raises:
        DensityFileError: the file is damaged or of another kind, or its parts do not fit each other; the text names
            what is wrong.
        OSError: there is no such file, or it cannot be read.
    """
    tensors, header = read_density(path)
    try:
        options = _read_options(tensors, header["params"], defaults)
        return options, _read_fit(tensors, header, check_options(options).form, device)
    except (GMJEError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        detail = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise DensityFileError(f"{path} holds no density that can be rebuilt: {detail}") from error


def _read_options(tensors: dict[str, Tensor], stored: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """All options by name; those that are arrays are taken out of the tensors."""
    for name in stored:
        if name not in defaults or name in _ARRAY_OPTIONS:
            raise ConfigError(unknown_name("option", name, defaults))
    arrays = {name: tensors.pop(f"params.{name}", None) for name in _ARRAY_OPTIONS}
    return defaults | stored | {name: None if array is None else array.numpy() for name, array in arrays.items()}


def _read_fit(tensors: dict[str, Tensor], header: dict[str, Any], form: CovarianceForm, device: torch.device) -> Fit:
    """Fit of the tensors and the header of a file; an error means that they do not fit each other.

    The form of the covariances is that of the fit: ``form``, that of the options, may have changed since.
    """
    fitted, kind, tied = header["fitted"], header["kind"], header["tied"]
    online, graph = _take_group(tensors, "online."), _take_group(tensors, "graph.")
    mixture = _read_mixture(tensors, header["covariance_type"])
    context_dim = as_integer("context_dim_", fitted["context_dim_"])
    density = JointGaussianMixture.from_mixture(mixture.to(device), context_dim)
    check_choice("kind", kind, Kind)
    if density.covariance.tied != (tied or density.components == 1):
        raise ConfigError(f"the header says tied={tied}, but the covariance is {density.covariance}")
    form = fitted_form(mixture.covariance, bool(tied), form)
    counts = {name: as_integer(name, fitted[name]) for name in ("n_iter_", "n_samples_seen_")}
    check_counts(**counts)
    bounds = [as_real("lower_bounds_", bound) for bound in fitted["lower_bounds_"]]
    if not bounds:
        raise ConfigError("lower_bounds_ must hold the lower bound of at least one round, but is empty")
    return Fit(
        density=density,
        kind=kind,
        tied=tied,
        online=_read_statistics(online, mixture, form).to(device) if online else None,
        converged=bool(fitted["converged_"]),
        n_iter=counts["n_iter_"],
        lower_bounds=bounds,
        n_samples_seen=counts["n_samples_seen_"],
        subspace=_read_size(fitted.get("subspace_"), density.joint.dim),
        graph=_read_graph(graph, density.joint.dim, device) if graph else None,
    )


def _take_group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, by the rest of their names; they are taken out of the others."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _read_size(value: Any, dim: int) -> int | None:
    """Number of directions in which components differ; a file without it, or with null, says that they may in all."""
    if value is None:
        return None
    size = as_integer("subspace_", value)
    if not 1 <= size <= dim:
        raise ConfigError(f"subspace_ must lie between 1 and {dim}, got {size}")
    return size


def _read_mixture(tensors: dict[str, Tensor], covariance_type: str) -> GaussianMixture:
    """Mixture of the tensors of a file, which are checked and used as they are: results are bit-equal to the saved."""
    log_weights, means = tensors.pop("log_weights"), tensors.pop("means")
    parameters = [tensors.pop(f"covariance.{i}") for i in range(len(tensors))]
    if means.ndim != 2 or any(tensor.dtype not in DTYPES.values() for tensor in (log_weights, means, *parameters)):
        raise ShapeError(f"means must have shape (K, D) and be floating point, got {means.dtype} {tuple(means.shape)}")
    check_choice("covariance_type", covariance_type, CovarianceType)
    covariance = covariance_class(covariance_type).from_parameters(parameters, means.shape[1])
    checked = GaussianMixture(log_weights, means, covariance, validate_args=True)
    if not torch.allclose(checked.log_weights, log_weights):
        raise ConfigError("the weights do not sum to 1")
    return GaussianMixture._trusted(log_weights, means, covariance, checked._validate_args)


def _read_statistics(stored: dict[str, Tensor], mixture: GaussianMixture, form: CovarianceForm) -> OnlineMixture:
    """Running statistics of online EM of covariances of a form."""
    statistics = continue_online(mixture, None, form, seen=1).online
    assert statistics is not None
    for name, tensor in stored.items():
        require_finite(name, tensor)
    statistics.load_state_dict(stored)
    return statistics


def _read_graph(stored: dict[str, Tensor], dim: int, device: torch.device) -> GrownGraph:
    """Graph that proposed the components, on units in ``dim`` dimensions."""
    for name in stored:
        if name not in GrownGraph._fields:
            raise ConfigError(unknown_name("tensor of a graph", name, GrownGraph._fields))
    graph = GrownGraph(**{name: stored[name] for name in GrownGraph._fields})
    count = len(graph.units)
    _require_tensor("units", graph.units, torch.float64, (count, dim), f"(n, {dim})")
    _require_tensor("edges", graph.edges, torch.int64, (len(graph.edges), 2), "(E, 2)")
    _require_tensor("clusters", graph.clusters, torch.int64, (count,), f"({count},)")
    require_finite("units", graph.units)
    for name, numbers in (("edges", graph.edges), ("clusters", graph.clusters)):
        if bool(((numbers < 0) | (numbers >= count)).any()):
            raise ConfigError(f"{name} must lie between 0 and {count - 1}, the number of units less one")
    return GrownGraph(*(tensor.to(device) for tensor in graph))


def _require_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], wanted: str) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ShapeError(f"{name} must have shape {wanted} and dtype {dtype}, got {tensor.dtype} {tuple(tensor.shape)}")


def _json_value(value: Any) -> Any:
    """Python's number for one of NumPy's, which JSON does not know; any other value as it is."""
    return value.item() if isinstance(value, np.generic) else value
