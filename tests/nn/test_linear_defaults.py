"""Torch's default dtype and default device are the caller's: native modules come out the same whatever they are."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import kdnative
from kdnative.formats import dense, sparse
from kdnative.nn import Embedding, Linear, encoder_format
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.quantize import quantize_weight
from tests.small_models import bert

SCHEMES = ["w8a8", "w4a8-g32-asym", "w4a8-g32-int", "w8a8+4x1", "w8a8+mask"]


@pytest.fixture(params=["bfloat16", "float16", "float64", "meta"])
def defaults(request):
    """A context in which torch's default dtype is another, or its default device "meta"."""

    @contextmanager
    def changed():
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))
        try:
            yield
        finally:
            restore()

    yield changed
    restore()


def restore():
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def linears():
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64, bias=False))


def torch_encoder():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(64), enable_nested_tensor=False)


def attention():
    return nn.ModuleDict({"attention": nn.MultiheadAttention(64, 4)})


def embedding():
    return nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 64))


def mpnet():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return transformers.MPNetModel(transformers.MPNetConfig(**sizes, vocab_size=200, max_position_embeddings=66))


MODELS = [linears, torch_encoder, attention, embedding, bert, mpnet]


def assert_same(model, expected):
    own, wanted = ({**m.state_dict(), **dict(m.named_buffers())} for m in (model, expected))
    assert own.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert own[name].device == tensor.device and own[name].dtype == tensor.dtype, name
        assert torch.equal(own[name], tensor), name


@pytest.mark.parametrize("make", MODELS)
def test_convert_and_checkpoints(make, defaults, tmp_path):
    model = make().eval()
    expected = copy.deepcopy(model)
    kdnative.convert_(expected, {"*": "w8a8"})
    kdnative.save(expected, tmp_path / "before")
    with defaults():
        converted, filled = copy.deepcopy(model), copy.deepcopy(model)
        kdnative.convert_(converted, {"*": "w8a8"})
        kdnative.save(converted, tmp_path / "within")
        loaded = kdnative.load(tmp_path / "before")
        filled = kdnative.load(tmp_path / "before", into=filled)
        emptied = copy.deepcopy(expected)
        emptied.load_state_dict(converted.state_dict())
    for own in (converted, loaded, filled, emptied, kdnative.load(tmp_path / "within")):
        assert_same(own, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_outputs(dtype):
    model, ids = bert(), torch.randint(2, 190, (2, 9))
    expected = copy.deepcopy(model)
    kdnative.convert_(expected)
    with torch.inference_mode():
        wanted = expected(ids).logits
        torch.set_default_dtype(dtype)
        try:
            kdnative.convert_(model)
            assert torch.equal(model(ids).logits, wanted)
        finally:
            restore()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_linear(scheme, defaults):
    torch.manual_seed(0)
    plain = nn.Linear(64, 48)
    with torch.no_grad():
        plain.weight.view(48, 16, 4)[..., :2] = 0
    expected = Linear.from_float(plain, scheme)
    with defaults():
        again, layer = Linear(64, 48, scheme), Linear.from_float(plain, scheme)
        again.load_state_dict(plain.state_dict())
        assert again.half().float().dtype == torch.float32
        weight, bias = layer.quantized(), layer.bias.clone()
        values = layer.weight.clone()
        state = layer.state_dict()
        new = Linear(64, 48, scheme)
    assert new.packed.dtype == torch.uint8 and torch.equal(layer.packed, expected.packed)
    assert torch.equal(again.packed, expected.packed)
    assert torch.equal(bias, expected.bias) and torch.equal(values, expected.weight)
    assert torch.equal(weight.qweight, expected.quantized().qweight) and weight.scale.device.type == "cpu"
    for name, tensor in expected.state_dict().items():
        assert state[name].device.type == "cpu" and torch.equal(state[name], tensor)


def test_embedding(defaults):
    table = nn.Embedding(50, 24)
    expected = Embedding.from_float(table)
    with defaults():
        new, converted = Embedding(50, 24), Embedding.from_float(table)
        new.load_state_dict(table.state_dict())
        new.to("cpu").bfloat16().float()
    assert_same(new, expected)
    assert_same(converted, expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_packing(scheme, defaults):
    weight = torch.randn(40, 64) * (torch.arange(40) % 8 < 4)[:, None]
    plain, sparsity = quantize_weight(weight, scheme), scheme.partition("+")[2]
    form, options = (sparse, (sparsity,)) if sparsity else (dense, ())
    expected = form.pack(plain, torch.arange(40.0), *options)
    bias = torch.arange(40.0)
    with defaults():
        packed = form.pack(plain, bias, *options)
        back, back_bias = form.unpack(packed)
    assert packed.device.type == "cpu" and torch.equal(packed, expected)
    assert torch.equal(back.qweight, plain.qweight) and torch.equal(back.scale, plain.scale)
    assert torch.equal(back_bias, bias)


def test_encoder_parts(defaults):
    layer = {"heads": 4, "head_dim": 16, "ffn": 128, "scaling": 0.25, "rope_theta": 1e4}
    layer |= dict.fromkeys(("qkv", "output", "ffn_in", "ffn_out"), "w8a8")
    spec = {"hidden_size": 64, "vocab_size": 50, "max_positions": 20, "token_types": 2, "padding_id": None}
    spec |= {"activation": "gelu", "eps": 1e-5, "norm": "pre", "relative_buckets": 8, "relative_distance": 16}
    spec |= {"layers": [layer, layer]}
    torch.manual_seed(0)
    parts = EncoderParts(spec)
    for module in parts.modules():
        if isinstance(module, Linear):
            module.load_state_dict(nn.Linear(module.in_features, module.out_features).state_dict())
        elif isinstance(module, Embedding):
            module.load_state_dict(nn.Embedding(module.num_embeddings, module.embedding_dim).state_dict())
    expected = encoder_format.pack(parts)
    with defaults():
        packed = encoder_format.pack(parts)
        back = encoder_format.unpack(packed, spec)
        shapes = EncoderParts(spec, "meta").state_dict()
    assert packed.device.type == "cpu" and torch.equal(packed, expected)
    assert_same(back, parts)
    assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {
        k: (v.shape, v.dtype) for k, v in parts.state_dict().items()
    }
