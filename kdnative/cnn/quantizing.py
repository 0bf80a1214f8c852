"""From a network in floats and the ranges of its maps to one of integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdnative.cnn.floats import FloatGraph, Folded
from kdnative.cnn.integer_weights import integer_weight
from kdnative.cnn.ranges import Ranges
from kdnative.formats.convnet.graph import Add, Conv, Graph, Node

__all__ = ["quantize"]


def quantize(graph: FloatGraph, ranges: Ranges, folded: Mapping[str, Folded] | None = None) -> Graph:
    """The network of integers.

    Args:
        graph: the network in floats.
        ranges: of its maps, see :func:`kdnative.cnn.ranges.ranges_of`.
        folded: weights and biases in the place of its own, by the names of convolutions.
    """
    folded = graph.fold() if folded is None else folded
    nodes = tuple(_with_ranges(number, node, ranges) for number, node in enumerate(graph.nodes))
    weights = {node.name: integer_weight(*folded[node.name]) for node in graph.nodes if isinstance(node, Conv)}
    return Graph(nodes, graph.outputs, graph.flat, weights, graph.fixed)


def _with_ranges(number: int, node: Node, ranges: Ranges) -> Node:
    if isinstance(node, Conv | Add) and number in ranges.before:
        node = replace(node, ending=replace(node.ending, before=ranges.before[number]))
    return replace(node, out=ranges.results[number])
