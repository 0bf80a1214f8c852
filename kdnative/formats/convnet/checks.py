"""What must hold of a network before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from kdnative.formats.convnet.graph import (
    ACTIVATIONS,
    Add,
    Channels,
    Concat,
    Conv,
    ConvWeight,
    Ending,
    Graph,
    Input,
    Lookup,
    Multiply,
    Node,
    Pool,
    Range,
    Resize,
)

__all__ = ["MAX_PRODUCTS", "check", "check_weight", "weight_shapes"]

MAX_PRODUCTS = (2**31 - 1) // (255 * 127)
"""Of a sum, so that it stays within int32 whatever the codes are."""

_MOST_CHANNELS = 1 << 20
_MOST_PIXELS = 1 << 15  # of a window, a stride, a padding: far more than any network has
_PARAMETERS = {"elu": 1, "leaky_relu": 1}  # numbers that an activation has besides its argument
_INPUTS: dict[type[Node], tuple[int, ...]] = {
    Input: (0,),
    Conv: (1, 2),
    Pool: (1,),
    Add: (2,),
    Multiply: (2,),
    Channels: (1,),
    Lookup: (1,),
    Resize: (1,),
}


def check(graph: Graph, weights: bool = True) -> None:
    """Refuse a network that kernels could not run.

    Args:
        weights: whether it must have its weights; without them only its nodes are looked at.

    Raises:
        ValueError: what is wrong, with the node and its name.
    """
    if not graph.nodes or not isinstance(graph.nodes[0], Input):
        raise ValueError("the first node of a network must be its Input")
    names: set[str] = set()
    for number, node in enumerate(graph.nodes):
        what = f"node {number} ({type(node).__name__} {node.name!r})"
        if not node.name or node.name in names:
            raise ValueError(f"{what}: its name must be its own and not empty")
        names.add(node.name)
        try:
            _check_node(node, [_input_of(graph, number, source) for source in node.inputs], number == 0)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    if not graph.outputs or len(graph.outputs) != len(graph.flat):
        raise ValueError(f"a network needs outputs, each flat or not; it has {len(graph.outputs)}, {len(graph.flat)}")
    for number in graph.outputs:
        if not 0 <= number < len(graph.nodes):
            raise ValueError(f"output {number} is no node: there are {len(graph.nodes)}")
    for number, node in enumerate(graph.nodes):
        if node.out is None and number not in graph.outputs:
            raise ValueError(f"{node.name} gives real numbers and is no output: return them, or give it a range")
    if graph.fixed is not None:
        _check_pixels("the size of images", graph.fixed.size, 1)
    if weights:
        _check_weights(graph)


def weight_shapes(graph: Graph) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of every plain tensor of a network, by arithmetic alone: `ConvWeight` by node.

    Names are ``<node>.qweight``, ``<node>.scale`` and ``<node>.bias``.
    """
    for node in graph.nodes:
        if isinstance(node, Conv):
            inputs = graph.nodes[node.inputs[0]].channels // node.groups
            yield f"{node.name}.qweight", (node.channels, inputs, *node.kernel), torch.int8
            yield f"{node.name}.scale", (node.channels,), torch.float32
            yield f"{node.name}.bias", (node.channels,), torch.float32


def check_weight(name: str, weight: ConvWeight, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    """Whether the tensors of a convolution are what `weight_shapes` says, and hold what they may.

    Raises:
        ValueError: in words, with the tensor's name.
    """
    for key, tensor in (("qweight", weight.q), ("scale", weight.scale), ("bias", weight.bias)):
        shape, dtype = shapes[f"{name}.{key}"]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(
                f"{name}.{key} must be {dtype} of shape {list(shape)}, got {tensor.dtype} of {list(tensor.shape)}"
            )
    q, scale, bias = weight.arrays()
    if q.size and int(q.min()) < -127:
        raise ValueError(f"{name}.qweight holds -128; codes are -127 to 127")
    for key, values in (("scale", scale), ("bias", bias)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}.{key} holds NaN or infinite values")
    if (scale < 0).any():
        raise ValueError(f"{name}.scale holds negative values")


def _check_weights(graph: Graph) -> None:
    shapes = {key: (shape, dtype) for key, shape, dtype in weight_shapes(graph)}
    convolutions = {node.name for node in graph.nodes if isinstance(node, Conv)}
    if missing := sorted(convolutions - graph.weights.keys()):
        raise ValueError(f"the weights of {', '.join(missing[:10])} are missing")
    if unknown := sorted(graph.weights.keys() - convolutions):
        raise ValueError(f"there are weights of {', '.join(unknown[:10])}, which are no convolutions of the network")
    for name, weight in graph.weights.items():
        check_weight(name, weight, shapes)


def _input_of(graph: Graph, number: int, source: int) -> Node:
    if not 0 <= source < number:
        raise ValueError(f"its input {source} is not an earlier node")
    return graph.nodes[source]


def _check_node(node: Node, inputs: list[Node], first: bool) -> None:
    if first != isinstance(node, Input):
        raise ValueError("a network has one Input, which is its first node")
    counts = _INPUTS.get(type(node))
    if counts is not None and len(inputs) not in counts or counts is None and not inputs:
        allowed = " or ".join(map(str, counts or ("at least 1",)))
        raise ValueError(f"it has {len(inputs)} inputs, and must have {allowed}")
    for each in inputs:
        if each.out is None:
            raise ValueError(f"its input {each.name!r} gives real numbers, which no node reads: give that one a range")
    if not 1 <= node.channels <= _MOST_CHANNELS:
        raise ValueError(f"it has {node.channels} channels; 1 to {_MOST_CHANNELS} are allowed")
    if node.out is not None:
        _check_range(node.out)
    elif not isinstance(node, Conv):
        raise ValueError("only a convolution can give real numbers; this node needs a range")
    if isinstance(node, Conv):
        _check_conv(node, inputs)
    elif isinstance(node, (Add, Lookup)):
        _check_ending(node.ending, fused=False, table=isinstance(node, Lookup))
    elif isinstance(node, Pool):
        _check_pool(node, inputs[0])
    elif isinstance(node, Resize):
        _check_resize(node)
    _check_channels(node, inputs)
    if isinstance(node, (Channels, Resize)) or isinstance(node, Pool) and node.kind == "max":
        if node.out != inputs[0].out:
            raise ValueError("its range must be the one of its input")


def _check_channels(node: Node, inputs: list[Node]) -> None:
    if isinstance(node, (Input, Conv)):
        return
    if isinstance(node, Channels):
        if len(node.order) != node.channels or not all(0 <= c < inputs[0].channels for c in node.order):
            raise ValueError(
                f"its order must name {node.channels} channels, each from 0 to {inputs[0].channels - 1} of its input"
            )
        return
    have = [each.channels for each in inputs]
    wanted = [node.channels] * len(inputs)
    if have != wanted if not isinstance(node, Concat) else sum(have) != node.channels:
        raise ValueError(f"its inputs have {', '.join(map(str, have))} channels, which do not give {node.channels}")


def _check_range(range_: Range) -> None:
    if not (math.isfinite(range_.scale) and 2.0**-100 <= range_.scale <= 2.0**100):
        raise ValueError(f"the scale of a range must be positive, from 2^-100 to 2^100 (got {range_.scale})")
    if not 0 <= range_.zero_point <= 255:
        raise ValueError(f"the zero point of a range must be from 0 to 255 (got {range_.zero_point})")


def _check_conv(node: Conv, inputs: list[Node]) -> None:
    _check_ending(node.ending, fused=True, table=False)
    if node.out is None and (node.ending.activation != "none" or len(inputs) > 1):
        raise ValueError("a convolution that gives real numbers has no activation and no residual")
    source, groups = inputs[0].channels, node.groups
    if groups < 1 or source % groups or node.channels % groups:
        raise ValueError(f"groups ({groups}) must divide the channels of its input ({source}) and its own")
    if len(inputs) > 1 and inputs[1].channels != node.channels:
        raise ValueError(f"its residual has {inputs[1].channels} channels, and it has {node.channels}")
    for name in ("kernel", "stride", "dilation"):
        _check_pixels(name, getattr(node, name), 1)
    if node.padding != "same":
        if len(node.padding) != 4:
            raise ValueError(f"padding must be 'same' or top, bottom, left and right (got {node.padding})")
        _check_pixels("padding", node.padding, 0)
    if (products := source // groups * node.kernel[0] * node.kernel[1]) > MAX_PRODUCTS:
        raise ValueError(f"it sums {products} products, which could overflow int32; {MAX_PRODUCTS} are allowed")


def _check_pool(node: Pool, source: Node) -> None:
    if node.kind not in ("max", "average"):
        raise ValueError(f"kind must be 'max' or 'average' (got {node.kind!r})")
    if len(node.padding) != 2:
        raise ValueError(f"padding must be that of the height and of the width (got {node.padding})")
    for name, least in (("kernel", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
        _check_pixels(name, getattr(node, name), least)
    if node.kind == "average" and node.dilation != (1, 1):
        raise ValueError(f"average pooling has no dilation (got {node.dilation})")
    if not node.adaptive and any(2 * p > k for p, k in zip(node.padding, node.kernel, strict=True)):
        raise ValueError(f"padding {node.padding} must be at most half of the kernel {node.kernel}")


def _check_resize(node: Resize) -> None:
    if node.mode not in ("nearest", "bilinear"):
        raise ValueError(f"mode must be 'nearest' or 'bilinear' (got {node.mode!r})")
    if (node.size is None) == (node.factor is None):
        raise ValueError("it needs a size or a factor, and not both")
    if node.size is not None:
        _check_pixels("size", node.size, 1)
    if node.factor is not None and not all(math.isfinite(f) and 0 < f <= 1024 for f in node.factor):
        raise ValueError(f"factor must be positive and at most 1024 (got {node.factor})")


def _check_ending(ending: Ending, fused: bool, table: bool) -> None:
    """``table``: the node itself is one, of its input's codes, so that there is no range before."""
    if ending.activation not in ACTIVATIONS:
        raise ValueError(f"activation {ending.activation!r} is not known; allowed: {', '.join(ACTIVATIONS)}")
    count = _PARAMETERS.get(ending.activation, 0)
    if len(ending.parameters) != count or not all(map(math.isfinite, ending.parameters)):
        raise ValueError(f"{ending.activation} takes {count} finite numbers (got {ending.parameters})")
    limits = ending.activation in ("none", "relu", "relu6")
    if (table or limits) and ending.before is not None:
        raise ValueError(f"{ending.activation} has no range before it here")
    # A convolution can compute hard-swish itself.
    if not (table or limits or ending.before or fused and ending.activation == "hard_swish"):
        raise ValueError(f"{ending.activation} is a table of codes and needs the range before it")
    if ending.before is not None:
        _check_range(ending.before)


def _check_pixels(name: str, values: tuple[int, ...], least: int) -> None:
    if not all(least <= value <= _MOST_PIXELS for value in values):
        raise ValueError(f"{name} must be from {least} to {_MOST_PIXELS} (got {values})")
