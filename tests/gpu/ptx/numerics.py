"""Types of PTX as numpy arrays, and arithmetic that rounds once where PTX says so."""

from __future__ import annotations

import numpy as np

INTEGERS: dict[str, type] = {
    f"{sign}{8 * size}": np.dtype(f"{'i' if sign == 's' else 'u'}{size}").type
    for sign in "sub"
    for size in (1, 2, 4, 8)
}
FLOATS: dict[str, type] = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
PACKED = {"f16x2": "f16", "bf16x2": "bf16", "s16x2": "s16", "u16x2": "u16"}
RAW: dict[int, type] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIZE = {"pred": 1, "bf16": 2, "tf32": 4, **dict.fromkeys(PACKED, 4)} | {
    name: np.dtype(kind).itemsize for name, kind in (INTEGERS | FLOATS).items()
}


def is_float(kind: str) -> bool:
    """Is a type one of floating point, packed pairs included?"""
    return kind in FLOATS or kind in ("bf16", "tf32", "f16x2", "bf16x2")


def integer_bits(text: str) -> int:
    """The bits of an immediate operand: an integer, or a float written as its bits (0f3F800000) or in decimal."""
    if text[:2] in ("0f", "0F", "0d", "0D"):
        return int(text[2:], 16)
    try:
        return int(text.rstrip("U"), 0)
    except ValueError:
        if text.lstrip("-").isdigit():  # octal as C writes it
            return int(text, 8)
        raise


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits (uint16) to float32 values."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Floats, float64 included, to bfloat16 bits, rounded once, half to even; a NaN becomes 0x7FFF."""
    narrow = to_odd(values) if values.dtype == np.float64 else np.ascontiguousarray(values, np.float32)
    bits = narrow.view(np.uint32).astype(np.uint64)
    rounded = ((bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def to_odd(values: np.ndarray) -> np.ndarray:
    """float64 to float32, an inexact result to the neighbour whose last bit is 1: so that the next rounding sees it."""
    narrow = values.astype(np.float32)
    inexact = np.isfinite(values) & (narrow.astype(np.float64) != values) & ((narrow.view(np.uint32) & 1) == 0)
    toward = np.where(values > narrow, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact, np.nextafter(narrow, toward), narrow)


def sum_to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b of float64, rounded to odd (Boldo and Melquiond, 2008): rounding it again to 24 bits or less is exact."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)  # Knuth's exact error of the sum
    bits = np.ascontiguousarray(total).view(np.uint64)
    inexact = np.isfinite(total) & (error != 0) & ((bits & np.uint64(1)) == 0)
    return np.where(inexact, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of factors with at most 26 bits, as a float64 that one more rounding turns into the right result."""
    return sum_to_odd(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))


def flushed(values: np.ndarray) -> np.ndarray:
    """Subnormal float32 as zero of their sign (``.ftz``)."""
    small = np.abs(values) < np.float32(2.0**-126)
    return np.where(small, np.copysign(np.float32(0), values), values)


def nearest_away_tf32(values: np.ndarray) -> np.ndarray:
    """float32 to tf32, 10 bits of fraction, half away from zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded, bits).astype(np.uint32).view(np.float32)


def to_integer(values: np.ndarray, kind: str, rounding: str) -> np.ndarray:
    """Floats to an integer type, clamped to its range; a NaN is 0, of 64 bits the lowest (PTX ISA, cvt)."""
    rounded = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](values.astype(np.float64))
    limits = np.iinfo(INTEGERS[kind])
    top = float(limits.max) if limits.bits < 64 else np.nextafter(float(limits.max), 0)
    inside = np.where(np.isnan(rounded), 0.0, np.clip(rounded, float(limits.min), top)).astype(INTEGERS[kind])
    inside = np.where(rounded > top, INTEGERS[kind](limits.max), inside)
    if limits.bits == 64:
        inside = np.where(np.isnan(rounded), np.uint64(1 << 63).astype(INTEGERS[kind]), inside)
    return inside
