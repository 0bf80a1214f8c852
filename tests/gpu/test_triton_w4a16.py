"""4-bit weights and floating-point activations from Triton, against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from kdnative.formats.gpu import triton_w4a16  # noqa: E402
from kdnative.ops.backends.triton import configurations  # noqa: E402
from kdnative.ops.backends.triton.w4a16 import linear_w4a16  # noqa: E402
from kdnative.quantize import QuantizedWeight  # noqa: E402

FACTORS = {torch.float32: torch.bfloat16, torch.bfloat16: torch.bfloat16, torch.float16: torch.float16}


def _case(m, n, k, group, dtype, zeros, inputs, bias):
    """An input, the sections of a weight, and the product in float64 beside the sum of its terms' magnitudes."""
    x = torch.randn(m, k).to(dtype)
    codes = torch.randint(-8, 8, (n, k), dtype=torch.int8)
    zero = torch.randint(-8, 8, (n, k // group), dtype=torch.int8) if zeros else None
    factors = torch.rand(k) + 0.5 if inputs else None
    weight = QuantizedWeight(codes, torch.rand(n, k // group) * 0.1 + 0.01, zero, 4, group, input_scale=factors)
    shift = torch.randn(n) if bias else None
    packed = triton_w4a16.pack(weight, shift, zeros)
    parts = triton_w4a16.parts(packed, n, k, group, zeros, bias, inputs)
    rows = (x if factors is None else x.float() * factors).to(FACTORS[dtype]).double()
    values = weight.changed(input_scale=None).dequantize().double()
    exact = rows @ values.t() + (0 if shift is None else shift.double())
    size = rows.abs() @ values.abs().t() + (0 if shift is None else shift.double().abs())
    return x, parts, exact, size


def _run(x, parts, **more):
    return linear_w4a16(x, parts.codes, parts.scale, parts.zero, parts.bias, parts.input_scale, **more)


def _check(y, exact, size, k):
    """Factors are exact, and so are their products in float32 (8 and 5 bits, 11 and 5 bits). A sum of K of them in any
    order, its scale, the sum of the groups and the bias are off by (K + 4) 2^-24 of the terms' magnitudes; then the
    result is rounded. A tensor core may cut a bit off where float32 rounds, which doubles it."""
    ulp = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}[y.dtype]
    bound = size * (k + 4) * 2**-23 + exact.abs() * ulp + 2**-24
    worst = ((y.double() - exact).abs() / bound).max().item()
    assert worst <= 1, f"{worst} times the bound"


@pytest.mark.parametrize("dtype", FACTORS)
@pytest.mark.parametrize(
    "m, n, k, group, zeros, inputs",
    [
        (1, 1, 32, 32, False, False),
        (5, 37, 96, 32, True, False),
        (18, 40, 192, 64, False, True),
        (3, 65, 256, 128, True, True),
    ],
)
def test_products(triton_driver, dtype, m, n, k, group, zeros, inputs):
    x, parts, exact, size = _case(m, n, k, group, dtype, zeros, inputs, bias=True)
    _check(_run(x, parts), exact, size, k)


@pytest.mark.parametrize("rows, dtype", [(64, torch.bfloat16), (256, torch.float16), (0, torch.bfloat16)])
def test_tiles_of_many_rows(triton_driver, monkeypatch, rows, dtype):
    monkeypatch.setattr(configurations, "row_class", lambda m: rows)
    x, parts, exact, size = _case(33, 70, 128, 64, dtype, True, False, bias=False)
    _check(_run(x, parts), exact, size, 128)


def test_the_long_grid(triton_driver, long_grid):
    if not long_grid:
        pytest.skip("the long grid of shapes runs with KDNATIVE_GPU_GRID=1")
    for m in (1, 16, 33, 129, 300):
        for n in (1, 63, 130):
            for k, group in ((64, 32), (160, 32), (320, 64), (384, 128)):
                x, parts, exact, size = _case(m, n, k, group, torch.float16, m % 2 == 1, n == 63, bias=True)
                _check(_run(x, parts), exact, size, k)


def test_activation_and_residual(triton_driver):
    x, parts, exact, size = _case(4, 20, 64, 64, torch.float32, False, False, bias=True)
    residual = torch.randn(4, 20)
    y = _run(x, parts, activation=1, residual=residual)
    _check(y, exact.relu() + residual.double(), size + residual.double().abs(), 64)


def test_a_row_of_nan_stays_in_its_row(triton_driver):
    x, parts, exact, size = _case(3, 20, 64, 32, torch.float16, False, False, bias=False)
    x[1] = float("nan")
    y = _run(x, parts)
    assert y[1].isnan().all()
    _check(y[::2], exact[::2], size[::2], 64)


def test_rows_of_any_strides(triton_driver):
    x, parts, exact, size = _case(6, 20, 64, 32, torch.float16, False, False, bias=False)
    for view in (x.t().contiguous().t(), torch.cat([x, x], 1)[:, 64:], torch.cat([x[:, :0], x, x[:, :3]], 1)[:, :64]):
        _check(_run(view, parts), exact, size, 64)
    assert _run(x[:0], parts).shape == (0, 20)


@pytest.mark.parametrize("zeros, bias, inputs", [(True, True, True), (False, False, False)])
def test_packing_is_undone_bit_for_bit(zeros, bias, inputs):
    n, k, group = 7, 96, 32
    codes = torch.randint(-8, 8, (n, k), dtype=torch.int8)
    zero = torch.randint(-8, 8, (n, 3), dtype=torch.int8) if zeros else None
    factors = torch.rand(k) + 0.1 if inputs else None
    weight = QuantizedWeight(codes, torch.rand(n, 3) + 0.1, zero, 4, group, input_scale=factors)
    shift = torch.randn(n) if bias else None
    packed = triton_w4a16.pack(weight, shift, zeros)
    assert packed.numel() == triton_w4a16.size(n, k, group, zeros, bias, inputs)
    back, back_shift = triton_w4a16.unpack(packed, n, k, group, zeros, bias, inputs)
    for name in ("qweight", "scale", "zero", "input_scale"):
        given, found = getattr(weight, name), getattr(back, name)
        assert (given is None and found is None) or torch.equal(given, found), name
    assert (shift is None and back_shift is None) or torch.equal(shift, back_shift)
    with pytest.raises(ValueError, match="damaged packed weight"):
        triton_w4a16.unpack(packed[:-256], n, k, group, zeros, bias, inputs)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.zeros(2, 60)}, ValueError, r"scale has shape \[2, 3\] and x \[2, 60\]"),
        ({"x": torch.zeros(2, 64, dtype=torch.float64)}, TypeError, "x is torch.float64"),
        ({"scale": torch.ones(4, 3)}, ValueError, r"scale has shape \[4, 3\]"),
        ({"scale": torch.ones(3)}, ValueError, r"scale has shape \[3\]"),
        ({"scale": torch.ones(2, 4)}, ValueError, r"scale has shape \[2, 4\]; it must be \[2, 3\]"),
        (
            {"codes": torch.zeros(3, 33, dtype=torch.uint8)},
            ValueError,
            r"codes has shape \[3, 33\]; it must be \[3, 32\]",
        ),
        ({"zero": torch.zeros(2, 3, dtype=torch.int8)}, TypeError, "zero is torch.int8"),
        ({"activation": -1}, ValueError, "activation code -1"),
    ],
)
def test_bad_arguments(change, error, message):
    given = {
        "x": torch.zeros(2, 64),
        "codes": torch.zeros(3, 32, dtype=torch.uint8),
        "scale": torch.ones(2, 3),
    } | change
    with pytest.raises(error, match=f"linear_w4a16: .*{message}"):
        linear_w4a16(**given)


@pytest.mark.parametrize(
    "weight, message",
    [
        (QuantizedWeight(torch.ones(2, 32, dtype=torch.int8), torch.ones(2), None, 8, None), "4-bit weights"),
        (QuantizedWeight(torch.ones(2, 32, dtype=torch.int8), torch.ones(2, 2), None, 4, 16), "group size 16"),
        (
            QuantizedWeight(
                torch.ones(2, 32, dtype=torch.int8), torch.ones(2, 1), torch.ones(2, 1, dtype=torch.int8), 4, 32
            ),
            "zero points",
        ),
    ],
)
def test_weights_that_are_not_packed(weight, message):
    with pytest.raises(ValueError, match=message):
        triton_w4a16.pack(weight, None, zeros=False)
