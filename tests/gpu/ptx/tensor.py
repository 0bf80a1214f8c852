"""Matrix instructions of a warp: ldmatrix, stmatrix, mma, and mma with a 2:4 sparse factor.

A lane l of a warp has g = l / 4 and t = l % 4. A 32-bit register of a factor holds ``per`` elements that follow each
other in k. Register i of a [16, k] holds row g + 8 (i % 2) and k from t per + 4 per (i / 2); register i of b [k, 8]
holds column g and k from t per + 4 per i; element i of c and d [16, 8] is row g + 8 (i / 2), column 2 t + i % 2.

Sums of floating-point products are computed in float64 and rounded once to float32. Hardware adds in a narrower format
and another order, so kernels are compared within a bound, and never bit by bit.
"""

from __future__ import annotations

import re

import numpy as np

from tests.gpu.ptx.block import WARP, Block, instruction
from tests.gpu.ptx.moving import read, store
from tests.gpu.ptx.numerics import INTEGERS, from_bf16
from tests.gpu.ptx.parsing import Instruction, PtxError

_LANE = np.arange(WARP)
_G, _T = _LANE >> 2, _LANE & 3
PER = {"s8": 4, "u8": 4, "f16": 2, "bf16": 2, "tf32": 1}
_SHAPE = re.compile(r"m16n8k(\d+)")


def elements(raw: np.ndarray, kind: str) -> np.ndarray:
    """32-bit registers [...] as the elements they hold [..., per] in float64, which all of these types fit in."""
    raw = np.ascontiguousarray(raw)
    if kind in ("s8", "u8"):
        values = raw.view(INTEGERS[kind])
    elif kind == "f16":
        values = raw.view(np.float16)
    elif kind == "bf16":
        values = from_bf16(raw.view(np.uint16))
    else:
        values = (raw & np.uint32(0xFFFFE000)).view(np.float32)
    return values.astype(np.float64).reshape(*raw.shape, PER[kind])


def accumulate(old: np.ndarray, products: np.ndarray, kind: str, saturate: bool) -> np.ndarray:
    """c + a b: int32, which wraps or saturates, or float32, rounded once."""
    if kind == "s32":
        total = old.astype(np.int64) + products.astype(np.int64)
        total = np.clip(total, -(2**31), 2**31 - 1) if saturate else total
        return (total & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return (old.astype(np.float64) + products).astype(np.float32)


@instruction("ldmatrix")
def _ldmatrix(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if "m8n8" not in ins.parts or ins.parts[-1] != "b16":
        raise PtxError(f"unknown instruction {ins.name}")
    block.warps(mask, ins.name)
    destinations = block.items(ins.operands[0])
    lanes = np.flatnonzero(mask & (_in_warp(block) < 8 * len(destinations)))
    rows = np.zeros((block.threads, 16), np.uint8)
    rows[lanes] = read(block, "ldmatrix", "shared", block.address(ins.operands[1])[lanes], lanes, 16)
    for at, destination in enumerate(destinations):
        matrix = rows.reshape(-1, WARP, 16)[:, 8 * at : 8 * at + 8].reshape(-1, 8, 8, 2)
        if "trans" in ins.parts:
            matrix = matrix.transpose(0, 2, 1, 3)
        # Lane l gets two elements of row l / 4, from column 2 (l % 4).
        block.write(destination, np.ascontiguousarray(matrix).reshape(-1).view(np.uint32), "b32", mask)


@instruction("stmatrix")
def _stmatrix(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if "m8n8" not in ins.parts or ins.parts[-1] != "b16":
        raise PtxError(f"unknown instruction {ins.name}")
    block.warps(mask, ins.name)
    sources = block.items(ins.operands[1])
    rows = np.zeros((block.threads // WARP, WARP, 16), np.uint8)
    for at, source in enumerate(sources):
        matrix = np.ascontiguousarray(block.bits(source, 4)).view(np.uint8).reshape(-1, 8, 8, 2)
        if "trans" in ins.parts:
            matrix = matrix.transpose(0, 2, 1, 3)
        rows[:, 8 * at : 8 * at + 8] = matrix.reshape(-1, 8, 16)
    lanes = np.flatnonzero(mask & (_in_warp(block) < 8 * len(sources)))
    store(block, "stmatrix", "shared", block.address(ins.operands[0])[lanes], lanes, rows.reshape(-1, 16)[lanes])


def _in_warp(block: Block) -> np.ndarray:
    return block.lane % WARP


def _registers(block: Block, operand) -> np.ndarray:
    """[warps, registers, lanes] raw bits."""
    found = [block.bits(item, 4).reshape(-1, WARP) for item in block.items(operand)]
    return np.ascontiguousarray(np.stack(found, 1))


def factor_a(raw: np.ndarray, kind: str) -> np.ndarray:
    """Registers [warps, n, lanes] of a as [warps, 16, k]."""
    per, count = PER[kind], raw.shape[1]
    out = np.zeros((len(raw), 16, 8 * per if count == 4 else 4 * per))
    values = elements(raw, kind)
    for i in range(count):
        for e in range(per):
            out[:, _G + 8 * (i & 1), _T * per + e + (i >> 1) * 4 * per] = values[:, i, :, e]
    return out


def factor_b(raw: np.ndarray, kind: str) -> np.ndarray:
    """Registers [warps, n, lanes] of b as [warps, k, 8]."""
    per, count = PER[kind], raw.shape[1]
    out = np.zeros((len(raw), 4 * per * count, 8))
    values = elements(raw, kind)
    for i in range(count):
        for e in range(per):
            out[:, _T * per + e + i * 4 * per, _G] = values[:, i, :, e]
    return out


def expanded(a: np.ndarray, metadata: np.ndarray, selector: int, kind: str) -> np.ndarray:
    """A 2:4 sparse factor: stored elements [warps, 16, k / 2] and the lanes' metadata [warps, lanes] as [warps, 16, k].

    Two of each four elements are stored, and two bits say where each of them goes. With 8-bit elements, all lanes give
    metadata: lane 4 g + t gives row g + 8 (t % 2), and of it the k from 32 (t / 2). With 16-bit elements and k = 32,
    two lanes of each four do, which ``selector`` names: their halves are rows g and g + 8, and lane 2 selector + u has
    the k from 16 u. The first is what a sparse GEMM of CUTLASS relies on (tests/gpu/test_ptx_anchors.py); the second
    is not confirmed by anyone.
    """
    warps, _, stored = a.shape
    out = np.zeros((warps, 16, 2 * stored))
    for row in range(16):
        for group in range(stored // 2):
            lane, shift = _metadata_place(row, group, stored, selector, kind)
            field = metadata[:, lane] >> np.uint32(shift)
            places = [(field >> np.uint32(2 * at)) & np.uint32(3) for at in (0, 1)]
            if (places[0] >= places[1]).any():
                raise PtxError("mma.sp: metadata that isn't in order")
            for at, place in enumerate(places):
                out[np.arange(warps), row, 4 * group + place] = a[:, row, 2 * group + at]
    return out


def _metadata_place(row: int, group: int, stored: int, selector: int, kind: str) -> tuple[int, int]:
    """The lane and the first bit that hold the metadata of a row's group of four."""
    g, high = row % 8, row // 8
    if kind in ("s8", "u8") and stored == 32:
        return 4 * g + 2 * (group // 8) + high, 4 * (group % 8)
    if kind in ("f16", "bf16") and stored == 16:
        return 4 * g + 2 * selector + group // 4, 16 * high + 4 * (group % 4)
    raise PtxError(f"mma.sp of {kind} with {stored} stored elements of k")


@instruction("mma")
def _mma(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    shape = next((match for part in ins.parts if (match := _SHAPE.fullmatch(part))), None)
    kinds = [part for part in ins.parts if part in (*PER, "s32", "f32")]
    sparse = any(part.startswith("sp") for part in ins.parts)
    allowed = {"mma", "sync", "aligned", "row", "col", "satfinite", "sp", "sp::ordered_metadata", *kinds}
    if (
        shape is None
        or len(kinds) != 4
        or kinds[0] != kinds[3]
        or kinds[0] != ("s32" if kinds[1] in ("s8", "u8") else "f32")
        or set(ins.parts) - allowed - {shape.group()}
        or (PER[kinds[1]] != PER[kinds[2]])
    ):
        raise PtxError(f"unknown instruction {ins.name}")
    block.warps(mask, ins.name)
    d, a, b, c = ins.operands[:4]
    left, right = factor_a(_registers(block, a), kinds[1]), factor_b(_registers(block, b), kinds[2])
    if sparse:
        metadata = block.bits(ins.operands[4], 4).reshape(-1, WARP)
        left = expanded(left, metadata, block.scalar(ins.operands[5]), kinds[1])
    if left.shape[2] != int(shape.group(1)) or right.shape[1] != left.shape[2]:
        raise PtxError(f"{ins.name}: registers of another shape")
    products = left @ right
    results = []
    for i, (old, item) in enumerate(zip(block.items(c), block.items(d), strict=True)):
        part = products[:, _G + 8 * (i >> 1), 2 * _T + (i & 1)].reshape(-1)
        results.append((item, accumulate(block.value(old, kinds[0]), part, kinds[0], "satfinite" in ins.parts)))
    for item, values in results:
        block.write(item, values, kinds[0], mask)
