"""The tests behind the marks of ``report`` and ``compare``: SciPy's numbers, and the level that they promise."""

import itertools

import numpy as np
import pytest
from scipy import stats

from gmje_bench.report.significance import LEVEL, corrected, holm, paired_p, paired_tests

DRAWS = 4_000
# Three standard deviations of the share of so many draws.
TOLERANCE = 3 * (LEVEL * (1 - LEVEL) / DRAWS) ** 0.5


def by_seed(values):
    return dict(enumerate(values))


def drawn(methods, seeds, *, step=0.0, spread=1.0):
    """Values of methods that do not differ in truth, float64 ``(draws, methods, seeds)``."""
    random = np.random.default_rng(0)
    found = 80 + spread * random.normal(size=(DRAWS, methods, seeds))
    return np.round(found / step) * step if step else found


def test_p_values_are_scipys():
    for one, two in drawn(2, 4)[:20]:
        assert paired_p(by_seed(one), by_seed(two)) == pytest.approx(stats.ttest_rel(one, two).pvalue)


def test_tests_against_a_reference_are_corrected_over_the_methods():
    values = dict(zip("abc", map(by_seed, drawn(3, 4)[0]), strict=True))
    tests = paired_tests(values, higher_is_better=True, reference="b")
    raw = [paired_p(values[name], values["b"]) for name in "ac"]
    assert (tests.reference, list(tests.p), list(tests.p.values())) == ("b", ["a", "c"], pytest.approx(holm(raw)))


@pytest.mark.parametrize("higher", [True, False])
def test_tests_against_the_best_are_corrected_over_all_pairs(higher):
    values = dict(zip("abcd", map(by_seed, drawn(4, 4)[0]), strict=True))
    means = {name: np.mean(list(found.values())) for name, found in values.items()}
    best = (max if higher else min)(means, key=means.get)
    pairs = list(itertools.combinations("abcd", 2))
    every = dict(zip(pairs, holm([paired_p(values[one], values[two]) for one, two in pairs]), strict=True))
    tests = paired_tests(values, higher_is_better=higher)
    assert tests.reference == best
    assert tests.p == {name: every[tuple(sorted((name, best)))] for name in "abcd" if name != best}


def test_what_cannot_be_tested():
    assert paired_p({0: 1.0}, {0: 2.0}) is None
    assert paired_p({0: 1.0, 1: 2.0}, {2: 2.0, 3: 2.0}) is None
    assert corrected({"a": ({0: 1.0}, {0: 2.0})}) == {}
    assert paired_tests({"a": {0: 1.0}, "b": {0: 2.0}}, higher_is_better=True).p == {}
    assert paired_tests({"a": {0: 1.0}}, higher_is_better=True, reference="b") is None
    assert paired_tests({}, higher_is_better=True) is None


def test_rounding_is_no_spread():
    one, two = {0: 80.3, 1: 31.2, 2: 10.1}, {0: 79.6, 1: 30.5, 2: 9.4}
    assert len({one[seed] - two[seed] for seed in one}) > 1
    assert paired_p(one, two) == 0.25
    assert paired_p(one, {seed: value + 1e-13 for seed, value in one.items()}) == 1.0


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("step", "spread"), [(0.0, 1.0), (0.1, 1.0), (2.5, 2.5)], ids=["", "1,000", "40"])
def test_a_pair_without_a_difference_is_told_apart_in_a_twentieth_at_most(seeds, step, spread):
    found = [paired_p(by_seed(one), by_seed(two)) for one, two in drawn(2, seeds, step=step, spread=spread)]
    share = np.mean(np.array(found) < LEVEL)
    assert share < LEVEL + TOLERANCE
    if not step:
        assert share > LEVEL - TOLERANCE


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("reference", [None, "0"])
def test_no_mark_among_methods_without_a_difference_in_a_twentieth_at_most(seeds, reference):
    wrong = 0
    for values in drawn(6, seeds):
        methods = {str(index): by_seed(row) for index, row in enumerate(values)}
        tests = paired_tests(methods, higher_is_better=True, reference=reference)
        wrong += any(tests.differs(method) for method in tests.p)
    assert wrong / DRAWS < LEVEL + TOLERANCE
