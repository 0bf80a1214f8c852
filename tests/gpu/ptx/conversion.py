"""Moves between registers, conversions between types and between address spaces."""

from __future__ import annotations

import numpy as np

from tests.gpu.ptx.block import Block, instruction
from tests.gpu.ptx.numerics import INTEGERS, RAW, SIZE, flushed, is_float, nearest_away_tf32, to_bf16, to_integer
from tests.gpu.ptx.parsing import Instruction, PtxError, Vector

_TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@instruction("mov")
def _mov(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind = ins.parts[-1]
    to, source = ins.operands
    if kind == "pred":
        return block.write(to, block.predicate(source), kind, mask)
    size = SIZE[kind]
    if isinstance(to, Vector):
        part = size // len(to.items)
        value = block.bits(source, size)
        for at, item in enumerate(to.items):
            block.write(item, (value >> RAW[size](8 * part * at)).astype(RAW[part]), f"b{8 * part}", mask)
    elif isinstance(source, Vector):
        part = size // len(source.items)
        value = np.zeros(block.threads, RAW[size])
        for at, item in enumerate(source.items):
            value |= block.bits(item, part).astype(RAW[size]) << RAW[size](8 * part * at)
        block.write(to, value, f"b{8 * size}", mask)
    else:
        block.write(to, block.bits(source, size), f"b{8 * size}", mask)


@instruction("cvta")
def _cvta(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    """Addresses of all spaces are apart here, those of shared memory below 2^32, so that none changes."""
    size = SIZE[ins.parts[-1]]
    block.write(ins.operands[0], block.bits(ins.operands[1], size), f"b{8 * size}", mask)


@instruction("cvt")
def _cvt(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if ins.parts[1] == "pack":
        return _pack(block, ins, mask)
    to, source = ins.parts[-2:]
    if to not in SIZE or source not in SIZE or any(part in ("rz", "rm", "rp") for part in ins.parts):
        raise PtxError(f"unknown instruction {ins.name}")
    if to in ("f16x2", "bf16x2"):  # the first source is the high half
        if source != "f32" or len(ins.operands) != 3 or len(ins.parts) != 4:
            raise PtxError(f"unknown instruction {ins.name}")
        high, low = (_bits16(block.value(operand, source), to[:-2]).astype(np.uint32) for operand in ins.operands[1:])
        return block.write(ins.operands[0], high << np.uint32(16) | low, "b32", mask)
    value = block.value(ins.operands[1], source)
    if source == "f32" and "ftz" in ins.parts:
        value = flushed(value)
    rounding = next((part for part in ins.parts if part in _TO_INTEGRAL), None)
    if to in INTEGERS:
        if is_float(source):
            return block.write(ins.operands[0], to_integer(value, to, rounding or "rzi"), to, mask)
        if "sat" in ins.parts:
            value = _saturated(value, to)
        return block.write(ins.operands[0], value.astype(INTEGERS[to]), to, mask)
    if to == "tf32":
        rounded = nearest_away_tf32(value) if "rna" in ins.parts else None
        if rounded is None:
            raise PtxError(f"unknown instruction {ins.name}")
        return block.write(ins.operands[0], rounded.view(np.uint32), "b32", mask)
    if rounding and is_float(source):
        value = _TO_INTEGRAL[rounding](value)
    if "sat" in ins.parts:
        value = np.where(np.isnan(value), 0, np.clip(value, 0, 1)).astype(value.dtype)
    if "relu" in ins.parts:
        value = np.where(value > 0, value, np.where(np.isnan(value), value, 0)).astype(value.dtype)
    if to == "f32" and "ftz" in ins.parts:
        value = flushed(value.astype(np.float32))
    block.write(ins.operands[0], value.astype(np.float64) if to == "bf16" else value, to, mask)


def _pack(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    """Two integers, saturated to 8 bits, behind the low half of a third: c, a, b from the highest byte."""
    if ins.parts[2:] not in (("sat", "s8", "s32", "b32"), ("sat", "u8", "s32", "b32")):
        raise PtxError(f"unknown instruction {ins.name}")
    a, b = (_saturated(block.value(operand, "s32"), ins.parts[3]) for operand in ins.operands[1:3])
    low = (a.astype(np.uint32) & np.uint32(255)) << np.uint32(8) | b.astype(np.uint32) & np.uint32(255)
    block.write(ins.operands[0], block.bits(ins.operands[3], 4) << np.uint32(16) | low, "b32", mask)


def _bits16(values: np.ndarray, kind: str) -> np.ndarray:
    return to_bf16(values) if kind == "bf16" else values.astype(np.float16).view(np.uint16)


def _saturated(value: np.ndarray, to: str) -> np.ndarray:
    limits, own = np.iinfo(INTEGERS[to]), np.iinfo(value.dtype)
    return np.clip(value, max(limits.min, own.min), min(limits.max, own.max))
