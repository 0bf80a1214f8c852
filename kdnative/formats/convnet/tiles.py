"""Weights of convolutions in the order of the kernels: tiles of output channels, and depthwise quads of taps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdnative.formats.convnet.layout import TILE

__all__ = ["Packed", "depthwise", "tiles"]

LANES = 16


@dataclass(frozen=True)
class Packed:
    """Weights, and for every lane of them the output channel, or -1: lanes without one have zeros everywhere.

    Args:
        weights: int8, flat. channel: int64 [lanes]. tiles: records of `TILE`; none of a depthwise convolution.
        deepest: bytes of the deepest tap.
    """

    weights: Tensor
    channel: Tensor
    tiles: np.ndarray
    deepest: int


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _widths(outputs: int) -> list[int]:
    """Vectors of each tile: 4 as long as there are as many."""
    left = -(-outputs // LANES)
    return [4] * (left // 4) + [left % 4] * (left % 4 > 0)


def lane_channels(vectors: int) -> Tensor:
    """int64 ``[16 * vectors]``: the output channel of each lane, counted from the first of the tile."""
    lane = torch.arange(LANES * vectors)
    if vectors != 4:
        return lane
    vector, position = lane // LANES, lane % LANES
    return 16 * (position // 4) + 4 * vector + position % 4


def tiles(q: Tensor, groups: int, whole_rows: bool) -> Packed:
    """Column tiles of a convolution: ``[tap][depth / 4][lanes][4]`` each, one after the other, from 64 bytes on.

    Groups that are narrow lie side by side in a tile, as blocks of a diagonal.

    Args:
        q: int8 ``[O, I / groups, kh, kw]``.
        whole_rows: one tap is a row of the filter, ``kw`` pixels of 4 bytes.
    """
    outputs, inputs, height, width = q.shape
    if whole_rows:
        padded = torch.zeros(outputs, height, width, 4, dtype=torch.int8)
        padded[..., :inputs] = q.permute(0, 2, 3, 1)
        taps = padded.reshape(outputs, height, 4 * width)
    else:
        taps = q.permute(0, 2, 3, 1).reshape(outputs, height * width, inputs)
    each = outputs // groups
    together = max(1, LANES // each) if groups > 1 else 1
    parts: list[Tensor] = []
    channel: list[Tensor] = []
    records: list[tuple[int, ...]] = []
    place = lane = 0
    for group in range(0, groups, together):
        count = min(together, groups - group)  # of groups in a tile
        first = group * each
        for vectors in _widths(each * count):
            lanes = first + lane_channels(vectors)
            lanes[lanes >= (group + count) * each] = -1
            block, depth = _block(taps, lanes, group, count, each)
            records.append((first, int((lanes >= 0).sum()), vectors, group * inputs, depth, lane, place))
            parts.append(block)
            channel.append(lanes)
            first, lane, place = first + LANES * vectors, lane + LANES * vectors, place + block.numel()
    table = np.array(records, dtype=TILE)
    return Packed(torch.cat(parts), torch.cat(channel), table, int(table["depth"].max()))


def _block(taps: Tensor, lanes: Tensor, group: int, count: int, each: int) -> tuple[Tensor, int]:
    """The weights of one tile, and the bytes of a tap: ``count`` groups from ``group`` on, of ``each`` outputs."""
    inputs = taps.shape[2]
    depth = _up(count * inputs, 4)
    dense = torch.zeros(len(lanes), taps.shape[1], depth, dtype=torch.int8)
    for i in range(count):
        mine = (lanes >= (group + i) * each) & (lanes < (group + i + 1) * each)
        dense[mine, :, i * inputs : (i + 1) * inputs] = taps[lanes[mine]]
    return dense.view(len(lanes), taps.shape[1], depth // 4, 4).permute(1, 2, 0, 3).reshape(-1), depth


def depthwise(q: Tensor) -> Packed:
    """Weights of a depthwise convolution: ``[period][kh][(kw + 3) / 4][256]``, in the order of byte unpacks.

    Args:
        q: int8 ``[C, 1, kh, kw]``.
    """
    channels, _, height, width = q.shape
    pixel, quads = _up(channels, 4), -(-width // 4)
    period = pixel // math.gcd(pixel, 64)
    byte = torch.arange(64)
    lane = 16 * (byte % 16 // 4) + 4 * (byte // 16) + byte % 4
    channel = torch.full((period, 64), -1)
    at = (64 * torch.arange(period)[:, None] + byte) % pixel
    channel[:, lane] = torch.where(at < channels, at, -1)
    padded = torch.zeros(channels + 1, height, 4 * quads, dtype=torch.int8)  # the last one is of no channel
    padded[:channels, :, :width] = q[:, 0]
    quad = padded[channel].view(period, 64, height, quads, 4).permute(0, 2, 3, 1, 4)
    return Packed(quad.reshape(-1), channel.reshape(-1), np.zeros(0, TILE), 4)
