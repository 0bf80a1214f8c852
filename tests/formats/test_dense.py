"""Packing keeps every integer, scale and zero point."""

import pytest
import torch

from kdnative.formats import dense
from kdnative.quantize import QuantizedWeight
from tests.native.test_linear import SCHEMES, weight


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("n", "k"), [(1, 128), (31, 256), (32, 384), (100, 128)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_round_trip(scheme, n, k, with_bias):
    w = weight(scheme, n, k)
    bias = torch.randn(n) if with_bias else None
    back, bias_back = dense.unpack(dense.pack(w, bias))
    assert torch.equal(back.qweight, w.qweight) and torch.equal(back.scale, w.scale)
    assert (back.bits, back.group_size) == (w.bits, w.group_size)
    assert (back.zero is None) == (w.zero is None)
    if w.zero is not None:
        assert torch.equal(back.zero, w.zero)
    assert (bias_back is None) == (bias is None)
    if bias is not None:
        assert torch.equal(bias_back, bias)


def test_layout_is_the_documented_one():
    """Element (n, k) of an int8 weight by the formula in packed.h, and the codes of an int4 and an int2 one."""
    w8 = weight("w8", 40, 70)
    packed = dense.pack(w8)
    header = dense.read_header(packed)
    k_pad = int(header["k_pad"])
    assert (int(header["n_pad"]), k_pad) == (64, 128)
    data = packed[int(header["data"]) :].view(torch.int8)
    for n, k in ((0, 0), (15, 3), (16, 4), (39, 69), (17, 66)):
        assert data[((n // 16 * (k_pad // 4) + k // 4) * 16 + n % 16) * 4 + k % 4] == w8.qweight[n, k]
    w4 = weight("w4-32", 40, 64)
    packed = dense.pack(w4)
    data = packed[int(dense.read_header(packed)["data"]) :]
    for n, k in ((0, 0), (16, 5), (31, 63), (32, 0), (39, 17)):
        byte = int(data[((n // 32 * (64 // 4) + k // 4) * 16 + n % 16) * 4 + k % 4])
        assert (byte & 15 if n % 32 < 16 else byte >> 4) == int(w4.qweight[n, k]) + 8
    w2 = weight("w2-32", 40, 64)
    packed = dense.pack(w2)
    data = packed[int(dense.read_header(packed)["data"]) :]
    for n, k in ((0, 0), (16, 5), (31, 63), (32, 0), (39, 17), (3, 12)):
        byte = int(data[((n // 32 * (64 // 8) + k // 8) * 16 + n % 16) * 4 + k % 4])
        assert byte >> (n % 32 // 16 * 2 + k // 4 % 2 * 4) & 3 == int(w2.qweight[n, k]) + 2


def test_what_cannot_be_packed_is_named():
    with pytest.raises(ValueError, match="empty weight"):
        dense.pack(QuantizedWeight(torch.zeros(0, 4, dtype=torch.int8), torch.zeros(0), None, 8, None))
    odd = QuantizedWeight(torch.zeros(4, 48, dtype=torch.int8), torch.ones(4, 3), None, 4, 16)
    with pytest.raises(ValueError, match="group size 16 cannot be packed for K = 48: the kernels take 32, 64, 128"):
        dense.pack(odd)
    with pytest.raises(ValueError, match="not a packed weight"):
        dense.unpack(torch.zeros(500, dtype=torch.uint8))
