"""Codes of rows from the Triton kernels: the bits of the CPU's rule, and LayerNorm in front of it."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from kdnative.formats import arithmetic  # noqa: E402
from kdnative.ops.backends.triton import arguments  # noqa: E402
from kdnative.ops.backends.triton.layer_norm_quantize import MOST_INPUTS, layer_norm_quantize  # noqa: E402
from kdnative.ops.backends.triton.quantize import quantize_rows  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _same_bits(a, b):
    return torch.equal(a.view(torch.int32), b.view(torch.int32)) or torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 31, 200, 4097])
def test_codes_of_the_cpu(triton_driver, dtype, k):
    x = torch.randn(4, k).to(dtype) * torch.tensor([1.0, 1e-4, 50.0, 3.0]).to(dtype)[:, None]
    codes, scale = quantize_rows(x)
    expected, steps = arithmetic.quantize_rows(x)
    assert torch.equal(codes[:, :k].float(), expected)
    assert _same_bits(scale, steps)
    assert codes.shape[1] == -(-k // 16) * 16
    assert not codes[:, k:].any()


def test_rows_that_are_not_numbers(triton_driver):
    x = torch.randn(7, 20)
    x[0, 3], x[1, 19], x[2, 0] = float("nan"), float("inf"), float("-inf")
    x[3] = 0
    x[4] *= 1e-32
    x[5] = torch.tensor([-1.0, 1.0] * 10) * torch.finfo(torch.float32).max
    codes, scale = quantize_rows(x)
    expected, steps = arithmetic.quantize_rows(x)
    assert torch.equal(codes[:, :20].float(), expected)
    assert _same_bits(scale, steps)
    assert scale.isnan().tolist() == [True] * 3 + [False] * 4


def test_padding_beyond_a_block(triton_driver):
    codes, _ = quantize_rows(torch.randn(1, 4000), multiple=4112)
    assert codes[:, :4000].any()
    assert not codes[:, 4000:].any()


def test_halves_go_to_even(triton_driver):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 62.5, -63.5]])
    codes, _ = quantize_rows(x, multiple=1)
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, 62, -64]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_input_scales_come_first(triton_driver, dtype):
    x, factors = torch.randn(3, 50).to(dtype), torch.rand(50) + 0.1
    codes, scale = quantize_rows(x, factors)
    expected, steps = arithmetic.quantize_rows(x.float() * factors)
    assert torch.equal(codes[:, :50].float(), expected)
    assert _same_bits(scale, steps)


def test_rows_of_any_strides(triton_driver):
    wide = torch.randn(6, 90)
    for x in (wide[::2, 7:40], wide.t()[:20], torch.randn(1, 30).expand(3, 30), torch.randn(4, 1)):
        codes, scale = quantize_rows(x, multiple=1)
        expected, steps = arithmetic.quantize_rows(x)
        assert torch.equal(codes.float(), expected)
        assert torch.equal(scale, steps)


def test_no_rows(triton_driver):
    codes, scale = quantize_rows(torch.empty(0, 5))
    assert (codes.shape, scale.shape) == ((0, 16), (0,))
    assert not triton_driver.launches


def test_too_many_rows(triton_driver):
    """One row that is seen 2^31 times; refused before its codes are made."""
    x = torch.zeros(1, 16).expand(2**31, 16)
    for op, run in (("quantize_rows", quantize_rows), ("layer_norm_quantize", layer_norm_quantize)):
        given = (x,) if run is quantize_rows else (x, torch.ones(16))
        with pytest.raises(ValueError, match=rf"{op}: x of shape .* takes 2147483648 programs, at most 2147483647"):
            run(*given)
    assert arguments._MOST_PROGRAMS == 2147483647 and not triton_driver.launches


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centred", [True, False])
def test_normalized_rows(triton_driver, dtype, centred):
    """Against float64. Mean, variance and the products are sums and products of float32: the value behind a code is off
    by 2^-20 of the row's largest at most, so by half a step and a hundredth; and its scale by 2^-20."""
    k = 100
    x, residual = (torch.randn(5, k).to(dtype) * 3 + 1 for _ in range(2))
    x[2:4], residual[2:4] = x[2:4] * 1e-3, residual[2:4] * 1e-3  # eps counts
    x[4], residual[4] = float("nan"), 0
    weight, bias, factors = torch.rand(k) + 0.5, torch.randn(k), torch.rand(k) + 0.5
    codes, scale, total = layer_norm_quantize(x, weight, bias, 1e-5, residual, factors, centred)
    v = (x.float() + residual.float()).to(dtype)
    assert torch.equal(total.nan_to_num(0), v.nan_to_num(0))
    v = v[:4].double()
    v = v - v.mean(-1, keepdim=True) if centred else v
    y = (v / (v.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias) * factors
    torch.testing.assert_close(scale[:4].double(), y.abs().amax(-1) / 127, rtol=2**-20, atol=0)
    assert ((codes[:4, :k] - y / scale[:4, None].double()).abs() <= 0.51).all()
    assert not codes[:, k:].any()
    assert not codes[4].any()
    assert scale[4].isnan()


def test_a_norm_without_bias_and_residual(triton_driver):
    x, weight = torch.randn(3, 33), torch.rand(33)
    codes, scale, total = layer_norm_quantize(x, weight, multiple=1)
    assert torch.equal(total, x)
    y = torch.nn.functional.layer_norm(x.double(), (33,), weight.double())
    assert ((codes - y / scale[:, None].double()).abs() <= 0.51).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.zeros(2, 8, dtype=torch.float64)}, TypeError, "x is torch.float64"),
        ({"x": torch.zeros(2, MOST_INPUTS + 1)}, ValueError, f"at most {MOST_INPUTS} inputs"),
        ({"weight": torch.ones(7)}, ValueError, r"weight has shape \[7\]; it must be \[8\]"),
        ({"weight": torch.ones(8, dtype=torch.half)}, TypeError, "weight is torch.float16"),
        ({"bias": torch.ones(16)[::2]}, ValueError, "bias has strides"),
        ({"residual": torch.ones(2, 8, dtype=torch.half)}, TypeError, "residual is torch.float16"),
        ({"input_scale": torch.ones(8, device="meta")}, ValueError, "input_scale is on meta"),
    ],
)
def test_bad_arguments_of_a_norm(change, error, message):
    given = {"x": torch.zeros(2, 8), "weight": torch.ones(8)} | change
    with pytest.raises(error, match=f"layer_norm_quantize: .*{message}"):
        layer_norm_quantize(**given)
