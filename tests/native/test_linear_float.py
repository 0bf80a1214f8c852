"""linear_w8a16, linear_w4a16 and linear_w2a16 against float64, on every instruction set."""

import pytest
import torch

from kdnative import ops
from kdnative.formats import dense
from kdnative.ops import reference
from tests.native.test_linear import SCHEMES, usable, weight

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 32), (1, 384, 384), (2, 31, 64), (3, 33, 96), (4, 70, 128), (5, 17, 160), (12, 100, 320), (13, 64, 64)]
SHAPES += [(33, 65, 384), (130, 70, 192), (261, 40, 128)]
CASES = [(s, *shape) for s in SCHEMES for shape in SHAPES if usable(s, shape[2])]
CASES += [("w8", 5, 13, 1), ("w8", 2, 1, 7), ("w8", 9, 45, 67), ("w8", 40, 101, 131), ("w8", 9, 33, 1030)]


def run(w, x, bias=None, activation="none"):
    return ops.linear(x, dense.pack(w, bias), w.bits, w.qweight.shape[0], activation, activation_bits=16)


def dequantized(w):
    return w.dequantize().double()  # a product of an integer and an fp32 scale, rounded once


def factors(x):
    """What is multiplied: processors with bf16 products round fp32 activations to bf16 from 5 rows on."""
    bf16 = ops.isa() in ("avx512bf16", "amx") and x.dtype == torch.float32 and x.shape[:-1].numel() >= 5
    return x.bfloat16().double() if bf16 else x.double()


def assert_within_rounding(got, w, x, bias=None):
    """|error| <= (k + 3) u |x| |W|^T plus the roundings of weight, bias and output (Higham 2002, section 3.1)."""
    u = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[got.dtype]
    exact = factors(x) @ dequantized(w).t()
    bound = (x.shape[-1] + 8) * 2.0**-24 * (x.double().abs() @ dequantized(w).abs().t())
    if bias is not None:
        exact = exact + bias.double()
        bound = bound + 2.0**-23 * bias.double().abs()
    error = (got.double() - exact).abs()
    assert bool((error <= bound + u * (exact.abs() + bound) + 1e-7).all()), float((error / bound).max())


@pytest.mark.parametrize(("scheme", "m", "n", "k"), CASES)
def test_within_the_rounding_of_fp32_sums(isa, scheme, m, n, k):
    w, bias = weight(scheme, n, k), torch.randn(n)
    for dtype in DTYPES:
        x = torch.randn(m, k).to(dtype)
        got = run(w, x, bias)
        assert got.dtype == dtype and got.shape == (m, n)
        assert_within_rounding(got, w, x, bias)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 128), (19, 96, 1024)])
def test_exact_where_float_sums_are(isa, scheme, m, n, k):
    """Small integers and scales that are powers of two: no operation rounds, so every bit is known."""
    w, x = weight(scheme, n, k, extreme=True, power_of_two=True), torch.randint(-9, 10, (m, k)).float()
    assert torch.equal(run(w, x).double(), x.double() @ dequantized(w).t())


@pytest.mark.parametrize("scheme", ["w8", "w4-64-asym", "w2-64"])
@pytest.mark.parametrize("activation", [a for a in ops.ACTIVATIONS if a != "none"])
def test_activations(isa, scheme, activation):
    w, bias = weight(scheme, 48, 64), torch.randn(48)
    x = (torch.randn(9, 64) * torch.logspace(-2, 1, 9).unsqueeze(1)).bfloat16().float()  # exact in both
    want = reference.linear_plain(x, w, bias, 16, ops.ACTIVATIONS[activation])
    torch.testing.assert_close(run(w, x, bias, activation), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w2-32"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 4096, 1024), (4, 1000, 512), (40, 1000, 1024), (129, 31, 8192)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_the_result(isa, scheme, m, n, k, dtype):
    w, x = weight(scheme, n, k), torch.randn(m, k).to(dtype)
    if isa == "reference":  # scalar code: a smaller problem that still splits
        x = x[:8]
    packed = dense.pack(w, torch.randn(n))
    torch.set_num_threads(1)
    want = ops.linear(x, packed, w.bits, n, activation_bits=16)
    for threads in (2, 3, 4, 7):
        torch.set_num_threads(threads)
        assert torch.equal(ops.linear(x, packed, w.bits, n, activation_bits=16), want)


@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w2-32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_strides(isa, scheme, dtype):
    w = weight(scheme, 20, 64)
    packed = dense.pack(w)
    for x in (
        torch.randn(64),
        torch.randn(2, 3, 64),
        torch.randn(5, 64, 7).transpose(1, 2),
        torch.randn(4, 128)[:, ::2],
        torch.randn(64, 9).t(),
        torch.randn(1, 64).expand(9, 64),
        torch.randn(10, 2048)[:, :64],
        torch.randn(0, 64),
        torch.randn(2, 0, 64),
    ):
        x = x.to(dtype)
        got = ops.linear(x, packed, w.bits, 20, activation_bits=16)
        assert got.shape == (*x.shape[:-1], 20) and got.is_contiguous()
        assert torch.equal(got, ops.linear(x.contiguous(), packed, w.bits, 20, activation_bits=16))


def test_few_float32_rows_keep_all_their_bits(isa):
    w, x = weight("w4-32", 40, 256), torch.randn(4, 256)
    exact = x.double() @ dequantized(w).t()
    torch.testing.assert_close(run(w, x).double(), exact, rtol=1e-5, atol=1e-5)
    more = run(w, torch.cat([x, x]))[:4].double()
    torch.testing.assert_close(more, exact, rtol=0, atol=2e-2 * float(exact.abs().max()))
    torch.testing.assert_close(run(w, torch.cat([x, x]).half())[:4].double(), exact, rtol=2e-3, atol=2e-3)


def test_rows_that_lie_pages_apart(isa):
    """They are copied before the product, so that they do not compete for the same cache sets."""
    w, x = weight("w4-128", 40, 1024), torch.randn(21, 1024)
    got = run(w, x)
    assert_within_rounding(got, w, x)
    shifted = torch.empty(21, 1040)[:, :1024].copy_(x)
    assert torch.equal(run(w, shifted), got)


def test_non_finite_rows_stay_in_their_rows(isa):
    for m in (4, 30):
        w, x = weight("w8", 33, 64), torch.randn(m, 64)
        w.qweight[:, 5] = 3
        clean = run(w, x)
        x[1, 5], x[3, 0] = float("inf"), float("nan")
        got = run(w, x)
        rest = [i for i in range(m) if i not in (1, 3)]
        assert torch.isinf(got[1]).all() and torch.isnan(got[3]).all()
        assert torch.equal(got[rest], clean[rest])


def test_large_activations_keep_their_range(isa):
    """What per-token int8 cannot do: one large column beside small ones."""
    w, x = weight("w8", 40, 256), torch.randn(20, 256) * 1e-3
    x[:, 7] = 1e4
    small = x.clone()
    small[:, 7] = 0.0
    w.qweight[:, 7] = 0
    assert torch.equal(run(w, x), run(w, small))


def test_bad_input_is_named():
    w = weight("w4-32", 8, 32)
    packed, x = dense.pack(w), torch.randn(2, 32)
    with pytest.raises(RuntimeError, match=r"linear_w4a16: .*shape \[2, 31\], but its last dimension must be 32"):
        ops.linear(x[:, :31], packed, 4, 8, activation_bits=16)
    with pytest.raises(RuntimeError, match="must be float32, bfloat16 or float16"):
        ops.linear(x.double(), packed, 4, 8, activation_bits=16)
    with pytest.raises(RuntimeError, match="another bit width"):
        ops.linear(x, packed, 8, 8, activation_bits=16)
    with pytest.raises(ValueError, match="activation_bits 8 or 16 .got 4 and 32"):
        ops.linear(x, packed, 4, 8, activation_bits=32)


@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w4-64-asym", "w2-64-asym"])
def test_opcheck(scheme):
    w = weight(scheme, 40, 64)
    torch.library.opcheck(ops.LINEAR[w.bits, 16], (torch.randn(3, 5, 64), dense.pack(w, torch.randn(40)), 40, 2))


def test_compiles_into_one_graph():
    w = weight("w4-32", 40, 64)
    packed = dense.pack(w)

    def function(x):
        return torch.relu(ops.linear_w4a16(x, packed, 40, 0))

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = torch.randn(7, 64)
    assert torch.equal(compiled(x), torch.relu(run(w, x)))
