"""Activation functions in Triton, with the polynomials of ``csrc/cpu/simd/math.h``, so that bits are those of the CPU.

Launches that use them must have ``enable_fp_fusion=False``: each operation is rounded, but for those that say fma.
"""

import triton
import triton.language as tl

from kdnative.ops.backends.triton.rounding import round_half_even


def _constants(*hexadecimal: str) -> tl.constexpr:
    return tl.constexpr(tuple(float.fromhex(each) for each in hexadecimal))


_GELU_ERF = _constants(
    "0x1.166cf4p-3",
    "-0x1.157a62p-4",
    "0x1.99cd06p-5",
    "-0x1.471ae6p-5",
    "0x1.060fcep-5",
    "-0x1.95126ap-6",
    "0x1.262bd6p-6",
    "-0x1.99c492p-7",
    "0x1.187e38p-7",
    "-0x1.39dab6p-8",
    "0x1.d7e42ep-10",
    "-0x1.40352ap-10",
    "0x1.4c8856p-10",
    "-0x1.f8a7b2p-12",
)
_GELU_TANH = _constants(
    "0x1.218b0cp-3",
    "-0x1.203804p-4",
    "0x1.a7313cp-5",
    "-0x1.4c1952p-5",
    "0x1.009534p-5",
    "-0x1.79492ep-6",
    "0x1.08bdf8p-6",
    "-0x1.566dc6p-7",
    "0x1.6b4f6p-8",
    "-0x1.8e8f2cp-9",
    "0x1.736952p-9",
    "-0x1.0c66d8p-9",
    "0x1.2e7122p-11",
)
_EXP = _constants("1.0", "1.0", "0x1.fffffcp-2", "0x1.555490p-3", "0x1.5558f4p-5", "0x1.123a6cp-7", "0x1.6a2352p-10")
_TANH_ABOVE = _constants(
    "0x1.fffffep-1", "0x1.0892a6p-3", "0x1.7ebdaep-9", "0x1.36c160p-17", "-0x1.b67fcap-27", "0x1.4053f8p-36"
)
_TANH_BELOW = _constants("1.0", "0x1.d99e86p-2", "0x1.854a44p-6", "0x1.de29f0p-13")
_LOG2_E, _LN2_HIGH, _LN2_LOW = (
    tl.constexpr(float.fromhex(each)) for each in ("0x1.715476p+0", "-0x1.62e4p-1", "-0x1.7f7d1cp-20")
)
_ERF_LIMIT, _ERF_SHRINK = tl.constexpr(float.fromhex("0x1.b0a3d8p+4")), tl.constexpr(float.fromhex("0x1.2ef566p-4"))
_TANH_LIMIT, _TANH_SHRINK = tl.constexpr(25.0), tl.constexpr(float.fromhex("0x1.47ae14p-4"))


@triton.jit
def _polynomial(x, SERIES: tl.constexpr):
    """Horner's rule, lowest coefficient first."""
    total = tl.full(x.shape, SERIES[len(SERIES) - 1], tl.float32)
    for i in tl.static_range(len(SERIES) - 1):
        total = tl.fma(total, x, tl.full(x.shape, SERIES[len(SERIES) - 2 - i], tl.float32))
    return total


@triton.jit
def _exp(x):
    """e^x; below -87.33 it is 0, above 88.72 infinity."""
    clamped = tl.where(x < -87.33, -87.33, tl.where(x > 88.72, 88.72, x))
    n = round_half_even(clamped * _LOG2_E)
    r = tl.fma(n, tl.full(x.shape, _LN2_HIGH, tl.float32), clamped)
    r = tl.fma(n, tl.full(x.shape, _LN2_LOW, tl.float32), r)
    y = _polynomial(r, _EXP)
    y = (y.to(tl.int32, bitcast=True) + (n.to(tl.int32) << 23)).to(tl.float32, bitcast=True)
    y = tl.where(x < -87.33, 0.0, y)
    return tl.where(x > 88.72, float("inf"), tl.where(x == x, y, x))


@triton.jit
def _tanh(x):
    t = x * x
    y = tl.div_rn(x * _polynomial(t, _TANH_ABOVE), _polynomial(t, _TANH_BELOW))
    y = tl.where(y > 1.0, 1.0, tl.where(y < -1.0, -1.0, y))
    return tl.where(x > 9.01, 1.0, tl.where(x < -9.01, -1.0, y))


@triton.jit
def _gelu(x, SERIES: tl.constexpr, LIMIT: tl.constexpr, SHRINK: tl.constexpr):
    square = x * x
    square = tl.where(square > LIMIT, LIMIT, square)
    u = tl.fma(square, tl.full(x.shape, SHRINK, tl.float32), tl.full(x.shape, -1.0, tl.float32))
    bounded = x * _polynomial(u, SERIES)
    bounded = tl.where(bounded > 0.5, 0.5, tl.where(bounded < -0.5, -0.5, bounded))
    return x * (0.5 + bounded)


@triton.jit
def activate(y, CODE: tl.constexpr):
    """The activation of a code of :data:`kdnative.ops.ACTIVATIONS` of float32 values; NaN stays NaN."""
    if CODE == 1:
        y = tl.where(y < 0.0, 0.0, y)
    elif CODE == 2:
        y = _gelu(y, _GELU_ERF, _ERF_LIMIT, _ERF_SHRINK)
    elif CODE == 3:
        y = _gelu(y, _GELU_TANH, _TANH_LIMIT, _TANH_SHRINK)
    elif CODE == 4:
        y = tl.div_rn(y, 1.0 + _exp(0.0 - y))
    elif CODE == 5:
        y = _tanh(y)
    return y
