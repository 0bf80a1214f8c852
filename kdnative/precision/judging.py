"""One converted model against its float original: the drop, its bound, and how many examples would show it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdnative.evaluate.intervals import Interval
from kdnative.precision.bounds import least_examples, mean_interval, share_high, unseen, upper_bound
from kdnative.precision.metrics import Answers, Metric, Score, drops, score_drops

__all__ = ["Drop", "Drops", "Judge"]

_RESAMPLES = 500  # of a function that scores a whole set: each is some calls of it
_MOST_EXAMPLES = 1 << 40


@dataclass(frozen=True)
class Drop:
    """What a model lost.

    Attributes:
        value: measured; higher is worse. bound: what the true drop is below, one-sided. n: examples.
        unseen: the part of the bound that stands for what n examples may not show.
    """

    value: float
    bound: float
    n: int
    unseen: float = 0.0


@dataclass(frozen=True)
class Drops:
    """The drop of every example, fp64 [N], and the largest that there can be; None: not known."""

    each: np.ndarray
    most: float | None


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
                "the float model gives NaN or infinite values on this data, so nothing can be compared with "
                "it: check the model and the data"
            )
        self.metric, self.original, self.labels = metric, original, labels
        self.confidence, self.seed = confidence, seed
        self.rows = np.sort(np.concatenate(original.rows))
        whole = isinstance(metric, Metric) and original.owners is None
        self.kind = metric.counts if whole and isinstance(metric, Metric) else "mean"

    def __len__(self) -> int:
        return len(self.rows)

    def least(self, budget: float) -> int:
        """How many examples show the budget where none of them differs."""
        most = self.metric.most if isinstance(self.metric, Metric) else None
        return least_examples(self.kind, budget, self.confidence, most)

    def reduced(self, changed: Answers | Drops) -> Answers | Drops:
        """What a model's answers are needed for: the drop of each example, where there is one and it is finite."""
        if isinstance(changed, Drops) or not changed.finite:
            return changed
        if isinstance(self.metric, Metric):
            return Drops(drops(self.metric, self.original, changed, self.labels), self.metric.most)
        scored = score_drops(self.metric, self.original, changed, self._known())
        return changed if scored is None else Drops(*scored)

    def drop(self, changed: Answers | Drops) -> Drop:
        """The drop over all examples; infinite for a model that gives NaN or infinite values.

        Raises:
            ValueError: a function of the user's that gives the same score for any examples.
        """
        found, n = self.reduced(changed), len(self)
        if isinstance(found, Drops):
            bound = upper_bound(found.each, self.confidence, self.kind, found.most, self.seed)
            part = unseen(found.each, self.confidence, found.most) if self.kind == "mean" else 0.0
            return _finite(Drop(float(found.each.mean()), bound, n, part))
        if not found.finite:
            return _finite(Drop(math.inf, math.inf, n))
        resampled = _Resampled(self, found, np.arange(n))
        return _finite(Drop(resampled.value, resampled.below(self.confidence), n))

    def intervals(self, changed: Answers | Drops, parts: Mapping[str, np.ndarray]) -> dict[str, Interval]:
        """The drop and its two-sided interval in some parts of the data.

        Parts without examples are left out, and so are those that a function of the user's can't score.

        Args:
            parts: for each name which of all examples are in it, bool [all examples].
        """
        changed, found = self.reduced(changed), {}
        for name, chosen in parts.items():
            index = np.flatnonzero(chosen[self.rows])
            if not len(index):
                continue
            if isinstance(changed, Drops):
                values = changed.each[index]
                found[name] = mean_interval(values, self.confidence, self.kind, changed.most, self.seed)
            else:
                with contextlib.suppress(Exception):  # of one class alone many scores are not defined
                    found[name] = _Resampled(self, changed, index).interval(self.confidence)
        return found

    def foreseen(self, drop: Drop, n: int) -> float:
        """The bound that the same drop would have on another number of examples."""
        if not math.isfinite(drop.bound):
            return math.inf
        if self.kind == "share":
            return share_high(min(n, math.ceil(drop.value * n - 1e-9)), n, self.confidence)
        tail = drop.unseen * share_high(0, n, self.confidence) / share_high(0, drop.n, self.confidence)
        return drop.value + (drop.bound - drop.unseen - drop.value) * math.sqrt(drop.n / n) + tail

    def examples_needed(self, drop: Drop, most: float) -> int | None:
        """How many examples would show that this drop is at most ``most``; None where it isn't."""
        if not drop.value < most:
            return None
        low = high = self.least(most)
        while self.foreseen(drop, high) > most:
            low, high = high, 2 * high
            if high > _MOST_EXAMPLES:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.foreseen(drop, middle) > most else (low, middle)
        return high

    def _known(self) -> Tensor | None:
        return None if self.labels is None else torch.from_numpy(self.labels[self.rows])


def _finite(drop: Drop) -> Drop:
    """A drop that is no number is an infinite one."""
    return drop if math.isfinite(drop.value) else Drop(math.inf, math.inf, drop.n)


class _Resampled:
    """The drop of a function that scores a whole set, and those of draws with replacement (percentile bootstrap).

    Answers that differ and were not seen are in no draw. So in a second score of each as many as can be unseen have the
    answers of other examples, those farthest from their own.

    Args:
        judge: whose function it is. changed: answers of the converted model. index: of the examples.

    Raises:
        ValueError: all draws have one drop.
    """

    def __init__(self, judge: Judge, changed: Answers, index: np.ndarray) -> None:
        self.score, self.n, self._labels = judge.metric, len(index), judge._known()
        self._before, self._after = judge.original.joined(), changed.joined()
        self.value = self._drop(torch.from_numpy(index))
        generator = np.random.Generator(np.random.PCG64(judge.seed))
        count = math.ceil(self.n * share_high(0, self.n, judge.confidence))
        plain, spoiled = [], []
        for _ in range(_RESAMPLES):
            drawn = torch.from_numpy(index[generator.integers(0, self.n, self.n)])
            plain.append(self._drop(drawn))
            spoiled.append(max(plain[-1], self._drop(drawn, generator.choice(self.n, count, replace=False))))
        if min(spoiled) == max(spoiled):
            raise ValueError(
                "the function of metric= gives the same score for all examples and answers, so it can't show "
                "a loss: give another function"
            )
        self._plain, self._spoiled = plain, spoiled

    def below(self, confidence: float) -> float:
        """What the true drop is below."""
        return float(np.quantile(self._spoiled, confidence))

    def interval(self, confidence: float) -> Interval:
        """Two-sided."""
        half = (1 - confidence) / 2
        return Interval(self.value, float(np.quantile(self._plain, half)), self.below(1 - half), self.n)

    def _drop(self, drawn: Tensor, other: np.ndarray | None = None) -> float:
        """Of these examples; at ``other`` places the changed model answers something else."""
        labels = None if self._labels is None else self._labels[drawn]
        answers = self._after[drawn]
        if other is not None:
            far = torch.cdist(answers[other].flatten(1).double(), self._after.flatten(1).double()).argmax(1)
            answers[other] = self._after[far]
        assert not isinstance(self.score, Metric)
        before, after = (float(self.score(each, labels)) for each in (self._before[drawn], answers))
        return before - after
