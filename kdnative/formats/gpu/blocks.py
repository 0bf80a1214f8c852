"""8-bit weights without their blocks of zeros <-> the packed buffer of the GPU's block-sparse kernels.

Layout: ``csrc/cuda/blocks_layout.h``. The buffer has no header: its parts follow from N, K, the side of a block,
whether there is a bias, and its own size. A weight is cut into square blocks; those of a row of blocks that are not all
zeros are gathered into units of 64 inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats.dense import pad, round_up
from kdnative.formats.gpu import sections
from kdnative.formats.weight import QuantizedWeight

__all__ = ["COST", "SIDES", "choose", "pack", "parts", "refusal", "stored", "unpack"]

SIDES = (64, 32, 16)
UNIT_K = 64

_CACHE_BYTES = 5120 / 108
"""Bytes that one multiprocessor of an A100 gets from the second-level cache in a cycle."""


def _cost(side: int) -> tuple[float, float]:
    """What a stored weight costs with many rows, and what the whole weight does, beside a weight of the dense kernel.

    Of 128 rows and 64 inputs, a multiprocessor multiplies for 4 cycles an output: its four tensor cores take 8 cycles
    for 16 x 8 x 32. Dense tiles of 128 x 128 wait for that alone. Large blocks gather 64 bytes for each row and each
    output meanwhile. Blocks of 16 share rows that come whole, at 128 bytes a cycle into the shared memory, out of which
    they are read as fast as they are multiplied.
    """
    if side == 16:
        return 1.0, 64 * 128 / 128 / (4 * 128)
    return max(1.0, 64 * (side + 128) / _CACHE_BYTES / (4 * side)), 0.0


COST = {side: _cost(side) for side in SIDES}
"""For each side of a block, ``(a, b)``: the dense kernel takes 1, one with blocks ``a * stored + b``, by a bound that
is computed, not measured."""


def stored(qweight: Tensor, side: int) -> float:
    """The part of a weight ``[N, K]`` that is stored in blocks of ``side``, what fills up units included.

    1.0 is a weight of which nothing is left out. Odd shapes are padded to whole blocks, and may have more.
    """
    kept = _kept_blocks(qweight, side)
    return float(_units(kept, side).sum()) * side * UNIT_K / qweight.numel()


def choose(qweight: Tensor) -> int | None:
    """The side of the blocks with which a weight ``[N, K]`` is fastest, by :data:`COST`; None: dense is.

    Of sides that are as good as each other it is the largest.
    """
    costs = {side: COST[side][0] * stored(qweight, side) + COST[side][1] for side in SIDES}
    best = min(SIDES, key=lambda side: costs[side])
    return best if costs[best] < 1 else None


def refusal(qweight: Tensor) -> str | None:
    """Why a weight ``[N, K]`` is not worth its blocks, in words, or None."""
    if choose(qweight) is not None:
        return None
    most = {side: (1 - b) / a for side, (a, b) in COST.items()}
    parts = ", ".join(
        f"{stored(qweight, side):.0%} in blocks of {side} x {side} (less than {most[side]:.0%} pays)" for side in SIDES
    )
    return f"its zeros leave too few blocks out: {parts} would be stored; dense is faster, with the same results"


def pack(weight: QuantizedWeight, bias: Tensor | None = None, side: int = 64) -> Tensor:
    """Pack integer weights without their blocks of zeros.

    Args:
        weight: 8 bits, one scale per output, no input scales, ``[N, K]``.
        bias: float ``[N]`` or None.
        side: outputs and inputs of a block: 64, 32 or 16 (see :func:`choose`); results are right with each of them.

    Returns:
        uint8 ``[bytes]``, on the device of the weight; how many follows from the number of blocks.

    Raises:
        ValueError: another side or kind of weight.
    """
    _check_side(side)
    sections.check_int8(weight, "block-sparse")
    n, k = weight.qweight.shape
    q = pad(weight.qweight.detach(), round_up(n, side), round_up(k, side))
    kept = _kept_blocks(q, side)
    units, slots = _units(kept, side), UNIT_K // side
    start = torch.cat([units.new_zeros(1), units.cumsum(0)])
    row, column = kept.nonzero(as_tuple=True)
    place = _place(kept, start, slots)
    blocks = torch.zeros(int(start[-1]) * slots, side, side, dtype=torch.int8, device=q.device)
    blocks[place] = q.view(-1, side, q.shape[1] // side, side)[row, :, column]
    columns = torch.zeros(int(start[-1]) * slots, dtype=torch.int32, device=q.device)
    columns[place] = column.int()
    return sections.join([_fragments(blocks), columns, start.int(), *sections.scale_and_bias(weight, bias)])


def unpack(packed: Tensor, n: int, k: int, bias: bool, side: int) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`: exact plain tensors, and the bias (float32) or None.

    Args:
        packed: uint8, of a weight ``[n, k]``.
        bias: whether it holds one.
        side: of its blocks.

    Raises:
        ValueError: the buffer has not the size of such a weight, or its lists of blocks are not lists.
    """
    codes, columns, start, scale, shift = parts(packed, n, k, bias, side)
    rows, width, slots = start.numel() - 1, round_up(k, side) // side, UNIT_K // side
    columns, start = columns.long(), start.long()
    order = int(start[0]) == 0 and int(start[-1]) * slots == columns.numel() and bool((start.diff() >= 0).all())
    if not order or bool(((columns < 0) | (columns >= width)).any()):
        raise ValueError(
            f"a damaged packed weight: its blocks are not those of {_called(n, k, bias, side)}; pack it again"
        )
    blocks = _blocks(codes, side)
    used = (blocks != 0).flatten(1).any(1)  # blocks of zeros that fill up a unit would overwrite others
    row = torch.repeat_interleave(torch.arange(rows, device=packed.device), slots * start.diff())
    q = torch.zeros(rows, side, width, side, dtype=torch.int8, device=packed.device)
    q[row[used], :, columns[used]] = blocks[used]
    q = q.view(rows * side, width * side)[:n, :k].contiguous()
    return QuantizedWeight.unchecked(q, scale.clone(), None, 8, None), shift.clone() if bias else None


def parts(packed: Tensor, n: int, k: int, bias: bool, side: int) -> list[Tensor]:
    """The parts of what :func:`pack` returns, as views: codes uint8, columns int32, start int32, scale float32 ``[N]``,
    and the bias, float32 ``[N]``, or nothing ``[0]``. The arguments and errors are those of :func:`unpack`."""
    _check_side(side)
    sections.check_buffer(packed, _called(n, k, bias, side))
    units = _units_of(packed.numel(), n, bias, side)
    if units < 0:
        raise ValueError(
            f"a damaged packed weight: {packed.numel()} bytes, and {_called(n, k, bias, side)} has another size; "
            "pack it again"
        )
    sizes = [units * side * UNIT_K, 4 * units * (UNIT_K // side), 4 * (round_up(n, side) // side + 1)]
    types = [torch.uint8, torch.int32, torch.int32, torch.float32, torch.float32]
    found = sections.split(packed, [*sizes, 4 * n, 4 * n if bias else 0])
    return [part.view(dtype) for part, dtype in zip(found, types, strict=True)]


def _called(n: int, k: int, bias: bool, side: int) -> str:
    return f"a weight [{n}, {k}] in blocks of {side} {'with' if bias else 'without'} a bias"


def _check_side(side: int) -> None:
    if side not in SIDES:
        raise ValueError(f"blocks have a side of {', '.join(map(str, SIDES))} weights, not {side!r}")


def _kept_blocks(q: Tensor, side: int) -> Tensor:
    """bool ``[rows of blocks, columns of blocks]``: which have a weight that is not zero."""
    n, k = q.shape
    full = pad(q.detach(), round_up(n, side), round_up(k, side))
    return (full.view(-1, side, full.shape[1] // side, side) != 0).any(3).any(1)


def _units(kept: Tensor, side: int) -> Tensor:
    """int64 ``[rows of blocks]``: how many units each has."""
    slots = UNIT_K // side
    return (kept.sum(1) + slots - 1) // slots


def _units_of(size: int, n: int, bias: bool, side: int) -> int:
    """How many units a buffer of ``size`` bytes holds; -1: it can't be."""
    rest = sections.total([4 * (round_up(n, side) // side + 1), 4 * n, 4 * n if bias else 0])
    # Of a unit, codes and columns; the padding of the columns is shorter than that.
    units = (size - rest) // (side * UNIT_K + 4 * (UNIT_K // side))
    right = units >= 0 and sections.total([units * side * UNIT_K, 4 * units * (UNIT_K // side)]) + rest == size
    return units if right else -1


def _place(kept: Tensor, start: Tensor, slots: int) -> Tensor:
    """Where each block that is kept goes, in the order of ``kept.nonzero()``."""
    in_row = kept.cumsum(1) - 1
    return (start[:-1, None] * slots + in_row)[kept]


def _fragments(blocks: Tensor) -> Tensor:
    """int8 ``[units * slots, side, side]`` -> uint8 ``[units * side * 64]``: for each 32 inputs and 16 outputs, 16
    bytes for each lane 4 g + t. They are bytes 4 t to 4 t + 3 of rows g and g + 8, then those 16 inputs on."""
    slots, side = UNIT_K // blocks.shape[1], blocks.shape[1]
    units = blocks.view(-1, slots, side, side).transpose(1, 2).reshape(-1, side // 16, 8, 2, 2, 2, 4, 4)
    # unit, 16 outputs, g, row + 8, 32 inputs, 16 inputs on, t, byte
    return units.permute(0, 4, 1, 2, 6, 5, 3, 7).reshape(-1).view(torch.uint8)


def _blocks(codes: Tensor, side: int) -> Tensor:
    """The inverse of :func:`_fragments`."""
    slots = UNIT_K // side
    units = (
        codes.reshape(-1, 2, side // 16, 8, 4, 2, 2, 4).permute(0, 2, 3, 6, 1, 5, 4, 7).reshape(-1, side, slots, side)
    )
    return units.transpose(1, 2).reshape(-1, side, side).view(torch.int8)
