import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnative.formats import WeightFormat, dense, sparse
from kdnative.formats.weight import code_range
from kdnative.quantize import QuantizedWeight, pack_bits, unpack_bits


def make(bits=4, n=3, k=8, group=4, **changes):
    low, high = code_range(bits)
    fields = {
        "qweight": torch.randint(low, high + 1, (n, k), dtype=torch.int8),
        "scale": torch.rand(n, k // group) + 0.1,
        "zero": None,
        "bits": bits,
        "group_size": group,
    }
    return QuantizedWeight(**(fields | changes))


def test_dequantize_by_hand():
    qweight = torch.tensor([[1, -8, 7, 0], [2, 3, -1, -2]], dtype=torch.int8)
    scale = torch.tensor([[0.5, 2.0], [0.25, 1.0]])
    zero = torch.tensor([[1, -1], [0, -2]], dtype=torch.int8)
    expected = torch.tensor([[0.0, -4.5, 16.0, 2.0], [0.5, 0.75, 1.0, 0.0]])
    assert torch.equal(QuantizedWeight(qweight, scale, zero, 4, 2).dequantize(), expected)
    per_channel = QuantizedWeight(qweight, torch.tensor([0.5, 2.0]), None, 8, None)
    assert torch.equal(per_channel.dequantize(), qweight.float() * torch.tensor([[0.5], [2.0]]))
    with_zero = QuantizedWeight(qweight, torch.tensor([0.5, 2.0]), torch.tensor([1, -2], dtype=torch.int8), 8, None)
    assert torch.equal(
        with_zero.dequantize(), (qweight.float() - torch.tensor([[1.0], [-2.0]])) * torch.tensor([[0.5], [2.0]])
    )


@pytest.mark.parametrize(
    ("bits", "k", "group", "expected"), [(8, 6, None, 3 * 6 + 12), (4, 6, 3, 3 * 3 + 24), (2, 6, 6, 3 * 2 + 12)]
)
def test_bytes_counts_codes_scales_and_zeros(bits, k, group, expected):
    scale = torch.ones(3) if group is None else torch.ones(3, k // group)
    qw = QuantizedWeight(torch.zeros(3, k, dtype=torch.int8), scale, None, bits, group)
    assert qw.bytes() == expected
    zero = torch.zeros(scale.shape, dtype=torch.int8)
    assert QuantizedWeight(qw.qweight, scale, zero, bits, group).bytes() == expected + zero.numel()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"qweight": torch.zeros(3, 8)}, TypeError, "qweight must be a torch.int8"),
        ({"qweight": torch.zeros(8, dtype=torch.int8)}, ValueError, "at least two dimensions"),
        ({"qweight": torch.full((3, 8), 8, dtype=torch.int8)}, ValueError, "8 to 8; 4 bits allow -8 to 7"),
        ({"scale": torch.ones(3, 3)}, ValueError, r"needs \[3, 2\]"),
        ({"scale": torch.ones(3, 2, dtype=torch.float64)}, TypeError, "scale must be"),
        ({"scale": torch.tensor([[1.0, 0.0]] * 3)}, ValueError, "zero, negative"),
        ({"scale": torch.tensor([[1.0, torch.nan]] * 3)}, ValueError, "NaN"),
        ({"zero": torch.zeros(3, 1, dtype=torch.int8)}, ValueError, "zero has shape"),
        ({"zero": torch.full((3, 2), 9, dtype=torch.int8)}, ValueError, "zero holds values"),
        ({"bits": 3}, ValueError, "2, 4 or 8"),
        ({"group_size": 3}, ValueError, "does not divide the 8"),
    ],
)
def test_refuses_in_words(changes, error, words):
    with pytest.raises(error, match=words):
        make(**changes)


def test_minus_128_is_no_8_bit_code():
    with pytest.raises(ValueError, match="-127 to 127"):
        QuantizedWeight(torch.full((1, 1), -128, dtype=torch.int8), torch.ones(1), None, 8, None)


def test_pack_order_is_lowest_bits_first():
    four = torch.tensor([[-8, 7, 0]], dtype=torch.int8)  # u = 0, 15, 8
    assert pack_bits(four, 4).tolist() == [[0xF0, 0x08]]
    two = torch.tensor([-2, -1, 0, 1, 1], dtype=torch.int8)  # u = 0, 1, 2, 3, 3
    assert pack_bits(two, 2).tolist() == [0b11100100, 0b00000011]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(0, 4), st.integers(0, 19), st.integers(0, 2**31))
def test_pack_round_trip(bits, n, k, seed):
    low, high = code_range(bits)
    codes = torch.randint(low, high + 1, (2, n, k), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (2, n, -(-k * bits // 8)) and packed.is_contiguous()
    assert torch.equal(unpack_bits(packed, bits, k), codes)


def test_pack_refuses():
    with pytest.raises(ValueError, match="4 bits allow"):
        pack_bits(torch.tensor([8], dtype=torch.int8), 4)
    with pytest.raises(ValueError, match="needs 2 bytes"):
        unpack_bits(torch.zeros(3, dtype=torch.uint8), 4, 4)
    with pytest.raises(TypeError, match="uint8"):
        unpack_bits(torch.zeros(2), 4, 4)


@pytest.mark.parametrize("group", [None, 9])
def test_more_dimensions(group):
    """A convolution [out, in, height, width]: groups run along its flattened inputs."""
    codes = torch.randint(-8, 8, (5, 4, 3, 3), dtype=torch.int8)
    shape = (5,) if group is None else (5, 4)
    zero = torch.randint(-8, 8, shape, dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.rand(shape) + 0.1, zero, 4, group)
    flat = QuantizedWeight(codes.flatten(1), weight.scale, zero, 4, group)
    assert weight.out_features == 5 and weight.in_features == 36
    assert torch.equal(weight.dequantize(), flat.dequantize().view(5, 4, 3, 3))
    assert weight.bytes() == flat.bytes() == 5 * 18 + 5 * weight.scale.numel()
    packed = pack_bits(codes.flatten(1), 4)
    assert packed.numel() == 5 * 18 and torch.equal(unpack_bits(packed, 4, 36).view_as(codes), codes)
    two = QuantizedWeight(
        codes.clamp(-3, 3),
        torch.ones(5),
        torch.zeros(5, 4, dtype=torch.int8),
        4,
        9,
        torch.full((5, 4), 3, dtype=torch.uint8),
    )
    assert torch.equal(two.dequantize(), codes.clamp(-3, 3) * 3.0) and two.decoded().qweight.shape == codes.shape
    with pytest.raises(ValueError, match="does not divide the 36"):
        QuantizedWeight(codes, torch.ones(5, 7), None, 4, 5)
    with pytest.raises(ValueError, match=r"only matrices are packed; the weight has shape \[5, 4, 3, 3\]"):
        dense.pack(weight)
    with pytest.raises(ValueError, match="only matrices"):
        sparse.pack(weight)


@pytest.mark.parametrize(("bits", "group"), [(4, None), (4, 4), (2, 2), (8, None)])
def test_code_books(bits, group):
    low, high = code_range(bits)
    codes = torch.randint(low, high + 1, (3, 8), dtype=torch.int8)
    book = torch.randn(2**bits)
    scale = torch.rand((3,) if group is None else (3, 8 // group)) + 0.1
    weight = QuantizedWeight(codes, scale, None, bits, group, codebook=book)
    want = torch.empty(3, 8)
    for row in range(3):
        for column in range(8):
            value = book[int(codes[row, column]) + 2 ** (bits - 1)]
            want[row, column] = value * (scale[row] if group is None else scale[row, column // group])
    assert torch.equal(weight.dequantize(), want)
    assert weight.bytes() == QuantizedWeight(codes, scale, None, bits, group).bytes() + 4 * 2**bits
    for pack in (dense.pack, sparse.pack):
        with pytest.raises(ValueError, match="code book"):
            pack(weight)


def test_input_scales():
    codes, inputs = torch.randint(-127, 128, (3, 2, 4), dtype=torch.int8), torch.rand(8) + 0.5
    weight = QuantizedWeight(codes, torch.rand(3) + 0.1, None, 8, None, input_scale=inputs)
    want = codes.float() * weight.scale[:, None, None] * inputs.view(2, 4)
    assert torch.equal(weight.dequantize(), want)
    assert weight.bytes() == 3 * 8 + 12 + 32
    with pytest.raises(ValueError, match="without their zeros"):
        sparse.pack(QuantizedWeight(codes.flatten(1), weight.scale, None, 8, None, input_scale=inputs))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"codebook": torch.zeros(15)}, ValueError, r"codebook has shape \[15\]; 4 bits have \[16\]"),
        ({"codebook": torch.full((16,), torch.nan)}, ValueError, "codebook holds NaN"),
        ({"codebook": torch.zeros(16, dtype=torch.float64)}, TypeError, "codebook must be"),
        ({"codebook": torch.zeros(16), "zero": torch.zeros(3, 2, dtype=torch.int8)}, ValueError, "without zero points"),
        ({"input_scale": torch.ones(7)}, ValueError, r"one factor per input is \[8\]"),
        ({"input_scale": torch.zeros(8)}, ValueError, "input_scale holds zero"),
        ({"input_scale": torch.ones(8).double()}, TypeError, "input_scale must be"),
    ],
)
def test_code_books_and_input_scales_are_checked(changes, error, words):
    with pytest.raises(error, match=words):
        make(**changes)


def test_joined():
    first, second = make(n=2), make(n=3)
    both = QuantizedWeight.joined([first, second])
    assert torch.equal(both.dequantize(), torch.cat([first.dequantize(), second.dequantize()]))
    asymmetric = make(n=1, zero=torch.ones(1, 2, dtype=torch.int8))
    both = QuantizedWeight.joined([first, asymmetric])
    assert torch.equal(both.dequantize(), torch.cat([first.dequantize(), asymmetric.dequantize()]))
    with pytest.raises(ValueError, match="same bits, group size"):
        QuantizedWeight.joined([first, make(group=2)])
    with pytest.raises(ValueError, match="can't be joined"):
        QuantizedWeight.joined([first, make(codebook=torch.zeros(16))])


def test_format_is_what_schemes_call_it():
    assert make().format == WeightFormat(4, 4) and make(bits=8, group=8).format == WeightFormat(8, 8)
    assert make(zero=torch.ones(3, 2, dtype=torch.int8)).format == WeightFormat(4, 4, symmetric=False)
