"""Fewer nodes that compute the same: normalization, activations and sums become parts of convolutions."""

from __future__ import annotations

from dataclasses import replace

from kdnative.cnn.building import Builder
from kdnative.cnn.floats import FloatGraph, Source
from kdnative.formats.convnet.graph import Add, Conv, Ending, Lookup, Node

__all__ = ["fuse"]

_NONE = Ending()


def fuse(builder: Builder, outputs: tuple[int, ...], flat: tuple[bool, ...]) -> FloatGraph:
    """The graph of a builder's nodes, without those that nobody reads."""
    graph = _Fusing(builder, outputs)
    graph.drop_unread()
    graph.fold_affine()
    graph.end_with_activations()
    graph.add_in_convolutions()
    return graph.finished(flat)


class _Fusing:
    """Nodes by number. A node that became part of another one is None, and its number stands for that other."""

    def __init__(self, builder: Builder, outputs: tuple[int, ...]) -> None:
        self.nodes: list[Node | None] = list(builder.nodes)
        self.sources = dict(builder.sources)
        self.shapes = builder.shapes
        self.outputs = outputs

    def drop_unread(self) -> None:
        """Nodes that no output needs. The input stays."""
        needed = {0, *self.outputs}
        for number in reversed(range(len(self.nodes))):
            node = self.nodes[number]
            if number not in needed:
                self.nodes[number] = None
            elif node is not None:
                needed.update(node.inputs)

    def fold_affine(self) -> None:
        """A depthwise 1x1 without weights of its own, behind a convolution that nothing else reads, goes into it."""
        for number, node in enumerate(self.nodes):
            source = self._source(node)
            if node is None or source is None or source.weight is not None:
                continue
            before = self.nodes[node.inputs[0]]
            if isinstance(before, Conv) and before.ending == _NONE and self._read_once(node.inputs[0]):
                into = self.sources[before.name]
                self.sources[before.name] = replace(into, behind=(*into.behind, *source.behind))
                self._merge(number, node.inputs[0])

    def end_with_activations(self) -> None:
        """A function of each value ends the convolution or sum in front of it, where nothing else reads that."""
        for number, node in enumerate(self.nodes):
            if not isinstance(node, Lookup):
                continue
            before = self.nodes[node.inputs[0]]
            if isinstance(before, (Conv, Add)) and before.ending == _NONE and self._read_once(node.inputs[0]):
                self.nodes[node.inputs[0]] = replace(before, ending=node.ending)
                self._merge(number, node.inputs[0])

    def add_in_convolutions(self) -> None:
        """A sum becomes part of the last convolution in front of it, if that has no activation and no other reader.

        Depthwise kernels add nothing. The convolution moves to the place of the sum, where its residual is there.
        """
        for number, node in enumerate(self.nodes):
            if not isinstance(node, Add):
                continue
            for position in sorted((0, 1), key=lambda i: node.inputs[i], reverse=True):
                conv, residual = node.inputs[position], node.inputs[1 - position]
                before = self.nodes[conv]
                if not isinstance(before, Conv) or before.ending != _NONE or len(before.inputs) != 1:
                    continue
                if before.groups == 1 or before.groups < before.channels:
                    if self._read_once(conv):
                        self.nodes[number] = replace(before, inputs=(*before.inputs, residual), ending=node.ending)
                        self.nodes[conv] = None
                        break

    def finished(self, flat: tuple[bool, ...]) -> FloatGraph:
        """The nodes that are left, with numbers of their own."""
        left = [number for number, node in enumerate(self.nodes) if node is not None]
        new = {number: i for i, number in enumerate(left)}
        nodes = []
        for number in left:
            node = self.nodes[number]
            assert node is not None
            nodes.append(replace(node, inputs=tuple(new[read] for read in node.inputs)))
        names = {node.name for node in nodes}
        sources = {name: source for name, source in self.sources.items() if name in names}
        shapes = tuple(self.shapes[number] for number in left)
        return FloatGraph(tuple(nodes), tuple(new[number] for number in self.outputs), flat, sources, shapes)

    def _source(self, node: Node | None) -> Source | None:
        return self.sources.get(node.name) if isinstance(node, Conv) else None

    def _read_once(self, number: int) -> bool:
        readers = sum(node.inputs.count(number) for node in self.nodes if node is not None)
        return readers + self.outputs.count(number) == 1

    def _merge(self, number: int, into: int) -> None:
        """Who reads ``number`` reads ``into`` from now on."""
        self.nodes[number] = None
        for i, node in enumerate(self.nodes):
            if node is not None and number in node.inputs:
                self.nodes[i] = replace(node, inputs=tuple(into if r == number else r for r in node.inputs))
        self.outputs = tuple(into if r == number else r for r in self.outputs)
