"""What calibration sees of one map: its limits, a histogram, the limits of each channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["BINS", "Histogram", "Observer"]

BINS = 4096
"""Bins for each sign. At least half of those of the larger side are used, 8 for each of 256 codes."""


class Histogram:
    """Counts of values on a grid that grows with them.

    A bin is as wide as a power of two, and starts at a multiple of its width. When a value does not fit, bins are
    doubled, which adds two and two of them. So the counts do not depend on the order of the values, or on how they were
    cut into batches.
    """

    def __init__(self) -> None:
        self.exponent: int | None = None
        self.counts = torch.zeros(2 * BINS, dtype=torch.int64)

    def add(self, x: Tensor) -> None:
        """Finite values of any shape; those below 2^-100 count as 0."""
        flat = x.detach().reshape(-1).to(torch.float32)
        if not flat.numel():
            return
        largest = max(float(flat.abs().max()), 2.0**-100)
        self._widen(math.frexp(largest)[1] - int(math.log2(BINS)))  # largest < BINS * 2^exponent
        assert self.exponent is not None
        bins = flat.mul(2.0**-self.exponent).floor_().add_(BINS).to(torch.int32)  # all of it exact
        self.counts += torch.bincount(bins, minlength=2 * BINS)

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            pairs = self.counts.view(BINS, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 2 : BINS // 2 + BINS] = pairs
            self.exponent += 1

    def points(self) -> tuple[Tensor, Tensor]:
        """The middles of the bins that hold something, and how much, both float64, in ascending order."""
        used = self.counts.nonzero().reshape(-1)
        width = 2.0 ** (self.exponent or 0)
        return (used - BINS + 0.5).to(torch.float64) * width, self.counts[used].to(torch.float64)


class Observer:
    """Statistics of a map over all calibration data.

    Args:
        histogram: whether to keep one.
        channels: how many channels the map has, where limits of each are wanted.
    """

    def __init__(self, histogram: bool = False, channels: int | None = None) -> None:
        self.lowest, self.highest = math.inf, -math.inf
        self.histogram = Histogram() if histogram else None
        self.channel_highest = None if channels is None else torch.full([channels], -math.inf)
        self.channel_lowest = None if channels is None else torch.full([channels], math.inf)

    def add(self, x: Tensor) -> bool:
        """Values [N, C, ...]; False, and nothing is added, where some are NaN or infinite."""
        if not x.numel():
            return True
        x = x.detach().to(torch.float32)
        lowest, highest = (float(value) for value in x.aminmax())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            return False
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        if self.histogram is not None:
            self.histogram.add(x)
        if self.channel_lowest is not None and self.channel_highest is not None:
            by_channel = x.transpose(0, 1).flatten(1)
            torch.minimum(self.channel_lowest, by_channel.amin(1), out=self.channel_lowest)
            torch.maximum(self.channel_highest, by_channel.amax(1), out=self.channel_highest)
        return True

    @property
    def seen(self) -> bool:
        """Whether there was any value."""
        return self.lowest <= self.highest
