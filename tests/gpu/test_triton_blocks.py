"""Products with weights in blocks from Triton: int8 with the bits of the dense kernels, floats against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from kdnative.formats import QuantizedWeight, arithmetic  # noqa: E402
from kdnative.formats.gpu import triton_blocks  # noqa: E402
from kdnative.ops.backends.triton import configurations  # noqa: E402
from kdnative.ops.backends.triton.blocks import BLOCKS, linear_blocks  # noqa: E402


def _weight(n, k, size, kept=0.5):
    """Integers [n, k] in fp32, of which whole blocks are zeros: of one row of blocks all."""
    rows, width = -(-n // size), -(-k // size)
    keep = torch.rand(rows, width) < kept
    keep[-1] = False
    weight = torch.randint(-127, 128, (n, k)).float()
    return weight * keep.repeat_interleave(size, 0).repeat_interleave(size, 1)[:n, :k]


def _blocks(weight, size, dtype):
    (n, k), rows, width = weight.shape, -(-weight.shape[0] // size), -(-weight.shape[1] // size)
    full = torch.zeros(rows * size, width * size)
    full[:n, :k] = weight
    tiles = full.view(rows, size, width, size).transpose(1, 2)
    keep = tiles.flatten(2).any(-1)
    starts = torch.nn.functional.pad(keep.sum(1).cumsum(0), (1, 0)).int()
    return starts, keep.nonzero()[:, 1].int().contiguous(), tiles[keep].to(dtype).contiguous()


@pytest.mark.parametrize("size", BLOCKS)
@pytest.mark.parametrize("rows", [16, 64, 0])
def test_int8_has_the_bits_of_the_dense_product(triton_driver, monkeypatch, size, rows):
    monkeypatch.setattr(configurations, "row_class", lambda m: rows)
    m, n, k = 5, 75, 131
    weight, scale, x, bias = _weight(n, k, size), torch.rand(n), torch.randn(m, k), torch.randn(n)
    codes, steps = arithmetic.quantize_rows(x)
    expected = arithmetic.per_channel_linear(codes, steps, weight, scale, bias)
    assert torch.equal(linear_blocks(x, *_blocks(weight, size, torch.int8), n, scale, bias), expected)


@pytest.mark.parametrize(
    "size, dtype, kind",
    [
        (16, torch.float16, torch.float16),
        (16, torch.float32, torch.bfloat16),
        (32, torch.bfloat16, torch.bfloat16),
        (64, torch.float16, torch.float16),
    ],
)
def test_floats(triton_driver, size, dtype, kind):
    """Sums of K products in float32 are off by K 2^-23 of the terms' magnitudes, and then are rounded to x's dtype."""
    m, n, k = 4, 50, 100
    weight, x, bias = _weight(n, k, size), torch.randn(m, k).to(dtype), torch.randn(n)
    y = linear_blocks(x, *_blocks(weight, size, kind), n, None, bias).double()
    rows, values = x.to(kind).double(), weight.to(kind).double()
    exact = rows @ values.t() + bias
    ulp = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    bound = (rows.abs() @ values.abs().t() + bias.abs()) * (k + 1) * 2**-23 + exact.abs() * ulp
    assert ((y - exact).abs() <= bound).all()


def test_rows_of_other_strides_and_alignment(triton_driver):
    """Sums as in the test above, of 64 products."""
    weight = _weight(32, 64, 16)
    x = torch.randn(3, 67).half()
    for view in (x[:, :64], x[:, 1:65], torch.randn(64, 3).half().t()):
        exact = view.double() @ weight.half().double().t()
        y = linear_blocks(view, *_blocks(weight, 16, torch.float16), 32)
        sizes = view.double().abs() @ weight.double().abs().t()
        assert ((y.double() - exact).abs() <= sizes * 65 * 2**-23 + exact.abs() * 2**-11).all()


def test_a_weight_of_zeros_and_no_rows(triton_driver):
    starts, places = torch.zeros(3, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    values, scale, bias = torch.zeros(0, 16, 16, dtype=torch.int8), torch.ones(20), torch.randn(20)
    y = linear_blocks(torch.randn(2, 8), starts, places, values, 20, scale, bias)
    assert torch.equal(y, bias.expand(2, 20))
    assert linear_blocks(torch.randn(0, 8), starts, places, values, 20, scale, bias).shape == (0, 20)


@pytest.mark.parametrize("side", BLOCKS)
@pytest.mark.parametrize("n, k, bias", [(75, 131, True), (16, 16, False)])
def test_packing_is_undone_bit_for_bit(side, n, k, bias):
    weight = QuantizedWeight(_weight(n, k, side).to(torch.int8), torch.rand(n) + 0.1, None, 8, None)
    shift = torch.randn(n) if bias else None
    packed = triton_blocks.pack(weight, shift, side)
    back, back_shift = triton_blocks.unpack(packed, n, k, bias, side)
    assert torch.equal(back.qweight, weight.qweight)
    assert torch.equal(back.scale, weight.scale)
    assert back_shift is None if shift is None else torch.equal(back_shift, shift)
    with pytest.raises(ValueError, match="damaged packed weight"):
        triton_blocks.unpack(packed[:-256], n, k, bias, side)
    found = triton_blocks.parts(packed, n, k, bias, side)
    if len(found.places):
        for beyond in (-1, -(-k // side)):
            found.places[0] = beyond
            with pytest.raises(ValueError, match="its blocks are not those of a weight"):
                triton_blocks.unpack(packed, n, k, bias, side)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"values": torch.zeros(1, 8, 8, dtype=torch.int8)}, ValueError, r"values have shape \[1, 8, 8\]"),
        ({"values": torch.zeros(1, 16, 16)}, TypeError, "values are torch.float32"),
        ({"starts": torch.zeros(3, dtype=torch.int32)}, ValueError, r"starts has shape \[3\]; it must be \[2\]"),
        ({"places": torch.zeros(1)}, TypeError, "places is torch.float32"),
        ({"scale": None}, ValueError, "int8 values need a scale"),
        ({"values": torch.zeros(1, 16, 16).half()}, ValueError, "others have neither"),
        ({"x": torch.zeros(2, 16, device="meta")}, ValueError, "is on cpu and x is on meta"),
    ],
)
def test_bad_arguments(change, error, message):
    given = {
        "x": torch.zeros(2, 16),
        "starts": torch.tensor([0, 1], dtype=torch.int32),
        "places": torch.zeros(1, dtype=torch.int32),
        "values": torch.zeros(1, 16, 16, dtype=torch.int8),
        "out_features": 16,
        "scale": torch.ones(16),
    } | change
    with pytest.raises(error, match=f"linear_blocks: .*{message}"):
        linear_blocks(**given)
