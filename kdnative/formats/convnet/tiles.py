"""Weights of convolutions in the order of the kernels: tiles of output channels, and depthwise quads of taps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdnative.formats.convnet.layout import TILE

__all__ = ["Packed", "depthwise", "tiles"]

LANES = 16


Take = Callable[[int], np.ndarray]
"""Gives the next bytes of a buffer, so many, uint8 zeros: weights are written where they stay."""


@dataclass(frozen=True)
class Packed:
    """What there is to know of weights in the order of the kernels.

    Args:
        bytes: of the weights.
        channel: int64 [lanes], the output channel of every lane, or -1: lanes without one have zeros everywhere.
        tiles: records of `TILE`; none of a depthwise convolution.
        deepest: bytes of the deepest tap.
    """

    bytes: int
    channel: np.ndarray
    tiles: np.ndarray
    deepest: int


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _widths(outputs: int) -> list[int]:
    """Vectors of each tile: 4 as long as there are as many."""
    left = -(-outputs // LANES)
    return [4] * (left // 4) + [left % 4] * (left % 4 > 0)


def lane_channels(vectors: int) -> np.ndarray:
    """int64 ``[16 * vectors]``: the output channel of each lane, counted from the first of the tile."""
    lane = np.arange(LANES * vectors)
    if vectors != 4:
        return lane
    vector, position = lane // LANES, lane % LANES
    return 16 * (position // 4) + 4 * vector + position % 4


def tiles(q: np.ndarray, groups: int, whole_rows: bool, take: Take) -> Packed:
    """Column tiles of a convolution: ``[tap][depth / 4][lanes][4]`` each, one after the other, from 64 bytes on.

    Groups that are narrow lie side by side in a tile, as blocks of a diagonal.

    Args:
        q: int8 ``[O, I / groups, kh, kw]``.
        whole_rows: one tap is a row of the filter, ``kw`` pixels of 4 bytes.
        take: called for one tile after the other.
    """
    outputs, inputs, _, width = q.shape
    each = outputs // groups
    together = max(1, LANES // each) if groups > 1 else 1
    channel: list[np.ndarray] = []
    records: list[tuple[int, ...]] = []
    place = lane = 0
    for group in range(0, groups, together):
        count = min(together, groups - group)  # of groups in a tile
        pixel = 4 if whole_rows else _up(count * inputs, 4)
        depth = pixel * width if whole_rows else pixel
        first = group * each
        for vectors in _widths(each * count):
            lanes = first + lane_channels(vectors)
            lanes[lanes >= (group + count) * each] = -1
            dense = _dense(q, lanes, pixel, range(group, group + count), each)
            quads = dense.reshape(len(lanes), -1).view(np.uint32).T  # [tap, depth / 4] by lanes
            take(dense.size).view(np.uint32).reshape(quads.shape)[:] = quads
            records.append((first, int((lanes >= 0).sum()), vectors, group * inputs, depth, lane, place))
            channel.append(lanes)
            first, lane, place = first + len(lanes), lane + len(lanes), place + dense.size
    table = np.array(records, dtype=TILE)
    return Packed(place, np.concatenate(channel), table, int(table["depth"].max()))


def _dense(q: np.ndarray, lanes: np.ndarray, pixel: int, groups: range, each: int) -> np.ndarray:
    """int8 ``[lanes, kh, kw, pixel]``: the weights of a tile of these groups, of ``each`` outputs."""
    _, inputs, height, width = q.shape
    dense = np.zeros((len(lanes), height, width, pixel), np.int8)
    for i, group in enumerate(groups):
        mine = (lanes >= group * each) & (lanes < (group + 1) * each)
        dense[mine, ..., i * inputs : (i + 1) * inputs] = q[lanes[mine]].transpose(0, 2, 3, 1)
    return dense


def depthwise(q: np.ndarray, take: Take) -> Packed:
    """Weights of a depthwise convolution: ``[period][kh][(kw + 3) / 4][256]``, in the order of byte unpacks.

    Args:
        q: int8 ``[C, 1, kh, kw]``. take: called once.
    """
    channels, _, height, width = q.shape
    pixel, quads = _up(channels, 4), -(-width // 4)
    period = pixel // math.gcd(pixel, 64)
    byte = np.arange(64)
    lane = 16 * (byte % 16 // 4) + 4 * (byte // 16) + byte % 4
    channel = np.full((period, 64), -1)
    at = (64 * np.arange(period)[:, None] + byte) % pixel
    channel[:, lane] = np.where(at < channels, at, -1)
    padded = np.zeros((channels + 1, height, 4 * quads), np.int8)  # the last one is of no channel
    padded[:channels, :, :width] = q[:, 0]
    quad = padded.view(np.uint32)[channel].transpose(0, 2, 3, 1)
    take(quad.nbytes).view(np.uint32).reshape(quad.shape)[:] = quad
    return Packed(quad.nbytes, channel.reshape(-1), np.zeros(0, TILE), 4)
