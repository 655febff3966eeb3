"""``GaussianMixture.log_prob`` beside ``torch.distributions.MixtureSameFamily``: value, value and gradient, memory.

Both score the same rows under the same parameters; the construction of the mixture counts on both sides.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from _measure import Call, Case, main
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from gmje_core.densities.covariance import Covariance, DiagonalCovariance, FullCovariance, LowRankCovariance
from gmje_core.densities.mixture import GaussianMixture

BATCH, DIM, RANK = 1024, 64, 8
GOALS = {"full": 8.0, "diag": 100.0, "low_rank": 40.0}
BACKWARD_GOAL = 5.0
PEER = "torch.distributions"

Parameters = dict[str, Tensor]


def cases() -> Iterator[Case]:
    """Every form with two numbers of components, then the gradients."""
    for components in (128, 512):
        for kind, goal in GOALS.items():
            yield case(kind, components, goal, backward=False)
    for kind in GOALS:
        yield case(kind, 128, BACKWARD_GOAL, backward=True)


def case(kind: str, components: int, goal: float, *, backward: bool) -> Case:
    """One row."""
    multiplies = {"full": DIM * DIM / 2, "diag": 2 * DIM, "low_rank": 2 * DIM + DIM * RANK}[kind]
    flops = 2.0 * BATCH * components * multiplies
    return Case(
        f"log_prob{' and gradient' if backward else ''}, {kind}, B = {BATCH}, D = {DIM}, K = {components}",
        PEER,
        goal,
        partial(build, kind, components, backward),
        flops=3 * flops if backward else flops,
        difference=difference,
        memory=True,
    )


def build(kind: str, components: int, backward: bool) -> tuple[Call, Call]:
    """Both calls on the same rows and parameters."""
    x, parameters = problem(kind, components)
    return scored(ours_of(kind), x, parameters, backward), scored(theirs_of(kind), x, parameters, backward)


def problem(kind: str, components: int) -> tuple[Tensor, Parameters]:
    """Random rows and parameters."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    parameters = {"log_weights": normal(components), "means": normal(components, DIM)}
    if kind == "full":
        parameters["scale_tril"] = 0.1 * normal(components, DIM, DIM).tril(-1) + torch.eye(DIM)
    else:
        parameters["variance"] = 0.5 + torch.rand(components, DIM, generator=generator)
    if kind == "low_rank":
        parameters["factor"] = 0.3 * normal(components, DIM, RANK)
    return normal(BATCH, DIM), parameters


def ours_of(kind: str) -> Callable[[Tensor, Parameters], Tensor]:
    """``log_prob`` by this library, construction included."""

    def covariance(p: Parameters) -> Covariance:
        if kind == "full":
            return FullCovariance(p["scale_tril"])
        return DiagonalCovariance(p["variance"]) if kind == "diag" else LowRankCovariance(p["factor"], p["variance"])

    return lambda x, p: GaussianMixture(p["log_weights"], p["means"], covariance(p)).log_prob(x)


def theirs_of(kind: str) -> Callable[[Tensor, Parameters], Tensor]:
    """``log_prob`` by torch.distributions, construction included."""

    def components(p: Parameters) -> Distribution:
        if kind == "full":
            return MultivariateNormal(p["means"], scale_tril=p["scale_tril"])
        if kind == "diag":
            return Independent(Normal(p["means"], p["variance"].sqrt()), 1)
        return LowRankMultivariateNormal(p["means"], p["factor"], p["variance"])

    return lambda x, p: MixtureSameFamily(Categorical(logits=p["log_weights"]), components(p)).log_prob(x)


def scored(log_prob: Callable[[Tensor, Parameters], Tensor], x: Tensor, parameters: Parameters, backward: bool) -> Call:
    """The call to time: values, or the mean's value and its gradients."""

    def values() -> list[Tensor]:
        with torch.no_grad():
            return [log_prob(x, parameters)]

    def gradients() -> list[Tensor]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in {"x": x, **parameters}.items()}
        mean = log_prob(leaves["x"], {name: leaves[name] for name in parameters}).mean()
        found = torch.autograd.grad(mean, list(leaves.values()))
        # Entries above the diagonal of a factor are no parameters.
        lower = [g.tril() if name == "scale_tril" else g for name, g in zip(leaves, found, strict=True)]
        return [mean.detach(), *lower]

    return gradients if backward else values


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest absolute difference of values and gradients."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
