"""linear_w4a8 with integer group scales: the bits of linear_w8a8 with the weights that they decode to."""

import pytest
import torch

from kdnative import ops
from kdnative.formats import dense
from kdnative.quantize import QuantizedWeight, quantize_weight

SHAPES = [
    (1, 1, 32),
    (1, 384, 384),
    (2, 31, 64),
    (3, 33, 96),
    (6, 17, 160),
    (7, 64, 128),
    (33, 100, 320),
    (130, 70, 384),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weight(group: int, n: int, k: int, extreme: bool = False) -> QuantizedWeight:
    shape = (n, k // group)
    group_scale = torch.randint(1, 18, shape)
    if extreme:
        group_scale = torch.where(torch.rand(shape) < 0.5, 17, 8)
    zero = torch.randint(-8, 8, shape)
    reach = 127 // group_scale
    q = torch.where(torch.rand(n, k) < 0.5, -8, 7) if extreme else torch.randint(-8, 8, (n, k))
    low, high = ((zero + sign * reach).repeat_interleave(group, 1) for sign in (-1, 1))
    q = torch.minimum(torch.maximum(q, low), high).to(torch.int8)
    return QuantizedWeight(q, torch.rand(n) * 0.02 + 1e-3, zero.to(torch.int8), 4, group, group_scale.to(torch.uint8))


def both(w, x, bias=None, activation="none"):
    n = w.out_features
    return (
        ops.linear(x, dense.pack(w, bias), 4, n, activation),
        ops.linear(x, dense.pack(w.decoded(), bias), 8, n, activation),
    )


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("group", [32, 64, 128])
def test_bits_of_the_decoded_weights(isa, group, m, n, k):
    if k % group:
        k += group - k % group
    for extreme in (False, True):
        w, bias = weight(group, n, k, extreme), torch.randn(n)
        for dtype in DTYPES:
            got, want = both(w, torch.randn(m, k).to(dtype), bias, "gelu")
            assert got.dtype == dtype and torch.equal(got, want)


def test_against_exact_integers(isa):
    w, x = weight(32, 45, 256, extreme=True), torch.randint(-127, 128, (19, 256)).float()
    x[:, 0] = 127.0  # quantizes to itself with scale 1
    steps = (w.qweight.long() - w.zero.long().repeat_interleave(32, 1)) * w.group_scale.long().repeat_interleave(32, 1)
    got, _ = both(w, x)
    assert int(steps.abs().max()) > 100
    assert torch.equal(got, (x.double() @ steps.double().t()).float() * w.scale)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 4096, 1024), (40, 1000, 1024), (300, 200, 512), (129, 31, 8192)])
def test_threads_do_not_change_the_result(isa, m, n, k):
    w, x = weight(64, n, k), torch.randn(m, k)
    if isa == "reference":  # scalar code: a smaller problem that still splits
        x = x[:8]
    packed = dense.pack(w, torch.randn(n))
    torch.set_num_threads(1)
    want = ops.linear(x, packed, 4, n)
    for threads in (2, 3, 4, 7):
        torch.set_num_threads(threads)
        assert torch.equal(ops.linear(x, packed, 4, n), want)


def test_shapes_and_strides(isa):
    w = weight(32, 20, 64)
    for shape in ((64,), (2, 3, 64), (0, 64), (2, 0, 64), (11, 64)):
        got, want = both(w, torch.randn(shape))
        assert got.shape == (*shape[:-1], 20) and torch.equal(got, want)
    x = torch.randn(64, 9).t()
    assert torch.equal(both(w, x)[0], both(w, x.contiguous())[0])


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("n", "k"), [(1, 128), (33, 384), (70, 640)])
def test_pack_round_trip(group, n, k):
    w, bias = weight(group, n, k), torch.randn(n)
    back, bias_back = dense.unpack(dense.pack(w, bias))
    for name in ("qweight", "scale", "zero", "group_scale"):
        assert torch.equal(getattr(back, name), getattr(w, name)), name
    assert (back.bits, back.group_size) == (4, group) and torch.equal(bias_back, bias)


def test_float_activations_are_refused_in_words():
    with pytest.raises(RuntimeError, match="linear_w4a16: the packed weight has integer group scales.*use linear_w4a8"):
        ops.linear(torch.randn(2, 64), dense.pack(weight(32, 8, 64)), 4, 8, activation_bits=16)


@pytest.mark.parametrize("field", range(2, 24))
def test_a_tampered_header_never_crashes(field):
    packed, x = dense.pack(weight(32, 40, 96), torch.randn(40)), torch.randn(9, 96)
    for value in (-1, 0, 1, 7, 2**20, 2**31 - 1, -(2**31)):
        bad = packed.clone()
        bad[:128].view(torch.int32)[field] = value
        try:
            result = ops.linear(x, bad, 4, 40)
        except RuntimeError as error:
            assert "packed weight" in str(error)
        else:  # the field happens to be harmless (a reserved word, a flag, or the old value)
            assert result.shape == (9, 40)


def test_opcheck():
    torch.library.opcheck(ops.linear_w4a8, (torch.randn(3, 5, 64), dense.pack(weight(32, 40, 64)), 40, 2))


def test_plain_weights_are_checked():
    w = weight(32, 8, 64)
    fields = {"qweight": w.qweight, "scale": w.scale, "zero": w.zero, "bits": 4, "group_size": 32}
    scale = w.group_scale
    with pytest.raises(ValueError, match="group_scale holds 0 to"):
        QuantizedWeight(**fields, group_scale=torch.zeros_like(scale))
    with pytest.raises(ValueError, match=r"reaches \d+; it must stay within"):
        QuantizedWeight(
            **{**fields, "qweight": torch.full_like(w.qweight, 7), "zero": torch.full_like(w.zero, -8)},
            group_scale=torch.full_like(scale, 17),
        )
    with pytest.raises(ValueError, match="group_scale has shape"):
        QuantizedWeight(**fields, group_scale=scale[:, :1])
    with pytest.raises(ValueError, match="zero points, and with no others"):
        QuantizedWeight(**{**fields, "zero": None}, group_scale=scale)
    with pytest.raises(TypeError, match="group_scale must be a torch.uint8"):
        QuantizedWeight(**fields, group_scale=scale.to(torch.int8))
    with pytest.raises(ValueError, match="scale has shape .* and group_scale needs"):
        QuantizedWeight(**{**fields, "scale": torch.ones(8, 2)}, group_scale=scale)
    with pytest.raises(ValueError, match="has no group_scale"):
        quantize_weight(torch.randn(8, 64), "w4a8-g32").decoded()
