"""One converted model against its float original: the drop, its bound, and how many examples would show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdnative.evaluate.intervals import Interval
from kdnative.precision.bounds import examples_for_none, mean_interval, share_high, upper_bound
from kdnative.precision.metrics import Answers, Metric, Score, drops, score_drops

__all__ = ["Drop", "Judge"]

_RESAMPLES = 500  # of a function that scores a whole set: each is a call of it
_MOST_EXAMPLES = 1 << 40


@dataclass(frozen=True)
class Drop:
    """What a model lost.

    Attributes:
        value: measured; higher is worse. bound: what the true drop is below, one-sided. n: examples.
    """

    value: float
    bound: float
    n: int


class Judge:
    """Compares models with one original on the same examples.

    Args:
        metric: of this package, or a function of the user's (see :class:`kdnative.precision.Gate`).
        original: answers of the float model, finite.
        labels: [all examples], or None.
        confidence: of bounds and intervals. seed: of the bootstrap.
    """

    def __init__(
        self, metric: Metric | Score, original: Answers, labels: np.ndarray | None, confidence: float, seed: int = 0
    ) -> None:
        if not original.finite:
            raise ValueError(
                "the float model gives NaN or infinite values on this data: nothing can be compared with it"
            )
        self.metric, self.original, self.labels = metric, original, labels
        self.confidence, self.seed = confidence, seed
        self.rows = np.sort(np.concatenate(original.rows))
        self.exact = isinstance(metric, Metric) and metric.name == "agreement" and original.owners is None

    def __len__(self) -> int:
        return len(self.rows)

    def drop(self, changed: Answers) -> Drop:
        """The drop over all examples; infinite for a model that gives NaN or infinite values."""
        if not changed.finite:
            return Drop(math.inf, math.inf, len(self))
        values = self._values(changed)
        if values is not None:
            return Drop(float(values.mean()), upper_bound(values, self.confidence, self.seed), len(self))
        everything = np.arange(len(self))
        scores = self._resampled(changed, everything)
        return Drop(self._scored(changed, everything), float(np.quantile(scores, self.confidence)), len(self))

    def intervals(self, changed: Answers, parts: Mapping[str, np.ndarray]) -> dict[str, Interval]:
        """The drop and its two-sided interval in some parts of the data; empty parts are left out.

        Args:
            parts: for each name which of all examples are in it, bool [all examples].
        """
        values, found = self._values(changed), {}
        for name, chosen in parts.items():
            index = np.flatnonzero(chosen[self.rows])
            if not len(index):
                continue
            if values is not None:
                found[name] = mean_interval(values[index], self.confidence, self.seed)
            else:
                half = (1 - self.confidence) / 2
                low, high = np.quantile(self._resampled(changed, index), (half, 1 - half))
                found[name] = Interval(self._scored(changed, index), float(low), float(high), len(index))
        return found

    def foreseen(self, drop: Drop, n: int) -> float:
        """The bound that the same drop would have on another number of examples."""
        if self.exact:
            return share_high(min(n, math.ceil(drop.value * n - 1e-9)), n, self.confidence)
        return drop.value + (drop.bound - drop.value) * math.sqrt(drop.n / n)

    def examples_needed(self, drop: Drop, most: float) -> int | None:
        """How many examples would show that this drop is at most ``most``; None where it isn't."""
        if not drop.value < most:
            return None
        if not self.exact:
            width = (drop.bound - drop.value) / (most - drop.value)
            return max(len(self) + 1, math.ceil(drop.n * width**2)) if math.isfinite(width) else None
        low = high = examples_for_none(most, self.confidence)
        while self.foreseen(drop, high) > most:
            low, high = high, 2 * high
            if high > _MOST_EXAMPLES:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.foreseen(drop, middle) > most else (low, middle)
        return high

    def _values(self, changed: Answers) -> np.ndarray | None:
        if isinstance(self.metric, Metric):
            return drops(self.metric, self.original, changed, self.labels)
        return score_drops(self.metric, self.original, changed, self._known())

    def _known(self, index: np.ndarray | None = None) -> Tensor | None:
        if self.labels is None:
            return None
        return torch.from_numpy(self.labels[self.rows if index is None else self.rows[index]])

    def _scored(self, changed: Answers, index: np.ndarray) -> float:
        assert not isinstance(self.metric, Metric)
        labels, chosen = self._known(index), torch.from_numpy(index)
        before, after = (float(self.metric(a.joined()[chosen], labels)) for a in (self.original, changed))
        return before - after

    def _resampled(self, changed: Answers, index: np.ndarray) -> list[float]:
        """Drops of draws with replacement (percentile bootstrap)."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        draws = (index[generator.integers(0, len(index), len(index))] for _ in range(_RESAMPLES))
        return [self._scored(changed, drawn) for drawn in draws]
