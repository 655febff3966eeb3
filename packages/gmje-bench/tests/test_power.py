"""How many seeds tell a difference apart: against simulated seeds, and in the words of the report."""

import math

import numpy as np
import pytest
from scipy import stats

from gmje_bench.report.significance import LEVEL, POWER, paired_spread, rerun_factor, seeds_to_tell
from gmje_bench.report.tables import Estimate


@pytest.mark.parametrize(("difference", "spread"), [(0.5, 0.3), (0.5, 1.0), (2.0, 1.5)])
def test_the_number_of_seeds_has_the_power_that_it_promises(difference, spread):
    seeds = seeds_to_tell(difference, spread)
    drawn = np.random.default_rng(0).normal(difference, spread, size=(40_000, seeds))
    assert np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < LEVEL) > POWER - 0.01
    fewer = stats.ttest_1samp(drawn[:, :-1], 0.0, axis=1).pvalue
    assert np.mean(fewer < LEVEL) < POWER + 0.01


def test_without_spread_two_seeds_do_and_with_too_much_none_does():
    assert seeds_to_tell(0.5, 0.0) == 2
    assert seeds_to_tell(0.001, 1.0) is None


def test_the_spread_is_pooled_by_degrees_of_freedom_over_common_seeds():
    values = {
        "base": {0: 0.0, 1: 0.0, 2: 0.0},
        "three": {0: 1.0, 1: 2.0, 2: 3.0},
        "two": {1: 0.0, 2: 4.0, 9: 100.0},
        "one": {0: 50.0},
    }
    assert paired_spread(values, "base") == pytest.approx(math.sqrt((2.0 + 8.0) / 3))
    assert paired_spread({"base": {0: 1.0}, "one": {0: 2.0}}, "base") is None


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_one_further_run_lies_in_the_wider_interval_as_often_as_said(seeds):
    drawn = np.random.default_rng(0).normal(80.0, 0.5, size=(4_000, seeds + 1))
    estimates = [Estimate.of(list(row[:-1])) for row in drawn]
    inside = [
        abs(further - mean) <= half * rerun_factor(seeds)
        for (mean, half), further in zip(estimates, drawn[:, -1], strict=True)
    ]
    assert np.mean(inside) == pytest.approx(1 - LEVEL, abs=0.012)
