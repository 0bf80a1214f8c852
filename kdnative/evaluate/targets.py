"""How well predicted numbers follow the true ones: correlations and the error, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdnative.evaluate.intervals import Interval
from kdnative.evaluate.predict import Predictions

__all__ = [
    "TargetMetrics",
    "correlation",
    "correlation_difference",
    "correlation_ratio",
    "measure_targets",
    "numbers_of",
    "pearson",
    "spearman",
]

Statistic = Callable[[np.ndarray], float]
"""Of how often each example counts, int [N]."""


@dataclass(frozen=True)
class TargetMetrics:
    """What a test set says about a model that predicts numbers.

    Attributes:
        pearson, spearman: correlations with the true numbers, within [-1, 1]. rmse: root of the mean squared error.
        n: examples. intervals: 95 % bootstrap intervals of the three, by name.
    """

    pearson: float
    spearman: float
    rmse: float
    n: int
    intervals: dict[str, Interval]


def measure_targets(predictions: Predictions, *, resamples: int = 2000, seed: int = 0) -> TargetMetrics:
    """Metrics of predicted numbers and targets.

    Args:
        predictions: logits [N, 1], finite, and labels fp32 [N] without NaN; N >= 1.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: no labels, another shape, or numbers that are not finite.
    """
    if predictions.labels is None:
        raise ValueError("the data has no targets: correlations cannot be measured (agreement with a teacher can)")
    found, true = numbers_of(predictions), predictions.labels.double().numpy()
    if not np.isfinite(true).all():
        raise ValueError(f"{int((~np.isfinite(true)).sum())} of {len(true)} targets are missing or not finite")
    _check_same(found, true)
    squares = (found - true) ** 2
    statistics = {
        "pearson": _weighted_pearson(found, true),
        "spearman": _weighted_spearman(found, true),
        "rmse": lambda counts: float(np.sqrt((squares * counts).sum() / counts.sum())),
    }
    intervals = {name: _bootstrap(s, len(true), resamples, seed) for name, s in statistics.items()}
    return TargetMetrics(n=len(true), intervals=intervals, **{name: i.value for name, i in intervals.items()})


def pearson(a: Any, b: Any) -> float:
    """Pearson's correlation of two rows of numbers [N]; 0 where one of them is constant."""
    a, b = numbers_of(a), numbers_of(b)
    _check_same(a, b)
    return _weighted_pearson(a, b)(np.ones(len(a), np.int64))


def spearman(a: Any, b: Any) -> float:
    """Spearman's rank correlation (1904): Pearson's of the ranks, equal values sharing the mean of theirs."""
    a, b = numbers_of(a), numbers_of(b)
    _check_same(a, b)
    return _weighted_spearman(a, b)(np.ones(len(a), np.int64))


def correlation(a: Any, b: Any, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Pearson's correlation of two models' predictions for the same examples, with a bootstrap interval."""
    a, b = numbers_of(a), numbers_of(b)
    _check_same(a, b)
    return _bootstrap(_weighted_pearson(a, b), len(a), resamples, seed)


def correlation_difference(a: Any, b: Any, targets: Any, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Pearson's correlation of b with the targets minus that of a, with a paired bootstrap interval."""
    a, b, targets = numbers_of(a), numbers_of(b), numbers_of(targets)
    _check_same(a, targets)
    _check_same(b, targets)
    first, second = _weighted_pearson(a, targets), _weighted_pearson(b, targets)
    return _bootstrap(lambda counts: second(counts) - first(counts), len(targets), resamples, seed)


def correlation_ratio(a: Any, b: Any, targets: Any, *, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Pearson's correlation of b with the targets divided by that of a, with a paired bootstrap interval.

    None where that of a is not above 0. Resamples in which it is not do not count.
    """
    a, b, targets = numbers_of(a), numbers_of(b), numbers_of(targets)
    _check_same(a, targets)
    _check_same(b, targets)
    first, second = _weighted_pearson(a, targets), _weighted_pearson(b, targets)
    if first(np.ones(len(targets), np.int64)) <= 0:
        return None

    def ratio(counts: np.ndarray) -> float:
        below = first(counts)
        return second(counts) / below if below > 0 else np.nan

    return _bootstrap(ratio, len(targets), resamples, seed)


def numbers_of(predicted: Any) -> np.ndarray:
    """fp64 [N], from `Predictions`, a tensor or an array [N] or [N, 1].

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    found = getattr(predicted, "logits", predicted)
    found = found.detach().cpu().double() if isinstance(found, torch.Tensor) else torch.as_tensor(np.asarray(found))
    if found.dim() == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.dim() != 1:
        raise ValueError(f"{list(found.shape)}: give one number an example, [N] or [N, 1]")
    if not bool(torch.isfinite(found).all()):
        raise ValueError("predictions hold NaN or infinite values: the model is broken, or overflowed in low precision")
    return found.double().numpy()


def _check_same(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} numbers: both must hold the same examples, at least one")


def _bootstrap(statistic: Statistic, n: int, resamples: int, seed: int) -> Interval:
    """Percentile bootstrap over examples (Efron, 1979), one resample at a time: memory stays that of the data."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: at least 1")
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = [statistic(np.bincount(generator.integers(n, size=n), minlength=n)) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Interval(statistic(np.ones(n, np.int64)), float(low), float(high), n)


def _weighted_pearson(a: np.ndarray, b: np.ndarray) -> Statistic:
    return lambda counts: _correlate(a, b, counts)


def _weighted_spearman(a: np.ndarray, b: np.ndarray) -> Statistic:
    ranks_a, ranks_b = _ranking(a), _ranking(b)
    return lambda counts: _correlate(ranks_a(counts), ranks_b(counts), counts)


def _correlate(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> float:
    n = counts.sum()
    a, b = a - (a * counts).sum() / n, b - (b * counts).sum() / n
    product = np.sqrt((a * a * counts).sum() * (b * b * counts).sum())
    # Of equal numbers, rounding leaves a difference that is none.
    constant = any((v[counts > 0] == v[counts > 0][0]).all() for v in (a, b))
    return 0.0 if constant or product == 0 else float(np.clip((a * b * counts).sum() / product, -1, 1))


def _ranking(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From how often each value counts to its rank, fp64 [N]: the mean place of equal values, from 1."""
    _, group = np.unique(values, return_inverse=True)

    def ranks(counts: np.ndarray) -> np.ndarray:
        sizes = np.bincount(group, weights=counts)
        return (np.cumsum(sizes) - (sizes - 1) / 2)[group]

    return ranks
