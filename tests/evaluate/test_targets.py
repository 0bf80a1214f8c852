"""Correlations and errors of predicted numbers, against scipy and intervals worked out another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from kdnative.evaluate import Predictions
from kdnative.evaluate.targets import (
    correlation,
    correlation_difference,
    measure_targets,
    numbers_of,
    pearson,
    spearman,
)


def two_rows(n: int, ties: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=n)
    b = 0.7 * a + generator.normal(size=n)
    return (a.round(), b.round()) if ties else (a, b)


def predictions(found, true) -> Predictions:
    labels = None if true is None else torch.tensor(true, dtype=torch.float32)
    return Predictions(torch.tensor(np.asarray(found), dtype=torch.float32)[:, None], labels)


@pytest.mark.parametrize("n", [2, 5, 17, 501])
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(n, ties):
    a, b = two_rows(n, ties, seed=n)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_ranks_are_those_of_the_numbers_not_of_their_distances():
    a, b = two_rows(50)
    assert spearman(np.exp(3 * a), b) == pytest.approx(spearman(a, b), abs=1e-12)
    assert spearman(a, -a) == -1.0 and pearson(a, 2 * a + 1) == pytest.approx(1.0, abs=1e-12)


def test_a_constant_prediction_follows_nothing():
    a, _ = two_rows(20)
    for value in (0.0, 0.1, 1e9 + 0.1):
        assert pearson(np.full(20, value), a) == 0.0 and spearman(a, np.full(20, value)) == 0.0


def test_intervals_cover_and_shrink():
    """Fisher's interval of the correlation of normal numbers is another way to the same thing."""
    for n in (60, 1500):
        a, b = two_rows(n, seed=1)
        found = measure_targets(predictions(a, b)).intervals["pearson"]
        ours, theirs = (found.low, found.high), stats.pearsonr(a, b).confidence_interval(0.95)
        assert np.allclose(ours, theirs, atol=0.35 / np.sqrt(n)), (ours, theirs)
        assert found.low < found.value < found.high and found.n == n


def test_the_bootstrap_resamples_examples_with_their_ranks():
    """A resample of few examples, ranked again by scipy."""
    a, b = two_rows(9, ties=True, seed=3)
    generator = np.random.Generator(np.random.PCG64(0))
    drawn = []
    for _ in range(200):
        rows = generator.integers(9, size=9)
        constant = len(set(a[rows])) == 1 or len(set(b[rows])) == 1
        drawn.append(0.0 if constant else stats.spearmanr(a[rows], b[rows]).statistic)
    found = measure_targets(predictions(a, b), resamples=200).intervals["spearman"]
    assert np.allclose((found.low, found.high), np.quantile(drawn, (0.025, 0.975)), atol=1e-6)


def test_error_and_counts():
    found = measure_targets(predictions([1.0, 2.0, 4.0], [1.0, 4.0, 4.0]))
    assert found.rmse == pytest.approx((4 / 3) ** 0.5) and found.n == 3
    assert set(found.intervals) == {"pearson", "spearman", "rmse"}


def test_differences_are_paired():
    a, true = two_rows(300)
    noisy = a + np.random.default_rng(5).normal(size=300)
    worse = correlation_difference(a, noisy, true)
    assert worse.value == pytest.approx(pearson(noisy, true) - pearson(a, true)) and worse.high < 0
    assert correlation_difference(a, a, true)[:3] == (0.0, 0.0, 0.0)
    assert correlation(a, noisy).value == pytest.approx(stats.pearsonr(a, noisy).statistic)


def test_refused_in_words():
    with pytest.raises(ValueError, match="the data has no targets"):
        measure_targets(predictions([1.0], None))
    with pytest.raises(ValueError, match="1 of 2 targets are missing"):
        measure_targets(predictions([1.0, 2.0], [1.0, float("nan")]))
    with pytest.raises(ValueError, match="predictions hold NaN"):
        measure_targets(predictions([1.0, float("inf")], [1.0, 2.0]))
    with pytest.raises(ValueError, match="2 and 3 numbers"):
        pearson([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="0 and 0 numbers"):
        pearson([], [])
    with pytest.raises(ValueError, match=r"\[4, 2\]: give one number an example"):
        numbers_of(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="resamples=0"):
        measure_targets(predictions([1.0, 2.0], [1.0, 2.0]), resamples=0)
