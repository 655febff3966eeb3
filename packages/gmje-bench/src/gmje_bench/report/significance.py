"""Paired tests with Holm's correction tell which differences between methods exceed the noise of the seeds.

How many seeds a difference would need follows from the same noise.

Seeds are paired because a seed fixes the views and the starting weights that methods share.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from scipy import stats

__all__ = [
    "LEVEL",
    "POWER",
    "PairedTests",
    "corrected",
    "holm",
    "paired_differences",
    "paired_p",
    "paired_spread",
    "paired_tests",
    "rerun_factor",
    "seeds_to_tell",
]

Key = TypeVar("Key", bound=Hashable)

#: The significance level of the tests, after the correction.
LEVEL = 0.05
#: The probability that a test shall find a difference that is there.
POWER = 0.8
# More seeds than this are not counted.
_MOST_SEEDS = 10_000
# Differences are equal if they spread by less than this share of the values, some ten steps of float32.
_EQUAL = 1e-6


class PairedTests(NamedTuple):
    """Every method against one of them, on one metric.

    Attributes:
        reference: The method that the others are tested against.
        p: Two-sided p-values of :func:`paired_p` after the correction of :func:`paired_tests`, by method; without the
            reference, and without methods that share fewer than two seeds with it.
    """

    reference: str
    p: dict[str, float]

    def differs(self, method: str) -> bool | None:
        """Whether a method differs from the reference at :data:`LEVEL`; ``None`` where it cannot be tested."""
        return self.p[method] < LEVEL if method in self.p else None


def paired_tests(
    values: Mapping[str, Mapping[int, float]], *, higher_is_better: bool, reference: str | None = None
) -> PairedTests | None:
    """Every method against the reference over their common seeds, by :func:`paired_p` and Holm's correction.

    The correction is over the methods where the reference is given. The best method is chosen by the values that it is
    tested with, so that its tests are corrected over all pairs of methods: among six methods that do not differ, five
    tests against the best of three seeds would find a difference in 9 % of all cases.

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
    if reference is not None:
        if reference not in means:
            return None
        others = [method for method in means if method != reference]
        return PairedTests(reference, corrected({m: (values[m], values[reference]) for m in others}))
    if not means:
        return None
    best = (max if higher_is_better else min)(means, key=means.__getitem__)
    every = corrected({(one, two): (values[one], values[two]) for one, two in itertools.combinations(means, 2)})
    return PairedTests(best, {two if one == best else one: p for (one, two), p in every.items() if best in (one, two)})


def corrected(pairs: Mapping[Key, tuple[Mapping[int, float], Mapping[int, float]]]) -> dict[Key, float]:
    """The p-values of several pairs by :func:`paired_p`, after Holm's correction over them.

    Args:
        pairs: Two sides of each pair, each with its values by seed.

    Returns:
        The corrected p-values, without pairs that share fewer than two seeds.
    """
    raw = {key: p for key, (one, two) in pairs.items() if (p := paired_p(one, two)) is not None}
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def paired_p(one: Mapping[int, float], two: Mapping[int, float]) -> float | None:
    r"""Two-sided p-value of the paired t-test over the common seeds, :math:`t = \bar d \sqrt n / s_d`.

    Differences that are all equal have no :math:`s_d`. Accuracies on few images are multiples of a step, so seeds agree
    by chance, and it would be wrong to count that as no noise. The sign test takes the place of the t-test then:
    :math:`n` signs agree by chance with probability :math:`2^{1 - n}`, so that such a difference needs six seeds.

    Args:
        one: Values by seed.
        two: The same of the other side.

    Returns:
        The p-value; ``None`` for fewer than two common seeds.

    Examples:
        >>> paired_p({0: 80.0, 1: 81.0, 2: 82.0}, {0: 80.5, 1: 81.5, 2: 82.5})
        0.25
        >>> paired_p({0: 80.0}, {0: 90.0, 1: 91.0}) is None
        True
    """
    differences = paired_differences(one, two)
    n = len(differences)
    if n < 2:
        return None
    if len(set(differences)) == 1:
        return 2.0 ** (1 - n) if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def paired_differences(one: Mapping[int, float], two: Mapping[int, float]) -> list[float]:
    """First less second for each common seed; where only rounding makes them differ, all are the same number.

    Args:
        one: Values by seed.
        two: The same of the other side.

    Examples:
        >>> paired_differences({0: 80.1, 1: 81.2, 5: 3.0}, {0: 79.6, 1: 80.7})
        [0.5, 0.5]
    """
    seeds = sorted(one.keys() & two.keys())
    differences = [one[seed] - two[seed] for seed in seeds]
    smallest = _EQUAL * max((abs(side[seed]) for side in (one, two) for seed in seeds), default=0.0)
    if not differences or max(differences) - min(differences) > smallest:
        return differences
    return [differences[0] if abs(differences[0]) > smallest else 0.0] * len(seeds)


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
        differences = paired_differences(values[method], values.get(reference, {}))
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
