"""The interpreter's arithmetic against exact fractions, Python's integers and torch's conversions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.gpu import ptx
from tests.gpu.snippets import apply

RNG = np.random.default_rng(3)
WORDS = np.array([0, 1, 2, 31, 32, 33, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF, 0x01020380], np.uint32)
# What is hard to round: subnormals, ties, values that cancel, and those that are no numbers.
FLOATS = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        2.5,
        -0.5,
        1e-45,
        -3e-39,
        1.1754944e-38,
        3.4e38,
        np.inf,
        -np.inf,
        np.nan,
        127.5,
        1 + 2**-23,
    ],
    np.float32,
)


def pairs(values):
    """All pairs of values, and some at random between."""
    a, b = (grid.ravel() for grid in np.meshgrid(values, values))
    return a.copy(), b.copy()


def rounded(value: Fraction, kind: str) -> float:
    """The nearest number of a type, half to even, worked out with integers."""
    bits, least = {"f32": (24, -149), "f16": (11, -24), "bf16": (8, -133)}[kind]
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - bits + 1, least)
    return float(round(value / unit) * unit)  # Python rounds a fraction half to even


def bits16(values, kind):
    tensor = torch.tensor(values, dtype=torch.float64).to(torch.bfloat16 if kind == "bf16" else torch.float16)
    return tensor.view(torch.int16).numpy().view(np.uint16)


def values16(bits, kind):
    tensor = torch.from_numpy(np.ascontiguousarray(bits).view(np.int16))
    return tensor.view(torch.bfloat16 if kind == "bf16" else torch.float16).double().numpy()


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_float32(name):
    a, b = pairs(FLOATS)
    got = apply(f"{name}.rn.f32 {{d}}, {{0}}, {{1}}", [("f32", a), ("f32", b)], "f32")
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    expected = {"add": x + y, "sub": x - y, "mul": x * y, "div": x / y}[name].numpy()
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got)[~np.isnan(got)], np.signbit(expected)[~np.isnan(expected)])


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_fma_rounds_once(kind):
    a, b, c = RNG.standard_normal((3, 400))
    c[:200] = -a[:200] * b[:200] * (1 + RNG.standard_normal(200) * 1e-6)  # almost all of it cancels
    c[200:300] *= 2.0**-20
    if kind == "f32":
        inputs = [values.astype(np.float32) for values in (a, b, c)]
        exact = inputs
    else:
        inputs = [bits16(values, kind) for values in (a, b, c)]
        exact = [values16(values, kind) for values in inputs]
    got = apply(f"fma.rn.{kind} {{d}}, {{0}}, {{1}}, {{2}}", [(kind, values) for values in inputs], kind)
    got = values16(got.view(np.uint16), kind) if kind != "f32" else got
    expected = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), kind)
        for x, y, z in zip(*exact, strict=True)
    ]
    np.testing.assert_array_equal(got, np.array(expected))


def test_fma_of_a_tie_that_float64_would_break():
    """1 + 2^-23 and a little less than half a unit: rounded to 53 bits first, it is half, and goes up to even."""
    a, b, c = (np.array([x], np.float32) for x in (2.0**-24 * (1 + 2.0**-23), 1 - 2.0**-23, 1 + 2.0**-23))
    got = apply("fma.rn.f32 {d}, {0}, {1}, {2}", [("f32", a), ("f32", b), ("f32", c)], "f32")
    assert np.float32(a[0].astype(np.float64) * b[0] + c[0]) == np.float32(1 + 2.0**-22)
    assert got[0] == c[0]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_packed_pairs(name, kind):
    a, b = (bits16(RNG.standard_normal(64) * 2.0 ** RNG.integers(-8, 8, 64), kind) for _ in range(2))
    packed = [values.view(np.uint32) for values in (a, b)]
    got = apply(f"{name}.rn.{kind}x2 {{d}}, {{0}}, {{1}}", [("b32", packed[0]), ("b32", packed[1])], "b32").view(
        np.uint16
    )
    x, y = (values16(values, kind) for values in (a, b))
    exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    np.testing.assert_array_equal(got, bits16(exact(x, y), kind))


def test_flush_to_zero():
    a = np.array([1e-40, -1e-40, 2.0**-126, 2.0**-100], np.float32)
    b = np.array([1.0, 1.0, 0.5, 2.0**-40], np.float32)
    got = apply("mul.ftz.f32 {d}, {0}, {1}", [("f32", a), ("f32", b)], "f32")
    np.testing.assert_array_equal(got, np.zeros(4, np.float32))
    assert list(np.signbit(got)) == [False, True, False, False]
    assert (apply("mul.f32 {d}, {0}, {1}", [("f32", a), ("f32", b)], "f32") != 0).all()


def test_extremes_of_nan_and_zeros():
    a = np.array([np.nan, 1, 0.0, -0.0, 2], np.float32)
    b = np.array([1, np.nan, -0.0, 0.0, 3], np.float32)
    most = apply("max.f32 {d}, {0}, {1}", [("f32", a), ("f32", b)], "f32")
    np.testing.assert_array_equal(most, [1, 1, 0, 0, 3])
    assert not np.signbit(most).any()
    least = apply("min.f32 {d}, {0}, {1}", [("f32", a), ("f32", b)], "f32")
    assert list(np.signbit(least)) == [False, False, True, True, False]
    np.testing.assert_array_equal(
        apply("max.NaN.f32 {d}, {0}, {1}", [("f32", a), ("f32", b)], "f32"),
        np.array([np.nan, np.nan, 0, 0, 3], np.float32),
    )


@pytest.mark.parametrize(
    "name, reference, bound",
    [
        ("ex2", np.exp2, 2.0**-22),
        ("rsqrt", lambda x: x**-0.5, 2.0**-22.9),
        ("rcp", lambda x: 1 / x, 2.0**-23),
        ("sqrt", np.sqrt, 2.0**-23),
        ("tanh", np.tanh, 2.0**-11),
    ],
)
def test_approximations_use_their_bounds(name, reference, bound):
    """No more than the ISA allows, and not the nearest number: on hardware they aren't either."""
    x = np.abs(RNG.standard_normal(300).astype(np.float32)) + np.float32(0.01)
    got = apply(f"{name}.approx.f32 {{d}}, {{0}}", [("f32", x)], "f32").astype(np.float64)
    off = np.abs(got / reference(x.astype(np.float64)) - 1)
    assert off.max() <= bound * (1 + 2.0**-20) and np.median(off) > bound / 4
    assert 60 < (got > reference(x.astype(np.float64))).sum() < 240
    one = apply(f"{name}.approx.f32 {{d}}, {{0}}", [("f32", np.zeros(1, np.float32))], "f32")[0]
    assert one == {"ex2": 1, "rsqrt": np.inf, "rcp": np.inf, "sqrt": 0, "tanh": 0}[name]


def test_divisions_that_are_not_rounded():
    a, b = RNG.standard_normal((2, 300)).astype(np.float32)
    exact = a.astype(np.float64) / b
    for name in ("div.full.f32", "div.approx.f32"):
        off = np.abs(apply(f"{name} {{d}}, {{0}}, {{1}}", [("f32", a), ("f32", b)], "f32") / exact - 1)
        assert 2.0**-24 < off.max() <= 2.0**-22


@pytest.mark.parametrize("kind", ["s32", "u32", "s16", "u16", "s64", "u64"])
@pytest.mark.parametrize(
    "name", ["add", "sub", "mul.lo", "mul.hi", "mul.wide", "min", "max", "div", "rem", "shl", "shr", "and", "or", "xor"]
)
def test_integers(name, kind):
    size = int(kind[1:]) // 8
    if name == "mul.wide" and size == 8:
        return  # there is no such instruction
    kind_of = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{size}")
    info = np.iinfo(kind_of)
    a, b = pairs(np.array([0, 1, 2, 3, 7, 63, info.max, info.min, info.min + 1, info.max // 3], kind_of))
    if name in ("div", "rem"):
        a, b = a[b != 0], b[b != 0]
    output, width = (f"{kind[0]}{16 * size}", 16 * size) if name == "mul.wide" else (kind, 8 * size)
    logical = name in ("and", "or", "xor", "shl")
    second = ("u32", (b & 127).astype(np.uint32)) if name in ("shl", "shr") else (kind, b)
    written = f"{name}.{'b' + kind[1:] if logical else kind} {{d}}, {{0}}, {{1}}"
    got = apply(written, [(kind, a), second], output)
    bits = 8 * size
    expected = []
    for x, y in zip(a.tolist(), second[1].tolist(), strict=True):
        quotient = 0 if name not in ("div", "rem") else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        exact = {
            "add": lambda x, y: x + y,
            "sub": lambda x, y: x - y,
            "mul.lo": lambda x, y: x * y,
            "mul.hi": lambda x, y: x * y >> bits,
            "mul.wide": lambda x, y: x * y,
            "min": min,
            "max": max,
            "div": lambda x, y, q=quotient: q,
            "rem": lambda x, y, q=quotient: x - q * y,
            "shl": lambda x, y: x << y,
            "shr": lambda x, y: x >> y,
            "and": lambda x, y: x & y,
            "or": lambda x, y: x | y,
            "xor": lambda x, y: x ^ y,
        }[name](x, y) % (1 << width)
        expected.append(exact - (1 << width) if output[0] == "s" and exact >> (width - 1) else exact)
    np.testing.assert_array_equal(got, np.array(expected, got.dtype))


def test_mad_wide_and_saturating_add():
    a, b = pairs(WORDS.view(np.int32))
    c = RNG.integers(-(2**62), 2**62, len(a))
    got = apply("mad.wide.s32 {d}, {0}, {1}, {2}", [("s32", a), ("s32", b), ("s64", c)], "s64")
    expected = [(int(x) * int(y) + int(z) + 2**63) % 2**64 - 2**63 for x, y, z in zip(a, b, c, strict=True)]
    np.testing.assert_array_equal(got, expected)
    got = apply("add.sat.s32 {d}, {0}, {1}", [("s32", a), ("s32", b)], "s32")
    np.testing.assert_array_equal(got, np.clip(a.astype(np.int64) + b, -(2**31), 2**31 - 1))


@pytest.mark.parametrize("table", [0xEA, 0x6A, 0x96, 0x01, 0xC0])
def test_lop3(table):
    a, b = pairs(WORDS)
    c = np.roll(a, 5)
    got = apply(f"lop3.b32 {{d}}, {{0}}, {{1}}, {{2}}, {table:#x}", [("b32", a), ("b32", b), ("b32", c)], "b32")
    for bit in range(32):
        case = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)
        np.testing.assert_array_equal(got >> bit & 1, table >> case & 1)


def test_prmt_with_signs():
    a, b = pairs(WORDS)
    selector = RNG.integers(0, 1 << 16, len(a), np.uint32)
    got = apply("prmt.b32 {d}, {0}, {1}, {2}", [("b32", a), ("b32", b), ("b32", selector)], "b32")
    for x, y, s, r in zip(a.tolist(), b.tolist(), selector.tolist(), got.tolist(), strict=True):
        data = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        chosen = [(s >> 4 * i) & 15 for i in range(4)]
        expected = [255 * (data[n & 7] >> 7) if n & 8 else data[n & 7] for n in chosen]
        assert r == int.from_bytes(bytes(expected), "little")


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_fields(kind):
    a = RNG.integers(0, 2**32, 300, np.uint32)
    start, length = (RNG.integers(0, 36, 300).astype(np.uint32) for _ in range(2))
    got = apply(f"bfe.{kind} {{d}}, {{0}}, {{1}}, {{2}}", [(kind, a), ("u32", start), ("u32", length)], "u32")
    into = RNG.integers(0, 2**32, 300, np.uint32)
    put = apply("bfi.b32 {d}, {0}, {1}, {2}, {3}", [("b32", a), ("b32", into), ("u32", start), ("u32", length)], "b32")
    for x, y, p, n, r, s in zip(*(v.tolist() for v in (a, into, start, length, got, put)), strict=True):
        signed = x - (1 << 32) if kind == "s32" and x >> 31 else x
        sign = (x >> min(p + n - 1, 31)) & 1 if kind == "s32" and n else 0
        bits = [(x >> (p + i)) & 1 if p + i <= 31 else sign for i in range(n)]
        value = sum(bit << i for i, bit in enumerate(bits[:32])) | (sign * (~((1 << n) - 1)))
        assert r == value % 2**32, (hex(x), signed, p, n)
        mask = ((1 << n) - 1) << p & 0xFFFFFFFF
        assert s == (y & ~mask) | ((x << p) & mask)


def test_funnel_shift_and_counts():
    a, b = pairs(WORDS)
    n = RNG.integers(0, 40, len(a)).astype(np.uint32)
    inputs = [("b32", a), ("b32", b), ("u32", n)]
    both = [int(y) << 32 | int(x) for x, y in zip(a, b, strict=True)]
    right = apply("shf.r.wrap.b32 {d}, {0}, {1}, {2}", inputs, "b32")
    left = apply("shf.l.wrap.b32 {d}, {0}, {1}, {2}", inputs, "b32")
    for value, count, r, left_one in zip(both, n.tolist(), right.tolist(), left.tolist(), strict=True):
        assert r == value >> count % 32 & 0xFFFFFFFF
        assert left_one == value << count % 32 >> 32 & 0xFFFFFFFF
    assert apply("popc.b32 {d}, {0}", [("b32", WORDS)], "u32").tolist() == [int(w).bit_count() for w in WORDS]
    assert apply("clz.b32 {d}, {0}", [("b32", WORDS)], "u32").tolist() == [32 - int(w).bit_length() for w in WORDS]
    assert apply("brev.b32 {d}, {0}", [("b32", WORDS)], "u32").tolist() == [int(f"{w:032b}"[::-1], 2) for w in WORDS]


def test_dp4a_and_pack():
    a, b = (RNG.integers(-128, 128, (50, 4), np.int8) for _ in range(2))
    c = RNG.integers(-(2**31), 2**31, 50).astype(np.int32)
    got = apply(
        "dp4a.s32.s32 {d}, {0}, {1}, {2}",
        [("b32", a.view(np.uint32)[:, 0]), ("b32", b.view(np.uint32)[:, 0]), ("s32", c)],
        "s32",
    )
    np.testing.assert_array_equal(got, (c + (a.astype(np.int64) * b).sum(1)).astype(np.int32))
    x, y = (RNG.integers(-300, 300, 50).astype(np.int32) for _ in range(2))
    got = apply(
        "cvt.pack.sat.s8.s32.b32 {d}, {0}, {1}, {2}", [("s32", x), ("s32", y), ("b32", c.view(np.uint32))], "b32"
    )
    expected = np.stack([np.clip(y, -128, 127), np.clip(x, -128, 127)], 1).astype(np.int8)
    np.testing.assert_array_equal(got.view(np.int8).reshape(-1, 4)[:, :2], expected)
    np.testing.assert_array_equal(got >> 16, c.view(np.uint32) & 0xFFFF)


@pytest.mark.parametrize(
    "how", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
)
def test_compare_floats(how):
    a, b = pairs(FLOATS)
    got = apply(f"setp.{how}.f32 {{d}}, {{0}}, {{1}}", [("f32", a), ("f32", b)], "pred")
    for x, y, r in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        unordered = x != x or y != y
        if how in ("num", "nan"):
            expected = unordered == (how == "nan")
        else:
            symbol = {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}[how[:2]]
            expected = how.endswith("u") if unordered else symbol
        assert r == expected, (x, y)


def test_compare_combined():
    a, b = pairs(WORDS)
    text = "setp.lo.u32 %p2, {0}, 32; setp.gt.and.s32 {d}, {0}, {1}, !%p2"
    got = apply(text, [("u32", a), ("u32", b)], "pred")
    np.testing.assert_array_equal(got, (a.view(np.int32) > b.view(np.int32)) & (a >= 32))


@pytest.mark.parametrize("to", ["f16", "bf16"])
def test_narrow(to):
    x = np.concatenate(
        [FLOATS, RNG.standard_normal(300).astype(np.float32) * 2.0 ** RNG.integers(-20, 14, 300)]
    ).astype(np.float32)
    x = np.concatenate([x, (x.view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)])  # ties of bf16
    got = apply(f"cvt.rn.{to}.f32 {{d}}, {{0}}", [("f32", x)], to).view(np.uint16)
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(got[numbers], bits16(x[numbers].astype(np.float64), to))
    assert np.isnan(values16(got, to)[~numbers]).all()
    back = apply(f"cvt.f32.{to} {{d}}, {{0}}", [(to, got)], "f32")
    np.testing.assert_array_equal(back, values16(got, to))
    both = apply(f"cvt.rn.{to}x2.f32 {{d}}, {{0}}, {{1}}", [("f32", x), ("f32", x[::-1].copy())], "b32")
    np.testing.assert_array_equal(both >> 16, got)
    np.testing.assert_array_equal(both & 0xFFFF, got[::-1])


@pytest.mark.parametrize("mode, function", [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)])
def test_to_integers(mode, function):
    x = np.array([0.5, 1.5, -0.5, -2.5, 1e20, -1e20, np.nan, np.inf, 300, -300, 127.5, -128.4, 3e9], np.float32)
    for kind, low, high in (("s32", -(2**31), 2**31 - 1), ("u32", 0, 2**32 - 1), ("s8", -128, 127), ("u8", 0, 255)):
        got = apply(f"cvt.{mode}.sat.{kind}.f32 {{d}}, {{0}}", [("f32", x)], kind)
        expected = [0 if v != v else int(min(max(function(np.float64(v)), low), high)) for v in x]
        np.testing.assert_array_equal(got.astype(np.int64), expected)
    got = apply(f"cvt.{mode}.f32.f32 {{d}}, {{0}}", [("f32", x)], "f32")
    np.testing.assert_array_equal(got, function(x))


def test_between_integers():
    x = WORDS.view(np.int32)
    assert apply("cvt.s32.s8 {d}, {0}", [("s32", x)], "s32").tolist() == x.astype(np.int8).tolist()
    assert apply("cvt.u32.u16 {d}, {0}", [("s32", x)], "u32").tolist() == x.astype(np.uint16).tolist()
    assert apply("cvt.s64.s32 {d}, {0}", [("s32", x)], "s64").tolist() == x.tolist()
    assert apply("cvt.sat.s8.s32 {d}, {0}", [("s32", x)], "s8").tolist() == np.clip(x, -128, 127).tolist()
    np.testing.assert_array_equal(apply("cvt.rn.f32.s32 {d}, {0}", [("s32", x)], "f32"), x.astype(np.float32))
    np.testing.assert_array_equal(apply("cvt.rn.f32.u32 {d}, {0}", [("s32", x)], "f32"), WORDS.astype(np.float32))


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rz.f32 {d}, {0}, {1}",
        "frob.f32 {d}, {0}, {1}",
        "cvt.rz.bf16.f32 {d}, {0}",
        "min.xorsign.abs.f32 {d}, {0}, {1}",
    ],
)
def test_unknown_instructions_stop(instruction):
    one = np.ones(1, np.float32)
    with pytest.raises(
        ptx.PtxError, match=r"unknown instruction .* -- at: " + instruction.split()[0].replace(".", r"\.")
    ):
        apply(instruction, [("f32", one), ("f32", one)], "f32")
