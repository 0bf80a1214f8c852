"""Rounding to integers, and int8 codes of rows: the rules of ``csrc/cpu/kernels.h``."""

import triton
import triton.language as tl

_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: a float32 of this size has no bits behind the point
_INFINITE = tl.constexpr(0x7F800000)


@triton.jit
def round_half_even(x):
    """The nearest integer, halves to even, of float32 values below 2^22. Nothing may be fused with the sum."""
    return (x + _MAGIC) - _MAGIC


@triton.jit
def magnitude_bits(x):
    """|x| as an integer of the same order, in which NaN and infinity are above all numbers."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def steps_of(top):
    """From the largest magnitude_bits of a row: whether it is finite, the factor of its codes, and its scale."""
    amax = top.to(tl.float32, bitcast=True)
    finite = top < _INFINITE
    inverse = tl.where(finite & (amax >= 1e-30), tl.div_rn(127.0, amax), 0.0)
    return finite, inverse, tl.where(finite, tl.div_rn(amax, 127.0), float("nan"))


@triton.jit
def codes_of(values, finite, inverse):
    """int8 codes of float32 values."""
    return tl.where(finite, round_half_even(values * inverse), 0.0).to(tl.int8)
