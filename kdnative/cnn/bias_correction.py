"""Bias correction: what rounding adds to a channel on average is taken off its bias.

Layer by layer, each seeing what the integer layers before it give (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019, section 4.2, with data in the place of statistics of normalization).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from kdnative.cnn.floats import FloatGraph, Folded
from kdnative.cnn.ranges import ending_of
from kdnative.cnn.running import run
from kdnative.formats.convnet.graph import Conv, ConvWeight, Graph, Node, Range

__all__ = ["corrected", "rounded_run"]


def corrected(graph: FloatGraph, quantized: Graph, images: Tensor, folded: Mapping[str, Folded]) -> Graph:
    """The network of integers with other biases.

    Args:
        graph: the network in floats. quantized: the same in integers.
        images: [N, C, H, W], all of them at once: every layer needs the mean over all.
        folded: weights and biases of ``graph``.
    """
    means: dict[str, Tensor] = {}

    def remember(number: int, where: str, value: Tensor) -> None:
        if _is_sum(graph.nodes[number], where):
            means[graph.nodes[number].name] = _mean(value)

    run(graph, images, tap=remember, weights=folded)
    shifts: dict[str, Tensor] = {}

    def correct(node: Node, where: str, value: Tensor) -> Tensor:
        if not _is_sum(node, where):
            return value
        shifts[node.name] = means[node.name] - _mean(value)
        return value + shifts[node.name].to(value).reshape(-1, 1, 1)

    rounded_run(graph, quantized, images, correct)
    weights = {
        name: replace(weight, bias=(weight.bias.to(torch.float64) + shifts[name]).to(torch.float32))
        for name, weight in quantized.weights.items()
    }
    return replace(quantized, weights=weights)


def rounded_run(graph: FloatGraph, quantized: Graph, images: Tensor, change=None) -> tuple[Tensor, ...]:
    """What the network of integers computes, in floats: every map is rounded to its codes.

    It is the native network but for the last bits of float32.

    Args:
        graph: the same network in floats. quantized: in integers.
        images: [N, C, H, W].
        change: is given each node, "before" or "out" (see `kdnative.cnn.running.Tap`) and the value there, and returns
            the one to be rounded.
    """

    def tap(number: int, where: str, value: Tensor) -> Tensor:
        node = quantized.nodes[number]
        value = value if change is None else change(node, where, value)
        return _rounded(value, node.out if where == "out" else ending_of(node).before)

    return run(graph, images, tap=tap, weights=_values(quantized.weights))


def _is_sum(node: Node, where: str) -> bool:
    """Whether it is the result of a convolution in front of its activation."""
    return isinstance(node, Conv) and where == ("out" if node.ending.activation == "none" else "before")


def _mean(value: Tensor) -> Tensor:
    """Of each channel, float64 [C]."""
    return value.to(torch.float64).mean((0, 2, 3))


def _values(weights: Mapping[str, ConvWeight]) -> dict[str, Folded]:
    return {name: (weight.dequantize(), weight.bias) for name, weight in weights.items()}


def _rounded(value: Tensor, codes: Range | None) -> Tensor:
    if codes is None:
        return value
    q = (value / codes.scale + codes.zero_point).round_().clamp_(0, 255)
    return q.sub_(codes.zero_point).mul_(codes.scale)
