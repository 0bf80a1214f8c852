"""The weight of native layers: values when they are used, and nothing before."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative import convert_
from kdnative.nn import Embedding, Linear
from kdnative.ops.weights import linear_weight
from kdnative.quantize import QuantizedWeight


@pytest.fixture(params=["linear", "embedding"])
def layer(request):
    torch.manual_seed(0)
    if request.param == "linear":
        return Linear.from_float(nn.Linear(64, 48), "w4a8-g32")
    return Embedding.from_float(nn.Embedding(48, 64)).to(torch.bfloat16)


def values(layer):
    return layer.quantized().dequantize().to(layer.weight.dtype)


def test_what_is_free(layer, monkeypatch):
    monkeypatch.setattr(QuantizedWeight, "dequantize", lambda self: pytest.fail("dequantized"))
    weight = layer.weight
    assert isinstance(weight, torch.Tensor) and weight.device == torch.device("cpu")
    assert weight.dtype == (torch.float32 if isinstance(layer, Linear) else torch.bfloat16)
    assert weight.shape == (48, 64) and weight.size(1) == 64 and weight.dim() == weight.ndim == 2
    assert weight.numel() == 48 * 64 and weight.is_floating_point() and not weight.requires_grad


@pytest.mark.parametrize(
    "use",
    [
        lambda w: w.float() * 2,
        lambda w: 2 * w.float(),
        lambda w: w[3:5, ::2],
        lambda w: w.T.contiguous(),
        lambda w: torch.cat([w, w]),
        lambda w: torch.stack([w, torch.ones_like(w)]),
        lambda w: nn.functional.linear(torch.ones(2, 64, dtype=w.dtype).requires_grad_(), w).detach(),
        lambda w: torch.ones(2, 48, dtype=w.dtype) @ w,
        lambda w: torch.from_numpy(np.asarray(w.float())),
        lambda w: torch.tensor(w.tolist()),
        lambda w: w.detach().clone(),
        lambda w: w.data + 0,
        lambda w: w.detach()[1:],
        lambda w: copy.deepcopy(w),
        lambda w: pickle.loads(pickle.dumps(w)),
        lambda w: torch.zeros(48, 64, dtype=w.dtype).copy_(w),
        lambda w: nn.Parameter(w.clone()),
    ],
)
def test_values(layer, use):
    actual, expected = use(layer.weight), use(values(layer))
    assert type(actual) in (torch.Tensor, nn.Parameter) and torch.equal(actual, expected)
    assert torch.equal(layer.weight, values(layer)) and torch.equal(values(layer), layer.weight)
    assert not layer.weight.is_meta and repr(layer.weight) == repr(values(layer)) and layer.weight.is_contiguous()


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32", "w8a16", "w8a8+mask"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_a_product_runs_on_the_kernels(scheme, bias, activation, monkeypatch):
    torch.manual_seed(0)
    plain = nn.Linear(64, 48, bias=bias)
    layer = Linear.from_float(plain, scheme, activation)
    linear = Linear.from_float(plain, scheme)
    values = linear.weight.clone()
    monkeypatch.setattr(QuantizedWeight, "dequantize", lambda self: pytest.fail("dequantized"))
    for x in (torch.randn(3, 5, 64), torch.randn(0, 64), torch.randn(64)):
        assert torch.equal(F.linear(x, layer.weight, layer.bias), linear(x))
        assert torch.equal(F.linear(input=x, weight=layer.weight, bias=layer.bias), linear(x))
        for other in (None, torch.randn(48)):
            expected = F.linear(x, values, other)
            assert (F.linear(x, layer.weight, other) - expected).norm() <= 0.02 * expected.norm()
    half = torch.randn(3, 64, dtype=torch.bfloat16)
    assert F.linear(half, layer.weight, layer.bias).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="64"):
        F.linear(x[1:], layer.weight)


def test_a_product_with_a_gradient_uses_the_values():
    layer = Linear.from_float(nn.Linear(64, 48))
    x = torch.randn(3, 64, requires_grad=True)
    F.linear(x, layer.weight, layer.bias).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.clone().sum(0).expand(3, -1))
    with torch.no_grad():
        assert torch.equal(F.linear(x, layer.weight, layer.bias), layer(x))


def test_a_model_that_multiplies_by_the_weights_itself(monkeypatch):
    """The windows of torchvision's Swin; dequantizing took more than half of the time of a forward."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 48, [1, 1], [3, 3], [4, 4], num_classes=5).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model.features(x)
        convert_(model)
        assert isinstance(model.features[1][0].attn.qkv, Linear)
        monkeypatch.setattr(QuantizedWeight, "dequantize", lambda self: pytest.fail("dequantized"))
        assert torch.cosine_similarity(model.features(x), expected, dim=-1).min() > 0.99


def add_in_place(layer):
    layer.weight += 1


def or_in_place(layer):
    layer.weight |= 1


def merge_a_lora(layer):
    """What merge_and_unload of PEFT does."""
    layer.weight.data += torch.ones(48, 64, dtype=layer.weight.dtype)


def set_item(layer):
    layer.weight[3] = 0


def set_data(layer):
    layer.weight.data = torch.zeros(48, 64)


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (add_in_place, "add_"),
        (or_in_place, "__ior__"),
        (merge_a_lora, "add_"),
        (lambda layer: layer.weight.data.copy_(torch.zeros(48, 64)), "copy_"),
        (lambda layer: layer.weight.detach().zero_(), "zero_"),
        (set_data, "data = ..."),
        (set_item, "__setitem__"),
        (lambda layer: layer.weight.zero_(), "zero_"),
        (lambda layer: layer.weight.copy_(torch.zeros(48, 64)), "copy_"),
        (lambda layer: torch.relu_(layer.weight), "relu_"),
        (lambda layer: torch.ops.aten.add_.Tensor(layer.weight, layer.weight), "add_"),
        (lambda layer: torch._foreach_mul_([torch.ones(1), layer.weight], 2.0), "_foreach_mul_"),
        (lambda layer: nn.init.normal_(layer.weight), "normal_"),
        (lambda layer: nn.init.xavier_uniform_(layer.weight), "uniform_"),
        (lambda layer: torch.mul(torch.ones(48, 64), 2, out=layer.weight), "mul"),
        (lambda layer: torch.frexp(torch.ones(48, 64), out=(layer.weight, torch.ones(48, 64).int())), "frexp"),
        (lambda layer: nn.utils.vector_to_parameters(torch.zeros(48 * 64), [layer.weight]), "data = ..."),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_writing_is_an_error(layer, write, named):
    before = values(layer)
    with pytest.raises(RuntimeError, match=f"^{re.escape(named)}.*is a copy.*change the float model and convert again"):
        with torch.no_grad():
            write(layer)
    assert torch.equal(layer.weight, before)


def test_writing_to_a_bias_is_an_error():
    layer = Linear.from_float(nn.Linear(64, 48))
    before = layer.bias.clone()
    for write in (lambda b: b.add_(1), lambda b: nn.init.zeros_(b), lambda b: torch.add(before, 1, out=b)):
        with pytest.raises(RuntimeError, match="bias of a native layer.*is a copy"), torch.no_grad():
            write(layer.bias)
    with pytest.raises(RuntimeError, match="bias of a native layer.*is a copy"):
        layer.bias.data += 1
    assert torch.equal(layer.bias, before) and type(before) is torch.Tensor
    assert torch.equal(layer.state_dict()["bias"], before) and type(layer.state_dict()["bias"]) is torch.Tensor


def test_freezing_a_model_is_no_write(layer):
    assert not layer.weight.requires_grad_(False).requires_grad
    layer.weight.requires_grad = False
    layer.weight.grad = None
    layer.weight.share_memory_()
    other = copy.deepcopy(layer)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


def test_compiled(layer):
    def scaled(x):
        return x * layer.weight.float().sum() if layer.weight.dtype != torch.float64 else x

    x = torch.ones(3)
    torch.testing.assert_close(torch.compile(scaled, fullgraph=True, backend="aot_eager")(x), scaled(x))


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-asym", "w8a8+mask", "w8a8+2:4"])
def test_operator(scheme):
    torch.manual_seed(0)
    plain = nn.Linear(64, 48)
    with torch.no_grad():
        plain.weight.view(48, 16, 4)[..., :2] = 0
    layer = Linear.from_float(plain, scheme)
    arguments = (layer.packed, 48, 64)
    assert torch.equal(linear_weight(*arguments), layer.quantized().dequantize())
    torch.library.opcheck(torch.ops.kdnative.linear_weight.default, arguments)


def test_a_model_that_asks_for_the_dtype_in_every_forward(monkeypatch):
    """T5 does; dequantizing for it took most of the time of a forward."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    model = transformers.T5EncoderModel(config).eval()
    ids = torch.randint(2, 90, (2, 9))
    with torch.inference_mode():
        expected = model(ids).last_hidden_state
        convert_(model, {"*DenseReluDense*": "w8a8"})
        assert isinstance(model.encoder.block[0].layer[1].DenseReluDense.wo, Linear)
        monkeypatch.setattr(QuantizedWeight, "dequantize", lambda self: pytest.fail("dequantized"))
        actual = model(ids).last_hidden_state
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(ids).last_hidden_state
    torch.testing.assert_close(compiled, actual, atol=1e-3, rtol=1e-3)
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
