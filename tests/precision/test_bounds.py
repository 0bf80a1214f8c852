"""Bounds against their definitions, by summing probabilities and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdnative.precision.bounds import examples_for_none, mean_interval, share_high, upper_bound


def at_most(count, n, share):
    """Probability of at most so many cases."""
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(count + 1))


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 59), (3, 100), (50, 100), (99, 100)])
def test_the_bound_of_a_share_is_where_so_few_become_improbable(count, n):
    for confidence in (0.9, 0.95, 0.975):
        assert at_most(count, n, share_high(count, n, confidence)) == pytest.approx(1 - confidence, rel=1e-9)
    assert share_high(n, n, 0.95) == 1.0


def test_how_many_examples_without_a_case_are_enough():
    for share in (0.001, 0.01, 0.05, 0.5):
        n = examples_for_none(share, 0.95)
        assert share_high(0, n, 0.95) <= share * (1 + 1e-9)
        assert n == 1 or share_high(0, n - 1, 0.95) > share
    assert examples_for_none(0.01, 0.95) == 299


def test_shares_and_differences_are_exact():
    share = np.repeat([1.0, 0.0], [7, 393])
    assert upper_bound(share, 0.95) == share_high(7, 400, 0.95)
    found = mean_interval(share, 0.9)
    assert (found.value, found.high, found.n) == (7 / 400, share_high(7, 400, 0.95), 400)
    assert found.low == pytest.approx(1 - share_high(393, 400, 0.95)) and at_most(6, 400, found.low) == pytest.approx(
        0.95
    )
    worse_and_better = np.repeat([1.0, -1.0, 0.0], [9, 4, 387])
    expected = share_high(9, 400, 0.975) - (1 - share_high(396, 400, 0.975))
    assert upper_bound(worse_and_better, 0.95) == pytest.approx(expected)
    assert mean_interval(worse_and_better, 0.9).low == pytest.approx(-upper_bound(-worse_and_better, 0.95))
    assert upper_bound(np.zeros(400), 0.95) == share_high(0, 400, 0.95) > 0, "no change seen is not no change"


def test_the_studentized_bound_covers_skewed_means_where_the_percentiles_do_not():
    """Lognormal values, as divergences are, 100 of them: a 95 % bound must be above the mean in about 95 % of draws."""
    generator = np.random.default_rng(0)
    mean, covered, percentile = math.exp(0.5), 0, 0
    for draw in range(200):
        values = generator.lognormal(0, 1, 100)
        covered += upper_bound(values, 0.95, seed=draw) >= mean
        means = values[generator.integers(0, 100, (300, 100))].mean(1)
        percentile += np.quantile(means, 0.95) >= mean
    assert covered >= 180 and covered > percentile


def test_an_interval_of_a_mean_has_its_bounds_on_both_sides_and_is_repeatable():
    values = np.random.default_rng(1).exponential(1, 300)
    found = mean_interval(values, 0.95)
    assert found.low < values.mean() < found.high and found == mean_interval(values, 0.95)
    assert (
        found.high == pytest.approx(upper_bound(values, 0.975))
        and found.high < values.mean() + 4 * values.std() / 300**0.5
    )
    assert mean_interval(values * 3, 0.95).high == pytest.approx(3 * found.high)


def test_extreme_values():
    assert upper_bound(np.array([0.3]), 0.95) == math.inf
    assert mean_interval(np.array([0.3]), 0.95).low == -math.inf
    assert upper_bound(np.full(50, 0.25), 0.95) == 0.25
    with pytest.raises(ValueError, match="count=3, n=2"):
        share_high(3, 2, 0.95)
