"""Intervals and sign tests against scipy, closed forms, and every pattern of signs."""

import itertools
import math

import numpy as np
import pytest

from metrics.comparison import interval, quantile, sign_test


def test_quantiles_are_scipys():
    stats = pytest.importorskip('scipy.stats')
    degrees = [*range(1, 60), 999, 1000, 2999, 70_000]
    # Measured: off by at most 7e-13 of the value.
    assert [quantile(n) for n in degrees] == pytest.approx(
        stats.t.ppf(0.975, degrees).tolist(), rel=1e-11
    )


def test_quantiles_in_closed_form():
    """One and two degrees of freedom have distributions that can be inverted by hand."""
    assert quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-12)
    assert quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)
    with pytest.raises(ValueError, match='0 degrees'):
        quantile(0)


def test_an_interval_is_scipys():
    stats = pytest.importorskip('scipy.stats')
    values = np.random.default_rng(0).normal(28, 2, 37)
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 36, values.mean(), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(1).normal(3, 1, (4000, 5))
    held = [abs(mean - 3) <= half for mean, half in map(interval, drawn)]
    # The share has a standard deviation of 0.0034.
    assert abs(np.mean(held) - 0.95) < 0.012


@pytest.mark.parametrize(
    'values, mean',
    [([], math.nan), ([2.5], 2.5), ([1, math.inf], math.inf), ([1, math.nan], math.nan)],
)
def test_where_there_is_no_interval(values, mean):
    assert interval(values) == pytest.approx((mean, math.nan), nan_ok=True)


def test_equal_values_leave_no_doubt():
    assert interval([4.0] * 9) == (4, 0)


@pytest.mark.parametrize('count', range(1, 11))
def test_a_sign_test_counts_the_patterns(count):
    """Over all patterns of fair coins: how many are as unequal as the one that was met."""
    sums = [abs(sum(signs)) for signs in itertools.product((-1, 1), repeat=count)]
    for wins in range(count + 1):
        found = sign_test([1.0] * wins + [-0.5] * (count - wins) + [0.0, math.nan])
        unequal = np.mean([s >= abs(2 * wins - count) for s in sums])
        assert found == (wins, count - wins, 1, pytest.approx(unequal, rel=1e-12))


@pytest.mark.parametrize(
    'wins, losses', [(0, 1), (7, 7), (1600, 1400), (3000, 0), (36_000, 34_000)]
)
def test_a_sign_test_is_scipys(wins, losses):
    stats = pytest.importorskip('scipy.stats')
    found = sign_test(np.repeat([1.0, -1.0], [wins, losses]))
    p = stats.binomtest(wins, wins + losses).pvalue
    # Measured: relative 2e-11, of scipy's sum of 70,000 terms.
    assert found.p == pytest.approx(p, rel=1e-8)


def test_without_any_difference_nothing_is_tested():
    found = sign_test([0, 0, math.nan])
    assert found[:3] == (0, 0, 2) and math.isnan(found.p)


def test_infinite_differences_are_wins():
    assert sign_test([math.inf, math.inf, -math.inf])[:3] == (2, 1, 0)
