"""Bounds against their definitions, by summing probabilities and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdnative.precision.bounds import (
    LEAST_OF_MEANS,
    examples_for_none,
    least_examples,
    mean_interval,
    share_high,
    upper_bound,
)


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
    assert upper_bound(share, 0.95, "share") == share_high(7, 400, 0.95)
    found = mean_interval(share, 0.9, "share")
    assert (found.value, found.high, found.n) == (7 / 400, share_high(7, 400, 0.95), 400)
    assert found.low == pytest.approx(1 - share_high(393, 400, 0.95)) and at_most(6, 400, found.low) == pytest.approx(
        0.95
    )
    worse_and_better = np.repeat([1.0, -1.0, 0.0], [9, 4, 387])
    expected = share_high(9, 400, 0.975) - (1 - share_high(396, 400, 0.975))
    assert upper_bound(worse_and_better, 0.95, "difference") == pytest.approx(expected)
    assert mean_interval(worse_and_better, 0.9, "difference").low == pytest.approx(
        -upper_bound(-worse_and_better, 0.95, "difference")
    )
    assert upper_bound(np.zeros(400), 0.95, "share") == share_high(0, 400, 0.95) > 0, "no change seen is not no change"
    assert upper_bound(np.zeros(400), 0.95, "difference") == pytest.approx(share_high(0, 400, 0.975))


def test_the_least_examples_are_those_with_which_nothing_seen_is_within_the_budget():
    """By the very bound that is applied to them."""
    for kind, most in (("share", 1.0), ("difference", 1.0), ("mean", 1.0), ("mean", 2.0), ("mean", None)):
        for budget in (0.004, 0.05, 0.5):
            n = least_examples(kind, budget, 0.95, most)
            assert upper_bound(np.zeros(n), 0.95, kind, most) <= budget * (1 + 1e-9)
            if n > (LEAST_OF_MEANS if kind == "mean" else 1):
                assert upper_bound(np.zeros(n - 1), 0.95, kind, most) > budget


@pytest.mark.parametrize(("rare", "most"), [(0.01, None), (0.003, 1.0), (0.02, None), (0.05, 1.0)])
def test_rare_large_values_are_not_held_for_impossible(rare, most):
    """Answers that hardly move, and one in a hundred or so that flips: the least sample may hold none of them."""
    generator = np.random.default_rng(0)
    below = 0
    for draw in range(300):
        values = np.where(generator.random(LEAST_OF_MEANS) < rare, 1.0, generator.exponential(1e-4, LEAST_OF_MEANS))
        below += upper_bound(values, 0.95, most=most, seed=draw) < rare
    assert below <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5


def test_a_heavy_tail_at_the_least_number_of_examples():
    """Lognormal with sigma 2: half of the mean is in three of a hundred values."""
    generator = np.random.default_rng(0)
    below = sum(
        upper_bound(generator.lognormal(0, 2, LEAST_OF_MEANS), 0.95, seed=draw) < math.exp(2) for draw in range(300)
    )
    assert below <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5


def test_what_is_unseen_is_the_largest_value_times_the_share_that_can_be():
    few = np.array([0.0, 0.0, 0.5] * 100)
    share = share_high(0, 300, 0.95)
    by_seen, by_most = upper_bound(few, 0.95), upper_bound(few, 0.95, most=2.0)
    assert by_most - by_seen == pytest.approx(share * (2.0 - 0.5))
    assert upper_bound(np.zeros(300), 0.95, most=2.0) == pytest.approx(2 * share) and upper_bound(-few, 0.95) < -0.1


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
        and found.high < values.mean() + 4 * values.std() / 300**0.5 + share_high(0, 300, 0.975) * values.max()
    )
    assert mean_interval(values * 3, 0.95).high == pytest.approx(3 * found.high)


def test_extreme_values():
    assert upper_bound(np.array([0.3]), 0.95) == math.inf
    assert mean_interval(np.array([0.3]), 0.95).low == -math.inf
    assert upper_bound(np.full(50, 0.25), 0.95) == pytest.approx(0.25 + 0.25 * share_high(0, 50, 0.95))
    with pytest.raises(ValueError, match="count=3, n=2"):
        share_high(3, 2, 0.95)
