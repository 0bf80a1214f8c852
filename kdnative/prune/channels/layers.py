"""Layers of traced networks, with a number for each channel: channels of the same number stay or go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kdnative.cnn import FloatGraph, Norm, Source
from kdnative.formats.convnet.graph import Channels, Concat, Conv, Input

__all__ = ["Channel", "Layer", "Layers", "Place", "channels_of", "owners_of", "read_layers", "vectors_of"]

Place = tuple[nn.Module, str]
"""Where a tensor is: a module and the name of its parameter or buffer."""

Channel = list[int]
"""For each channel of a map the number that it has."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with weights.

    Args:
        name: of the node.
        node, source: what the graph knows of it.
        before, after: height and width of the map that it reads, and of its result.
        inputs, outputs: numbers of channels, of whole maps.
    """

    name: str
    node: Conv
    source: Source
    before: tuple[int, int]
    after: tuple[int, int]
    inputs: Channel
    outputs: Channel

    @property
    def dense(self) -> bool:
        """Whether every output reads every input."""
        return self.node.groups == 1 and self.source.weight is not None

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiplications for one image, with so many channels on both sides. Those of normalization don't count."""
        if self.source.weight is None:
            return 0
        read = inputs if self.dense else self.source.shape[1]
        return self.after[0] * self.after[1] * math.prod(self.source.shape[2:]) * outputs * read


@dataclass
class Layers:
    """All of them, and which channels belong together.

    Args:
        layers: in the order of execution.
        parents: of each number another one that it stays or goes with, or itself (see `find`).
        why: of some numbers, why they have to stay.
        maps: of every node of every network, the numbers of its channels, by the name of the network.
    """

    layers: list[Layer] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    why: dict[int, str] = field(default_factory=dict)
    maps: dict[str, list[Channel]] = field(default_factory=dict)

    def new(self, count: int) -> Channel:
        """Numbers that nothing has yet."""
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return list(range(first, first + count))

    def find(self, number: int) -> int:
        """The one number that stands for all that stay or go together."""
        parents = self.parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def join(self, first: Channel, second: Channel) -> None:
        """Channels of two maps, one by one."""
        for a, b in zip(first, second, strict=True):
            a, b = self.find(a), self.find(b)
            if a != b:
                # The smaller one, so that numbers are in the order of channels.
                a, b = min(a, b), max(a, b)
                self.parents[b] = a

    def stay(self, channels: Iterable[int], why: str) -> None:
        """None of these can go."""
        for number in channels:
            self.why.setdefault(number, why)


def read_layers(
    model: nn.Module, graphs: dict[str, FloatGraph], kept: Callable[[str], str | None] = lambda name: None
) -> Layers:
    """The layers of networks that are parts of a model, by the names of the parts.

    Args:
        kept: why a module, by its name, keeps the channels that it gives; None: it may lose some.
    """
    layers, owners = Layers(), owners_of(model)
    for part, graph in graphs.items():
        layers.maps[part] = _read_graph(layers, graph, f"{part}." if part else "", owners, kept)
    _pin_shared(layers)
    return layers


def owners_of(model: nn.Module) -> dict[int, list[Place]]:
    """Where each parameter and buffer is, by its id. A tensor may be in several places."""
    found: dict[int, list[Place]] = {}
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return found


def _read_graph(
    layers: Layers,
    graph: FloatGraph,
    prefix: str,
    owners: dict[int, list[Place]],
    kept: Callable[[str], str | None],
) -> list[Channel]:
    """Appends the layers of a network; the channels of its nodes."""
    channels: list[Channel] = []
    for number, node in enumerate(graph.nodes):
        read = [channels[i] for i in node.inputs]
        if isinstance(node, Input):
            channels.append(layers.new(node.channels))
            layers.stay(channels[-1], "it is the input of the network")
        elif isinstance(node, Conv):
            source = graph.sources[node.name]
            outputs = _outputs(layers, node, read[0])
            if len(read) == 2:
                layers.join(outputs, read[1])
            before, after = graph.shapes[node.inputs[0]][1:], graph.shapes[number][1:]
            layer = Layer(prefix + node.name, node, source, before, after, read[0], outputs)
            layers.layers.append(layer)
            channels.append(outputs)
            if why := _fixed(source, owners):
                layers.stay((*read[0], *outputs), f"{layer.name} {why}")
            for module in source.modules:
                if why := kept(prefix + module):
                    layers.stay(outputs, why)
        elif isinstance(node, Concat):
            channels.append([channel for part in read for channel in part])
        elif isinstance(node, Channels):
            # The code that does it counts channels, so all of them have to stay.
            layers.stay(read[0], f"{prefix}{node.name} splits channels or puts them into another order")
            channels.append([read[0][i] for i in node.order])
        else:
            if len(read) == 2:  # a sum, or a map times its gate
                layers.join(*read)
            channels.append(read[0])
    for number in graph.outputs:
        layers.stay(channels[number], f"{prefix[:-1]} returns it" if prefix else "it is what the network returns")
    return channels


def _outputs(layers: Layers, node: Conv, inputs: Channel) -> Channel:
    """Numbers for what a convolution gives, joined with those of what it reads where it has groups."""
    if node.groups == 1:
        return layers.new(node.channels)
    if node.groups == len(inputs) == node.channels:
        return inputs
    outputs = layers.new(node.channels)
    reads, gives = len(inputs) // node.groups, node.channels // node.groups
    for group in range(node.groups):
        own = (*inputs[group * reads : (group + 1) * reads], *outputs[group * gives : (group + 1) * gives])
        layers.join(list(own[:-1]), list(own[1:]))
    return outputs


def _fixed(source: Source, owners: dict[int, list[Place]]) -> str:
    """Why the tensors of a layer can't become smaller, in words; empty where they can."""
    if source.weight is not None:
        places = owners.get(id(source.weight), [])
        if not places:
            return "has a weight that is computed from other tensors"
        if len(places) > 1:
            return "has a weight that is in several modules"
        module = places[0][0]
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            return f"has its weight in {type(module).__name__}, which may rely on its shape"
        if not isinstance(module.weight, nn.Parameter):
            return "has a weight that is not a parameter"
    for tensor in vectors_of(source):
        places = owners.get(id(tensor), [])
        if len(places) != 1:
            return "is followed by per-channel values that are not parameters"
    for part in source.behind:
        if isinstance(part, Norm):
            module = next((module for module, _ in owners.get(id(part.mean), [])), None)
            if not isinstance(module, _NormBase):
                return f"is normalized by {type(module).__name__}, which may rely on its shape"
    return ""


def vectors_of(source: Source) -> list[Tensor]:
    """Everything that has a number for each output."""
    tensors = [source.bias]
    for part in source.behind:
        tensors += [value for value in vars(part).values() if isinstance(value, Tensor) and value.numel() > 1]
    return [tensor for tensor in tensors if tensor is not None]


def _pin_shared(layers: Layers) -> None:
    """A weight that two layers use would be cut twice."""
    users: dict[int, list[Layer]] = {}
    for layer in layers.layers:
        tensors = [layer.source.weight, *vectors_of(layer.source)]
        for key in {id(tensor) for tensor in tensors if tensor is not None}:
            users.setdefault(key, []).append(layer)
    for sharing in users.values():
        if len(sharing) > 1:
            for layer in sharing:
                layers.stay((*layer.inputs, *layer.outputs), f"{sharing[0].name} is used by several layers")


def channels_of(layers: Layers, channel: Channel) -> Tensor:
    """The numbers that stand for channels, int64."""
    return torch.tensor([layers.find(number) for number in channel], dtype=torch.int64)
