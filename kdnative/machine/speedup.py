"""How many times faster one function is than another, with an interval: the only definition of a speed-up here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
LEAST_SAMPLES = 5
"""With fewer samples there is no interval: the bootstrap of so few is too narrow, and that of one has no width."""


@dataclass(frozen=True)
class Speedup:
    """A ratio of medians.

    Attributes:
        value: median time of the slow one divided by the median time of the fast one.
        low, high: ends of the 95 % interval; None where only the medians are known, or too few samples.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """``"1.43x [1.40, 1.47]"``, or ``"1.43x"`` without an interval."""
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}x{interval}"


def speedup(slow: Sequence[float], fast: Sequence[float]) -> Speedup:
    """The ratio of the medians of two timings, with a 95 % bootstrap interval.

    The interval is the percentile bootstrap (Efron 1979) over rounds: rounds are drawn with replacement, the same for
    both, as a disturbance that lasts a whole round hits both. The seed is fixed, so the same samples give the same
    interval. Below `LEAST_SAMPLES` rounds there is none.

    Args:
        slow, fast: seconds, one sample a round, both from one :func:`kdnative.machine.timer.interleave`.

    Raises:
        ValueError: no samples, or not as many of one as of the other.
    """
    if len(slow) != len(fast) or not len(slow):
        raise ValueError(f"{len(slow)} and {len(fast)} samples were not taken together in the same rounds")
    a, b = np.asarray(slow, dtype=np.float64), np.asarray(fast, dtype=np.float64)
    value = float(np.median(a) / np.median(b))
    if len(a) < LEAST_SAMPLES:
        return Speedup(value)
    drawn = np.random.default_rng(0).integers(0, len(a), (_RESAMPLES, len(a)))
    ratios = np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Speedup(value, float(low), float(high))


def factors(*timings: Sequence[float]) -> tuple[Speedup, ...]:
    """The speed-up of the last way of running over the first as a product: ``(total, factor, factor, ...)``.

    Each factor is one way over the next. All are ratios of medians, so ``total`` is exactly their product; each has an
    interval of its own.

    Args:
        timings: samples of each way, the slow one first, as for :func:`speedup`; at least two.
    """
    return (speedup(timings[0], timings[-1]), *map(speedup, timings, timings[1:]))
