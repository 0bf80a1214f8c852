"""What n examples say about a mean: exact for shares, a studentized bootstrap for other values."""

from __future__ import annotations

import math

import numpy as np

from kdnative.evaluate.intervals import Interval
from kdnative.extras import require

__all__ = ["examples_for_none", "mean_interval", "share_high", "upper_bound"]

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


def upper_bound(values: np.ndarray, confidence: float, seed: int = 0) -> float:
    """What the mean of such values stays below with this confidence (one-sided).

    Args:
        values: float [N]. Where all are 0 or 1 the bound is that of Clopper and Pearson. Where all are -1, 0 or 1
            (answers that became wrong, and right) it is the bound of the one share less the lower bound of the other,
            each with half of the error. Else a studentized bootstrap, see `mean_interval`.
        confidence: within (0.5, 1). seed: of the bootstrap.
    """
    kind = _kind(values)
    if kind == "share":
        return share_high(int(values.sum()), len(values), confidence)
    if kind == "difference":
        half = (1 + confidence) / 2
        worse, better = int((values == 1).sum()), int((values == -1).sum())
        n = len(values)
        return share_high(worse, n, half) - (1 - share_high(n - better, n, half))
    return _studentized(values, (confidence,), seed)[0]


def mean_interval(values: np.ndarray, confidence: float, seed: int = 0) -> Interval:
    """The mean of some values and its two-sided interval.

    The bootstrap resamples examples and divides by each resample's own standard error (bootstrap-t: Hall, 1988), since
    divergences are skewed to the right, and the ordinary percentile interval then ends too early above.

    Args:
        values: float [N], N >= 1. confidence: within (0.5, 1). seed: of the bootstrap.
    """
    half = (1 + confidence) / 2
    if _kind(values) != "mean":
        high, low = upper_bound(values, half, seed), -upper_bound(-values, half, seed)
        if _kind(values) == "share":
            low = 1 - share_high(int((1 - values).sum()), len(values), half)
        return Interval(float(values.mean()), low, high, len(values))
    high, low = _studentized(values, (half, 1 - half), seed)
    return Interval(float(values.mean()), low, high, len(values))


def _kind(values: np.ndarray) -> str:
    if np.isin(values, (0, 1)).all():
        return "share"
    return "difference" if np.isin(values, (-1, 0, 1)).all() else "mean"


def _studentized(values: np.ndarray, at: tuple[float, ...], seed: int) -> list[float]:
    """Bounds of the mean that it stays below with each of these confidences."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return [math.inf if confidence > 0.5 else -math.inf for confidence in at]
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if not error > 0:
        return [mean] * len(at)
    generator = np.random.Generator(np.random.PCG64(seed))
    found: list[np.ndarray] = []
    step = max(1, _BLOCK // n)
    for begin in range(0, _RESAMPLES, step):
        drawn = values[generator.integers(0, n, (min(step, _RESAMPLES - begin), n))]
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
        means = drawn.mean(axis=1) - mean
        # A resample of equal values has no standard error: the deviation is as far as can be.
        found.append(np.divide(means, errors, out=np.sign(means) * np.inf, where=errors > 0))
    deviations = np.nan_to_num(np.concatenate(found), posinf=1e6, neginf=-1e6)
    return [mean - error * float(np.quantile(deviations, 1 - confidence)) for confidence in at]
