"""Operators whose packed weight has input scales, on every instruction set."""

import numpy as np
import pytest
import torch

from kdnative import ops
from kdnative.formats import Scheme, dense, sparse
from kdnative.nn import Linear
from kdnative.ops import reference
from kdnative.quantize import QuantizedWeight
from tests.input_scales import random_scales
from tests.native.test_linear import DTYPES, SCHEMES, usable, weight
from tests.native.test_linear_float import assert_within_rounding

SHAPES = [(1, 1, 32), (2, 31, 64), (3, 33, 96), (7, 17, 160), (33, 100, 320), (130, 70, 192)]
CASES = [(s, *shape) for s in SCHEMES for shape in SHAPES if usable(s, shape[2])]
CASES += [("w8", 5, 13, 1), ("w8", 2, 1, 7), ("w8", 9, 45, 67), ("w8", 40, 101, 131)]  # K that no tile divides


def with_scales(w, factors=None):
    return w.changed(input_scale=random_scales(w.in_features) if factors is None else factors)


def run(w, x, bias=None, activation_bits=8):
    return ops.linear(x, dense.pack(w, bias), w.bits, w.out_features, activation_bits=activation_bits)


@pytest.mark.parametrize(("scheme", "m", "n", "k"), CASES)
def test_int8_activations_have_the_bits_of_the_reference(isa, scheme, m, n, k):
    w, bias = with_scales(weight(scheme, n, k)), torch.randn(n)
    for dtype in DTYPES:
        x = (torch.randn(m, k) / w.input_scale.sqrt()).to(dtype)
        assert torch.equal(run(w, x, bias), reference.linear_plain(x, w, bias))


def test_two_levels_of_scales(isa):
    linear = torch.nn.Linear(128, 40)
    plain = Linear.from_float(linear, "w4a8-g32-int").quantized()
    factors, x = random_scales(128), torch.randn(9, 128)
    module = Linear.from_quantized(plain.changed(input_scale=factors), linear.bias.detach(), "w4a8-g32-int-is")
    want = Linear.from_quantized(plain, linear.bias.detach(), "w4a8-g32-int")(x * factors)
    assert torch.equal(module(x), want)


def test_against_numpy(isa):
    """Nothing but the documented formula: v = x * s in fp32, then as without scales."""
    w = with_scales(weight("w8", 21, 77))
    x = torch.randn(6, 77)
    v = x.numpy() * w.input_scale.numpy()  # one fp32 rounding
    amax = np.abs(v).max(1).astype(np.float32)
    q = np.rint(v * (np.float32(127) / amax)[:, None]).astype(np.int64)
    y = (q @ w.qweight.numpy().astype(np.int64).T).astype(np.float32)
    y *= (amax / np.float32(127))[:, None] * w.scale.numpy()
    assert np.array_equal(run(w, x).numpy(), y)


def test_powers_of_two_change_nothing_that_is_not_meant(isa):
    """Scales of 1 are no scales; those that are powers of two, taken out of the weight, are exact."""
    plain, x = weight("w4-32", 33, 96), torch.randn(5, 96)
    assert torch.equal(run(with_scales(plain, torch.ones(96)), x), run(plain, x))
    twos = torch.exp2(torch.randint(-4, 5, (96,)).float())
    assert torch.equal(run(with_scales(plain, twos), x / twos), run(plain, x))
    for bits in (8, 16):
        assert torch.equal(run(with_scales(plain, twos), x / twos, None, bits), run(plain, x, None, bits))


@pytest.mark.parametrize(("scheme", "m", "n", "k"), CASES)
def test_float_activations_are_within_rounding(isa, scheme, m, n, k):
    """Inputs that stay exact when they are multiplied: scales are powers of two."""
    plain, bias = weight(scheme, n, k), torch.randn(n)
    twos = torch.exp2(torch.randint(-3, 4, (k,)).float())
    for dtype in DTYPES:
        x = torch.randn(m, k).to(dtype)
        divided = (x.float() / twos).to(dtype)
        got = run(with_scales(plain, twos), divided, bias, 16)
        assert got.dtype == dtype
        assert_within_rounding(got, plain, (divided.float() * twos).to(dtype), bias)


@pytest.mark.parametrize("rows", [3, 40])
def test_float_activations_are_multiplied_in_fp32(isa, rows):
    """Also those of 16 bits, which round again only where the processor multiplies bf16."""
    w = with_scales(weight("w8", 20, 64, power_of_two=True))
    for dtype in DTYPES:
        x = torch.randn(rows, 64).to(dtype)
        v = x.float() * w.input_scale
        bf16 = ops.isa() in ("avx512bf16", "amx") and rows >= 5 and dtype != torch.float16
        exact = (v.bfloat16() if bf16 else v).double() @ w.changed(input_scale=None).dequantize().double().t()
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
        error = (run(w, x, None, 16).double() - exact).abs().max() / exact.abs().max()
        assert error < tolerance


@pytest.mark.parametrize("activation_bits", [8, 16])
def test_shapes_and_strides(isa, activation_bits):
    w = with_scales(weight("w8", 20, 64))
    for x in (
        torch.randn(64),
        torch.randn(5, 64, 7).transpose(1, 2),
        torch.randn(4, 128)[:, ::2],
        torch.randn(64, 9).t(),
        torch.randn(9, 4096)[:, :64],  # rows whole pages apart
        torch.randn(0, 64),
    ):
        got = run(w, x, None, activation_bits)
        assert got.shape == (*x.shape[:-1], 20)
        assert torch.equal(got, run(w, x.contiguous(), None, activation_bits))


@pytest.mark.parametrize("activation_bits", [8, 16])
def test_threads_do_not_change_the_result(isa, activation_bits):
    w, x = with_scales(weight("w8", 200, 512)), torch.randn(8 if isa == "reference" else 300, 512)
    torch.set_num_threads(1)
    want = run(w, x, None, activation_bits)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(run(w, x, None, activation_bits), want)


def test_rows_that_are_not_finite_or_become_so(isa):
    w = with_scales(weight("w8", 33, 64), torch.full((64,), 4.0))
    x = torch.randn(6, 64)
    x[1, 5], x[3, 0], x[4, 63] = float("inf"), float("nan"), 1e38  # four times the last is infinity
    x[5] = 0.0
    got = run(w, x)
    assert torch.isnan(got[[1, 3, 4]]).all() and torch.equal(got[5], torch.zeros(33))
    assert torch.equal(got[[0, 2]], reference.linear_plain(x, w)[[0, 2]])


def test_padding_behind_the_scales_is_not_read_as_numbers(isa):
    """Whatever a damaged buffer has behind the last scale."""
    w, x = with_scales(weight("w8", 20, 70)), torch.randn(3, 70)
    packed = dense.pack(w)
    start = int(dense.read_header(packed)["input_scale"])
    packed[start + 4 * 70 : start + 4 * 128].view(torch.float32).fill_(float("nan"))
    for bits in (8, 16):
        assert torch.equal(ops.linear(x, packed, 8, 20, activation_bits=bits), run(w, x, None, bits))


@pytest.mark.parametrize("offset", [0, 64, 100, 1 << 40, -64, "end"])
def test_a_section_that_is_not_there_is_refused(offset):
    packed, x = dense.pack(with_scales(weight("w8", 20, 64))), torch.randn(2, 64)
    bad = packed.clone()
    bad[96:104].view(torch.int64)[0] = packed.numel() - 64 if offset == "end" else offset
    with pytest.raises(RuntimeError, match="linear_w8a8: the packed weight is damaged"):
        ops.linear(x, bad, 8, 20)
    if offset != 100:  # Python's reader copies, so that it may lie anywhere
        with pytest.raises(ValueError, match="damaged packed weight"):
            dense.unpack(bad)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_version_says_whether_there_are_scales(scaled):
    plain = weight("w8", 20, 64)
    bad = dense.pack(with_scales(plain) if scaled else plain)
    bad[4:8].view(torch.int32)[0] = 1 if scaled else 2
    with pytest.raises(RuntimeError, match="the packed weight is damaged"):
        ops.linear(torch.randn(2, 64), bad, 8, 20)
    with pytest.raises(ValueError, match="version [12] is with(out)? input scales"):
        dense.unpack(bad)


def test_sparse_weights_have_no_place_for_them():
    w = with_scales(weight("w8", 20, 64))
    with pytest.raises(ValueError, match="weights with input scales can't be packed without their zeros"):
        sparse.pack(w)
    with pytest.raises(ValueError, match="have no place for them.*did you mean 'w8a8\\+4x1'"):
        Linear(64, 20, "w8a8-is+4x1")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w2-64-asym"])
def test_opcheck(scheme, bits):
    w = with_scales(weight(scheme, 40, 64))
    torch.library.opcheck(ops.LINEAR[w.bits, bits], (torch.randn(3, 5, 64), dense.pack(w, torch.randn(40)), 40, 2))


def test_joined_weights_have_one_vector():
    first, second = with_scales(weight("w8", 20, 64)), weight("w8", 12, 64)
    same = second.changed(input_scale=first.input_scale.clone())
    joined = QuantizedWeight.joined([first, same])
    assert torch.equal(joined.input_scale, first.input_scale) and joined.out_features == 32
    x = torch.randn(4, 64)
    assert torch.equal(run(joined, x), torch.cat([run(first, x), run(same, x)], dim=1))
    for other in (second, with_scales(second)):
        for pair in ([first, other], [other, first]):
            with pytest.raises(ValueError, match="must have the same input scales, as they read the same input"):
                QuantizedWeight.joined(pair)
    assert QuantizedWeight.joined([second, second]).input_scale is None


def test_the_size_is_known_before():
    for scheme in ("w8a8", "w4a8-g32", "w2a8-g32-asym", "w4a16-g64"):
        parsed = Scheme.parse(scheme).with_input_scales()
        module = Linear(192, 40, parsed)
        size = module.packed.numel()
        w = Linear.from_float(torch.nn.Linear(192, 40), scheme).quantized()
        module.pack_(with_scales(w), torch.zeros(40))
        assert module.packed.numel() == size
