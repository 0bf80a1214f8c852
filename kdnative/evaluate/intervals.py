"""95 % intervals for shares and for differences between two classifiers on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = [
    "Interval",
    "agreement",
    "bootstrap_counts",
    "classes_of",
    "examples_needed",
    "paired_difference",
    "paired_ratio",
    "wilson",
]

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
Z80 = 0.8416212335729143  # its 80 % quantile


class Interval(NamedTuple):
    """A value with its interval, of 95 % where its maker does not say otherwise, from n examples."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def wilson(successes: int, n: int) -> Interval:
    """A share with Wilson's score interval (Wilson, 1927): right where the share is near 0 or 1, or n is small."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes={successes}, n={n}: n >= 1 and 0 <= successes <= n are needed")
    share, z2 = successes / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At 0 and n the interval ends there exactly; rounding must not say otherwise.
    low, high = (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)
    return Interval(share, low, high, n)


def bootstrap_counts(
    counts: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a statistic that depends on how often each kind of example occurs.

    Drawing n examples with replacement and counting kinds is one draw from a multinomial distribution, so this is
    the ordinary bootstrap without touching the examples.

    Args:
        counts: int [kinds], examples of each kind; their sum is n.
        statistic: of such counts; draws for which it is NaN (undefined) do not count.
        resamples: draws. seed: the same seed gives the same interval.
    """
    n = int(counts.sum())
    if n < 1 or resamples < 1:
        raise ValueError(f"{n} examples, {resamples} resamples: at least one of each is needed")
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.multinomial(n, counts / n, size=resamples)
    low, high = np.nanquantile([statistic(row) for row in drawn], (0.025, 0.975))
    return Interval(float(statistic(counts)), float(low), float(high), n)


def classes_of(predicted: Any) -> np.ndarray:
    """Class numbers int64 [N], from `Predictions`, logits [N, C] or class numbers [N] (tensor, array or list)."""
    found = getattr(predicted, "logits", predicted)
    found = found.detach().cpu() if isinstance(found, torch.Tensor) else torch.as_tensor(np.asarray(found))
    if found.dim() == 2:
        return found.float().argmax(-1).numpy()
    if found.dim() != 1 or found.is_floating_point():
        raise ValueError(f"{list(found.shape)} {found.dtype}: give logits [N, C] or integer class numbers [N]")
    return found.long().numpy()


def agreement(a: Any, b: Any) -> Interval:
    """Share of examples on which two classifiers choose the same class, with Wilson's interval.

    Args: each `Predictions`, logits [N, C] or class numbers [N], of the same examples in the same order.
    """
    a, b = _same_length(classes_of(a), classes_of(b))
    return wilson(int((a == b).sum()), len(a))


def paired_difference(a: Any, b: Any, labels: Any, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Accuracy of b minus accuracy of a on the same examples, with a paired bootstrap interval.

    An interval that excludes 0 says that the difference is not the luck of this test set.
    """
    labels = classes_of(labels)
    a, b = _same_length(classes_of(a), labels)[0] == labels, _same_length(classes_of(b), labels)[0] == labels
    counts = np.array([(b & ~a).sum(), (a & ~b).sum(), (a == b).sum()])  # only b right, only a right, the same
    return bootstrap_counts(counts, lambda c: (c[0] - c[1]) / c.sum(), resamples, seed)


def paired_ratio(a: Any, b: Any, labels: Any, *, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Accuracy of b divided by accuracy of a on the same examples, with a paired bootstrap interval.

    None where a is never right.
    """
    labels = classes_of(labels)
    a, b = _same_length(classes_of(a), labels)[0] == labels, _same_length(classes_of(b), labels)[0] == labels
    if not a.any():
        return None
    counts = np.array([(b & ~a).sum(), (a & ~b).sum(), (a & b).sum(), (~a & ~b).sum()])

    def ratio(c: np.ndarray) -> float:
        right = c[1] + c[2]
        return (c[0] + c[2]) / right if right else math.nan

    return bootstrap_counts(counts, ratio, resamples, seed)


def examples_needed(found: Interval, effect: float) -> int:
    """How many examples would show a true difference of this size, in 80 % of such tests at the 5 % level.

    The interval's half width h shrinks as 1 / sqrt(n), so ``n * ((z_0.975 + z_0.8) / z_0.975 * h / effect)^2`` examples
    do (the usual sample size of a z-test: Cohen, 1988).

    Args:
        found: a difference measured on ``found.n`` examples like those. effect: the difference to show, not 0.
    """
    half = (found.high - found.low) / 2
    return math.ceil(found.n * ((Z95 + Z80) / Z95 * half / effect) ** 2)


def _same_length(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} examples: both must hold the same examples")
    return a, b
