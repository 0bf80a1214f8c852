"""Integer and floating-point arithmetic. Floating results are rounded once, to the nearest; others stop the run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.gpu.ptx.block import Block, instruction
from tests.gpu.ptx.numerics import (
    FLOATS,
    INTEGERS,
    PACKED,
    SIZE,
    flushed,
    from_bf16,
    fused,
    is_float,
    sum_to_odd,
    to_bf16,
)
from tests.gpu.ptx.parsing import Instruction, PtxError

Function = Callable[..., np.ndarray]
_ROUNDINGS = {"rz", "rm", "rp", "rna"}


def _known(ins: Instruction, *allowed: str) -> None:
    """Stops at a modifier that the handler would overlook; those of rounding to nearest are always allowed."""
    for part in ins.parts[1:]:
        if part not in allowed and part not in SIZE and part not in ("rn", "ftz", "lo"):
            raise PtxError(f"unknown instruction {ins.name}")


def _finish(ins: Instruction, result: np.ndarray, kind: str) -> np.ndarray:
    """The end of a floating-point instruction: saturation, and flushing of subnormal results."""
    if "sat" in ins.parts:
        result = np.where(np.isnan(result), 0, np.clip(result, 0, 1))
    if "relu" in ins.parts:
        result = np.where(np.isnan(result), result, np.maximum(result, 0))
    if kind == "f32":
        result = result.astype(np.float32)
        result = flushed(result) if "ftz" in ins.parts else result
    return result


def _inputs(block: Block, ins: Instruction, kind: str) -> list[np.ndarray]:
    found = [block.value(operand, kind) for operand in ins.operands[1:]]
    return [flushed(values) for values in found] if kind == "f32" and "ftz" in ins.parts else found


def _halves(bits: np.ndarray, kind: str) -> list[np.ndarray]:
    parts = [np.ascontiguousarray((bits >> np.uint32(shift)).astype(np.uint16)) for shift in (0, 16)]
    return [from_bf16(part) if kind == "bf16" else part.view(FLOATS.get(kind) or INTEGERS[kind]) for part in parts]


def _join(low: np.ndarray, high: np.ndarray, kind: str) -> np.ndarray:
    def bits(values: np.ndarray) -> np.ndarray:
        if kind == "bf16":
            return to_bf16(values)
        return np.ascontiguousarray(values, FLOATS.get(kind) or INTEGERS[kind]).view(np.uint16)

    return bits(low).astype(np.uint32) | bits(high).astype(np.uint32) << np.uint32(16)


def _apply(block: Block, ins: Instruction, mask: np.ndarray, function: Function) -> None:
    """One value a thread, or a packed pair."""
    kind = ins.parts[-1]
    if kind in PACKED:
        half = PACKED[kind]
        inputs = [_halves(block.bits(operand, 4), half) for operand in ins.operands[1:]]
        low, high = (_finish(ins, function(*(pair[i] for pair in inputs)), half) for i in (0, 1))
        return block.write(ins.operands[0], _join(low, high, half), "b32", mask)
    result = function(*_inputs(block, ins, kind))
    block.write(ins.operands[0], _finish(ins, result, kind) if is_float(kind) else result, kind, mask)


def _exactly(function: Function, kind: str) -> Function:
    """Sums and products of 16-bit floats in float64, so that the store rounds them, and nothing before."""
    if kind in ("f32", "f64"):
        return function

    def wide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if function is np.multiply:
            return a.astype(np.float64) * b.astype(np.float64)
        return sum_to_odd(a.astype(np.float64), b.astype(np.float64) * (1 if function is np.add else -1))

    return wide


@instruction("add", "sub")
def _add(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    function = np.add if ins.parts[0] == "add" else np.subtract
    kind = ins.parts[-1]
    if is_float(kind):
        _known(ins, "sat")
        return _apply(block, ins, mask, _exactly(function, kind))
    _known(ins, *(["sat"] if kind == "s32" else []))
    if "sat" in ins.parts:
        wide = function(*(values.astype(np.int64) for values in _inputs(block, ins, kind)))
        return block.write(ins.operands[0], np.clip(wide, -(2**31), 2**31 - 1), kind, mask)
    _apply(block, ins, mask, function)


def _product(block: Block, ins: Instruction, kind: str) -> tuple[np.ndarray, str]:
    """The product that ``.lo``, ``.hi`` or ``.wide`` names, and its type."""
    a, b = (block.value(operand, kind) for operand in ins.operands[1:3])
    if "wide" in ins.parts:
        wide = f"{kind[0]}{16 * SIZE[kind]}"
        return a.astype(INTEGERS[wide]) * b.astype(INTEGERS[wide]), wide
    if "hi" in ins.parts:
        if SIZE[kind] == 8:
            exact = [(int(x) * int(y) >> 64) & (2**64 - 1) for x, y in zip(a, b, strict=True)]
            return np.array(exact, np.uint64).view(INTEGERS[kind]), kind
        wide_type = INTEGERS[f"{kind[0]}64"]
        return (a.astype(wide_type) * b.astype(wide_type) >> wide_type(8 * SIZE[kind])).astype(INTEGERS[kind]), kind
    return a * b, kind


@instruction("mul", "mad")
def _mul(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind = ins.parts[-1]
    if is_float(kind):
        if ins.parts[0] == "mad":
            return _fma(block, ins, mask)
        _known(ins, "sat")
        return _apply(block, ins, mask, _exactly(np.multiply, kind))
    _known(ins, "wide", "hi")
    result, of = _product(block, ins, kind)
    if ins.parts[0] == "mad":
        result = result + block.value(ins.operands[3], of)
    block.write(ins.operands[0], result, of, mask)


@instruction("fma")
def _fma(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _known(ins, "sat", "relu")
    if ins.parts[-1] == "f64":
        raise PtxError(f"unknown instruction {ins.name}")
    _apply(block, ins, mask, fused)


@instruction("div")
def _div(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    """``.full`` and ``.approx`` may be two units in the last place off, and are, as approximations are."""
    kind = ins.parts[-1]
    _known(ins, "full", "approx")
    if "full" in ins.parts or "approx" in ins.parts:

        def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return _astray(a.astype(np.float64) / b.astype(np.float64), 2.0**-22, b)

        return _apply(block, ins, mask, near)
    if is_float(kind):
        return _apply(block, ins, mask, np.divide)
    a, b = _inputs(block, ins, kind)
    quotient = np.where(b == 0, -1, a // np.where(b == 0, 1, b)).astype(a.dtype)
    if kind[0] == "s":  # towards zero
        quotient = quotient + ((b != 0) & (quotient < 0) & (quotient * b != a)).astype(a.dtype)
    block.write(ins.operands[0], quotient, kind, mask)


@instruction("rem")
def _rem(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    a, b = _inputs(block, ins, ins.parts[-1])
    block.write(ins.operands[0], np.where(b == 0, a, np.fmod(a, np.where(b == 0, 1, b))), ins.parts[-1], mask)


def _extreme(least: bool, nan: bool) -> Function:
    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind != "f":
            return np.minimum(a, b) if least else np.maximum(a, b)
        chosen = (np.minimum if least else np.maximum) if nan else (np.fmin if least else np.fmax)
        sign = (np.signbit(a) | np.signbit(b)) if least else (np.signbit(a) & np.signbit(b))
        zeros = np.where(sign, a.dtype.type(-0.0), a.dtype.type(0.0))  # -0 is less than +0
        return np.where((a == 0) & (b == 0), zeros, chosen(a, b))

    return function


@instruction("min", "max")
def _min(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _known(ins, "NaN")
    function = _extreme(ins.parts[0] == "min", "NaN" in ins.parts)
    if len(ins.operands) == 4:
        _apply(block, ins, mask, lambda a, b, c: function(function(a, b), c))
    else:
        _apply(block, ins, mask, function)


@instruction("abs", "neg")
def _abs(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _known(ins)
    _apply(block, ins, mask, np.abs if ins.parts[0] == "abs" else np.negative)


@instruction("copysign")
def _copysign(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _apply(block, ins, mask, lambda sign, size: np.copysign(size, sign))


# Approximations, and how far the ISA lets them be off, relatively. Hardware gives a value inside; here it is one near
# the edge, above or below by the bits of the input, so that no test can rely on a result that is rounded right.
_APPROXIMATE: dict[str, tuple[Function, float]] = {
    "ex2": (np.exp2, 2.0**-22),
    "lg2": (np.log2, 2.0**-22),
    "rcp": (lambda x: 1 / x, 2.0**-23),
    "sqrt": (np.sqrt, 2.0**-23),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2.0**-22.9),
    "sin": (np.sin, 2.0**-20.9),
    "cos": (np.cos, 2.0**-20.9),
    "tanh": (np.tanh, 2.0**-11),
}


def _astray(exact: np.ndarray, error: float, given: np.ndarray) -> np.ndarray:
    """A float64 result, off by as much as is allowed; an exact power of two and what is no number stay."""
    bits = np.ascontiguousarray(given.astype(np.float32)).view(np.uint32)
    sign = np.where((bits ^ (bits >> np.uint32(7)) ^ (bits >> np.uint32(15))) & np.uint32(1), 1.0, -1.0)
    off = exact * (1 + sign * (error - 2.0**-24))  # the rounding to float32 comes on top
    return np.where(np.isfinite(exact) & (np.frexp(exact)[0] != 0.5), off, exact)


@instruction(*_APPROXIMATE)
def _approximate(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    _known(ins, "approx")
    function, error = _APPROXIMATE[ins.parts[0]]
    if "approx" not in ins.parts:
        return _apply(block, ins, mask, lambda x: function(x.astype(np.float64)))
    _apply(block, ins, mask, lambda x: _astray(function(x.astype(np.float64)), error, x))


@instruction("and", "or", "xor")
def _and(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[ins.parts[0]]
    _apply(block, ins, mask, function)


@instruction("not", "cnot")
def _not(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    if ins.parts[0] == "cnot":
        return _apply(block, ins, mask, lambda a: (a == 0).astype(a.dtype))
    _apply(block, ins, mask, np.invert)


_COMPARE = {
    **{
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    },
    **{"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},
}


@instruction("setp")
def _setp(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind, how = ins.parts[-1], ins.parts[1]
    if kind in PACKED:
        raise PtxError(f"unknown instruction {ins.name}")
    a, b = (block.value(operand, kind) for operand in ins.operands[1:3])
    if kind == "f32" and "ftz" in ins.parts:
        a, b = flushed(a), flushed(b)
    if is_float(kind):
        unordered = np.isnan(a) | np.isnan(b)
        if how in ("nan", "num"):
            result = unordered if how == "nan" else ~unordered
        elif how in _COMPARE:
            result = _COMPARE[how](a, b) & ~unordered
        else:
            result = _COMPARE[how[:-1]](a, b) | unordered
    else:
        result = _COMPARE[how](a, b)
    destination, _, opposite = str(ins.operands[0]).partition("|")
    operator = next((part for part in ins.parts[2:-1] if part in ("and", "or", "xor")), None)
    other = ~result
    if operator:
        function = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[operator]
        extra = block.predicate(ins.operands[3])
        result, other = function(result, extra), function(other, extra)
    block.write(destination, result, "pred", mask)
    if opposite:
        block.write(opposite, other, "pred", mask)


@instruction("selp")
def _selp(block: Block, ins: Instruction, mask: np.ndarray) -> None:
    kind = ins.parts[-1]
    bits = f"b{8 * SIZE[kind]}"
    chosen = block.predicate(ins.operands[3])
    first, second = (block.bits(operand, SIZE[kind]) for operand in ins.operands[1:3])
    block.write(ins.operands[0], np.where(chosen, first, second), bits, mask)
