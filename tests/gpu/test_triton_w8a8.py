"""int8 products from Triton: the bits of the CPU's kernels."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")
tl = pytest.importorskip("triton.language")

from kdnative.formats import QuantizedWeight, arithmetic, dense  # noqa: E402
from kdnative.ops.backends.triton import arguments, configurations  # noqa: E402
from kdnative.ops.backends.triton.epilogue import tile_of  # noqa: E402
from kdnative.ops.backends.triton.w8a8 import linear_w8a8  # noqa: E402

SHAPES = [(16, 1, 1, 1), (16, 5, 70, 33), (64, 17, 40, 77), (256, 9, 130, 100), (0, 3, 37, 130)]
"""A class of rows, whose tile is used, M, N and K."""
LONG_GRID = [(m, n, k) for m in (1, 16, 33, 128, 300) for n in (1, 63, 129, 256) for k in (16, 127, 513)]


def _weight(n, k):
    """Codes in rows of a multiple of 16, and scales."""
    codes = torch.zeros(n, -(-k // 16) * 16, dtype=torch.int8)
    codes[:, :k] = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    return codes, torch.rand(n) * 0.1 + 0.01


def _expected(x, codes, scale, bias):
    quantized, steps = arithmetic.quantize_rows(x)
    return arithmetic.per_channel_linear(quantized, steps, codes[:, : x.shape[1]].float(), scale, bias)


@pytest.mark.parametrize("rows, m, n, k", SHAPES)
def test_any_shape(triton_driver, monkeypatch, rows, m, n, k):
    monkeypatch.setattr(configurations, "row_class", lambda m: rows)
    x, bias = torch.randn(m, k), torch.randn(n)
    codes, scale = _weight(n, k)
    assert torch.equal(linear_w8a8(x, codes, scale, bias), _expected(x, codes, scale, bias))


def test_the_long_grid(triton_driver, long_grid):
    if not long_grid:
        pytest.skip("the long grid of shapes runs with KDNATIVE_GPU_GRID=1")
    for m, n, k in LONG_GRID:
        x, bias = torch.randn(m, k), torch.randn(n)
        codes, scale = _weight(n, k)
        assert torch.equal(linear_w8a8(x, codes, scale, bias), _expected(x, codes, scale, bias)), (m, n, k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_residual_and_leading_dimensions(triton_driver, dtype):
    x, residual = torch.randn(2, 3, 50).to(dtype), torch.randn(2, 3, 21).to(dtype)
    codes, scale = _weight(21, 50)
    expected = (_expected(x.view(6, 50), codes, scale, None) + residual.view(6, 21).float()).to(dtype)
    assert torch.equal(linear_w8a8(x, codes, scale, residual=residual), expected.view(2, 3, 21))


@pytest.mark.parametrize("activation", range(1, 6))
def test_activations_have_the_bits_of_the_cpu(triton_driver, activation):
    x, bias = torch.randn(16, 48), torch.randn(64)
    x[14], x[15] = x[14] * 40, float("nan")  # beyond the ends of the approximations
    codes, scale = _weight(64, 48)
    scale *= 0.1  # most results are where activations bend
    weight = QuantizedWeight(codes, scale, None, 8, None)
    expected = torch.ops.kdnative.linear_w8a8(x, dense.pack(weight, bias), 64, activation)
    y = linear_w8a8(x, codes, scale, bias, activation=activation)
    assert torch.equal(y[:15], expected[:15])
    assert y[15].isnan().all()
    assert expected[15].isnan().all()


@triton.jit
def _tiles(out, m, n, BM: tl.constexpr, BN: tl.constexpr):
    tile_m, tile_n = tile_of(m, n, BM, BN)
    tl.store(out + 2 * tl.program_id(0), tile_m)
    tl.store(out + 2 * tl.program_id(0) + 1, tile_n)


@pytest.mark.parametrize("m, n", [(1, 1), (8, 3), (11, 2), (17, 5)])
def test_every_tile_is_some_programs(triton_driver, m, n):
    out = torch.full((m * n, 2), -1, dtype=torch.int32)
    _tiles[(m * n,)](out, 4 * m - 1, 8 * n, BM=4, BN=8)
    assert sorted(map(tuple, out.tolist())) == [(i, j) for i in range(m) for j in range(n)]


def test_extremes(triton_driver):
    """Sums of 4096 products of the largest codes, which also are the largest that 16 bits of float hold."""
    x = torch.ones(2, 4096)
    x[1, ::2] = -1
    codes = torch.full((3, 4096), 127, dtype=torch.int8)
    codes[1], codes[2] = -128, 0
    scale = torch.ones(3)
    assert torch.equal(linear_w8a8(x, codes, scale), _expected(x, codes, scale, None))


def test_input_scales_and_padded_rows(triton_driver):
    x, factors = torch.randn(3, 40)[:, ::2], torch.rand(20) + 0.5
    codes, scale = _weight(5, 20)
    wide = torch.zeros(5, 128, dtype=torch.int8)
    wide[:, :32] = codes
    expected = _expected(x * factors, codes, scale, None)
    assert torch.equal(linear_w8a8(x, wide, scale, input_scale=factors), expected)


def test_no_rows(triton_driver):
    codes, scale = _weight(5, 20)
    assert linear_w8a8(torch.empty(2, 0, 20), codes, scale).shape == (2, 0, 5)
    assert not triton_driver.launches


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.zeros(2, 33)}, ValueError, r"codes have shape \[3, 32\] and x \[2, 33\]"),
        ({"x": torch.zeros(2, 20, dtype=torch.int8)}, TypeError, "x is torch.int8; float32, bfloat16 and float16"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x has shape \[\]"),
        ({"codes": torch.zeros(3, 20, dtype=torch.int8)}, ValueError, "a multiple of 16"),
        ({"codes": torch.zeros(3, 32)}, TypeError, "codes is torch.float32; it must be torch.int8"),
        ({"scale": torch.ones(4)}, ValueError, r"scale has shape \[4\]; it must be \[3\]"),
        ({"bias": torch.ones(3, dtype=torch.half)}, TypeError, "bias is torch.float16"),
        ({"input_scale": torch.ones(19)}, ValueError, "input_scale has shape"),
        ({"residual": torch.ones(2, 4)}, ValueError, r"residual has shape \[2, 4\]; it must be \[2, 3\]"),
        (
            {"codes": torch.zeros(0, 32, dtype=torch.int8), "scale": torch.ones(0)},
            ValueError,
            "the weight has 0 outputs",
        ),
        ({"activation": 6}, ValueError, "activation code 6 is unknown"),
    ],
)
def test_bad_arguments(change, error, message):
    given = {"x": torch.zeros(2, 20), "codes": torch.zeros(3, 32, dtype=torch.int8), "scale": torch.ones(3)} | change
    with pytest.raises(error, match=f"linear_w8a8: .*{message}"):
        linear_w8a8(**given)


def test_too_many_tiles(triton_driver, monkeypatch):
    monkeypatch.setattr(arguments, "_MOST_PROGRAMS", 1)
    codes, scale = _weight(300, 16)
    with pytest.raises(ValueError, match=r"linear_w8a8: x of shape \[1, 16\] takes \d+ programs, at most 1"):
        linear_w8a8(torch.ones(1, 16), codes, scale)
