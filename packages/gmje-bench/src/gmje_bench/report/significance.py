"""Paired tests with Holm's correction tell which differences between methods exceed the noise of the seeds.

How many seeds a difference would need follows from the same noise.

Seeds are paired because a seed fixes the views and the starting weights that methods share.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

__all__ = ["LEVEL", "POWER", "PairedTests", "holm", "paired_spread", "paired_tests", "rerun_factor", "seeds_to_tell"]

#: The significance level of the tests, after the correction.
LEVEL = 0.05
#: The probability that a test shall find a difference that is there.
POWER = 0.8
# More seeds than this are not counted.
_MOST_SEEDS = 10_000


class PairedTests(NamedTuple):
    """Every method against one of them, on one metric.

    Attributes:
        reference: The method that the others are tested against.
        p: Two-sided p-values after Holm's correction, by method; without the reference, and without methods that
            share fewer than two seeds with it.
    """

    reference: str
    p: dict[str, float]

    def differs(self, method: str) -> bool | None:
        """Whether a method differs from the reference at :data:`LEVEL`; ``None`` where it cannot be tested."""
        return self.p[method] < LEVEL if method in self.p else None


def paired_tests(
    values: Mapping[str, Mapping[int, float]], *, higher_is_better: bool, reference: str | None = None
) -> PairedTests | None:
    r"""Two-sided paired t-tests over the common seeds, :math:`t = \bar d \sqrt n / s_d`, Holm-corrected.

    Args:
        values: Values by method and seed.
        higher_is_better: Which mean is the best one.
        reference: What to test against; the method with the best mean where missing.

    Returns:
        The tests; ``None`` where there is no value, or none of the reference.

    Examples:
        >>> tests = paired_tests(
        ...     {"a": {0: 80.0, 1: 81.0, 2: 82.0}, "b": {0: 70.0, 1: 71.5, 2: 71.8}}, higher_is_better=True
        ... )
        >>> tests.reference, tests.differs("b"), round(tests.p["b"], 4)
        ('a', True, 0.0004)
    """
    means = {method: sum(by_seed.values()) / len(by_seed) for method, by_seed in values.items() if by_seed}
    if reference is None and means:
        reference = (max if higher_is_better else min)(means, key=means.__getitem__)
    if reference is None or reference not in means:
        return None
    raw = {}
    for method in means:
        seeds = sorted(values[method].keys() & values[reference].keys())
        if method != reference and len(seeds) > 1:
            raw[method] = _p([values[method][seed] - values[reference][seed] for seed in seeds])
    return PairedTests(reference, dict(zip(raw, holm(list(raw.values())), strict=True)))


def paired_spread(values: Mapping[str, Mapping[int, float]], reference: str) -> float | None:
    r"""Standard deviation of a seed's difference to the reference, :math:`s_d`, pooled over methods.

    The square is the mean of the methods' variances, each weighted by its degrees of freedom: a few seeds of one
    method say little of their spread, those of several methods more.

    Args:
        values: Values by method and seed.
        reference: The method that is subtracted.

    Returns:
        The deviation; ``None`` where no method shares two seeds with the reference.

    Examples:
        >>> paired_spread({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 5.0}}, "a")
        1.4142135623730951
    """
    squares, freedom = 0.0, 0
    for method in sorted(values.keys() - {reference}):
        seeds = values[method].keys() & values.get(reference, {}).keys()
        differences = [values[method][seed] - values[reference][seed] for seed in seeds]
        mean = sum(differences) / max(1, len(differences))
        squares += math.fsum((difference - mean) ** 2 for difference in differences)
        freedom += max(0, len(differences) - 1)
    return math.sqrt(squares / freedom) if freedom else None


def rerun_factor(seeds: int) -> float:
    r"""How much wider the interval of one further run is than that of the mean, both Student's t.

    The mean of :math:`n` seeds has the half-width :math:`t\, s / \sqrt n`; a further seed lies within
    :math:`t\, s \sqrt{1 + 1/n}` of it, in as many cases out of a hundred, if seeds are normal (Hahn, 1969).

    Args:
        seeds: The number of seeds that the mean is of.

    Returns:
        :math:`\sqrt{n + 1}`.

    Examples:
        >>> rerun_factor(3)
        2.0
    """
    return math.sqrt(seeds + 1)


def seeds_to_tell(difference: float, spread: float) -> int | None:
    r"""The least number of seeds with which a paired t-test finds a difference in 80 % of all cases.

    Where the difference is :math:`\delta` in truth, :math:`t` of :math:`n` seeds has the noncentral t distribution with
    :math:`n - 1` degrees of freedom and noncentrality :math:`\delta \sqrt n / s_d` (Cohen, 1988). One test, at
    :data:`LEVEL`, without a correction.

    Args:
        difference: The true difference, above 0.
        spread: Standard deviation of a seed's difference.

    Returns:
        The number of seeds, 2 at least; ``None`` for more than 10,000.

    Examples:
        >>> seeds_to_tell(0.5, 0.5), seeds_to_tell(0.5, 1.0), seeds_to_tell(0.5, 0.0)
        (10, 34, 2)
    """
    if spread == 0:
        return 2
    for seeds in range(2, _MOST_SEEDS + 1):
        threshold = stats.t.ppf(1 - LEVEL / 2, seeds - 1)
        found = stats.nct(seeds - 1, difference * math.sqrt(seeds) / spread)
        if found.sf(threshold) + found.cdf(-threshold) >= POWER:
            return seeds
    return None


def _p(differences: list[float]) -> float:
    if all(difference == differences[0] for difference in differences):
        # Without any spread SciPy would divide by zero.
        return 1.0 if differences[0] == 0 else 0.0
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return p if math.isfinite(p) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction: :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})`.

    Keeps the probability of any false difference below the level (Holm, 1979).

    Args:
        p: The p-value of each hypothesis.

    Returns:
        The corrected values, in the order given.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected
