"""Shifts, bit fields, permutations of bytes, look-up tables of three bits, and products of packed bytes."""

from __future__ import annotations

import numpy as np

from tests.gpu.ptx.block import Block, instruction
from tests.gpu.ptx.numerics import INTEGERS, SIZE
from tests.gpu.ptx.parsing import Instruction, PtxError


@instruction("shl", "shr")
def _shl(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind = ins.parts[-1]
    value, width = block.value(ins.operands[1], kind), 8 * SIZE[kind]
    count = block.bits(ins.operands[2], 4)
    inside = np.minimum(count, width - 1).astype(value.dtype)
    shifted = value << inside if ins.parts[0] == "shl" else value >> inside
    if kind[0] != "s" or ins.parts[0] == "shl":
        shifted = np.where(count >= width, value.dtype.type(0), shifted)
    block.write(ins.operands[0], shifted, kind, mask)


@instruction("shf")
def _shf(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    low, high, count = (block.bits(operand, 4).astype(np.uint64) for operand in ins.operands[1:4])
    count = count & np.uint64(31) if "wrap" in ins.parts else np.minimum(count, np.uint64(32))
    both = high << np.uint64(32) | low
    result = both >> count if "r" in ins.parts else (both << count) >> np.uint64(32)
    block.write(ins.operands[0], result.astype(np.uint32), "b32", mask)


@instruction("lop3")
def _lop3(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    a, b, c = (block.bits(operand, 4) for operand in ins.operands[1:4])
    table = block.scalar(ins.operands[4])
    result = np.zeros_like(a)
    for case in range(8):
        if table >> case & 1:
            result = result | (a if case & 4 else ~a) & (b if case & 2 else ~b) & (c if case & 1 else ~c)
    block.write(ins.operands[0], result, "b32", mask)


@instruction("prmt")
def _prmt(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if len(ins.parts) != 2:
        raise PtxError(f"unknown instruction {ins.name}")
    low, high, selector = (block.bits(operand, 4) for operand in ins.operands[1:4])
    both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    result = np.zeros(block.threads, np.uint32)
    for at in range(4):
        choice = (selector >> np.uint32(4 * at)) & np.uint32(15)
        byte = ((both >> (8 * (choice & np.uint32(7))).astype(np.uint64)) & np.uint64(255)).astype(np.uint32)
        byte = np.where(choice & np.uint32(8), (byte >> np.uint32(7)) * np.uint32(255), byte)
        result |= byte << np.uint32(8 * at)
    block.write(ins.operands[0], result, "b32", mask)


@instruction("bfe")
def _bfe(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind = ins.parts[-1]
    width = 8 * SIZE[kind]
    value = block.bits(ins.operands[1], SIZE[kind]).astype(np.uint64)
    start, length = (block.bits(operand, 4).astype(np.uint64) & np.uint64(255) for operand in ins.operands[2:4])
    inside = np.minimum(start, np.uint64(63))
    field = np.where(start >= width, np.uint64(0), value >> inside)
    ones = np.where(length >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(length, np.uint64(63))) - np.uint64(1))
    field = field & ones
    if kind[0] == "s":
        last = np.minimum(start + length - np.uint64(1), np.uint64(width - 1))
        sign = np.where(length == 0, np.uint64(0), (value >> last) & np.uint64(1)).astype(bool)
        filled = np.minimum(length, np.where(start >= width, np.uint64(0), np.uint64(width) - inside))
        above = np.where(filled >= 64, np.uint64(0), ~np.uint64(0) << np.minimum(filled, np.uint64(63)))
        field = np.where(sign, field | above, field)
    block.write(ins.operands[0], field.astype(INTEGERS[f"u{width}"]).view(INTEGERS[kind]), kind, mask)


@instruction("bfi")
def _bfi(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    size = SIZE[ins.parts[-1]]
    source, into = (block.bits(operand, size).astype(np.uint64) for operand in ins.operands[1:3])
    start, length = (block.bits(operand, 4).astype(np.uint64) & np.uint64(255) for operand in ins.operands[3:5])
    length = np.minimum(length, np.uint64(64))
    ones = np.where(length >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(length, np.uint64(63))) - np.uint64(1))
    place = np.where(start >= 8 * size, np.uint64(0), ones << np.minimum(start, np.uint64(63)))
    result = (into & ~place) | ((source << np.minimum(start, np.uint64(63))) & place)
    block.write(ins.operands[0], result.astype(INTEGERS[f"u{8 * size}"]), ins.parts[-1], mask)


@instruction("popc", "clz", "brev", "bfind")
def _popc(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind = ins.parts[-1]
    if kind[0] == "s":
        raise PtxError(f"unknown instruction {ins.name}")
    size = SIZE[kind]
    value = block.bits(ins.operands[1], size)
    bits = np.unpackbits(np.ascontiguousarray(value).view(np.uint8).reshape(-1, size)[:, ::-1], axis=1)  # highest first
    leading = np.where(bits.any(1), bits.argmax(1), 8 * size)
    if ins.parts[0] == "brev":
        reverse = np.packbits(bits[:, ::-1], axis=1)[:, ::-1]
        return block.write(ins.operands[0], np.ascontiguousarray(reverse).view(value.dtype).reshape(-1), kind, mask)
    result = {"popc": bits.sum(1), "clz": leading, "bfind": 8 * size - 1 - leading}[ins.parts[0]]
    block.write(ins.operands[0], result.astype(np.int32), "s32", mask)


@instruction("dp4a")
def _dp4a(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kinds = {"s32": np.int8, "u32": np.uint8}
    a, b = (
        np.ascontiguousarray(block.bits(operand, 4)).view(kinds[kind]).reshape(-1, 4).astype(np.int64)
        for operand, kind in zip(ins.operands[1:3], ins.parts[1:3], strict=True)
    )
    total = block.bits(ins.operands[3], 4).astype(np.int64) + (a * b).sum(1)
    block.write(ins.operands[0], total.astype(np.uint32), "b32", mask)
