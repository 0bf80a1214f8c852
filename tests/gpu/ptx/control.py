"""Branches, barriers and what lanes of a warp tell each other."""

from __future__ import annotations

import numpy as np

from tests.gpu.ptx.block import WARP, Block, instruction
from tests.gpu.ptx.parsing import Instruction, PtxError


@instruction("bra")
def _bra(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    block.jump(mask, ins.operands[0])


@instruction("ret", "exit")
def _ret(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    block.end(mask)


@instruction("trap", "brkpt")
def _trap(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    raise PtxError("the kernel stops itself")


@instruction("bar", "barrier")
def _bar(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if "warp" in ins.parts:
        _named_lanes(block, ins, mask, ins.operands[0])
        block.shared.synchronize_warps(mask)
    elif "sync" in ins.parts and "cluster" not in ins.parts:
        count = block.scalar(ins.operands[1]) if len(ins.operands) > 1 else None
        block.wait(mask, block.scalar(ins.operands[0]) if ins.operands else 0, count)
    else:
        raise PtxError(f"unknown instruction {ins.name}")


@instruction("membar", "fence", "griddepcontrol", "nop")
def _fence(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    """Memory is in order here, and blocks run one after the other."""


def _named_lanes(block: Block, ins: Instruction, mask: np.ndarray, operand) -> None:
    """Lanes that a member mask names have to be together, unless they have ended."""
    members = block.bits(operand, 4)
    named = (members >> (block.lane % WARP).astype(np.uint32)) & np.uint32(1)
    if (named[mask] == 0).any():
        raise PtxError(f"{ins.name}: a lane that its member mask leaves out")
    for warp in np.flatnonzero(mask.reshape(-1, WARP).any(1)):
        lanes = slice(warp * WARP, warp * WARP + WARP)
        wanted = np.uint32(members[lanes][mask[lanes]][0])
        expected = ((wanted >> np.arange(WARP, dtype=np.uint32)) & 1).astype(bool) & block.live[lanes]
        if (expected & ~mask[lanes]).any():
            raise PtxError(f"{ins.name}: lanes of warp {warp} are apart")


@instruction("shfl")
def _shfl(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _named_lanes(block, ins, mask, ins.operands[4])
    mode = ins.parts[2]
    value = block.bits(ins.operands[1], 4).reshape(-1, WARP)
    given = block.bits(ins.operands[2], 4).reshape(-1, WARP).astype(np.int64) & 31
    bounds = block.bits(ins.operands[3], 4).reshape(-1, WARP).astype(np.int64)
    lane = np.arange(WARP)
    segment, clamp = (bounds >> 8) & 31, bounds & 31
    least = lane & segment
    most = least | (clamp & ~segment)
    source = {
        "bfly": lane ^ given,
        "idx": least | (given & ~segment),
        "down": lane + given,
        "up": lane - given,
    }[mode]
    inside = source >= most if mode == "up" else source <= most
    source = np.where(inside, source, lane)
    together = mask.reshape(-1, WARP)
    if (~np.take_along_axis(together, source, 1) & together).any():
        raise PtxError(f"{ins.name}: reads a lane that doesn't take part")
    destination, _, valid = str(ins.operands[0]).partition("|")
    block.write(destination, np.take_along_axis(value, source, 1).reshape(-1), "b32", mask)
    if valid:
        block.write(valid, inside.reshape(-1), "pred", mask)


@instruction("vote")
def _vote(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _named_lanes(block, ins, mask, ins.operands[2])
    said = (block.predicate(ins.operands[1]) & mask).reshape(-1, WARP)
    voters = mask.reshape(-1, WARP)
    mode = next(part for part in ins.parts if part in ("all", "any", "uni", "ballot"))
    if mode == "ballot":
        bits = (said.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(1).astype(np.uint32)
        return block.write(ins.operands[0], np.repeat(bits, WARP), "b32", mask)
    every, some = (said | ~voters).all(1), said.any(1)
    result = {"all": every, "any": some, "uni": every | ~some}[mode]
    block.write(ins.operands[0], np.repeat(result, WARP), "pred", mask)


@instruction("activemask")
def _activemask(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    bits = (mask.reshape(-1, WARP).astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(1).astype(np.uint32)
    block.write(ins.operands[0], np.repeat(bits, WARP), "b32", mask)


@instruction("redux")
def _redux(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _named_lanes(block, ins, mask, ins.operands[2])
    kind = ins.parts[-1]
    function = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[ins.parts[2]]
    value = block.value(ins.operands[1], kind)
    result = value.copy()
    for warp in np.flatnonzero(mask.reshape(-1, WARP).any(1)):
        lanes = slice(warp * WARP, warp * WARP + WARP)
        result[lanes] = function.reduce(value[lanes][mask[lanes]])
    block.write(ins.operands[0], result, kind, mask)


@instruction("elect")
def _elect(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _named_lanes(block, ins, mask, ins.operands[1])
    first = np.repeat(mask.reshape(-1, WARP).argmax(1), WARP)
    destination, _, chosen = str(ins.operands[0]).partition("|")
    block.write(destination, first.astype(np.uint32), "b32", mask)
    if chosen:
        block.write(chosen, block.lane % WARP == first, "pred", mask)
