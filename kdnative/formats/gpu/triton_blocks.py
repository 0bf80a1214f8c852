"""8-bit weights without their blocks of zeros <-> the packed buffer of the Triton product with blocks.

The buffer has no header: its sections follow from N, K, the side B of a block, whether there is a bias, and its size.

======  ====================  ===================================================================================
values  int8 [blocks, B, B]   outputs first, a row of blocks after the other; beyond N and K they are zeros
places  int32 [blocks]        block j has inputs B places[j] to B places[j] + B - 1
starts  int32 [ceil(N/B)+1]   outputs B i to B i + B - 1 have blocks starts[i] to starts[i + 1] - 1
scale   float32 [N]
bias    float32 [N]           if there is one
======  ====================  ===================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.formats.dense import pad, round_up
from kdnative.formats.gpu import sections
from kdnative.formats.weight import QuantizedWeight

__all__ = ["SIDES", "Parts", "pack", "parts", "unpack"]

SIDES = (64, 32, 16)


@dataclass(frozen=True)
class Parts:
    """Views of the sections, in their shapes; no bias: None."""

    values: Tensor
    places: Tensor
    starts: Tensor
    scale: Tensor
    bias: Tensor | None


def pack(weight: QuantizedWeight, bias: Tensor | None, side: int) -> Tensor:
    """Pack integer weights without their blocks of zeros.

    Args:
        weight: 8 bits, one scale per output, no input scales, ``[N, K]``.
        bias: float ``[N]`` or None.
        side: one of :data:`SIDES`.

    Raises:
        ValueError: another side or kind of weight.
    """
    _check_side(side)
    sections.check_int8(weight, "block-sparse")
    n, k = weight.qweight.shape
    rows, width = round_up(n, side) // side, round_up(k, side) // side
    tiles = pad(weight.qweight.detach(), rows * side, width * side).view(rows, side, width, side).transpose(1, 2)
    kept = (tiles != 0).flatten(2).any(2)
    starts = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int()
    places = kept.nonzero()[:, 1].int()
    return sections.join([tiles[kept], places, starts, *sections.scale_and_bias(weight, bias)])


def parts(packed: Tensor, n: int, k: int, bias: bool, side: int) -> Parts:
    """The sections of a packed weight ``[n, k]``. What they hold isn't looked at: on a GPU that would wait for it.

    Raises:
        ValueError: the buffer has not the size of such a weight.
    """
    _check_side(side)
    rest = [4 * (round_up(n, side) // side + 1), 4 * n, 4 * n if bias else 0]
    # A block is at least as long as the padding of all places.
    blocks = max(0, (packed.numel() - sections.total(rest)) // (side * side + 4))
    sizes = [blocks * side * side, 4 * blocks, *rest]
    what = f"a weight [{n}, {k}] with {blocks} blocks of {side} {'with' if bias else 'without'} a bias"
    sections.check_size(packed, sections.total(sizes), what)
    values, places, starts, scale, shift = sections.split(packed, sizes)
    return Parts(
        values.view(torch.int8).view(blocks, side, side),
        places.view(torch.int32),
        starts.view(torch.int32),
        scale.view(torch.float32),
        shift.view(torch.float32) if bias else None,
    )


def unpack(packed: Tensor, n: int, k: int, bias: bool, side: int) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`, bit for bit: the weight, and the bias (float32, or None).

    Raises:
        ValueError: the buffer has not the size of such a weight, or its lists of blocks are not lists.
    """
    found = parts(packed, n, k, bias, side)
    rows, width = round_up(n, side) // side, round_up(k, side) // side
    starts, places = found.starts.long(), found.places.long()
    order = int(starts[0]) == 0 and int(starts[-1]) == len(places) and bool((starts.diff() >= 0).all())
    if not order or bool(((places < 0) | (places >= width)).any()):
        raise ValueError(f"a damaged packed weight: its blocks are not those of a weight [{n}, {k}]; pack it again")
    tiles = torch.zeros(rows, width, side, side, dtype=torch.int8, device=packed.device)
    tiles[torch.repeat_interleave(torch.arange(rows, device=packed.device), starts.diff()), places] = found.values
    q = tiles.transpose(1, 2).reshape(rows * side, width * side)[:n, :k].contiguous()
    weight = QuantizedWeight.unchecked(q, found.scale.clone(), None, 8, None)
    return weight, None if found.bias is None else found.bias.clone()


def _check_side(side: int) -> None:
    if side not in SIDES:
        raise ValueError(f"blocks have a side of {', '.join(map(str, SIDES))} weights, not {side!r}")
