"""From a network in floats and images to one of integers, pass by pass over the images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from kdnative.cnn.bias_correction import corrected
from kdnative.cnn.equalization import Pair, factors_of, pairs_of, scaled
from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.observing import Observer
from kdnative.cnn.quantizing import quantize
from kdnative.cnn.ranges import Observations, ranges_of, wants_before
from kdnative.cnn.running import run
from kdnative.cnn.spans import METHODS, USUAL
from kdnative.formats.convnet.graph import Graph

__all__ = ["NetworkCalibration", "calibrate"]

CORRECTED_ON = 64
"""Images that biases are corrected on: all of them run at once."""


class NetworkCalibration:
    """What calibration knows of one network so far.

    The images go through it as often as `passes` says: each time ``add`` for every batch, then ``end_pass``. The order
    of batches, and how they are cut, plays no part (but for which images biases are corrected on: the first).

    Args:
        graph: the network.
        method: how ranges are found, of `kdnative.cnn.spans.METHODS`.
        equalize: scale channels between convolutions (:mod:`kdnative.cnn.equalization`).
        correct_bias: take the mean error of rounding off biases (:mod:`kdnative.cnn.bias_correction`). None: unless
            ranges are percentiles. What these cut off is most of a mean error, and biases can't make up for outliers.

    Attributes:
        folded: weights and biases, after the passes with equalized channels.
        factors: by which channels were multiplied for that.
    """

    def __init__(
        self,
        graph: FloatGraph,
        method: str = USUAL,
        *,
        equalize: bool = True,
        correct_bias: bool | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method={method!r}: ranges can be found with {', '.join(map(repr, METHODS))}")
        self.graph, self.method = graph, method
        with torch.no_grad():
            self.folded = graph.fold()
        self.factors: dict[Pair, Tensor] = {}
        self.correct_bias = method != "percentile" if correct_bias is None else correct_bias
        self.images: list[Tensor] = []
        self.equalizing = equalize and bool(pairs_of(graph))
        self.passes = 1 + self.equalizing
        self.seen = self._nothing_yet()

    def add(self, images: Tensor) -> None:
        """Images [N, C, H, W]; a batch without any adds nothing.

        Raises:
            ValueError: images, or what the network makes of them, hold NaN or infinite values; no images for this
                network.
        """
        if images.dim() != 4 or images.shape[1] != self.graph.input.channels:
            raise ValueError(f"images are [N, {self.graph.input.channels}, H, W], and these are {list(images.shape)}")
        if not len(images):
            return
        if self.graph.fixed:
            self.graph.fixed.check(*images.shape[2:])
        images = images.detach().to(torch.float32)

        def see(number: int, where: Literal["before", "out"], value: Tensor) -> None:
            observer = self.seen.results[number] if where == "out" else self.seen.before.get(number)
            if observer is not None and not observer.add(value):
                raise ValueError(_not_finite(self.graph.nodes[number].name if number else ""))

        run(self.graph, images, tap=see, weights=self.folded)
        if self.correct_bias and not self.equalizing:
            self.images.append(images[: max(CORRECTED_ON - sum(map(len, self.images)), 0)].clone())

    def end_pass(self) -> None:
        """All batches were added."""
        if self.equalizing:
            self.factors = factors_of(self.graph, self.folded, [_largest(each) for each in self.seen.results])
            self.folded = scaled(self.graph, self.folded, self.factors)
            self.equalizing = False
            self.seen = self._nothing_yet()

    def result(self) -> Graph:
        """The network of integers, after the last pass.

        Raises:
            ValueError: there were no images.
        """
        if not self.seen.results[0].seen:
            raise ValueError(
                "calibration holds no images, so the ranges of feature maps are unknown: give batches of images"
            )
        ranges = ranges_of(self.graph, self.seen, self.method)
        made = quantize(self.graph, ranges, self.folded)
        if not self.correct_bias:
            return made
        size = self.images[0].shape[2:]
        alike = torch.cat([images for images in self.images if images.shape[2:] == size])
        return corrected(self.graph, made, alike, self.folded)

    def _nothing_yet(self) -> Observations:
        first = {pair.first for pair in pairs_of(self.graph)} if self.equalizing else set()
        histogram = self.method != "minmax" and not self.equalizing
        seen = Observations([])
        for number, node in enumerate(self.graph.nodes):
            seen.results.append(Observer(histogram, node.channels if number in first else None))
            if wants_before(node):
                seen.before[number] = Observer(histogram)
        return seen


def calibrate(graph: FloatGraph, batches: Iterable[Tensor], method: str = USUAL, **options: Any) -> Graph:
    """The network of integers that a network in floats becomes.

    Args:
        graph: the network.
        batches: of images, [N, C, H, W] each, of any sizes that fit the network; read once and kept.
        method, options: see `NetworkCalibration`.

    Raises:
        ValueError: no images, or images with NaN or infinite values (with the number of the batch); no such method.
    """
    calibration, kept = NetworkCalibration(graph, method, **options), list(batches)
    with torch.no_grad():
        for _ in range(calibration.passes):
            for number, images in enumerate(kept):
                try:
                    calibration.add(images)
                except ValueError as error:
                    raise ValueError(f"batch {number} of calibration: {error}") from error
            calibration.end_pass()
        return calibration.result()


def _largest(observer: Observer) -> Tensor | None:
    """The largest absolute value of each channel."""
    if observer.channel_lowest is None or observer.channel_highest is None:
        return None
    return torch.maximum(observer.channel_lowest.abs(), observer.channel_highest.abs())


def _not_finite(name: str) -> str:
    if not name:
        return "images hold NaN or infinite values: leave them out or repair them"
    return f"the results of {name} hold NaN or infinite values, so the float model fails on these images"
