"""8-bit weights of which two of four inputs are kept <-> the packed buffer of the GPU's sparse tensor cores.

Layout: ``csrc/cuda/sparse24_layout.h``. The buffer has no header: its sections follow from N, K and whether there is a
bias. Tiles of 16 outputs and 64 inputs come first, all those of 16 outputs in a row. A tile is what one ``mma.sp``
takes, in the order of the 32 lanes of a warp: 16 bytes of codes for each lane, then 4 bytes of metadata for each. Rows
g and g + 8 of the instruction are outputs 2 g and 2 g + 1 of the tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats.dense import pad, round_up
from kdnative.formats.gpu import sections
from kdnative.formats.sparse import require_two_of_four
from kdnative.formats.weight import QuantizedWeight

__all__ = ["pack", "size", "unpack"]

TILE_N, TILE_K = 16, 64
TILE_BYTES = 640
PAD_K = 256  # rows are padded to a multiple, with zeros


def pack(weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """Pack integer weights for ``mma.sp``.

    Args:
        weight: 8 bits, one scale per output, no input scales; at most two of four consecutive inputs are not zero.
        bias: float ``[N]`` or None.

    Returns:
        uint8 ``[size(N, K, bias is not None)]``, on the device of the weight.

    Raises:
        ValueError: another kind of weight, or more than two weights of four that are not zero.
    """
    sections.check_int8(weight, "2:4")
    require_two_of_four(weight.qweight)
    n, k = weight.qweight.shape
    codes, places = _kept(pad(weight.qweight.detach(), round_up(n, TILE_N), round_up(k, PAD_K)))
    tiles = torch.cat([_lanes_of_codes(codes), _lanes_of_places(places)], 1)
    return sections.join([tiles.flatten(), *sections.scale_and_bias(weight, bias)])


def unpack(packed: Tensor, n: int, k: int, bias: bool) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`: exact plain tensors, and the bias (float32) or None.

    Args:
        packed: uint8, of a weight ``[n, k]``.
        bias: whether it holds one.

    Raises:
        ValueError: the buffer has not the size of such a weight.
    """
    n_pad, k_pad = round_up(n, TILE_N), round_up(k, PAD_K)
    sections.check_size(packed, size(n, k, bias), f"a 2:4 weight [{n}, {k}] {'with' if bias else 'without'} a bias")
    tiles, scale, shift = sections.split(packed, [_tile_bytes(n, k), 4 * n, 4 * n if bias else 0])
    tiles = tiles.view(-1, TILE_BYTES)
    codes, places = _codes_of_lanes(tiles[:, :512], n_pad), _places_of_lanes(tiles[:, 512:], n_pad)
    rows = torch.zeros(n_pad, k_pad // 4, 4, dtype=torch.int8, device=packed.device)
    rows.scatter_(2, places.view(n_pad, -1, 2).long(), codes.view(n_pad, -1, 2))
    codes = rows.view(n_pad, k_pad)[:n, :k].contiguous()
    weight = QuantizedWeight.unchecked(codes, scale.view(torch.float32).clone(), None, 8, None)
    return weight, shift.view(torch.float32).clone() if bias else None


def size(n: int, k: int, bias: bool) -> int:
    """Bytes of a packed weight ``[n, k]``."""
    return sections.total([_tile_bytes(n, k), 4 * n, 4 * n if bias else 0])


def _tile_bytes(n: int, k: int) -> int:
    return round_up(n, TILE_N) // TILE_N * (round_up(k, PAD_K) // TILE_K) * TILE_BYTES


def _kept(q: Tensor) -> tuple[Tensor, Tensor]:
    """int8 ``[N, K]`` -> the two codes kept of every four, and their places within the four, increasing.

    Both int8 ``[N, K / 2]``. Where fewer than two are not zero, zeros are kept too.
    """
    fours = q.view(q.shape[0], -1, 4)
    # What is not zero first, in order; of zeros those that come first. A stable sort keeps the order of equals.
    first = (fours == 0).to(torch.int8).argsort(dim=-1, stable=True)[..., :2].sort(-1).values
    return fours.gather(-1, first).view(q.shape[0], -1), first.to(torch.int8).view(q.shape[0], -1)


def _lanes_of_codes(codes: Tensor) -> Tensor:
    """int8 ``[N, K / 2]`` -> uint8 ``[tiles, 512]``: lane 4 g + t has, of rows g and g + 8, bytes 4 t to 4 t + 3 of the
    first 16 kept codes and then of the second 16."""
    n, half = codes.shape
    tiles = codes.view(n // TILE_N, 8, 2, half // 32, 2, 4, 4)  # row of tiles, g, + 8, tile, second 16, t, byte
    return tiles.permute(0, 3, 1, 5, 4, 2, 6).reshape(-1, 512).view(torch.uint8)


def _codes_of_lanes(lanes: Tensor, n: int) -> Tensor:
    """The inverse of :func:`_lanes_of_codes`."""
    tiles = lanes.reshape(n // TILE_N, -1, 8, 4, 2, 2, 4).permute(0, 2, 5, 1, 4, 3, 6)
    return tiles.reshape(n, -1).view(torch.int8)


def _lanes_of_places(places: Tensor) -> Tensor:
    """int8 ``[N, K / 2]`` -> uint8 ``[tiles, 128]``: two bits each, sixteen of them in a word, the first in the lowest
    bits. Lane 4 g + t has the word of row g (t even) or g + 8, of the first 32 inputs (t < 2) or the last."""
    n, half = places.shape
    bits = places.view(n, half // 4, 4).to(torch.uint8) << torch.arange(
        0, 8, 2, dtype=torch.uint8, device=places.device
    )
    words = bits.sum(-1, dtype=torch.uint8).view(n // TILE_N, 8, 2, half // 32, 2, 4)  # as above, last 32, byte
    return words.permute(0, 3, 1, 4, 2, 5).reshape(-1, 128)


def _places_of_lanes(lanes: Tensor, n: int) -> Tensor:
    """The inverse of :func:`_lanes_of_places`."""
    words = lanes.reshape(n // TILE_N, -1, 8, 2, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 1)
    return ((words >> torch.arange(0, 8, 2, dtype=torch.uint8, device=lanes.device)) & 3).view(n, -1)
