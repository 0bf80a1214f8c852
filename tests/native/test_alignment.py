"""Packed buffers that begin anywhere: torch.export.load of torch 2.10 leaves them where bytes hold their data."""

import pytest
import torch

from kdnative import ops
from kdnative.formats import dense, sparse
from kdnative.formats.scheme import Scheme
from kdnative.quantize import quantize_weight
from tests.nn.encoder_models import bert, native

DENSE = ["w8a8", "w8a16", "w4a8-g32", "w4a8-g128-asym", "w4a8-g64-int", "w4a16-g64", "w2a8-g64", "w2a16-g128"]
SPARSE = ["w8a8+4x1", "w8a8+mask"]


def moved(packed: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy that begins `offset` bytes after a multiple of 64."""
    memory = torch.zeros(packed.numel() + 128, dtype=torch.uint8)
    start = -memory.data_ptr() % 64 + offset
    copy = memory[start : start + packed.numel()]
    copy.copy_(packed)
    assert copy.data_ptr() % 64 == offset % 64
    return copy


def operator(name: str):
    """The operator of a scheme and a packed weight of it, 70 x 256."""
    scheme = Scheme.parse(name)
    weight = torch.randn(70, 256)
    if scheme.sparsity is None:
        return ops.LINEAR[scheme.weight_bits, scheme.activation_bits], dense.pack(quantize_weight(weight, scheme))
    weight *= (torch.rand(18, 256) < 0.4).repeat_interleave(4, 0)[:70]
    return ops.linear_sparse, sparse.pack(quantize_weight(weight, scheme.dense), None, scheme.sparsity)


@pytest.mark.parametrize("scheme", DENSE + SPARSE)
def test_linears(isa, scheme):
    call, packed = operator(scheme)
    for m in (1, 3, 40, 130):
        x = torch.randn(m, 256)
        want = call(x, packed, 70, 0)
        for offset in (8, 16, 40, 48):
            assert torch.equal(call(x, moved(packed, offset), 70, 0), want)


def test_encoders(isa):
    packed, ids = native(bert()).packed, torch.randint(0, 100, (3, 9))
    want = ops.encoder(packed, ids, None, None, None, 48)
    for offset in (8, 16, 40, 48):
        assert torch.equal(ops.encoder(moved(packed, offset), ids, None, None, None, 48), want)


def test_what_numbers_cannot_be_read_from_is_refused():
    for scheme in (DENSE[0], SPARSE[0]):
        call, packed = operator(scheme)
        with pytest.raises(RuntimeError, match=r"packed weight is not 8-byte aligned .*clone\(\) it"):
            call(torch.randn(2, 256), moved(packed, 4), 70, 0)
    with pytest.raises(RuntimeError, match=r"packed encoder is not 8-byte aligned .*clone\(\) it"):
        ops.encoder(moved(native(bert()).packed, 12), torch.ones(1, 4, dtype=torch.long), None, None, None, 48)
