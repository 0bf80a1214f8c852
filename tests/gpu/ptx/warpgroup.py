"""Products of four warps at once (``wgmma``, sm_90a): factors in shared memory by descriptors, or a in registers."""

from __future__ import annotations

import re

import numpy as np

from tests.gpu.ptx.block import Block, instruction
from tests.gpu.ptx.numerics import from_bf16
from tests.gpu.ptx.parsing import Instruction, PtxError, Vector
from tests.gpu.ptx.tensor import PER, accumulate, elements

_GROUP = 128
_LANE = np.arange(_GROUP)
_ROW, _T = _LANE // 32 * 16 + (_LANE % 32 >> 2), _LANE & 3
_NAME = re.compile(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)\.(s32|f32)\.(\w+)\.(\w+)(\.satfinite)?")
_SWIZZLE = {0: 0, 1: 128, 2: 64, 3: 32}


@instruction("wgmma")
def _wgmma(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if ins.parts[1] in ("fence", "commit_group", "wait_group"):
        block.warps(mask, ins.name, _GROUP)
        return
    match = _NAME.fullmatch(ins.name)
    if not match or match.group(4) not in PER or match.group(4) == "tf32":
        raise PtxError(f"unknown instruction {ins.name}")
    columns, depth, kind, of_a, of_b = int(match[1]), int(match[2]), *match.groups()[2:5]
    d, a, b, scale, *rest = ins.operands
    numbers = [block.scalar(operand) for operand in rest]
    if PER[of_a] == 2 and any(number & 0xFFFFFFFF != 1 for number in numbers[:2]):
        raise PtxError(f"{ins.name}: factors with another sign")
    flips = numbers[2:] if PER[of_a] == 2 else []
    keeps = block.predicate(scale) if scale in block.registers else np.full(block.threads, block.scalar(scale) != 0)
    results = {item: block.value(item, kind).copy() for item in block.items(d)}
    for group in np.flatnonzero(block.warps(mask, ins.name, _GROUP)):
        lanes = slice(group * _GROUP, group * _GROUP + _GROUP)
        right = _tile(block, block.bits(b, 8)[lanes], columns, depth, of_b, bool(flips and flips[-1]))
        if isinstance(a, Vector):
            left = _from_registers([block.bits(item, 4)[lanes] for item in a.items], depth, of_a)
        else:
            left = _tile(block, block.bits(a, 8)[lanes], 64, depth, of_a, bool(flips and flips[0]))
        products = left @ right.T
        for i, (item, result) in enumerate(results.items()):
            part = products[_ROW + 8 * (i >> 1 & 1), (i >> 2) * 8 + 2 * _T + (i & 1)]
            old = np.where(keeps[lanes], block.value(item, kind)[lanes], 0)
            result[lanes] = accumulate(old, part, kind, match.group(6) is not None)
    for item, result in results.items():
        block.write(item, result, kind, mask)


def _from_registers(registers: list[np.ndarray], depth: int, kind: str) -> np.ndarray:
    out, per = np.zeros((64, depth)), PER[kind]
    for i, raw in enumerate(registers):
        for e, values in enumerate(elements(raw, kind).T):
            out[_ROW + 8 * (i & 1), _T * per + e + (i >> 1) * 4 * per] = values
    return out


def _tile(block: Block, descriptors: np.ndarray, rows: int, depth: int, kind: str, transposed: bool) -> np.ndarray:
    """[rows, depth] values of the tile of a descriptor; rows lie along its bytes when transposed, k otherwise."""
    if (descriptors != descriptors[0]).any():
        raise PtxError("wgmma: descriptors that differ between threads")
    descriptor, size = int(descriptors[0]), 4 // PER[kind]
    start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    swizzle = _SWIZZLE[descriptor >> 62 & 3]
    span = max(swizzle, 16)  # bytes of a row of the pattern
    row, k = np.meshgrid(np.arange(rows), np.arange(depth), indexing="ij")
    if transposed:
        along = row * size
        at = start + along // span * leading + along % span + k // 8 * stride + k % 8 * span
    else:
        along = k * size
        at = start + row // 8 * stride + row % 8 * span + along % span + along // span * (0 if swizzle else leading)
    at = at ^ ((at >> 7 & {0: 0, 32: 1, 64: 3, 128: 7}[swizzle]) << 4)
    raw = block.shared.read((at[..., None] + np.arange(size)).reshape(-1, size), None, "wgmma")
    values = np.ascontiguousarray(raw).reshape(rows, -1)
    if kind == "bf16":
        return from_bf16(values.view(np.uint16)).astype(np.float64)
    return values.view({"s8": np.int8, "u8": np.uint8, "f16": np.float16}[kind]).astype(np.float64)
