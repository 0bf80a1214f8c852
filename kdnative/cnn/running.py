"""A graph in plain torch: what its nodes compute, in floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.cnn.floats import FloatGraph, Folded
from kdnative.cnn.padding import tensorflow_padding
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    Conv,
    Ending,
    Input,
    Lookup,
    Multiply,
    Node,
    Pool,
    Resize,
)

__all__ = ["Tap", "activate", "convolve", "run"]

Tap = Callable[[int, Literal["before", "out"], Tensor], "Tensor | None"]
"""Is shown every node's result ("out"), and what its activation is applied to ("before", where it has one), by the
node's number. What it returns takes the place of what it was shown; None: nothing does."""


def run(
    graph: FloatGraph, images: Tensor, *, tap: Tap | None = None, weights: Mapping[str, Folded] | None = None
) -> tuple[Tensor, ...]:
    """The outputs of the network, in order: [N, C] where ``graph.flat`` says so, else [N, C, H, W].

    Args:
        images: [N, C, H, W].
        tap: see `Tap`.
        weights: of every convolution, as ``graph.fold()`` gives them, which is what is used without.
    """
    shown = tap or (lambda number, where, value: None)
    weights = graph.fold() if weights is None else weights
    left = [len(readers) for readers in graph.readers()]
    values: list[Tensor | None] = []
    for number, node in enumerate(graph.nodes):
        read = [values[i] for i in node.inputs]
        for i in node.inputs:
            left[i] -= 1
            if left[i] == 0:
                values[i] = None
        value = _compute(node, images, read, weights)
        ending = getattr(node, "ending", None)
        if ending is not None and ending.activation != "none":
            value = _either(shown(number, "before", value), value)
            value = activate(value, ending)
        values.append(_either(shown(number, "out", value), value))
    results = [values[number] for number in graph.outputs]
    return tuple(x.flatten(1) if flat else x for x, flat in zip(results, graph.flat, strict=True) if x is not None)


def activate(x: Tensor, ending: Ending) -> Tensor:
    """An activation in torch."""
    name, numbers = ending.activation, ending.parameters
    if name == "leaky_relu":
        return F.leaky_relu(x, numbers[0])
    if name == "elu":
        return F.elu(x, numbers[0])
    return _ACTIVATIONS[name](x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "mish": F.mish,
    "softplus": F.softplus,
}


def convolve(x: Tensor, node: Conv, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of a node, without residual and activation."""
    if node.padding == "same":
        top, bottom, left, right = tensorflow_padding(x.shape[2:], node.kernel, node.stride, node.dilation)
    else:
        top, bottom, left, right = node.padding
    if top == bottom and left == right:
        return F.conv2d(x, weight, bias, node.stride, (top, left), node.dilation, node.groups)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, node.stride, 0, node.dilation, node.groups)


def _compute(node: Node, images: Tensor, read: list, weights: Mapping[str, Folded]) -> Tensor:
    """The value of a node in front of its activation."""
    match node:
        case Input():
            return images
        case Conv():
            value = convolve(read[0], node, *weights[node.name])
            return value + read[1] if len(read) == 2 else value
        case Pool():
            return _pool(read[0], node)
        case Add():
            return read[0] + read[1]
        case Multiply():
            return read[0] * read[1]
        case Concat():
            return torch.cat(read, 1)
        case Channels():
            return read[0][:, list(node.order)]
        case Lookup():
            return read[0]
        case Resize():
            size, factor = node.size, node.factor if node.size is None else None
            align = node.align_corners if node.mode == "bilinear" else None
            return F.interpolate(read[0], size, factor, node.mode, align)
        case _:
            raise TypeError(f"{type(node).__name__} is no node that can be run")


def _pool(x: Tensor, node: Pool) -> Tensor:
    if node.adaptive:
        pool = F.adaptive_max_pool2d if node.kind == "max" else F.adaptive_avg_pool2d
        return pool(x, node.kernel)
    if node.kind == "max":
        return F.max_pool2d(x, node.kernel, node.stride, node.padding, node.dilation, node.ceil_mode)
    return F.avg_pool2d(x, node.kernel, node.stride, node.padding, node.ceil_mode, node.count_include_pad)


def _either(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first
