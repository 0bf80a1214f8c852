import copy

import pytest
import torch
from torch import nn

from kdnative import ops
from kdnative.formats import arithmetic, dense
from kdnative.quantize import FakeQuantLinear, quantize_weight, straight_through

SCHEMES = ["w8a8", "w4a8-g32", "w4a8-g64-asym", "w2a8-g128", "w2a8-g32-asym"]
FLOAT_SCHEMES = ["w8a16", "w4a16-g64-asym", "w2a16-g32"]


@pytest.fixture
def plain_torch(monkeypatch):
    """The forward through plain torch operations, as on a GPU."""
    monkeypatch.setattr(straight_through, "native_linear", lambda *arguments: None)


def layer_and_input(text, m=7, n=40, k=256, dtype=torch.float32, **arguments):
    layer = FakeQuantLinear.from_float(nn.Linear(k, n).to(dtype), text, **arguments)
    return layer, torch.randn(m, k).to(dtype)


def native(layer, x):
    packed = dense.pack(layer.quantized(), layer.bias)
    scheme = layer.scheme
    return ops.linear(x, packed, scheme.weight_bits, layer.out_features, activation_bits=scheme.activation_bits)


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_plain_torch_gives_the_bits_of_the_kernel(text, dtype, isa, plain_torch):
    layer, x = layer_and_input(text, dtype=dtype)
    x[0] = 0
    x[1] *= 30 if dtype == torch.float16 else 1e20
    x[2, 3] = torch.nan
    got, expected = layer(x).detach(), native(layer, x)
    assert got.dtype == expected.dtype == dtype
    assert torch.equal(got.nan_to_num(nan=-7.0), expected.nan_to_num(nan=-7.0))
    assert got[2].isnan().all() and not got[[0, 3, 4, 5, 6]].isnan().any()


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("clip", [None, "search", "learn"])
def test_the_forward_that_training_uses_gives_the_bits_of_the_kernel(text, clip, isa):
    layer, x = layer_and_input(text, clip=clip)
    assert torch.equal(layer(x.requires_grad_()).detach(), native(layer, x.detach()))


@pytest.mark.parametrize("text", FLOAT_SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_float_activations_are_not_quantized(text, dtype):
    layer, x = layer_and_input(text, m=4, dtype=dtype, clip="search")
    got = layer(x.requires_grad_())
    exact_y = x.double() @ layer.quantized().dequantize().double().t() + layer.bias.double()
    rtol = {torch.float32: 1e-5, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}[dtype]
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact_y, rtol=rtol, atol=1e-5)
    torch.testing.assert_close(got.detach(), native(layer, x.detach()), rtol=rtol, atol=1e-5)
    if dtype != torch.float32:
        return
    upstream = torch.randn(4, 40)
    got.backward(upstream)
    assert torch.allclose(x.grad.double(), upstream.double() @ layer.quantized().dequantize().double(), atol=1e-5)
    clipped = layer.weight.grad == 0
    wanted = upstream.double().t() @ x.detach().double()
    assert torch.allclose(layer.weight.grad.double()[~clipped], wanted[~clipped], atol=1e-4)
    assert torch.allclose(layer.bias.grad.double(), upstream.double().sum(0), atol=1e-5)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 5, 7), (2, 33, 1100), (17, 64, 3072)])
def test_odd_and_large_shapes(m, n, k, isa, plain_torch):
    layer, x = layer_and_input("w8a8", m, n, k)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        x[0] = 3.0  # the largest sums of products there are
    assert torch.equal(layer(x).detach(), native(layer, x))


def test_forward_against_float64():
    layer, x = layer_and_input("w4a8-g32-asym")
    codes, scale = arithmetic.quantize_rows(x)
    w = layer.quantized().dequantize().double()
    expected = (codes.double() * scale.double()[:, None]) @ w.t() + layer.bias.double()
    assert torch.allclose(layer(x).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", SCHEMES)
def test_leading_dimensions_and_empty_batches(text):
    layer, x = layer_and_input(text, m=6)
    flat = layer(x)
    assert torch.equal(layer(x.view(2, 3, 256)), flat.view(2, 3, 40))
    assert torch.equal(layer(x[0]), flat[0])
    assert torch.equal(layer(x.t().contiguous().t()), flat)
    empty = torch.empty(2, 0, 256, requires_grad=True)
    layer(empty).sum().backward()
    assert empty.grad.shape == (2, 0, 256) and (layer.weight.grad == 0).all()


@pytest.mark.parametrize("text", FLOAT_SCHEMES)
def test_leading_dimensions_and_empty_batches_in_float(text):
    layer, x = layer_and_input(text, m=6)
    flat = layer(x)
    for got, wanted in ((layer(x.view(2, 3, 256)), flat.view(2, 3, 40)), (layer(x[0]), flat[0])):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    empty = torch.empty(2, 0, 256, requires_grad=True)
    layer(empty).sum().backward()
    assert empty.grad.shape == (2, 0, 256) and (layer.weight.grad == 0).all()


@pytest.mark.parametrize("text", SCHEMES)
def test_gradients_are_those_of_the_dequantized_layer(text):
    layer, x = layer_and_input(text)
    x.requires_grad_()
    upstream = torch.randn(7, 40)
    layer(x).backward(upstream)
    codes, scale = arithmetic.quantize_rows(x.detach())
    x_hat = codes.double() * scale.double()[:, None]
    assert torch.allclose(x.grad.double(), upstream.double() @ layer.quantized().dequantize().double(), atol=1e-5)
    assert torch.allclose(layer.weight.grad.double(), upstream.double().t() @ x_hat, atol=1e-4)
    assert torch.allclose(layer.bias.grad.double(), upstream.double().sum(0), atol=1e-5)


@pytest.mark.parametrize("clip", ["search", "learn"])
def test_clipped_weights_get_no_gradient(clip):
    layer, x = layer_and_input("w4a8-g64", clip=clip)
    with torch.no_grad():
        layer.scale.mul_(0.5)
    layer(x).backward(torch.randn(7, 40))
    steps = layer.weight.detach().view(40, 4, 64) / layer.scale.detach()[..., None]
    clipped = ((steps > 7.5) | (steps < -8.5)).view(40, 256)
    assert clipped.any()
    assert (layer.weight.grad[clipped] == 0).all() and (layer.weight.grad[~clipped] != 0).all()


@pytest.mark.parametrize(
    ("text", "ternary", "largest"),
    [("w4a8-g64", None, 7), ("w4a8-g64-asym", None, 7), ("w8a8", None, 127), ("w2a8-g32", None, 1)]
    + [("w2a8-g32", "group", 1), ("w2a8-g32", "channel", 1)],
)
def test_gradient_of_learned_steps(text, ternary, largest):
    layer, x = layer_and_input(text, clip="learn", ternary=ternary)
    with torch.no_grad():
        layer.scale.mul_(torch.empty_like(layer.scale).uniform_(0.5, 0.9))
    upstream = torch.randn(7, 40)
    layer(x).backward(upstream)
    # The straight-through gradient by autograd, in float64: round passes gradients, clamp stops them.
    scale = layer.scale.detach().double().requires_grad_()
    groups = layer.scheme.groups(256)
    weight = layer.weight.detach().double().view(40, groups, -1)
    zero = 0 if layer.zero is None else layer.zero.double()[..., None]
    steps = weight / scale[..., None] + zero
    rounded = steps + (steps.round() - steps).detach()
    high = 2 ** (layer.scheme.weight_bits - 1) - 1
    low = -1 if ternary else -127 if high == 127 else -high - 1
    w_hat = (rounded.clamp(low, high) - zero) * scale[..., None]
    codes, row_scale = arithmetic.quantize_rows(x)
    y = (codes.double() * row_scale.double()[:, None]) @ w_hat.view(40, 256).t()
    y.backward(upstream.double())
    count = 256 * 40 // layer.scale.numel()
    assert torch.allclose(layer.scale.grad.double(), scale.grad / (count * largest) ** 0.5, rtol=1e-3, atol=1e-4)


def test_only_the_wanted_gradients():
    layer, x = layer_and_input("w8a8")
    layer.weight.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is None and x.grad is not None and layer.bias.grad is not None
    with torch.no_grad():
        assert not layer(x).requires_grad


@pytest.mark.parametrize("text", ["w8a8", "w4a8-g32"])
def test_autocast_keeps_the_forward_exact(text):
    layer, x = layer_and_input(text)
    expected = layer(x).detach()
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.bfloat16 and torch.equal(got.detach(), expected.to(torch.bfloat16))
    got.float().square().sum().backward()
    assert x.grad.dtype == torch.float32 and layer.weight.grad.dtype == torch.float32
    reference = copy.deepcopy(layer)
    reference.zero_grad()
    reference(x.detach()).square().sum().backward()
    cosine = torch.cosine_similarity(layer.weight.grad.flatten(), reference.weight.grad.flatten(), dim=0)
    assert cosine > 0.999


def test_bfloat16_parameters():
    layer, x = layer_and_input("w8a8", dtype=torch.bfloat16)
    layer(x).sum().backward()
    assert layer.weight.grad.dtype == layer.bias.grad.dtype == torch.bfloat16


def test_training_recovers_what_rounding_lost():
    teacher = nn.Linear(64, 16)
    layer = FakeQuantLinear.from_float(copy.deepcopy(teacher), "w2a8-g32", "learn")
    optimizer = torch.optim.Adam(layer.parameters(), lr=2e-3)
    x = torch.randn(256, 8) @ torch.randn(8, 64)  # correlated inputs: rounding errors can make up for each other
    losses = []
    for _ in range(40):
        loss = (layer(x) - teacher(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("clip", [None, "search", "learn"])
def test_checkpoints(clip):
    layer, x = layer_and_input("w4a8-g32", clip=clip)
    fresh = FakeQuantLinear(256, 40, scheme="w4a8-g32", clip=clip)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    other = nn.Linear(256, 40)
    layer.load_state_dict(other.state_dict())  # a float checkpoint: the range is searched for the new weight
    expected = quantize_weight(other.weight, "w4a8-g32", clip_search=clip is not None)
    assert torch.equal(layer.quantized().qweight, expected.qweight)
    if clip is None:
        other.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="weight"):
        fresh.load_state_dict({"bias": torch.zeros(40)})


def test_copies_are_independent():
    layer, x = layer_and_input("w8a8")
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.neg_()
    assert not torch.equal(twin(x), layer(x)) and twin.scheme == layer.scheme


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: FakeQuantLinear(48, 4, scheme="w4a8-g32"), ValueError, "32"),
        (lambda: FakeQuantLinear(32, 4, clip="always"), ValueError, "'search' and 'learn'"),
        (lambda: FakeQuantLinear(200_000, 1, device="meta"), ValueError, "overflow int32"),
        (lambda: FakeQuantLinear(32, 4)(torch.zeros(2, 32, dtype=torch.float64)), TypeError, "float64"),
        (lambda: FakeQuantLinear(32, 4)(torch.zeros(2, 31)), ValueError, r"needs \[..., 32\]"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()
