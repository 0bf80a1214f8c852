"""Integer weights that somebody else found, packed as they are."""

import pytest
import torch
from torch import nn

from kdnative.convert import convert_, to_float_
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.nn import Encoder, EncoderLayer, Linear
from kdnative.quantize import FakeQuantLinear, quantize_weight
from tests.input_scales import random_scales, scaled
from tests.small_models import bert, rows

IDS = torch.arange(2, 24).view(2, 11)


def codes(outputs, inputs, scheme="w8a8", seed=0):
    """Random weights of a scheme, which no rounding of a layer's own weight gives."""
    return quantize_weight(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)), scheme)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g64", "w4a8-g32-asym", "w4a8-g64-int", "w2a8-g32"])
def test_given_weights_are_packed_and_others_quantized(scheme):
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32, bias=False))
    other, bias = model[2].weight.detach().clone(), model[0].bias.detach().clone()
    given = codes(96, 64, scheme)
    convert_(model, {"0": scheme, "*": "w8a8"}, weights={"0": given})
    found = model[0].quantized()
    assert torch.equal(found.qweight, given.qweight) and torch.equal(found.scale, given.scale)
    assert torch.equal(model[0].bias, bias)
    assert torch.equal(model[2].quantized().qweight, quantize_weight(other, "w8a8").qweight)


def test_given_weights_in_a_fused_encoder():
    """As if the model had had these weights in float."""
    model, expected = bert(), bert()
    names = ["bert.encoder.layer.0.attention.self.key", "bert.pooler.dense", "bert.encoder.layer.1.output.dense"]
    given = {name: codes(*model.get_submodule(name).weight.shape, seed=i) for i, name in enumerate(names)}
    with torch.no_grad():
        for name, weight in given.items():
            expected.get_submodule(name).weight.copy_(weight.dequantize())
    convert_(model, weights=given)
    convert_(expected)
    assert type(model.bert) is Encoder
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-6, atol=0)


def test_attention_of_torch():
    attention = nn.MultiheadAttention(64, 4, batch_first=True)
    given = codes(192, 64)
    convert_(attention, weights={"": given})
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert torch.equal(torch.cat([linear.quantized().qweight for linear in projections]), given.qweight)


def vision(kind, **changes):
    transformers = pytest.importorskip("transformers", "5.0")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=32, patch_size=8, **changes)
    torch.manual_seed(0)
    return getattr(transformers, "CLIPVisionModel" if kind == "CLIPVision" else f"{kind}Model")(config).eval()


def layers_of(model):
    kinds = ("CLIPEncoderLayer", "Dinov2Layer")
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds]


def test_a_factor_can_not_go_into_given_weights():
    """Factors that the model has learned; they may be negative."""
    model = vision("Dinov2")
    layers = layers_of(model)
    found = rows(convert_(model, weights={f"{layers[0]}.mlp.fc2": codes(64, 256)}))
    assert "mlp.fc2 is followed by a factor, which can't be merged into the given weights" in found[layers[0]].reason
    assert type(model.get_submodule(f"{layers[0]}.mlp.fc2")) is Linear
    assert type(model.get_submodule(layers[1])) is EncoderLayer
    other = vision("Dinov2")
    convert_(other, weights={f"{layers[0]}.mlp.fc1": codes(256, 64)})
    assert type(other.get_submodule(layers[0])) is EncoderLayer


def test_the_factor_of_an_activation_goes_into_the_scales_of_given_weights():
    """CLIP's: as if the model had had these weights in float."""
    model, expected = vision("CLIPVision"), vision("CLIPVision")
    first = layers_of(model)[0]
    given = {f"{first}.mlp.fc1": codes(128, 64), f"{first}.mlp.fc2": codes(64, 128)}
    for name, weight in given.items():
        expected.get_submodule(name).weight.data.copy_(weight.dequantize())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = expected(images).last_hidden_state
    convert_(model, weights=given)
    convert_(expected)
    assert type(model.get_submodule(first)) is EncoderLayer
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert (model(images).last_hidden_state - exact).norm() < 0.05 * exact.norm()
    to_float_(model)
    for name, weight in given.items():
        torch.testing.assert_close(model.get_submodule(name).weight.detach(), weight.dequantize(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-asym", "w8a16", "w4a16-g64"])
def test_a_weight_that_brings_input_scales_gives_its_layer_the_scheme_for_them(scheme):
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))
    given = scaled(torch.randn(96, 64), scheme, random_scales(64))
    found = rows(convert_(model, {"0": scheme, "*": "w8a8"}, weights={"0": given}))
    assert (found["0"].scheme, found["2"].scheme) == (f"{scheme}-is", "w8a8")
    assert str(model[0].scheme) == f"{scheme}-is" and torch.equal(model[0].quantized().input_scale, given.input_scale)
    x = torch.randn(3, 64)
    with torch.no_grad():
        want = Linear.from_quantized(given, model[0].bias.detach().clone(), f"{scheme}-is")(x)
        assert torch.equal(model[0](x), want)
    again = rows(convert_(model, {"0": scheme, "2": "w8a8"}))  # it has what is asked for
    assert again["0"].action == "kept" and "already native" in again["0"].reason
    with pytest.raises(ValueError, match=f"native already, in {scheme}-is, and has no float weights"):
        convert_(model, {"0": "w2a8-g32"})


def test_a_trained_layer_may_be_given_a_weight_with_input_scales():
    model = nn.Sequential(FakeQuantLinear(64, 96))
    convert_(model, weights={"0": scaled(torch.randn(96, 64), "w8a8", random_scales(64))})
    assert str(model[0].scheme) == "w8a8-is"


def test_sparse_schemes_take_no_input_scales():
    model = nn.Sequential(nn.Linear(64, 96))
    given = scaled(torch.randn(96, 64), "w8a8", random_scales(64))
    with pytest.raises(ValueError, match="0: .*'w8a8-is[+]4x1' has input scales, and weights that are stored without"):
        convert_(model, {"0": "w8a8+4x1"}, weights={"0": given})
    with pytest.raises(ValueError, match="0: it stays in float .*have no place for them"):
        convert_(model, "w8a8+4x1", weights={"0": given})


WRONG = {
    "no scales": ({"0": codes(96, 64)}, "w8a8-is", r"\n  0: it has 8 bits, no groups, .* which is not w8a8-is"),
    "absent": ({"2": codes(64, 64)}, "w8a8", r"\n  2: there is no linear layer with this name"),
    "no linear": ({"1": codes(64, 64)}, "w8a8", r"\n  1: there is no linear layer with this name"),
    "shape": ({"0": codes(64, 96)}, "w8a8", r"\n  0: it has shape \[64, 96\], and the layer \[96, 64\]"),
    "bits": ({"0": codes(96, 64, "w4a8-g64")}, "w8a8", r"\n  0: it has 4 bits, groups of 64, .* which is not w8a8"),
    "groups": ({"0": codes(96, 64, "w4a8-g32")}, "w4a8-g64", r"\n  0: it has 4 bits, groups of 32"),
    "zeros": ({"0": codes(96, 64, "w4a8-g64-asym")}, "w4a8-g64", r"\n  0: it has .*zero points, which is not"),
    "kept": ({"0": codes(96, 64)}, {"*": None}, r"\n  0: it stays in float \(schemes asks for float"),
    "a tensor": ({"0": torch.ones(96, 64)}, "w8a8", r"\n  0: a QuantizedWeight is needed, not Tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_fit_nothing(case):
    given, schemes, words = WRONG[case]
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
    with pytest.raises(ValueError, match=r"nothing was converted, because these weights don't fit:" + words):
        convert_(model, schemes, weights=given)
    assert type(model[0]) is nn.Linear


def test_a_sparse_scheme_takes_given_weights():
    plain = codes(96, 64)
    sparse = plain.qweight.clone().view(24, 4, 64)
    sparse[:, :, 16:] = 0
    given = QuantizedWeight(sparse.view(96, 64), plain.scale, None, 8, None)
    model = nn.Sequential(nn.Linear(64, 96))
    convert_(model, {"0": "w8a8+4x1"}, weights={"0": given})
    assert model[0].scheme == Scheme.parse("w8a8+4x1") and torch.equal(model[0].quantized().qweight, given.qweight)
