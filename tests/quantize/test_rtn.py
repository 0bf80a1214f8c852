import numpy as np
import pytest
import torch

from kdnative import Scheme
from kdnative.formats.weight import code_range
from kdnative.quantize import quantize_weight, search_clip

SCHEMES = ["w8a8", "w4a8-g32", "w4a8-g64-asym", "w2a8-g32", "w2a8-g128-asym"]
MAX = torch.finfo(torch.float32).max


def reference(w: np.ndarray, bits: int, asymmetric: bool) -> tuple[list[int], int]:
    """Codes and zero of one group, in float64 with Python's half-to-even rounding."""
    low, high = code_range(bits)
    if asymmetric:
        smallest, largest = min(0.0, w.min()), max(0.0, w.max())
        scale = (largest - smallest) / (high - low)
        zero = min(high, max(low, round(low - smallest / scale)))
    else:
        scale, zero = np.abs(w).max() / high, 0
    return [min(high, max(low, round(x / scale) + zero)) for x in w], zero


@pytest.mark.parametrize("text", SCHEMES)
def test_codes_against_float64(text):
    scheme = Scheme.parse(text)
    w = torch.randn(7, 256, generator=torch.Generator().manual_seed(1))
    qw = quantize_weight(w, scheme)
    group = scheme.group_size or 256
    for row in range(7):
        for g in range(256 // group):
            part = slice(g * group, (g + 1) * group)
            codes, zero = reference(w[row, part].double().numpy(), scheme.weight_bits, not scheme.symmetric)
            assert qw.qweight[row, part].tolist() == codes
            assert zero == (0 if qw.zero is None else qw.zero[row, g])


@pytest.mark.parametrize("text", SCHEMES)
def test_error_is_at_most_half_a_step(text):
    scheme = Scheme.parse(text)
    w = torch.randn(16, 256) + torch.linspace(-2, 2, 16)[:, None]
    qw = quantize_weight(w, scheme)
    step = qw.scale.view(16, -1, 1).double()
    error = (qw.dequantize().double() - w.double()).view(16, step.shape[1], -1).abs()
    # An asymmetric range moves by up to half a step when its zero point is rounded.
    assert (error <= step * (0.5 if scheme.symmetric else 1.0) + 1e-6).all()


@pytest.mark.parametrize("text", SCHEMES)
def test_zero_stays_exactly_zero(text):
    w = torch.randn(8, 128)
    w[2] = 0
    w[:, ::3] = 0
    w[5, :] = 1e-38  # below the smallest range: zeros too
    dequantized = quantize_weight(w, text).dequantize()
    assert (dequantized[w == 0] == 0).all() and (dequantized[5] == 0).all()
    assert (quantize_weight(w, text).scale > 0).all()


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("value", [MAX, -MAX, 1e-29, 3.5, -0.1])
def test_constant_and_extreme_rows(text, value):
    w = torch.full((2, 128), value)
    for clip_search in (False, True):
        dequantized = quantize_weight(w, text, clip_search).dequantize()
        assert torch.isfinite(dequantized).all()
        assert torch.allclose(dequantized.double(), w.double(), rtol=1e-5, atol=0)


def test_whole_range_in_one_group_does_not_overflow():
    w = torch.zeros(1, 128)
    w[0, 0], w[0, 1] = MAX, -MAX
    for text in SCHEMES:
        assert torch.isfinite(quantize_weight(w, text, clip_search=True).dequantize()).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_computed_in_fp32(dtype):
    w = torch.randn(5, 64).to(dtype)
    mine, expected = quantize_weight(w, "w4a8-g32"), quantize_weight(w.float(), "w4a8-g32")
    assert torch.equal(mine.qweight, expected.qweight) and torch.equal(mine.scale, expected.scale)


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", [(0, 128), (3, 0), (0, 0)])
def test_empty(text, shape):
    assert quantize_weight(torch.empty(shape), text, clip_search=True).dequantize().shape == shape


@pytest.mark.parametrize("text", ["w4a8-g32", "w4a8-g32-asym", "w2a8-g32", "w2a8-g32-asym"])
def test_clip_search_lowers_the_error_of_every_group(text):
    w = torch.randn(20, 128)
    plain = (quantize_weight(w, text).dequantize() - w).view(20, 4, 32).square().sum(-1)
    searched = (quantize_weight(w, text, clip_search=True).dequantize() - w).view(20, 4, 32).square().sum(-1)
    assert (searched <= plain + 1e-6).all()
    assert searched.sum() < 0.95 * plain.sum()


def test_clip_search_finds_the_best_of_its_grid():
    w = torch.randn(3, 32, generator=torch.Generator().manual_seed(5))
    grid = (1.0, 0.8, 0.6)
    factors = search_clip(w, "w2a8-g32", grid=grid)
    errors = [
        [
            ((quantize_weight(w[r : r + 1], "w2a8-g32", clip=torch.tensor([[f]])).dequantize() - w[r]) ** 2).sum()
            for f in grid
        ]
        for r in range(3)
    ]
    assert factors.flatten().tolist() == pytest.approx([grid[int(np.argmin(e))] for e in errors])


def test_importance_protects_the_columns_that_matter():
    w = torch.randn(16, 32)
    w[:, 0] *= 4
    importance = torch.ones(32)
    importance[0] = 1000.0
    plain = quantize_weight(w, "w2a8-g32", True).dequantize()
    weighted = quantize_weight(w, "w2a8-g32", True, importance=importance).dequantize()
    error = [((d - w).square() * importance).sum() for d in (plain, weighted)]
    assert error[1] < error[0]
    assert search_clip(w, "w2a8-g32", importance=torch.zeros(32)).eq(1.0).all()  # nothing matters: no clipping


def test_non_contiguous_and_gradients():
    w = torch.nn.Parameter(torch.randn(64, 8))
    qw = quantize_weight(w.t(), "w8a8")
    assert torch.equal(qw.qweight, quantize_weight(w.t().contiguous(), "w8a8").qweight)
    assert not qw.dequantize().requires_grad


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_not_finite_is_named(bad):
    w = torch.randn(4, 64)
    w[2, 5] = bad
    with pytest.raises(ValueError, match=r"weight\[2, 5\]"):
        quantize_weight(w, "w8a8")


@pytest.mark.parametrize(
    ("weight", "arguments", "words"),
    [
        (torch.randn(4, 48), {"scheme": "w4a8-g32"}, "does not divide the 48"),
        (torch.randn(4), {"scheme": "w8a8"}, "matrix"),
        (torch.ones(4, 4, dtype=torch.int32), {"scheme": "w8a8"}, "floating point"),
        (torch.randn(4, 32), {"scheme": "w8a8", "importance": torch.ones(32)}, "clip_search=True"),
        (torch.randn(4, 32), {"scheme": "w8a8", "clip_search": True, "clip": torch.ones(4, 1)}, "exclude"),
        (torch.randn(4, 32), {"scheme": "w8a8", "clip": torch.zeros(4, 1)}, "within"),
        (torch.randn(4, 32), {"scheme": "w8a8", "clip_search": True, "importance": torch.ones(4)}, r"\[32\]"),
        (torch.randn(4, 32), {"scheme": "w8a8", "clip_search": True, "importance": -torch.ones(32)}, "negative"),
        (torch.randn(4, 32), {"scheme": "w8a8", "clip_search": True, "grid": (0.0,)}, "grid"),
        (torch.full((1, 2), 1e39, dtype=torch.float64), {"scheme": "w8a8"}, "infinite in fp32"),
    ],
)
def test_bad_arguments(weight, arguments, words):
    with pytest.raises(ValueError, match=words):
        quantize_weight(weight, **arguments)
