"""Layouts pack and unpack bit for bit, in plain torch, whatever the device."""

from dataclasses import replace

import pytest
import torch

from kdnative.formats import QuantizedWeight, Scheme, dense
from kdnative.formats.layouts import Dense, Sparse, of_packed
from kdnative.formats.scheme import NAMES
from kdnative.nn import Linear
from kdnative.ops.backends import backend_for
from kdnative.quantize import quantize_weight

FIELDS = ("qweight", "scale", "zero", "group_scale", "input_scale")


def pruned(n, k):
    return torch.randn(n, k).view(n, -1, 4).mul(torch.tensor([1.0, 0.0, 0.0, 1.0])).view(n, k)


def assert_same(got, want):
    assert (got.bits, got.group_size) == (want.bits, want.group_size)
    for name in FIELDS:
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None) and (a is None or (a.dtype == b.dtype and torch.equal(a, b))), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 128), (33, 384), (70, 256)])
def test_round_trip(name, shape):
    scheme = Scheme.parse(name)
    layout, weight = backend_for("cpu").layout(scheme), quantize_weight(pruned(*shape), scheme)
    for bias in (None, torch.randn(shape[0])):
        packed = layout.pack(weight, bias)
        size = layout.size(*shape, scheme, bias is not None)
        assert size == (0 if scheme.sparsity else packed.numel())
        back, back_bias = layout.unpack(packed)
        assert_same(back, weight)
        for got in (back_bias, layout.bias(packed)):
            assert (got is None) == (bias is None) and (bias is None or torch.equal(got, bias))
        assert torch.equal(layout.pack(back, back_bias), packed), "bit for bit"
        assert type(of_packed(packed)) is type(layout)
        assert_same(of_packed(packed).unpack(packed)[0], weight)


@pytest.mark.parametrize("k", [1, 63, 96, 130])
def test_input_scales_have_room(k):
    plain = quantize_weight(torch.randn(5, k), "w8a8")
    weight = QuantizedWeight(plain.qweight, plain.scale, None, 8, None, input_scale=torch.rand(k) + 0.1)
    packed = Dense().pack(weight, torch.randn(5))
    assert packed.numel() == Dense().size(5, k, Scheme.parse("w8a8-is"), True)
    assert_same(Dense().unpack(packed)[0], weight)
    assert int(dense.read_header(packed)["version"]) == 2
    assert int(dense.read_header(Dense().pack(plain, None))["version"]) == 1


def test_from_one_layout_to_another():
    weight, bias = quantize_weight(pruned(33, 192), "w8a8"), torch.randn(33)
    packed = Dense().pack(weight, bias)
    for sparsity in ("4x1", "2:4", "mask"):
        there = Sparse(sparsity).pack(*Dense().unpack(packed))
        assert torch.equal(Dense().pack(*Sparse(sparsity).unpack(there)), packed)


@pytest.mark.parametrize("name", ["w8a8", "w4a8-g32-asym", "w4a8-g64-int", "w8a8+mask", "w8a8+4x1"])
def test_values_are_not_checked_again(name, monkeypatch):
    """What was checked, or just computed, when it was packed: it is read at every access to a weight."""
    scheme = Scheme.parse(name)
    plain = quantize_weight(pruned(96, 128), scheme)
    if plain.zero is not None and plain.group_scale is None:  # all 0, so the packed form has none
        plain = replace(plain, zero=torch.zeros_like(plain.zero))
    module = Linear.from_quantized(plain, None, scheme)
    monkeypatch.setattr(QuantizedWeight, "__post_init__", lambda self: pytest.fail("checked again"))
    assert_same(module.quantized(), plain)
    assert_same(plain.outputs(slice(0, 96)), plain)
    assert torch.equal(plain.outputs(slice(32, 64)).dequantize(), plain.dequantize()[32:64])


def test_not_packed():
    for tensor in (torch.zeros(200, dtype=torch.uint8), torch.zeros(3), torch.zeros(16, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"not a packed weight.*kdnative\.formats\.dense\.pack"):
            of_packed(tensor)
