"""The integer weights of a packed network, and how many bytes packing takes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kdnative.formats.convnet.graph import Conv, Graph
from kdnative.formats.convnet.layout import HEADER, KINDS, RECORD, TILE
from kdnative.formats.convnet.tiles import LANES, lane_channels

__all__ = ["packed_bytes", "unpack"]

_A_NODE = 4096  # bytes at most: its record, a table, and what rounding up to 64 takes


def unpack(packed: Tensor, graph: Graph) -> dict[str, Tensor]:
    """int8 ``[O, I / groups, kh, kw]`` for each convolution, by its name.

    Args:
        packed: what :func:`kdnative.formats.convnet.pack.pack` made of ``graph``, on the CPU. graph: without weights.

    Raises:
        ValueError: the buffer is not one of this network.
    """
    raw = packed.numpy()
    try:
        header = raw[: HEADER.itemsize].view(HEADER)[0]
        begin = int(header["node_table"])
        records = raw[begin : begin + RECORD.itemsize * len(graph.nodes)].view(RECORD)
        return {
            node.name: _weights(packed, record, node, graph.nodes[node.inputs[0]].channels)
            for node, record in zip(graph.nodes, records, strict=True)
            if isinstance(node, Conv)
        }
    except (IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"the packed buffer is not one of this network: {error}") from error


def _weights(packed: Tensor, record: np.void, node: Conv, inputs: int) -> Tensor:
    begin, size = int(record["weights"]), int(record["weight_bytes"])
    weights = packed[begin : begin + size].view(torch.int8)
    q = torch.zeros(node.channels, inputs // node.groups, *node.kernel, dtype=torch.int8)
    if record["kind"] == KINDS["depthwise"]:
        _depthwise(weights, q)
        return q
    at, count = int(record["tile_table"]), int(record["tiles"])
    table = packed[at : at + TILE.itemsize * count].numpy().view(TILE)
    for tile in table:
        _tile(weights, tile, q, node.groups, bool(record["whole_rows"]))
    return q


def _tile(weights: Tensor, tile: np.void, q: Tensor, groups: int, whole_rows: bool) -> None:
    """Puts the weights of one tile where they come from: see :func:`kdnative.formats.convnet.tiles.tiles`."""
    outputs, inputs, height, width = q.shape
    vectors, depth, first = (int(tile[name]) for name in ("vectors", "depth", "first"))
    taps = height if whole_rows else height * width
    lanes = LANES * vectors
    begin = int(tile["weights"])
    block = weights[begin : begin + taps * depth * lanes].view(taps, depth // 4, lanes, 4)
    dense = block.permute(2, 0, 1, 3).reshape(lanes, taps, depth)
    channel = first + torch.from_numpy(lane_channels(vectors))
    in_use = channel < first + int(tile["outputs"])
    dense, channel = dense[in_use], channel[in_use]
    if whole_rows:
        q[channel] = dense.view(-1, height, width, 4)[..., :inputs].permute(0, 3, 1, 2)
        return
    start = channel // (outputs // groups) * inputs - int(tile["channel"])  # where the inputs of each group begin
    for at in start.unique().tolist():
        mine = start == at
        own = dense[mine][:, :, at : at + inputs]
        q[channel[mine]] = own.permute(0, 2, 1).reshape(-1, inputs, height, width)


def _depthwise(weights: Tensor, q: Tensor) -> None:
    """See :func:`kdnative.formats.convnet.tiles.depthwise`."""
    channels, _, height, width = q.shape
    quads = -(-width // 4)
    byte = torch.arange(64)
    lane = 16 * (byte % 16 // 4) + 4 * (byte // 16) + byte % 4
    by_lane = weights.view(-1, height, quads, 64, 4).permute(0, 3, 1, 2, 4)  # [period, lane, height, quads, 4]
    by_byte = by_lane[:, lane].reshape(-1, height, 4 * quads)
    q[:, 0] = by_byte[:channels, :, :width]


def packed_bytes(graph: Graph) -> int:
    """Bytes of the packed form of a network, at most, by arithmetic alone."""
    total = HEADER.itemsize + 4 * len(graph.outputs)
    for node in graph.nodes:
        total += _A_NODE + (4 + 256) * len(node.inputs) + 8 * node.channels
        if isinstance(node, Conv):
            total += _conv_bytes(node, graph.nodes[node.inputs[0]].channels)
    return total


def _conv_bytes(node: Conv, inputs: int) -> int:
    height, width = node.kernel
    pixel = -(-node.channels // 4) * 4
    lanes = 64 * (pixel // math.gcd(pixel, 64))
    depthwise = lanes * (height * -(-width // 4) * 4 + 16)
    each, mine = node.channels // node.groups, inputs // node.groups
    together = max(1, LANES // each) if node.groups > 1 else 1
    blocks = -(-node.groups // together)
    lanes = blocks * -(-each * together // LANES) * LANES
    depth = -(-together * mine // 4) * 4 + 3  # a tap of few channels has 4
    dense = lanes * (height * width * depth + 16) + 2 * depth * width
    return max(depthwise, dense) if node.groups == inputs == node.channels else dense
