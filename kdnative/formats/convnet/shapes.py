"""Heights and widths of maps, as ``csrc/cpu/convnet_plan.cpp`` computes them. Sizes may be symbolic."""

from __future__ import annotations

import math
from typing import Any

from kdnative.formats.convnet.graph import Conv, Graph, Input, Pool, Resize

__all__ = ["feature_count", "shapes"]

Size = Any
"""int, or a symbolic one of torch.compile."""


def shapes(graph: Graph, height: Size, width: Size) -> list[tuple[Size, Size]]:
    """Height and width of the result of every node.

    Raises:
        ValueError: an image is too small, or maps that are added or joined disagree. Of integers alone.
    """
    found: list[tuple[Size, Size]] = []
    for node in graph.nodes:
        if isinstance(node, Input):
            found.append((height, width))
            continue
        before = found[node.inputs[0]]
        after = tuple(_after(node, before[axis], axis) for axis in (0, 1))
        if any(isinstance(size, int) and size < 1 for size in after):
            raise ValueError(
                f"images of {height} x {width} pixels are too small: {node.name} has {before[0]} x {before[1]} of them "
                "to make its result of; give larger ones"
            )
        found.append(after)
    return found


def feature_count(graph: Graph, height: Size, width: Size) -> Size:
    """Values an image of all outputs together."""
    sizes = shapes(graph, height, width)
    return sum(sizes[i][0] * sizes[i][1] * graph.nodes[i].channels for i in graph.outputs)


def _after(node: Any, size: Size, axis: int) -> Size:
    if isinstance(node, Conv):
        stride = node.stride[axis]
        if node.padding == "same":
            return -(-size // stride)
        around = node.padding[2 * axis] + node.padding[2 * axis + 1]
        return (size + around - node.dilation[axis] * (node.kernel[axis] - 1) - 1) // stride + 1
    if isinstance(node, Pool):
        return node.kernel[axis] if node.adaptive else _pooled(node, size, axis)
    if isinstance(node, Resize):
        if node.size is not None:
            return node.size[axis]
        assert node.factor is not None
        factor = node.factor[axis]
        return size * int(factor) if factor == int(factor) else math.floor(size * factor)
    return size


def _pooled(node: Pool, size: Size, axis: int) -> Size:
    """As torch has it: in ceil_mode the last window begins inside of the map or of the padding before it."""
    stride, padding = node.stride[axis], node.padding[axis]
    room = size + 2 * padding - node.dilation[axis] * (node.kernel[axis] - 1) - 1
    if not node.ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count
