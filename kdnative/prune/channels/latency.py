"""How long the native kernel of a convolution takes at each width, measured once in a process."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from kdnative.cnn.ranges import wants_before
from kdnative.formats.convnet.graph import Conv, ConvWeight, Ending, Graph, Input, Node, Pool, Range
from kdnative.nn import ConvNet
from kdnative.prune.channels.layers import Layer

__all__ = ["LatencyTable", "layer_ms"]

_TILE = 16  # outputs that kernels compute together
_POINTS = (0.25, 0.5)  # widths that are measured beside the layer's own, as shares of it
_COPIES = 3
_ROUNDS = 7  # the quickest counts: what disturbs only adds
_LEAST_SECONDS = 2e-4
_RANGE = Range(0.05, 128)

_measured: dict[tuple, float] = {}


class LatencyTable:
    """Milliseconds of layers for one image, as int8 kernels on this machine, with the threads that torch has now.

    Each shape is measured at three widths of its inputs and of its outputs, when they are first asked for; what lies
    between is interpolated. Fewer channels never take longer here: noise is taken out.
    """

    def __init__(self) -> None:
        self._interpolated: dict[tuple, float] = {}

    def __call__(self, layer: Layer, inputs: int, outputs: int) -> float:
        """Milliseconds of a layer with so many channels on both sides."""
        key = (*_shape(layer), inputs, outputs)
        if key not in self._interpolated:
            self._interpolated[key] = self._between(layer, inputs, outputs)
        return self._interpolated[key]

    def _between(self, layer: Layer, inputs: int, outputs: int) -> float:
        if layer.source.weight is None:
            return 0.0  # mostly folded
        whole_in, whole_out = len(layer.inputs), len(layer.outputs)
        if not layer.dense:  # one side follows from the other
            below, above, share = _neighbours(outputs, whole_out, whole_out // layer.node.groups)
            return _mixed(self._grouped(layer, below), self._grouped(layer, above), share)
        low_in, high_in, share_in = _neighbours(inputs, whole_in, 1)
        low_out, high_out, share_out = _neighbours(outputs, whole_out, 1)
        rows = [
            _mixed(_ms(layer, channels, low_out), _ms(layer, channels, high_out), share_out)
            for channels in (low_in, high_in)
        ]
        return _mixed(rows[0], rows[1], share_in)

    @staticmethod
    def _grouped(layer: Layer, outputs: int) -> float:
        return _ms(layer, outputs * len(layer.inputs) // len(layer.outputs), outputs)


def layer_ms(layer: Layer, inputs: int, outputs: int) -> float:
    """Milliseconds of a layer's kernel with so many channels, measured anew."""
    node = layer.node
    groups = 1 if layer.dense else node.groups * outputs // node.channels
    # Several copies side by side against one: the difference has none of what turns floats into codes and back.
    # Pooling leaves one pixel of each.
    nets = {count: _net(layer, inputs, outputs, groups, count) for count in (1, _COPIES)}
    images = torch.randn(1, inputs, *layer.before)
    seconds = {count: float("inf") for count in nets}
    with torch.inference_mode():
        for net in nets.values():
            net(images)
        for _ in range(_ROUNDS):
            for count, net in nets.items():
                seconds[count] = min(seconds[count], _seconds(net, images))
    return max((seconds[_COPIES] - seconds[1]) / (_COPIES - 1) * 1e3, 1e-6)


def _seconds(net: ConvNet, images: Tensor) -> float:
    """Of one call: the mean of as many as take long enough to be timed."""
    calls, begin = 0, time.perf_counter()
    while True:
        net(images)
        calls += 1
        spent = time.perf_counter() - begin
        if spent >= _LEAST_SECONDS:
            return spent / calls


def _net(layer: Layer, inputs: int, outputs: int, groups: int, count: int) -> ConvNet:
    """So many copies of a layer that read the same map."""
    node, source = layer.node, layer.source
    shape = (outputs, inputs // groups, *source.shape[2:])
    before = _RANGE if wants_before(node) else None
    ending = Ending(node.ending.activation, node.ending.parameters, before)
    weight = ConvWeight(
        torch.ones(shape, dtype=torch.int8), torch.full((outputs,), 1e-4), torch.zeros(outputs, dtype=torch.float32)
    )
    nodes: list[Node] = [Input("x", (), _RANGE, inputs)]
    weights, results = {}, []
    for i in range(count):
        name = f"conv{i}"
        nodes.append(
            Conv(
                name,
                (0,),
                _RANGE,
                outputs,
                node.kernel,
                node.stride,
                node.padding,
                node.dilation,
                groups,
                ending,
            )
        )
        nodes.append(Pool(f"pool{i}", (len(nodes) - 1,), _RANGE, outputs, "average", (1, 1), adaptive=True))
        weights[name] = weight
        results.append(len(nodes) - 1)
    return ConvNet.from_graph(Graph(tuple(nodes), tuple(results), (True,) * count, weights))


def _ms(layer: Layer, inputs: int, outputs: int) -> float:
    """From the table. Of what was measured for the same shape, wider layers are never quicker."""
    shape = (*_shape(layer), torch.get_num_threads())
    key = (shape, inputs, outputs)
    if key not in _measured:
        _measured[key] = layer_ms(layer, inputs, outputs)
    wider = [ms for (other, i, o), ms in _measured.items() if other == shape and i >= inputs and o >= outputs]
    return min(wider)


def _shape(layer: Layer) -> tuple:
    node = layer.node
    groups = 0 if not layer.dense else 1
    per_group = 0 if layer.dense else layer.source.shape[1]
    settings = (node.stride, node.padding, node.dilation, node.ending.activation)
    return (layer.before, layer.source.shape[2:], groups, per_group, len(layer.inputs), len(layer.outputs), settings)


def _neighbours(channels: int, whole: int, width: int) -> tuple[int, int, float]:
    """Two widths that are measured around ``channels``, in whole tiles, and where it lies between them, 0 to 1."""
    tile = min(_TILE * width // math.gcd(_TILE, width), whole)
    channels = min(-(-channels // tile) * tile, whole)
    points = sorted({whole, *(max(round(whole * share / tile), 1) * tile for share in _POINTS)})
    above = next(point for point in points if point >= channels)
    below = max((point for point in points if point <= channels), default=0)
    if below == 0:
        return above, above, 0.0
    return below, above, 0.0 if above == below else (channels - below) / (above - below)


def _mixed(below: float, above: float, share: float) -> float:
    return below + (above - below) * share
