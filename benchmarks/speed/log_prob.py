"""Speed and memory of ``GaussianMixture.log_prob`` beside ``torch.distributions.MixtureSameFamily``.

Both run in this process, alternately, on the same parameters; their values are compared before anything is timed.
Run it with ``python benchmarks/speed/log_prob.py --components 128 512``.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gmje_core.densities.covariance import Covariance, DiagonalCovariance, FullCovariance, LowRankCovariance
from gmje_core.densities.mixture import GaussianMixture

TARGETS = {"full": 4.0, "diag": 50.0, "low_rank": 20.0}
TOLERANCE = 1e-3  # nats, float32 against float32
MEASUREMENT_SECONDS = 0.1  # one call of a few milliseconds is mostly noise

Parameters = dict[str, Tensor]


def main(arguments: list[str] | None = None) -> int:
    """Time every case, print the table; status 1 where values disagree or, with ``--check``, a target is missed."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    rows = [
        compare(kind, options.batch, options.dim, count, options.rank, options.repeats, options.backward)
        for count in options.components
        for kind in options.covariance_types
    ]
    print(table(rows, options))
    if options.json:
        record = {"setting": setting(options), "rows": rows}
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    wrong = [row for row in rows if row["largest_difference"] > TOLERANCE]
    slow = [row for row in rows if row["ratio_median"] < row["target"] or row["peak_ours"] >= row["peak_theirs"]]
    return 1 if wrong or (options.check and slow) else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--components", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--covariance-types", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements of each case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backward", action="store_true", help="time the mean's value and gradient, not the value")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a target is missed")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    return parser.parse_args(arguments)


def compare(
    kind: str, batch: int, dim: int, components: int, rank: int, repeats: int, backward: bool
) -> dict[str, Any]:
    """Figures of one case."""
    x, parameters = problem(kind, batch, dim, components, rank)
    ours, theirs = scored(ours_of(kind), x, parameters, backward), scored(theirs_of(kind), x, parameters, backward)
    difference = max(float((a - b).abs().max()) for a, b in zip(ours(), theirs(), strict=True))
    pairs = [(seconds(theirs, repeat_of(theirs)), seconds(ours, repeat_of(ours))) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "covariance_type": kind,
        "components": components,
        "seconds_theirs": statistics.median(a for a, _ in pairs),
        "seconds_ours": statistics.median(b for _, b in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
        "target": TARGETS[kind],
        "peak_theirs": peak_bytes(theirs),
        "peak_ours": peak_bytes(ours),
        "largest_difference": difference,
    }


def problem(kind: str, batch: int, dim: int, components: int, rank: int) -> tuple[Tensor, Parameters]:
    """Random rows and parameters, the same for both sides."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    parameters = {"log_weights": normal(components), "means": normal(components, dim)}
    if kind == "full":
        parameters["scale_tril"] = 0.1 * normal(components, dim, dim).tril(-1) + torch.eye(dim)
    else:
        parameters["variance"] = 0.5 + torch.rand(components, dim, generator=generator)
    if kind == "low_rank":
        parameters["factor"] = 0.3 * normal(components, dim, rank)
    return normal(batch, dim), parameters


def ours_of(kind: str) -> Callable[[Tensor, Parameters], Tensor]:
    """``log_prob`` by this library, construction included."""

    def covariance(p: Parameters) -> Covariance:
        if kind == "full":
            return FullCovariance(p["scale_tril"])
        return DiagonalCovariance(p["variance"]) if kind == "diag" else LowRankCovariance(p["factor"], p["variance"])

    return lambda x, p: GaussianMixture(p["log_weights"], p["means"], covariance(p)).log_prob(x)


def theirs_of(kind: str) -> Callable[[Tensor, Parameters], Tensor]:
    """``log_prob`` by torch.distributions, construction included."""

    def components(p: Parameters) -> torch.distributions.Distribution:
        if kind == "full":
            return MultivariateNormal(p["means"], scale_tril=p["scale_tril"])
        if kind == "diag":
            return Independent(Normal(p["means"], p["variance"].sqrt()), 1)
        return LowRankMultivariateNormal(p["means"], p["factor"], p["variance"])

    return lambda x, p: MixtureSameFamily(Categorical(logits=p["log_weights"]), components(p)).log_prob(x)


def scored(
    log_prob: Callable[[Tensor, Parameters], Tensor], x: Tensor, parameters: Parameters, backward: bool
) -> Callable[[], list[Tensor]]:
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


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Mean wall-clock time of a call."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def repeat_of(call: Callable[[], object]) -> int:
    """Calls that fill a measurement; the one made to find out also warms the caches."""
    return max(1, round(MEASUREMENT_SECONDS / seconds(call)))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators created and that are still alive; keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), known)
        return result

    def _count(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key = storage._cdata
        if key in self.seen or key in known:
            return
        self.seen.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that tensors created by the call held at one time."""
    with LiveBytes() as counter:
        call()
    return counter.peak


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "batch": options.batch,
        "dim": options.dim,
        "rank": options.rank,
        "repeats": options.repeats,
        "threads": options.threads,
        "backward": options.backward,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
    }


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    what = "value and gradient" if options.backward else "value"
    about = setting(options)
    lines = [
        f"log_prob, {what}: B = {options.batch}, D = {options.dim}, rank {options.rank}, float32, "
        f"{options.threads} thread(s); torch {about['torch']}, {about['machine']}",
        "Ratio: time of torch.distributions.MixtureSameFamily over ours, median and range of "
        f"{options.repeats} alternate pairs.",
        "Peak: most bytes held at one time by tensors that operators created (workspace inside one is not seen).",
        "",
        "| covariance | K | torch ms | gmje ms | ratio | range | target | torch peak MB | gmje peak MB | max diff |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r['covariance_type']} | {r['components']} "
        f"| {1e3 * r['seconds_theirs']:.1f} | {1e3 * r['seconds_ours']:.1f} "
        f"| {r['ratio_median']:.1f} | {r['ratio_low']:.1f} to {r['ratio_high']:.1f} | {r['target']:.0f} "
        f"| {r['peak_theirs'] / 1e6:.1f} | {r['peak_ours'] / 1e6:.1f} | {r['largest_difference']:.1e} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
