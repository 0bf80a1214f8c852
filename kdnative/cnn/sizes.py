"""Whether a graph fits images of any size: the same model traced at two sizes must give the same nodes."""

from __future__ import annotations

from dataclasses import replace

from kdnative.cnn.floats import FloatGraph
from kdnative.formats.convnet.graph import Node, Resize

__all__ = ["of_any_size"]


def of_any_size(graph: FloatGraph, other: FloatGraph) -> FloatGraph:
    """The graph, which says in ``fixed`` why other sizes don't fit.

    A map that is resized to the size of another one, by code that asks for that size, is resized by a factor here,
    provided that it is the same one in both graphs.
    """
    if len(graph.nodes) != len(other.nodes):
        return graph.only_here(f"it has {len(graph.nodes)} nodes at one size and {len(other.nodes)} at another")
    nodes = list(graph.nodes)
    for i, (node, twin) in enumerate(zip(graph.nodes, other.nodes, strict=True)):
        if node == twin:
            continue
        factor = _factor(graph, i, node)
        if factor is None or factor != _factor(other, i, twin):
            return graph.only_here(f"{node.name} depends on the size of the images")
        assert isinstance(node, Resize)
        nodes[i] = replace(node, size=None, factor=factor)
    return replace(graph, nodes=tuple(nodes))


def _factor(graph: FloatGraph, number: int, node: Node) -> tuple[float, float] | None:
    """By how much a node resizes to a size."""
    if not isinstance(node, Resize) or node.size is None:
        return None
    _, h, w = graph.shapes[node.inputs[0]]
    return node.size[0] / h, node.size[1] / w
