"""Loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

import numpy as np

from tests.gpu.ptx.block import Block, instruction
from tests.gpu.ptx.numerics import FLOATS, INTEGERS, RAW, SIZE
from tests.gpu.ptx.parsing import Instruction, PtxError

# What says how caches treat an access, and changes nothing here.
_HINTS = {"ca", "cg", "cs", "cv", "lu", "wb", "wt", "nc", "L1::evict_last", "L1::evict_first", "L1::no_allocate"}
_HINTS |= {"L2::64B", "L2::128B", "L2::256B", "L2::cache_hint", "relaxed", "acquire", "release", "acq_rel", "volatile"}
_HINTS |= {"gpu", "cta", "sys", "weak", "noftz", "L1::evict_normal", "L1::evict_unchanged"}
_SPACES = ("global", "shared", "shared::cta", "param", "const", "local")


def _space(block: Block, ins: Instruction, address: np.ndarray, lanes: np.ndarray) -> str:
    """The space of an access; one through a generic address says it by where it points."""
    for part in ins.parts:
        if part in _SPACES:
            return {"shared::cta": "shared", "const": "global"}.get(part, part)
    shared = address[lanes] < 1 << 32
    if shared.any() != shared.all():
        raise PtxError(f"{ins.name}: some lanes in shared memory, some in global memory")
    return "shared" if shared.all() else "global"


def _form(ins: Instruction) -> tuple[int, str]:
    """How many values of which type."""
    for part in ins.parts[1:-1]:
        if part not in _HINTS and part not in _SPACES and part not in ("v2", "v4"):
            raise PtxError(f"unknown instruction {ins.name}")
    return (int(part[1]) if (part := ins.parts[-2])[0] == "v" and part[1:].isdigit() else 1), ins.parts[-1]


def _aligned(address: np.ndarray, size: int, what: str) -> None:
    if (address % size).any():
        raise PtxError(f"{what} of {size} bytes at {int(address[address % size != 0][0]):#x}, which isn't a multiple")


def read(block: Block, what: str, space: str, address: np.ndarray, lanes: np.ndarray, size: int) -> np.ndarray:
    """``size`` bytes at each lane's address [n] -> [n, size]."""
    _aligned(address, size, what)
    if space == "shared":
        block.costs.note_shared(what, address, lanes, size)
        return block.shared.read(address[:, None] + np.arange(size), lanes, what)
    block.costs.note_global(what, address, lanes, size, store=False)
    out = np.empty((len(lanes), size), np.uint8)
    for buffer, index, chosen in block.memory.locate(address.astype(np.uint64), size, what):
        out[chosen] = buffer[index]
    return out


def store(
    block: Block, what: str, space: str, address: np.ndarray, lanes: np.ndarray, data: np.ndarray, count: bool = True
) -> None:
    """Writes ``data`` [n, size] of lanes at their addresses [n]."""
    size = data.shape[1]
    _aligned(address, size, what)
    if space == "shared":
        if count:
            block.costs.note_shared(what, address, lanes, size)
        return block.shared.write(address[:, None] + np.arange(size), data, lanes, what)
    if count:
        block.costs.note_global(what, address, lanes, size, store=True)
    for buffer, index, chosen in block.memory.locate(address.astype(np.uint64), size, what):
        if not buffer.flags.writeable:
            raise PtxError(f"{what}: writes to an array that is read only")
        buffer[index] = data[chosen]


@instruction("ld", "ldu")
def _ld(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    count, kind = _form(ins)
    size = SIZE[kind]
    items = block.items(ins.operands[0])
    if "param" in ins.parts:
        start = int(block.address(ins.operands[1])[np.argmax(mask)])
        raw = block.parameters[start : start + count * size]
        if len(raw) != count * size or start % (count * size):
            raise PtxError(f"{ins.name}: bytes from {start} of parameters of {len(block.parameters)}")
        data = np.broadcast_to(np.frombuffer(raw, np.uint8), (block.threads, count * size))
    else:
        address = block.address(ins.operands[1])
        lanes = np.flatnonzero(mask)
        space = _space(block, ins, address, lanes)
        data = np.zeros((block.threads, count * size), np.uint8)
        data[lanes] = read(block, f"ld.{space}", space, address[lanes], lanes, count * size)
    for at, item in enumerate(items):
        values = np.ascontiguousarray(data[:, at * size : at * size + size]).view(RAW[size]).reshape(-1)
        block.write(item, values.view(INTEGERS[kind]) if kind in INTEGERS else values, _bits(kind), mask)


def _bits(kind: str) -> str:
    return kind if kind in INTEGERS else f"b{8 * SIZE[kind]}"


@instruction("st")
def _st(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    count, kind = _form(ins)
    size, lanes = SIZE[kind], np.flatnonzero(mask)
    columns = [block.bits(item, size)[lanes] for item in block.items(ins.operands[1])]
    if len(columns) != count:
        raise PtxError(f"{ins.name}: {len(columns)} values")
    data = np.ascontiguousarray(np.stack(columns, 1)).view(np.uint8)
    address = block.address(ins.operands[0])
    space = _space(block, ins, address, lanes)
    store(block, f"st.{space}", space, address[lanes], lanes, data)


@instruction("createpolicy", "prefetch", "prefetchu", "applypriority", "discard")
def _hint(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    """Nothing but a hint to caches."""


_ATOMICS = {
    "add": lambda old, a, b: old + a,
    "min": lambda old, a, b: min(old, a),
    "max": lambda old, a, b: max(old, a),
    "and": lambda old, a, b: old & a,
    "or": lambda old, a, b: old | a,
    "xor": lambda old, a, b: old ^ a,
    "exch": lambda old, a, b: a,
    "inc": lambda old, a, b: old.dtype.type(0) if old >= a else old + old.dtype.type(1),
    "dec": lambda old, a, b: a if old == 0 or old > a else old - old.dtype.type(1),
    "cas": lambda old, a, b: b if old == a else old,
}


@instruction("atom", "red")
def _atom(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    """Lane after lane."""
    kind = ins.parts[-1]
    size, lanes = SIZE[kind], np.flatnonzero(mask)
    function = _ATOMICS[next(part for part in ins.parts[1:] if part in _ATOMICS)]
    if kind not in INTEGERS and kind != "f32" or any(part in ("v2", "v4") for part in ins.parts):
        raise PtxError(f"unknown instruction {ins.name}")
    returns = ins.parts[0] == "atom"
    operands = ins.operands[1:] if returns else ins.operands
    address = block.address(operands[0])
    space = _space(block, ins, address, lanes)
    given = [block.value(operand, kind) for operand in operands[1:3]]
    result = np.zeros(block.threads, FLOATS.get(kind) or INTEGERS[kind])
    what = f"{ins.parts[0]}.{space}"
    for lane in lanes:
        one = np.array([lane])
        old = read(block, what, space, address[one], one, size).reshape(-1).view(result.dtype)[0]
        result[lane] = old
        new = np.array([function(old, given[0][lane], given[-1][lane])], result.dtype)
        store(block, what, space, address[one], one, new.view(np.uint8).reshape(1, size), count=False)
        if space == "shared":  # other threads see it without a barrier
            block.shared.owner[address[lane] : address[lane] + size] = 0
    if returns:
        block.write(ins.operands[0], result, kind, mask)


@instruction("cp")
def _cp(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if "commit_group" in ins.parts:
        return block.copies.commit(mask)
    if "wait_group" in ins.parts or "wait_all" in ins.parts:
        return block.copies.wait(mask, block.scalar(ins.operands[0]) if ins.operands else None)
    if ins.parts[:2] != ("cp", "async") or ins.parts[2] not in ("ca", "cg") or "mbarrier" in ins.parts:
        raise PtxError(f"unknown instruction {ins.name}")
    size, lanes = block.scalar(ins.operands[2]), np.flatnonzero(mask)
    if size not in ((16,) if ins.parts[2] == "cg" else (4, 8, 16)):
        raise PtxError(f"{ins.name}: {size} bytes")
    to, source = block.address(ins.operands[0])[lanes], block.address(ins.operands[1])[lanes]
    given = np.full(len(lanes), size)
    if len(ins.operands) > 3 and not ("L2::cache_hint" in ins.parts and len(ins.operands) == 4):
        given = block.bits(ins.operands[3], 4)[lanes].astype(np.int64)
        if (given > size).any():
            raise PtxError(f"{ins.name}: {given.max()} bytes of a source are more than {size}")
    _aligned(to, size, ins.name)
    _aligned(source, size, ins.name)
    data = np.zeros((len(lanes), size), np.uint8)
    for length in np.unique(given[given > 0]):
        chosen = np.flatnonzero(given == length)
        where = source[chosen].astype(np.uint64)
        for buffer, index, some in block.memory.locate(where, int(length), ins.name):
            data[chosen[some], :length] = buffer[index]
    if (reads := given > 0).any():
        block.costs.note_global("cp.async", source[reads], lanes[reads], size, store=False)
    block.costs.note_shared("cp.async", to, lanes, size)
    block.copies.start(lanes, to[:, None] + np.arange(size), data, ins.name)
