"""Training with input scales: the bits of the native layer, gradients of the plain one."""

import copy

import pytest
import torch
from torch import nn

from kdnative.convert import convert_
from kdnative.nn import Linear
from kdnative.quantize import FakeQuantLinear, finish_qat_, quantize_weight
from tests.input_scales import random_scales

SCHEMES = ["w8a8", "w4a8-g32", "w4a8-g32-asym", "w4a8-g32-int", "w2a8-g64"]


def layer(scheme="w8a8", k=64, n=24, **options):
    return FakeQuantLinear.from_float(nn.Linear(k, n), scheme, input_scale=random_scales(k), **options)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("clip", [None, "search"])
def test_the_forward_is_that_of_the_native_layer(isa, scheme, clip):
    fake = layer(scheme, clip=clip)
    assert str(fake.scheme) == f"{scheme}-is" and "-is" in repr(fake)
    weight = fake.quantized()
    assert torch.equal(weight.input_scale, fake.input_scale)
    native = Linear.from_quantized(weight, fake.bias.detach(), fake.scheme)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(5, 64).to(dtype)
        with torch.no_grad():
            assert torch.equal(fake(x), native(x))
            assert fake(x).dtype == dtype
    model = nn.Sequential(fake)
    convert_(model)  # it keeps the scheme that it was trained for
    assert str(model[0].scheme) == f"{scheme}-is" and torch.equal(model[0].packed, native.packed)


def test_codes_are_those_of_the_quotient():
    fake = layer("w4a8-g32")
    want = quantize_weight(fake.weight.detach() / fake.input_scale, "w4a8-g32")
    assert torch.equal(fake.quantized().qweight, want.qweight) and torch.equal(fake.quantized().scale, want.scale)


def test_gradients_pass_straight_through():
    """As if nothing were rounded: those of F.linear, but for the values that were rounded."""
    fake = layer("w8a8")
    x = torch.randn(40, 64, requires_grad=True)
    fake(x).square().sum().backward()
    plain, y = copy.deepcopy(fake.weight.detach()).requires_grad_(), x.detach().clone().requires_grad_()
    nn.functional.linear(y, plain, fake.bias).square().sum().backward()
    for got, want in ((x.grad, y.grad), (fake.weight.grad, plain.grad)):
        assert got.dtype == want.dtype and (got - want).norm() < 0.03 * want.norm()
    assert fake.input_scale.grad is None and "input_scale" in dict(fake.named_buffers())


def test_exact_gradients_by_hand():
    """One input, one output: y = x s (w / s), dy/dx = s * (dequantized), dy/dw = x s / s."""
    fake = FakeQuantLinear(1, 1, bias=False, input_scale=torch.tensor([4.0]))
    with torch.no_grad():
        fake.weight.fill_(3.0)
    x = torch.tensor([[2.0]], requires_grad=True)
    y = fake(x)
    y.backward()
    torch.testing.assert_close(y, torch.tensor([[6.0]]))
    torch.testing.assert_close(x.grad, torch.tensor([[3.0]]))
    torch.testing.assert_close(fake.weight.grad, torch.tensor([[2.0]]))


def test_learned_ranges_train():
    fake = layer("w2a8-g32", clip="learn")
    fake(torch.randn(8, 64)).square().sum().backward()
    assert fake.scale.grad.abs().sum() > 0 and fake.weight.grad.abs().sum() > 0


def test_state_dicts_copies_and_the_way_back():
    fake = layer("w4a8-g32")
    x = torch.randn(3, 64)
    other = layer("w4a8-g32")
    other.load_state_dict(fake.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x), fake(x)) and torch.equal(copy.deepcopy(fake)(x), fake(x))
        before = other.input_scale.clone()
        other.load_state_dict({"weight": fake.weight, "bias": fake.bias})  # of the float model: its own scales stay
        assert torch.equal(other.input_scale, before)
    want = fake.quantized().dequantize()
    assert torch.equal(fake.plain().weight, want)
    model = nn.Sequential(fake)
    finish_qat_(model)
    assert type(model[0]) is nn.Linear and torch.equal(model[0].weight, want) and not list(model.buffers())


@pytest.mark.parametrize(
    ("factors", "error", "words"),
    [
        (torch.ones(63), ValueError, r"input_scale has shape \[63\]; one factor per input is \[64\]"),
        (torch.zeros(64), ValueError, "input_scale holds zero, negative, infinite or NaN"),
        (torch.full((64,), float("nan")), ValueError, "input_scale holds zero, negative, infinite or NaN"),
        (torch.ones(64).double(), TypeError, "input_scale must be a torch.float32 tensor"),
    ],
)
def test_bad_scales(factors, error, words):
    with pytest.raises(error, match=words):
        FakeQuantLinear.from_float(nn.Linear(64, 8), "w8a8", input_scale=factors)


def test_a_scheme_with_scales_starts_at_one():
    fake, plain = FakeQuantLinear(64, 8, scheme="w8a8-is"), FakeQuantLinear(64, 8)
    plain.load_state_dict({"weight": fake.weight, "bias": fake.bias})
    x = torch.randn(3, 64)
    assert torch.equal(fake.input_scale, torch.ones(64)) and torch.equal(fake(x), plain(x))
    fake.input_scale[3] = -1.0
    with pytest.raises(ValueError, match="input_scale holds zero, negative"):
        fake.quantized()
    given = FakeQuantLinear.from_float(nn.Linear(64, 8), "w8a8-is", input_scale=random_scales(64))
    assert str(given.scheme) == "w8a8-is"
    with pytest.raises(ValueError, match="have no place for them"):
        FakeQuantLinear.from_float(nn.Linear(64, 8), "w8a8+4x1", input_scale=random_scales(64))
