"""Which values a map's codes shall reach: from its smallest to its largest one, or less where outliers cost too much.

A span always holds 0, which padding and the zeros behind a ReLU need to be exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdnative.cnn.observing import Histogram, Observer
from kdnative.formats.convnet.graph import Range

__all__ = ["METHODS", "USUAL", "Span", "flat_ends", "range_of", "span_of"]

Span = tuple[float, float]

PERCENTILE = 99.99
"""The percentage of values that "percentile" keeps at each end."""

_STEPS = 64
_SMALLEST = 0.2  # of the full span


def span_of(observer: Observer, method: str) -> Span:
    """The span of a map, by what was seen of it.

    Args:
        observer: of the map; it has a histogram for any method but "minmax".
        method: of `METHODS`.

    Raises:
        ValueError: nothing was seen.
    """
    if not observer.seen:
        raise ValueError("no value was seen")
    low, high = min(observer.lowest, 0.0), max(observer.highest, 0.0)
    if method == "minmax":
        return low, high
    assert observer.histogram is not None
    below, above = _OF_HISTOGRAM[method](observer.histogram)
    return max(low, min(below, 0.0)), min(high, max(above, 0.0))


def _percentile(histogram: Histogram) -> Span:
    """What is left when the values beyond the percentile are cut off, at each end."""
    values, counts = histogram.points()
    below = counts.cumsum(0)
    cut = below[-1] * (1 - PERCENTILE / 100)
    above = below[-1] - below + counts
    return float(values[(below > cut).nonzero()[0]]), float(values[(above > cut).nonzero()[-1]])


def _least_squares(histogram: Histogram) -> Span:
    """The span with the least squared error of all values in 256 codes: both ends together, then one by one."""
    values, counts = histogram.points()
    low, high = min(float(values[0]), 0.0), max(float(values[-1]), 0.0)
    shares = torch.linspace(_SMALLEST, 1.0, _STEPS, dtype=torch.float64)

    def best(spans: list[Span]) -> Span:
        return min(spans, key=lambda span: _squared_error(values, counts, *span))

    low, high = best([(low * share, high * share) for share in shares.tolist()])
    if low < 0 < high:
        top, bottom = high, low
        low, high = best([(low, top * share) for share in shares.tolist()])
        low, high = best([(bottom * share, high) for share in shares.tolist()])
    return low, high


def _squared_error(values: Tensor, counts: Tensor, low: float, high: float) -> float:
    span = range_of((low, high))
    codes = (values / span.scale + span.zero_point).round().clamp(0, 255)
    return float((((codes - span.zero_point) * span.scale - values) ** 2 * counts).sum())


_OF_HISTOGRAM: dict[str, Callable[[Histogram], Span]] = {"percentile": _percentile, "mse": _least_squares}

METHODS = ("minmax", *_OF_HISTOGRAM)
"""How spans are found: "minmax" of the limits alone, the others in a histogram."""

USUAL = "mse"
"""The method where none is asked for."""


def range_of(span: Span) -> Range:
    """The codes of a span: 0 is one of them, and every value of the span is at most half a step beyond the last.

    Args:
        span: lowest value, at most 0, and highest, at least 0.
    """
    low, high = span
    scale = (high - low) / 255
    if scale < 1e-30:  # a map of zeros: any scale will do
        return Range(1.0, 0)
    scale = float(torch.tensor(scale, dtype=torch.float32))  # as it is packed
    return Range(scale, min(max(round(-low / scale), 0), 255))


def flat_ends(function: Callable[[Tensor], Tensor], span: Span, step: float) -> Span:
    """A span without the ends where a function hardly changes.

    The codes before a table of a function are better spent where it matters: SiLU is almost 0 below -8, a sigmoid
    almost 1 above it. An end goes as far as the function stays within half a step of the result from where it is cut.

    Args:
        function: of float64 values, one by one.
        span: of its argument.
        step: the scale of the result.
    """
    low, high = span
    if not low < high:
        return span
    points = torch.linspace(low, high, 4097, dtype=torch.float64)
    results = function(points)
    first = _flat_until(results, step / 2)
    last = len(points) - 1 - _flat_until(results.flip(0), step / 2)
    if first >= last:
        return span
    return min(float(points[first]), 0.0), max(float(points[last]), 0.0)


def _flat_until(results: Tensor, tolerance: float) -> int:
    """The last point such that all before it have about its result."""
    largest, smallest = results.cummax(0).values, results.cummin(0).values
    flat = torch.maximum(largest - results, results - smallest) <= tolerance
    return int(flat.nonzero()[-1])
