import pytest
import torch
from torch import nn

from kdnative import ops
from kdnative.formats import dense
from kdnative.quantize import FakeQuantLinear, quantize_weight
from kdnative.quantize.two_level import quantize_two_level

SCHEMES = ["w4a8-g32-int", "w4a8-g64-int", "w4a8-g128-int"]


def error(weight, scheme, **options):
    found = quantize_weight(weight, scheme, **options).dequantize().double()
    return float((found - weight.double()).norm() / weight.double().norm())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_close_to_what_float_scales_reach(scheme, scale):
    weight = torch.randn(64, 512) * scale
    weight[3] *= 40  # channels have scales of their own
    float_scales = error(weight, scheme.replace("-int", "-asym"))
    assert error(weight, scheme) < 1.1 * float_scales
    assert error(weight, scheme, clip_search=True) < error(weight, scheme)


def test_better_than_symmetric_float_scales_at_the_same_groups():
    weight = torch.randn(64, 512)
    assert error(weight, "w4a8-g128-int") < error(weight, "w4a8-g128")


@pytest.mark.parametrize("search, limit", [(False, 1.35), (True, 1.05)])
def test_near_the_best_of_all_integer_scales_and_zero_points(search, limit):
    weight = torch.randn(8, 96)
    w = quantize_weight(weight, "w4a8-g32-int", clip_search=search)
    steps = (weight / w.scale[:, None]).double().view(8, 3, 1, 1, 32)
    group_scale, zero = torch.arange(1, 18).view(-1, 1, 1), torch.arange(-8, 8).view(-1, 1)
    reach = 127 // group_scale
    codes = (steps / group_scale).round() + zero
    codes = torch.minimum(torch.maximum(codes, (zero - reach).clamp(min=-8)), (zero + reach).clamp(max=7))
    best = ((codes - zero) * group_scale - steps).square().sum(-1).flatten(2).amin(-1)
    found = (w.decoded().qweight - steps.view(8, 96)).square().view(8, 3, 32).sum(-1)
    assert bool((found >= best - 1e-6).all()) and float(found.sum() / best.sum()) < limit


def test_zeros_and_empty_weights():
    w = quantize_weight(torch.zeros(5, 64), "w4a8-g32-int")
    assert torch.equal(w.dequantize(), torch.zeros(5, 64)) and torch.equal(w.scale, torch.ones(5))
    mixed = torch.zeros(3, 64)
    mixed[1, 40] = 2.5
    assert torch.allclose(quantize_weight(mixed, "w4a8-g32-int").dequantize(), mixed, rtol=0.01)  # 126 of 127
    for shape in ((0, 64), (4, 0)):
        assert quantize_weight(torch.zeros(shape), "w4a8-g32-int").qweight.shape == shape


def test_codes_never_leave_int8():
    for _ in range(20):
        weight = torch.randn(30, 128) * torch.exp2(torch.randint(-6, 6, (30, 128)).float())
        w = quantize_weight(weight, "w4a8-g32-int", clip_search=True)  # the plain form checks its range
        assert int(w.decoded().qweight.abs().max()) <= 127


def test_the_smaller_error_of_two_scales_is_taken():
    groups = torch.randn(16, 4, 32)
    found = quantize_two_level(groups)
    steps = groups / found.scale[:, None, None]
    measured = (found.decoded().view_as(steps) - steps).square().sum(-1)
    torch.testing.assert_close(found.error, measured, rtol=1e-5, atol=1e-3)
    assert torch.isin(found.group_scale, torch.arange(1.0, 18.0)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("clip", [None, "search"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_sees_the_bits_of_the_kernel(scheme, clip, dtype, isa):
    layer = FakeQuantLinear.from_float(nn.Linear(256, 40).to(dtype), scheme, clip=clip)
    x = torch.randn(7, 256).to(dtype)
    want = ops.linear(x, dense.pack(layer.quantized(), layer.bias), 4, 40)
    got = layer(x.requires_grad_())
    assert torch.equal(got.detach(), want)
    upstream = torch.randn(7, 40).to(dtype)
    got.backward(upstream)
    if dtype == torch.float32:
        assert torch.allclose(x.grad, upstream @ layer.quantized().dequantize(), atol=1e-5)
    assert (layer.weight.grad != 0).any()


def test_a_learned_range_is_refused():
    with pytest.raises(ValueError, match="no gradient for the integer scales of w4a8-g32-int"):
        FakeQuantLinear(64, 8, scheme="w4a8-g32-int", clip="learn")
