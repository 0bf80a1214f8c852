"""Takes channels out of a model's own modules."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kdnative.cnn import FloatGraph
from kdnative.formats.convnet.graph import Conv, Node
from kdnative.prune.channels.layers import Channel, Layer, Layers, Place, owners_of, vectors_of
from kdnative.prune.edits import Edits

__all__ = ["cut", "expected_nodes"]


def cut(edits: Edits, model: nn.Module, layers: Layers, gone: Container[int]) -> None:
    """Leaves all channels but those whose units are in ``gone``. Parameters and buffers that shrink are new objects."""
    owners = owners_of(model)
    for layer in layers.layers:
        outputs = _left(layers, layer.outputs, gone)
        inputs = _left(layers, layer.inputs, gone)
        whole_outputs, whole_inputs = len(outputs) == len(layer.outputs), len(inputs) == len(layer.inputs)
        if not whole_outputs:
            for tensor in vectors_of(layer.source):
                _replace(edits, owners[id(tensor)][0], _vector(tensor, outputs))
            _set_sizes_of_norms(edits, layer, owners, len(outputs))
        if layer.source.weight is not None and not (whole_outputs and whole_inputs):
            place = owners[id(layer.source.weight)][0]
            _replace(edits, place, _weight(layer, outputs, inputs))
            _set_sizes(edits, place[0], layer, len(outputs), len(inputs))


def expected_nodes(graph: FloatGraph, maps: list[Channel], layers: Layers, gone: Container[int]) -> tuple[Node, ...]:
    """The nodes that the network has afterwards, if the model's code does with fewer channels what it did before."""
    nodes = []
    for node, channels in zip(graph.nodes, maps, strict=True):
        left = len(_left(layers, channels, gone))
        if isinstance(node, Conv) and node.groups > 1:
            node = replace(node, groups=node.groups * left // node.channels)
        nodes.append(replace(node, channels=left))
    return tuple(nodes)


def _left(layers: Layers, channels: Channel, gone: Container[int]) -> list[int]:
    """Positions of the channels that stay."""
    return [i for i, number in enumerate(channels) if layers.find(number) not in gone]


def _weight(layer: Layer, outputs: list[int], inputs: list[int]) -> Tensor:
    weight = layer.source.weight
    assert weight is not None
    kept = weight.detach().index_select(0, torch.tensor(outputs, device=weight.device))
    if layer.dense:
        # A linear layer has a block of columns for each channel: one for each pixel.
        whole = kept.reshape(len(outputs), *layer.source.shape[1:])
        whole = whole.index_select(1, torch.tensor(inputs, device=weight.device))
        kept = whole.flatten(1) if weight.dim() == 2 else whole
    last = weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    return kept.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _vector(tensor: Tensor, kept: list[int]) -> Tensor:
    """Numbers for each channel, which may be [C] or have dimensions of 1 around it."""
    dim = max(range(tensor.dim()), key=lambda i: tensor.shape[i])
    return tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device)).contiguous()


def _replace(edits: Edits, place: Place, value: Tensor) -> None:
    module, name = place
    old = getattr(module, name)
    edits.set(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _set_sizes(edits: Edits, module: nn.Module, layer: Layer, outputs: int, inputs: int) -> None:
    if isinstance(module, nn.Linear):
        edits.set(module, "out_features", outputs)
        edits.set(module, "in_features", module.weight.shape[1])
        return
    edits.set(module, "out_channels", outputs)
    edits.set(module, "in_channels", inputs)
    if not layer.dense:
        edits.set(module, "groups", layer.node.groups * outputs // len(layer.outputs))


def _set_sizes_of_norms(edits: Edits, layer: Layer, owners: dict[int, list[Place]], outputs: int) -> None:
    modules = {owners[id(tensor)][0][0] for tensor in vectors_of(layer.source)}
    for module in modules:
        if isinstance(module, _NormBase):
            edits.set(module, "num_features", outputs)
