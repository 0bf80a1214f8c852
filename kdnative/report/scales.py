"""From values to places on a chart: linear and logarithmic scales and the round values to mark on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to positions in [start, end].

    Attributes:
        ticks: values to mark, all within [low, high].
        log: logarithmic; low and high are positive then.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def linear(
    values: Sequence[float], start: float, end: float, *, count: int = 5, zero: bool = False, whole: bool = False
) -> Scale:
    """A scale that ends on round values around ``values``.

    Args:
        values: at least one finite number.
        start, end: positions of the lowest and the highest mark.
        count: about how many steps.
        zero: begin at 0.
        whole: mark whole numbers only.
    """
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):  # one value: make room around it
        room = abs(high) * 0.1 or 1.0
        low, high = low - (0.0 if zero and low == 0 else room), high + room
    step = _round_step((high - low) / count)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def logarithmic(values: Sequence[float], start: float, end: float, *, room: float = 1.12) -> Scale:
    """A logarithmic scale with marks at 1, 2 and 5 times powers of ten, fewer when it spans many powers.

    Args:
        values: at least one, all positive.
        room: factor that the scale reaches beyond them.
    """
    low, high = min(values) / room, max(values) * room
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low <= 1e3 else (1,)
    ticks = tuple(m * 10.0**e for e in range(first, last + 1) for m in steps if low <= m * 10.0**e <= high)
    return Scale(low, high, start, end, ticks, log=True)


def marked(values: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic scale marked at exactly these positive values, as for batch sizes and lengths."""
    ticks = tuple(sorted(set(values)))
    low, high = (ticks[0], ticks[-1]) if len(ticks) > 1 else (ticks[0] / 2, ticks[0] * 2)
    room = (high / low) ** 0.04
    return Scale(low / room, high * room, start, end, ticks, log=True)


def _round_step(rough: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, the nearest from above."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
