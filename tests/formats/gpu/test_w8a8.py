"""The packed buffer of the GPU's int8 product holds every integer, scale and zero point."""

import pytest
import torch

from kdnative.formats.gpu import blocks, sparse24, triton_blocks, w8a8
from kdnative.formats.scheme import Scheme
from kdnative.quantize import QuantizedWeight, quantize_weight
from tests.input_scales import random_scales, scaled

ATTRIBUTES = ("qweight", "scale", "zero", "group_scale", "input_scale")


def _same(a, b):
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-int", "w4a8-g64-int"])
@pytest.mark.parametrize(("n", "k"), [(1, 64), (7, 192), (130, 128)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_input_scales", [False, True])
def test_round_trip(scheme, n, k, with_bias, with_input_scales):
    torch.manual_seed(n * k)
    plain, bias = torch.randn(n, k), torch.randn(n) if with_bias else None
    parsed = Scheme.parse(scheme)
    weight = scaled(plain, parsed, random_scales(k)) if with_input_scales else quantize_weight(plain, parsed)
    packed = w8a8.pack(weight, bias)
    form = (n, k, with_bias, with_input_scales, weight.group_size or 0)
    assert packed.dtype == torch.uint8 and packed.numel() == w8a8.size(*form)
    back, bias_back = w8a8.unpack(packed, *form)
    assert all(_same(getattr(back, name), getattr(weight, name)) for name in ATTRIBUTES)
    assert (back.bits, back.group_size) == (weight.bits, weight.group_size)
    assert _same(bias_back, bias)


@pytest.mark.parametrize(
    ("family", "arguments"), [(w8a8, ()), (sparse24, (None,)), (blocks, (None, 64)), (triton_blocks, (None, 64))]
)
def test_more_inputs_than_int32_sums_hold(family, arguments):
    codes = torch.zeros(1, 133148, dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.ones(1), None, 8, None)
    with pytest.raises(
        ValueError, match="K = 133148: the weight has more than 133144 inputs.*use a scheme with groups"
    ):
        family.pack(weight, *arguments)
    most = QuantizedWeight(codes[:, :133144], torch.ones(1), None, 8, None)
    assert family.pack(most, *arguments).dtype == torch.uint8


@pytest.mark.parametrize("k", [1, 63, 127, 128, 129])
def test_odd_inputs_are_padded_with_zeros(k):
    codes = torch.randint(-127, 128, (5, k), dtype=torch.int8)
    packed = w8a8.pack(QuantizedWeight(codes, torch.rand(5) + 0.5, None, 8, None))
    rows = packed[: 5 * (128 if k <= 128 else 256)].view(torch.int8).view(5, -1)
    assert torch.equal(rows[:, :k], codes) and not rows[:, k:].any()
    assert torch.equal(w8a8.unpack(packed, 5, k, False)[0].qweight, codes)


def test_every_code_of_two_levels_comes_back():
    """All codes, zero points and group scales that keep a product within a byte."""
    rows = [(zero, scale) for zero in range(-8, 8) for scale in range(1, 18) if max(7 - zero, zero + 8) * scale <= 127]
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(len(rows), 2)
    zero = torch.tensor([[zero] for zero, _ in rows], dtype=torch.int8)
    scale = torch.tensor([[scale] for _, scale in rows], dtype=torch.uint8)
    weight = QuantizedWeight(codes, torch.ones(len(rows)), zero, 4, 32, scale)
    packed = w8a8.pack(weight)
    stored = packed[: len(rows) * 128].view(torch.int8).view(-1, 128)[:, :32]
    assert torch.equal(stored.int(), (codes.int() - zero.int()) * scale.int())
    back, _ = w8a8.unpack(packed, len(rows), 32, False, group=32)
    assert torch.equal(back.qweight, codes) and torch.equal(back.zero, zero) and torch.equal(back.group_scale, scale)


def test_what_cannot_be_packed_is_named():
    with pytest.raises(ValueError, match=r"takes 8-bit weights .* the weight has 4 bits, groups of 64"):
        w8a8.pack(quantize_weight(torch.randn(4, 64), Scheme.parse("w4a8-g64")))
    packed = w8a8.pack(quantize_weight(torch.randn(4, 64), Scheme.parse("w8a8")))
    with pytest.raises(ValueError, match=r"damaged packed weight.*int8 weight \[4, 64\] with a bias has 1024 bytes"):
        w8a8.unpack(packed, 4, 64, True)
    with pytest.raises(ValueError, match="not a packed weight: torch.float32"):
        w8a8.unpack(packed.float(), 4, 64, False)
