"""The packed buffer of the GPU's products with float activations holds every integer, scale and zero point."""

import pytest
import torch

from kdnative.formats.gpu import w4a16
from kdnative.formats.scheme import Scheme
from kdnative.quantize import QuantizedWeight, quantize_weight
from tests.input_scales import random_scales, scaled

SCHEMES = ["w8a16", "w4a16-g32", "w4a16-g64", "w4a16-g128", "w4a16-g32-asym", "w4a16-g128-asym"]


def _same(a, b):
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("n", "k"), [(1, 128), (37, 384), (64, 256)])
@pytest.mark.parametrize("whole", [False, True])
def test_round_trip(scheme, n, k, whole):
    torch.manual_seed(n * k)
    plain, bias = torch.randn(n, k), torch.randn(n) if whole else None
    parsed = Scheme.parse(scheme)
    weight = scaled(plain, parsed, random_scales(k)) if whole else quantize_weight(plain, parsed)
    packed = w4a16.pack(weight, bias)
    form = (n, k, weight.bits, weight.group_size or 0, weight.zero is not None, whole, whole)
    assert packed.dtype == torch.uint8 and packed.numel() == w4a16.size(*form)
    back, bias_back = w4a16.unpack(packed, *form)
    for name in ("qweight", "scale", "zero", "input_scale"):
        assert _same(getattr(back, name), getattr(weight, name)), name
    assert (back.bits, back.group_size) == (weight.bits, weight.group_size)
    assert _same(bias_back, bias)
    assert torch.equal(w4a16.pack(back, bias_back), packed)


def test_codes_lie_where_the_layout_says():
    """Every code of one unit, by the words of csrc/cuda/w4a16_layout.h."""
    codes = torch.randint(-8, 8, (32, 32), dtype=torch.int8)
    words = w4a16.pack(QuantizedWeight(codes, torch.ones(32, 1), None, 4, 32))[:512].view(torch.int32)
    eight = torch.randint(-127, 128, (32, 32), dtype=torch.int8)
    vectors = w4a16.pack(QuantizedWeight(eight, torch.ones(32), None, 8, None))[:1024].view(2, -1)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for j in range(4):
            output = j // 2 * 16 + g // 2 * 4 + j % 2 * 2 + g % 2
            for s in range(4):
                for e in range(2):
                    nibble = int(words[lane * 4 + j]) >> 4 * (s + 4 * e) & 15
                    assert nibble - 8 == codes[output, 8 * s + 2 * t + e]
                    byte = vectors[s // 2, lane * 16 + j * 4 + s % 2 + 2 * e]
                    assert int(byte) - 128 == eight[output, 8 * s + 2 * t + e]


@pytest.mark.parametrize("k", [1, 31, 33, 77])
def test_odd_inputs_of_8_bits_are_padded_with_what_stands_for_0(k):
    codes = torch.randint(-127, 128, (5, k), dtype=torch.int8)
    packed = w4a16.pack(QuantizedWeight(codes, torch.rand(5) + 0.5, None, 8, None))
    stored = packed[: 32 * (32 if k <= 32 else 64 if k <= 64 else 96)]
    assert int((stored != 128).sum()) == int((codes != 0).sum())
    assert torch.equal(w4a16.unpack(packed, 5, k, 8, 0, False, False)[0].qweight, codes)


def test_refuses_other_weights_in_words():
    codes = torch.zeros(4, 64, dtype=torch.int8)
    with pytest.raises(ValueError, match="the weight has 2 bits in groups of 32"):
        w4a16.pack(QuantizedWeight(codes, torch.ones(4, 2), None, 2, 32))
    with pytest.raises(ValueError, match="8-bit weights with one scale per output.*8 bits in groups of 32"):
        w4a16.pack(QuantizedWeight(codes, torch.ones(4, 2), None, 8, 32))
    with pytest.raises(ValueError, match="group size 16 cannot be packed for K = 64"):
        w4a16.pack(QuantizedWeight(codes, torch.ones(4, 4), None, 4, 16))
    with pytest.raises(ValueError, match="integer group scales have no kernel for float activations"):
        w4a16.pack(quantize_weight(torch.randn(4, 64), Scheme.parse("w4a8-g32-int")))
    good = w4a16.pack(QuantizedWeight(codes, torch.ones(4, 2), None, 4, 32))
    with pytest.raises(ValueError, match=r"damaged.*a 4-bit weight \[4, 64\] in groups of 32 with no bias has"):
        w4a16.unpack(good[:-1], 4, 64, 4, 32, False, False)
