"""linear_w8a8, linear_w4a8 and linear_w2a8 against exact integers, on every instruction set."""

import pytest
import torch

from kdnative import ops
from kdnative.formats import dense, sparse
from kdnative.ops import reference
from kdnative.quantize import QuantizedWeight

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [
    (1, 1, 32),
    (1, 384, 384),
    (2, 31, 64),
    (3, 33, 96),
    (7, 17, 160),
    (33, 100, 320),
    (64, 64, 64),
    (130, 70, 192),
]
SCHEMES = ["w8", "w4-32", "w4-32-asym", "w4-64", "w4-64-asym", "w4-128", "w4-128-asym", "w2-32", "w2-64-asym", "w2-128"]


def weight(scheme: str, n: int, k: int, extreme: bool = False, power_of_two: bool = False) -> QuantizedWeight:
    bits = int(scheme[1])
    low, high = (-127, 127) if bits == 8 else (-(1 << bits - 1), (1 << bits - 1) - 1)
    q = torch.randint(low, high + 1, (n, k), dtype=torch.int8)
    if extreme:
        q = torch.where(torch.rand(n, k) < 0.5, low, high).to(torch.int8)
    if bits == 8:
        shape: tuple[int, ...] = (n,)
        group, zero = None, None
    else:
        group = int(scheme.split("-")[1])
        shape = (n, k // group)
        zero = torch.randint(low, high + 1, shape, dtype=torch.int8) if scheme.endswith("asym") else None
    scale = torch.rand(shape) * 0.02 + 1e-3
    if power_of_two:
        scale = torch.exp2(torch.randint(-3, 3, shape).float())
    return QuantizedWeight(q, scale, zero, bits, group)


def expected(w: QuantizedWeight, x: torch.Tensor, bias: torch.Tensor | None, activation: int = 0) -> torch.Tensor:
    return reference.linear_plain(x, w, bias, activation=activation)


def run(
    w: QuantizedWeight, x: torch.Tensor, bias: torch.Tensor | None = None, activation: str = "none"
) -> torch.Tensor:
    return ops.linear(x, dense.pack(w, bias), w.bits, w.qweight.shape[0], activation)


def usable(scheme: str, k: int) -> bool:
    return scheme == "w8" or k % int(scheme.split("-")[1]) == 0


CASES = [(s, *shape) for s in SCHEMES for shape in SHAPES if usable(s, shape[2])]
CASES += [("w8", 5, 13, 1), ("w8", 2, 1, 7), ("w8", 9, 45, 67), ("w8", 40, 101, 131)]  # K that no tile divides


@pytest.mark.parametrize(("scheme", "m", "n", "k"), CASES)
def test_matches_the_reference(isa, scheme, m, n, k):
    w, bias = weight(scheme, n, k), torch.randn(n)
    for dtype in DTYPES:
        x = torch.randn(m, k).to(dtype)
        got, want = run(w, x, bias), expected(w, x, bias)
        assert got.dtype == dtype and got.shape == (m, n)
        assert torch.equal(got, want)  # sums and epilogue are defined to the bit


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 128), (19, 96, 1024), (70, 33, 4096)])
def test_integer_parts_are_exact_at_the_extremes(isa, scheme, m, n, k):
    """Activations and weights at the ends of their ranges, scales that are powers of two: every bit is known."""
    w = weight(scheme, n, k, extreme=True, power_of_two=True)
    x = torch.where(torch.rand(m, k) < 0.5, -127.0, 127.0)  # quantizes to itself with scale 1
    zero = 0 if w.zero is None else w.zero.double().repeat_interleave(w.group_size, 1)
    scale = w.scale.double().unsqueeze(1) if w.bits == 8 else w.scale.double().repeat_interleave(w.group_size, 1)
    exact = x.double() @ ((w.qweight.double() - zero) * scale).t()
    got = run(w, x)
    if scheme == "w8":
        assert torch.equal(got, exact.float())
    else:  # sums of groups may pass 2^24 and round once a group
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scheme", ["w8", "w4-64", "w4-64-asym", "w2-64"])
@pytest.mark.parametrize("activation", [a for a in ops.ACTIVATIONS if a != "none"])
def test_activations(isa, scheme, activation):
    w, bias = weight(scheme, 48, 64), torch.randn(48)
    x = torch.randn(9, 64) * torch.logspace(-2, 2, 9).unsqueeze(1)
    want = expected(w, x.clone(), bias, ops.ACTIVATIONS[activation])
    torch.testing.assert_close(run(w, x, bias, activation), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w2-32"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 4096, 1024), (40, 1000, 1024), (300, 200, 512), (129, 31, 8192)])
def test_threads_do_not_change_the_result(isa, scheme, m, n, k):
    w, x = weight(scheme, n, k), torch.randn(m, k)
    if isa == "reference":  # scalar code: a smaller problem that still splits
        m, x = min(m, 8), x[:8]
    packed = dense.pack(w, torch.randn(n))
    torch.set_num_threads(1)
    want = ops.linear(x, packed, w.bits, n)
    for threads in (2, 3, 4, 7):
        torch.set_num_threads(threads)
        assert torch.equal(ops.linear(x, packed, w.bits, n), want)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_returns_the_bits_of_the_reference_kernels(isa, scheme):
    w, bias, x = weight(scheme, 70, 256), torch.randn(70), torch.randn(37, 256)
    got = run(w, x, bias, "gelu")
    ops.select_isa("reference")  # the fixture puts the other one back
    assert torch.equal(got, run(w, x, bias, "gelu"))


@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w2-32"])
def test_shapes_and_strides(isa, scheme):
    w = weight(scheme, 20, 64)
    packed = dense.pack(w)
    for x in (
        torch.randn(64),
        torch.randn(2, 3, 64),
        torch.randn(5, 64, 7).transpose(1, 2),
        torch.randn(4, 128)[:, ::2],
        torch.randn(64, 9).t(),
        torch.randn(0, 64),
        torch.randn(2, 0, 64),
    ):
        got = ops.linear(x, packed, w.bits, 20)
        assert got.shape == (*x.shape[:-1], 20) and got.is_contiguous()
        assert torch.equal(got, ops.linear(x.contiguous(), packed, w.bits, 20))


def test_non_finite_rows_stay_in_their_rows(isa):
    w, x = weight("w8", 33, 64), torch.randn(4, 64)
    x[1, 5], x[3, 0] = float("inf"), float("nan")
    got, clean = run(w, x), run(w, torch.nan_to_num(x, 0.0, 0.0, 0.0))
    assert torch.isnan(got[[1, 3]]).all()
    assert torch.equal(got[[0, 2]], clean[[0, 2]])


def test_output_is_written_only_where_it_should_be(isa):
    """A column tail narrower than a tile must not spill into the next row."""
    w = weight("w8", 17, 64, power_of_two=True)
    x = torch.randint(-127, 128, (50, 64)).float()
    x[:, 0] = 127.0
    assert torch.equal(run(w, x), (x.double() @ (w.qweight.double() * w.scale.double().unsqueeze(1)).t()).float())


def test_bad_input_is_named():
    w = weight("w8", 8, 32)
    packed, x = dense.pack(w), torch.randn(2, 32)
    with pytest.raises(RuntimeError, match=r"shape \[2, 31\], but its last dimension must be 32"):
        ops.linear(x[:, :31], packed, 8, 8)
    with pytest.raises(RuntimeError, match="must be float32, bfloat16 or float16"):
        ops.linear(x.double(), packed, 8, 8)
    with pytest.raises(RuntimeError, match="out_features is 9 but the packed weight has 8"):
        ops.linear(x, packed, 8, 9)
    with pytest.raises(RuntimeError, match="another bit width"):
        ops.linear(x, packed, 4, 8)
    with pytest.raises(ValueError, match="cannot be fused; allowed: none, relu"):
        ops.linear(x, packed, 8, 8, "swish9")
    with pytest.raises(ValueError, match="bits must be 8, 4 or 2 and activation_bits 8 or 16"):
        ops.linear(x, packed, 3, 8)
    with pytest.raises(RuntimeError, match="truncated"):
        ops.linear(x, packed[:-64].clone(), 8, 8)
    with pytest.raises(RuntimeError, match="wrong magic number"):
        ops.linear(x, torch.zeros_like(packed), 8, 8)
    with pytest.raises(RuntimeError, match="contiguous 1-D uint8"):
        ops.linear(x, packed.float(), 8, 8)


def test_more_inputs_than_int32_sums_hold_are_refused():
    k = 133145
    wide, x = dense.pack(weight("w8", 1, k)), torch.zeros(1, k)
    with pytest.raises(RuntimeError, match="more than 133144 inputs.*use a scheme with groups"):
        ops.linear(x, wide, 8, 1)
    assert ops.linear(x, wide, 8, 1, activation_bits=16).shape == (1, 1)
    with pytest.raises(RuntimeError, match="more than 133144 inputs"):
        ops.linear_sparse(x, sparse.pack(weight("w8", 1, k)), 1, 0)


@pytest.mark.parametrize("field", range(2, 24))
def test_a_tampered_header_never_crashes(field):
    packed = dense.pack(weight("w4-32", 40, 96), torch.randn(40))
    x = torch.randn(3, 96)
    for value in (-1, 0, 1, 7, 2**20, 2**31 - 1, -(2**31)):
        bad = packed.clone()
        bad[:128].view(torch.int32)[field] = value
        try:
            result = ops.linear(x, bad, 4, 40)
        except RuntimeError as error:
            assert "packed weight" in str(error)
        else:  # the field happens to be harmless (a reserved word, a flag, or the old value)
            assert result.shape == (3, 40)


@pytest.mark.parametrize("scheme", ["w8", "w4-32", "w4-64-asym", "w2-32", "w2-64-asym"])
def test_opcheck(scheme):
    w = weight(scheme, 40, 64)
    torch.library.opcheck(ops.LINEAR[w.bits, 8], (torch.randn(3, 5, 64), dense.pack(w, torch.randn(40)), 40, 2))
