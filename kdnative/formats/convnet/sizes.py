"""Sizes of a network's maps, for an input of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdnative.formats.convnet.graph import Conv, Graph, Multiply, Node, Pair, Pool, Resize

__all__ = ["Step", "out_size", "paddings", "sizes", "step", "steps_to"]

Step = tuple[str, int | float, int, int, int]
"""How one side of a map becomes that of the next one: a kind, and up to four numbers; see `out_size`."""


def step(node: Node, axis: int) -> Step | None:
    """What a node does to the height (0) or the width (1) of its first input; None: nothing."""
    if isinstance(node, Conv):
        if node.padding == "same":
            return ("share", node.stride[axis], 0, 0, 0)
        before, after = node.padding[2 * axis : 2 * axis + 2]
        return ("window", _extent(node, axis), node.stride[axis], before, after)
    if isinstance(node, Pool):
        if node.adaptive:
            return ("fixed", node.kernel[axis], 0, 0, 0)
        kind = "ceil_window" if node.ceil_mode else "window"
        return (kind, _extent(node, axis), node.stride[axis], node.padding[axis], node.padding[axis])
    if isinstance(node, Resize):
        if node.size is not None:
            return ("fixed", node.size[axis], 0, 0, 0)
        return ("times", node.factor[axis] if node.factor else 1, 0, 0, 0)
    return None


def out_size(size: int, step: Step) -> int:
    """The side of the result, below 1 where a window does not fit. ``size`` may be symbolic."""
    kind, first, stride, before, after = step
    if kind == "fixed":
        return int(first)
    if kind == "share":
        return -(-size // int(first))
    if kind == "times":
        return size * int(first) if first == int(first) else math.floor(size * first)
    room = size + before + after - int(first)
    if kind == "window":
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count  # the last window begins within the map


def paddings(node: Conv, size: Pair) -> tuple[int, int, int, int]:
    """Top, bottom, left and right for an input of a size; "same" depends on it."""
    if node.padding != "same":
        return node.padding
    found = []
    for axis in (0, 1):
        stride = node.stride[axis]
        missing = max((-(-size[axis] // stride) - 1) * stride + _extent(node, axis) - size[axis], 0)
        found += [missing // 2, missing - missing // 2]
    top, bottom, left, right = found
    return top, bottom, left, right


def sizes(graph: Graph, height: int, width: int) -> list[Pair]:
    """Height and width of the result of every node.

    Raises:
        ValueError: the image is too small for a window, inputs of a node differ in size, a gate or a flat output has
            more than one pixel.
    """
    found: list[Pair] = []
    for node in graph.nodes:
        if not node.inputs:
            found.append((height, width))
            continue
        steps = step(node, 0), step(node, 1)
        first = found[node.inputs[0]]
        size = tuple(side if s is None else out_size(side, s) for side, s in zip(first, steps, strict=True))
        if min(size) < 1:
            raise ValueError(
                f"images of {height} x {width} pixels are too small: {node.name} is given {first[0]} x {first[1]} "
                "pixels, which its window does not fit into; give larger images"
            )
        found.append((size[0], size[1]))
        _check_others(node, graph.nodes, found, f"images of {height} x {width} pixels do not fit: ")
    for number, flat in zip(graph.outputs, graph.flat, strict=True):
        if flat and found[number] != (1, 1):
            h, w = found[number]
            raise ValueError(
                f"images of {height} x {width} pixels do not fit: {graph.nodes[number].name} has {h} x {w} pixels "
                "where its linear layer needs one; give images of the size that the network was made for"
            )
    return found


def steps_to(graph: Graph, number: int, axis: int) -> tuple[Step, ...]:
    """The steps from the input to a node, without those that change nothing."""
    found: list[Step] = []
    node = graph.nodes[number]
    while node.inputs:
        own = step(node, axis)
        if own is not None and own not in _NOTHING:
            found.append(own)
        node = graph.nodes[node.inputs[0]]
    return tuple(found[::-1])


_NOTHING = (("window", 1, 1, 0, 0), ("share", 1, 0, 0, 0), ("window", 3, 1, 1, 1), ("times", 1, 0, 0, 0))


def _extent(node: Conv | Pool, axis: int) -> int:
    """Pixels from the first to the last one under a window."""
    return (node.kernel[axis] - 1) * node.dilation[axis] + 1


def _check_others(node: Node, nodes: Sequence[Node], found: Sequence[Pair], what: str) -> None:
    """Whether the further inputs of a node are of the size that they must have."""
    own = found[-1]
    for number in node.inputs[1:]:
        other = found[number]
        wanted = (1, 1) if isinstance(node, Multiply) else own
        if other != wanted:
            raise ValueError(
                f"{what}{node.name} is given {other[0]} x {other[1]} pixels of {nodes[number].name}, and needs "
                f"{wanted[0]} x {wanted[1]}"
            )
