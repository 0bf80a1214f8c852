"""The operators in plain torch against the kernels: the same bits wherever activations are int8."""

import pytest
import torch

from kdnative import ops
from kdnative.formats import QuantizedWeight, Scheme, code_range, dense, sparse
from kdnative.ops import reference
from kdnative.ops.backends import backend_for
from kdnative.quantize import quantize_weight
from tests.ops import norm_cases
from tests.ops.norm_cases import assert_codes_of, exact

SCHEMES = ("w8a8", "w4a8-g32", "w4a8-g64-asym", "w4a8-g32-int", "w2a8-g32-asym", "w8a8+4x1", "w8a8+mask", "w8a8+2:4")
SHAPES = ((0, 5, 64), (1, 1, 64), (3, 33, 96), (7, 45, 320), (33, 66, 1056), (2, 3, 8192))


def extremes(rows, k):
    """Inputs with rows that are large, tiny, zero, and no numbers."""
    x = torch.randn(rows, k)
    for row, value in zip(range(rows), (None, 1e30, 1e-31, 0.0, torch.nan, torch.inf, -torch.inf), strict=False):
        if value is not None:
            x[row] = x[row] * value if value and abs(value) < torch.inf else value
    return x


def extreme_weight(scheme, n, k):
    """Codes at both ends of their range."""
    low, high = code_range(scheme.weight_bits)
    codes = torch.where(torch.rand(n, k) < 0.5, low, high).to(torch.int8)
    shape = (n,) if scheme.group_size is None else (n, k // scheme.group_size)
    zero = None if scheme.symmetric else torch.randint(low, high + 1, shape, dtype=torch.int8)
    return QuantizedWeight(codes, torch.rand(shape) + 1e-3, zero, scheme.weight_bits, scheme.group_size)


def both(name, widths, x, packed, n, activation=0):
    kernel = getattr(torch.ops.kdnative, name).default(x, packed, n, activation)
    return kernel, reference.linear(name, *widths, x, packed, n, activation)


def assert_same_bits(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(nan=0.0), want.nan_to_num(nan=0.0))


def widths_of(scheme):
    return (None if scheme.sparsity else scheme.weight_bits, 8)


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_integer_operators(isa, text, shape):
    m, n, k = shape
    scheme, cpu = Scheme.parse(text), backend_for("cpu")
    if k % (scheme.group_size or 1):
        pytest.skip("groups do not divide the inputs")
    weight = torch.randn(n, k)
    if scheme.sparsity:
        weight = weight.view(n, -1, 4).mul(torch.tensor([1.0, 0.0, 1.0, 0.0])).view(n, k)
    weights = [quantize_weight(weight, scheme)]
    if not scheme.sparsity and not scheme.integer_scales:
        weights.append(extreme_weight(scheme, n, k))
    for plain in weights:
        for bias in (None, torch.randn(n)):
            packed = cpu.layout(scheme).pack(plain, bias)
            for x in (torch.randn(m, k), extremes(m, k), torch.randn(m, k).bfloat16(), torch.randn(m, k).half()):
                assert_same_bits(*both(cpu.operator(scheme), widths_of(scheme), x, packed, n))


def test_relu_and_inputs_of_any_strides(isa):
    plain = quantize_weight(torch.randn(33, 64), "w8a8")
    packed = dense.pack(plain, torch.randn(33))
    for x in (torch.randn(64, 5).t(), torch.randn(2, 3, 64), torch.randn(3, 2, 64).transpose(0, 1), torch.randn(64)):
        assert_same_bits(*both("linear_w8a8", (8, 8), x, packed, 33, ops.ACTIVATIONS["relu"]))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu", "tanh"])
def test_activations_are_close(activation):
    packed = dense.pack(quantize_weight(torch.randn(33, 64), "w8a8"), torch.randn(33))
    got, want = both("linear_w8a8", (8, 8), torch.randn(5, 64), packed, 33, ops.ACTIVATIONS[activation])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["w8a16", "w4a16-g32", "w4a16-g64-asym", "w2a16-g32"])
def test_float_activations_are_close(text):
    scheme = Scheme.parse(text)
    plain = quantize_weight(torch.randn(33, 320), scheme)
    x = torch.randn(4, 320)
    name = backend_for("cpu").operator(scheme)
    got, want = both(name, (scheme.weight_bits, 16), x, dense.pack(plain), 33)
    exact = x.double() @ plain.dequantize().double().t()
    torch.testing.assert_close(want.double(), exact, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 37), (3, 0), (0, 8), (2, 3, 64), (7,)])
def test_quantize_per_token(isa, shape):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(shape).to(dtype)
        for got, want in zip(ops.quantize_per_token(x), reference.quantize_per_token(x), strict=True):
            assert got.dtype == want.dtype and torch.equal(got, want)
    x = extremes(7, 64)
    for got, want in zip(ops.quantize_per_token(x), reference.quantize_per_token(x), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("rms", [0, 1])
@pytest.mark.parametrize("shape", [(5, 37), (0, 8), (2, 3, 64), (7,)])
def test_norm_quantize(shape, rms):
    x, (gamma, beta, factors) = torch.randn(shape).bfloat16(), torch.rand(3, shape[-1]) + 0.5
    for given in ((beta, 1e-5, factors, rms), (None, 0.1, None, rms)):
        assert_codes_of(reference.norm_quantize(x, gamma, *given), exact(x, gamma, *given))


@pytest.mark.parametrize(("change", "words"), norm_cases.BAD)
def test_bad_arguments_of_a_norm(change, words):
    given = {"x": torch.zeros(2, 8), "gamma": torch.ones(8), "beta": None, "eps": 1e-5} | change
    with pytest.raises(RuntimeError, match=f"norm_quantize.*{words}"):
        reference.norm_quantize(**given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out_features": 9}, "out_features is 9 but the packed weight has 8"),
        ({"x": torch.randn(2, 65)}, r"last dimension must be 64 \(the weight is \[8, 64\]\)"),
        ({"x": torch.randn(2, 64).double()}, "float64; float32, bfloat16 and float16 are allowed"),
        ({"x": torch.tensor(1.0)}, "at least one dimension"),
        ({"packed": torch.zeros(200, dtype=torch.uint8)}, "not a packed weight"),
        ({"bits": 4}, "has 8 bits, the operator expects 4"),
        ({"activation": 6}, "activation code 6 is unknown"),
    ],
)
def test_refuses_in_words(change, words):
    packed = dense.pack(quantize_weight(torch.randn(8, 64), "w8a8"))
    call = {"bits": 8, "x": torch.randn(2, 64), "packed": packed, "out_features": 8, "activation": 0} | change
    with pytest.raises(RuntimeError, match=words):
        reference.linear("linear", activation_bits=8, **call)


def test_a_buffer_of_another_operator_is_refused():
    plain, x = quantize_weight(torch.randn(8, 64), "w8a8"), torch.randn(2, 64)
    for name, bits, packed in (("linear_sparse", None, dense.pack(plain)), ("linear_w8a8", 8, sparse.pack(plain))):
        with pytest.raises(RuntimeError, match=f"{name}: the packed weight is (dense|sparse), which another operator"):
            reference.linear(name, bits, 8, x, packed, 8, 0)


@pytest.mark.parametrize("text", ["w8a8", "w4a8-g32-asym", "w4a8-g64-int", "w2a8-g32", "w8a8+4x1", "w8a8+mask"])
@pytest.mark.parametrize("place", range(1, 32))
def test_a_tampered_header_is_refused_in_words(text, place):
    """Words or a result, and nothing else."""
    scheme, cpu = Scheme.parse(text), backend_for("cpu")
    packed = cpu.layout(scheme).pack(quantize_weight(torch.randn(40, 128), scheme), torch.randn(40))
    name, x = cpu.operator(scheme), torch.randn(3, 128)
    for value in (-1, 0, 1, 7, 64, 2**20, 2**31 - 1, -(2**31)):
        bad = packed.clone()
        bad[:128].view(torch.int32)[place] = value
        try:
            assert reference.linear(name, *widths_of(scheme), x, bad, 40, 0).shape == (3, 40)
        except RuntimeError as error:
            assert str(error).startswith(f"{name}: ") and "weight" in str(error), error


@pytest.mark.parametrize("form", ["4x1", "mask"])
def test_damaged_indices_are_refused_in_words(form):
    packed, x = sparse.pack(quantize_weight(torch.randn(40, 128), "w8a8"), None, form), torch.randn(3, 128)
    header = sparse.read_header(packed)
    places = [int(header["index"])] + ([int(header["start"]) + 8 * i for i in (0, 5, 16)] if form == "4x1" else [])
    for place in places:
        bad = packed.clone()
        bad[place : place + 8].view(torch.int64)[0] = 0x7FFF7FFF7FFF7FFF
        with pytest.raises(RuntimeError, match="linear_sparse: a damaged packed weight"):
            reference.linear("linear_sparse", None, 8, x, bad, 40, 0)


@pytest.mark.parametrize("activation_bits", [8, 16])
def test_code_books_are_refused(activation_bits):
    codes = torch.zeros(2, 64, dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.ones(2), None, 4, None, codebook=torch.linspace(-1, 1, 16))
    with pytest.raises(RuntimeError, match="no operator reads a code book"):
        reference.linear_plain(torch.randn(3, 64), weight, None, activation_bits)


def test_too_many_inputs_for_int32():
    weight = QuantizedWeight.unchecked(torch.zeros(1, 133145, dtype=torch.int8), torch.ones(1), None, 8, None)
    with pytest.raises(RuntimeError, match="more than 133144 inputs.*w4a8-g64"):
        reference.linear_plain(torch.randn(1, 133145), weight)


def test_input_scales_are_applied_before_quantizing():
    scale = torch.rand(64) + 0.5
    plain = quantize_weight(torch.randn(8, 64), "w4a8-g32-asym")
    scaled = QuantizedWeight(plain.qweight, plain.scale, plain.zero, 4, 32, input_scale=scale)
    x = torch.randn(3, 64)
    for bits in (8, 16):
        want = reference.linear_plain(x * scale, plain, activation_bits=bits)
        packed = dense.pack(scaled)
        assert torch.equal(reference.linear_plain(x, scaled, activation_bits=bits), want)
        assert torch.equal(reference.linear("linear_w4a8", 4, bits, x, packed, 8, 0), want)
