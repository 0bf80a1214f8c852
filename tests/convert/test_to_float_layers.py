"""Undoing a conversion of layers whose model stays what it is: the layer's own class, the same integers again."""

import copy

import pytest
import torch
from torch import nn

import kdnative
from kdnative.convert import convert_, to_float_
from kdnative.nn import EncoderLayer
from tests.nn.layer_configs import LAYERS

transformers = pytest.importorskip("transformers", "5.0")

from tests.nn.test_encoder_layer import layer  # noqa: E402


def quick(module):
    return any("QuickGELU" in type(part).__name__ for part in module.modules())


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_transformers(kind):
    theirs = layer(kind)
    model = nn.ModuleList([theirs])
    convert_(model, "w8a8")
    native = model[0]
    if not isinstance(native, EncoderLayer):
        pytest.skip(f"{kind} is not one operator here")
    before = native.packed.clone()
    assert to_float_(model) == ["0"]
    plain = model[0]
    assert type(plain) is type(theirs) and plain is not theirs and not plain.training
    assert set(plain.state_dict()) == set(theirs.state_dict())
    assert all(p.requires_grad and p.device.type == "cpu" for p in plain.parameters())
    again = convert_(nn.ModuleList([copy.deepcopy(plain)]), "w8a8").model[0]
    if quick(theirs):  # its factor was divided out, and is multiplied in again
        for name, tensor in native.state_dict().items():
            assert torch.allclose(again.state_dict()[name].float(), tensor.float(), rtol=1e-5, atol=1.001), name
    else:
        assert torch.equal(again.packed, before)


def vision():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    )
    return transformers.ViTModel(config).eval()


def test_a_loaded_model(tmp_path):
    """Its layers know theirs by the configuration, or by the model that was filled."""
    model = vision()
    plain = copy.deepcopy(model)
    convert_(model, "w8a8")
    kdnative.save(model, tmp_path / "checkpoint")
    expected = {name: tensor.clone() for name, tensor in to_float_then_state(copy.deepcopy(model)).items()}
    for into in (None, plain):
        loaded = kdnative.load(tmp_path / "checkpoint", into=into)
        found = to_float_then_state(loaded)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        loaded(torch.randn(1, 3, 32, 32)).last_hidden_state.sum().backward()


def to_float_then_state(model):
    names = to_float_(model)
    assert names and not any(isinstance(module, EncoderLayer) for module in model.modules())
    return model.state_dict()


def test_what_a_layer_remembers_costs_no_memory_and_is_no_part_of_it():
    model = convert_(vision(), "w8a8").model
    layer = next(module for module in model.modules() if isinstance(module, EncoderLayer))
    assert all(parameter.is_meta for parameter in layer.original.parameters())
    assert not list(layer.children()) and not any("original" in name for name in layer.state_dict())
    copied = copy.deepcopy(layer)
    assert type(copied.original) is type(layer.original)
    held = [module for module in model.modules() if isinstance(module, EncoderLayer)]
    assert held[0].original is not held[1].original
    assert {id(each.original.config) for each in held if hasattr(each.original, "config")} <= {id(model.config)}


@pytest.mark.parametrize("library", ["timm", "torchvision", "open_clip"])
def test_layers_of_other_libraries(library):
    module = pytest.importorskip(library)
    torch.manual_seed(0)
    if library == "timm":
        model = module.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, init_values=0.1
        )
    elif library == "torchvision":
        model = module.models.vision_transformer.VisionTransformer(32, 8, 2, 3, 48, 96)
    else:
        model = module.model.VisionTransformer(32, 8, 48, 2, 3, 2.0, output_dim=32)
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 32, 32)
    convert_(model, "w8a8")
    layers = [m for m in model.modules() if isinstance(m, EncoderLayer)]
    assert layers
    with torch.no_grad():
        native = model(x)
    before = [each.packed.clone() for each in layers]
    to_float_(model)
    assert not any(isinstance(m, EncoderLayer) for m in model.modules())
    again = model(x)
    assert (again - native).norm() < 0.05 * native.norm()
    convert_(model, "w8a8")
    found = [m.packed for m in model.modules() if isinstance(m, EncoderLayer)]
    assert all(torch.equal(a, b) for a, b in zip(found, before, strict=True))


def test_parts_that_are_put_together_are_refused():
    """Queries, keys and values of EVA have their biases apart: a copy of them would be filled, and the layer not."""
    eva = pytest.importorskip("timm.models.eva")
    torch.manual_seed(0)
    block = eva.EvaBlock(48, 3, qkv_bias=True, rotate_half=True).eval()
    if not hasattr(block.attn, "q_bias") or block.attn.q_bias is None:
        pytest.skip("this timm keeps the biases of EVA in its linear")
    model = nn.ModuleList([block])
    convert_(model, "w8a8")
    assert isinstance(model[0], EncoderLayer)
    with pytest.raises(ValueError, match=r"0: attn\.qkv is computed from other tensors"):
        to_float_(model)
    assert isinstance(model[0], EncoderLayer)


def test_a_layer_that_was_not_converted_here(tmp_path):
    model = convert_(vision(), "w8a8").model
    layer = next(module for module in model.modules() if isinstance(module, EncoderLayer))
    with pytest.raises(ValueError, match="was not made by a conversion"):
        to_float_(EncoderLayer.from_parts(layer.parts()))
