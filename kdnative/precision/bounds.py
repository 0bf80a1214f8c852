"""What n examples say about a mean: exact for shares, an approximation for other values.

Of a mean no sample says how large the values are that it did not see: resampling holds rare large ones for impossible.
What may be unseen is therefore added: the share that n examples can miss, times the largest value that there can be.
Where nothing bounds the values, the largest one seen stands for it, and the bound remains an approximation.
"""

from __future__ import annotations

import math

import numpy as np

from kdnative.evaluate.intervals import Interval
from kdnative.extras import require

__all__ = ["LEAST_OF_MEANS", "examples_for_none", "least_examples", "mean_interval", "share_high", "upper_bound"]

LEAST_OF_MEANS = 300
"""Of fewer examples the mean of values other than yes and no is not bounded: one in a hundred may lie unseen."""

_RESAMPLES = 2000
_BLOCK = 1 << 22  # values drawn at once


def share_high(count: int, n: int, confidence: float) -> float:
    """The upper bound of a share of which ``count`` of ``n`` examples were seen (Clopper and Pearson, 1934).

    It is exact: a true share above it would show so few with a probability of at most ``1 - confidence``.
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"count={count}, n={n}: n >= 1 and 0 <= count <= n are needed")
    require("scipy", "an exact interval")
    from scipy.special import betaincinv

    return 1.0 if count == n else float(betaincinv(count + 1, n - count, confidence))


def examples_for_none(share: float, confidence: float) -> int:
    """How many examples without a single case show a share of at most ``share``, within (0, 1)."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-share) - 1e-9)


def least_examples(kind: str, budget: float, confidence: float, most: float | None = None) -> int:
    """How many examples show that a mean is at most ``budget`` where none of them differs.

    Args:
        kind, most: as for `upper_bound`. budget: above 0. confidence: within (0.5, 1).
    """
    if kind == "difference":
        confidence = (1 + confidence) / 2
    share = 0.0 if most is None else budget / most
    needed = examples_for_none(share, confidence) if 0 < share < 1 else 1
    return max(LEAST_OF_MEANS if kind == "mean" else 1, needed)


def upper_bound(
    values: np.ndarray, confidence: float, kind: str = "mean", most: float | None = None, seed: int = 0
) -> float:
    """What the mean of such values stays below with this confidence (one-sided).

    Args:
        values: float [N].
        confidence: within (0.5, 1).
        kind: "share": values are 0 or 1, and the bound is that of Clopper and Pearson. "difference": they are -1, 0 or
            1 (answers that became right, and wrong), and it is the bound of the one share less the lower bound of the
            other, each with half of the error. "mean": a studentized bootstrap, see `mean_interval`, and `unseen`.
        most: of a mean, the largest value that there can be; None: not known.
        seed: of the bootstrap.
    """
    n = len(values)
    if kind == "share":
        return share_high(int(values.sum()), n, confidence)
    if kind == "difference":
        half = (1 + confidence) / 2
        worse, better = int((values == 1).sum()), int((values == -1).sum())
        return share_high(worse, n, half) - (1 - share_high(n - better, n, half))
    return _studentized(values, confidence, seed) + unseen(values, confidence, most)


def unseen(values: np.ndarray, confidence: float, most: float | None = None) -> float:
    """What values that n examples did not show can add to their mean: a share of them at ``most``, or the largest seen."""
    largest = max(0.0, float(values.max())) if most is None else most
    return share_high(0, len(values), confidence) * largest


def mean_interval(
    values: np.ndarray, confidence: float, kind: str = "mean", most: float | None = None, seed: int = 0
) -> Interval:
    """The mean of some values and its two-sided interval.

    The bootstrap resamples examples and divides by each resample's own standard error (bootstrap-t: Hall, 1988), since
    divergences are skewed to the right, and the ordinary percentile interval then ends too early above.

    Args:
        values: float [N], N >= 1. confidence: within (0.5, 1). kind, most, seed: as for `upper_bound`.
    """
    half = (1 + confidence) / 2
    high = upper_bound(values, half, kind, most, seed)
    low = 1 - upper_bound(1 - values, half, kind) if kind == "share" else -upper_bound(-values, half, kind, seed=seed)
    return Interval(float(values.mean()), low, high, len(values))


def _studentized(values: np.ndarray, confidence: float, seed: int) -> float:
    """What the mean stays below, by values like those that were seen."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return math.inf
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if not error > 0:
        return mean
    generator = np.random.Generator(np.random.PCG64(seed))
    found: list[np.ndarray] = []
    step = max(1, _BLOCK // n)
    for begin in range(0, _RESAMPLES, step):
        drawn = values[generator.integers(0, n, (min(step, _RESAMPLES - begin), n))]
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
        means = drawn.mean(axis=1) - mean
        # A resample of equal values has no standard error: the deviation is as far as can be.
        found.append(np.divide(means, errors, out=1e6 * np.sign(means), where=errors > 0))
    return mean - error * float(np.quantile(np.concatenate(found), 1 - confidence))
