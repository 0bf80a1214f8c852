"""The dtype in which a native linear gives its weight and bias: models that compute with these keep theirs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative import load, save
from kdnative.nn import Linear

HALVES = [torch.bfloat16, torch.float16]


def linear(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    return nn.Linear(64, 48, bias=bias, dtype=dtype).requires_grad_(False)


def with_native_linears(model):
    """A copy of a model in which every linear is native."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            model.set_submodule(name, Linear.from_float(module))
    return model


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-asym", "w8a16", "w8a8+mask"])
@pytest.mark.parametrize("dtype", HALVES)
def test_is_that_of_the_float_layer(scheme, dtype):
    layer, plain = Linear.from_float(linear(dtype), scheme), Linear.from_float(linear(dtype).float(), scheme)
    assert layer.weight.dtype == layer.bias.dtype == layer.dtype == dtype and plain.dtype == torch.float32
    assert torch.equal(layer.weight, plain.weight.to(dtype)) and layer.weight.clone().dtype == dtype
    assert torch.equal(layer.bias, linear(dtype).bias) and layer.bias.clone().dtype == dtype
    assert torch.equal(layer.packed, plain.packed)
    state, same = layer.state_dict(), plain.state_dict()
    assert {k: v.dtype for k, v in state.items()} == {k: v.dtype for k, v in same.items()}
    assert all(torch.equal(state[name], same[name]) for name in same), "a checkpoint keeps scales and bias in float32"
    for x in (torch.randn(3, 64), torch.randn(3, 64).to(dtype)):
        assert torch.equal(layer(x), plain(x)) and layer(x).dtype == x.dtype
        assert torch.equal(F.linear(x, layer.weight, layer.bias), layer(x))
    assert Linear.from_float(linear(dtype, bias=False), scheme).bias is None


def test_changes_as_that_of_any_layer():
    layer = Linear.from_float(linear())
    packed, exact, bias = layer.packed.clone(), layer.weight.clone(), layer.bias.clone()
    for change, dtype in [
        (lambda m: m.half(), torch.float16),
        (lambda m: m.to("cpu"), torch.float16),
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
        (lambda m: m.double(), torch.float32),  # kernels have no float64
        (lambda m: nn.Sequential(m).bfloat16(), torch.bfloat16),
        (lambda m: m.float(), torch.float32),
    ]:
        change(layer)
        assert layer.dtype == layer.weight.dtype == layer.bias.dtype == dtype
        assert torch.equal(layer.weight, exact.to(dtype)) and torch.equal(layer.bias, bias.to(dtype))
        assert torch.equal(layer.packed, packed)
    assert Linear.from_float(linear().double()).dtype == torch.float32


def test_copies_and_the_constructor_keep_it():
    layer = Linear.from_float(linear(torch.bfloat16))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), Linear(**layer.spec)):
        assert copied.dtype == copied.weight.dtype == torch.bfloat16
    assert layer.spec["dtype"] == "bfloat16" and "dtype=bfloat16" in repr(layer)
    for plain in (Linear.from_float(linear()), layer.float()):
        assert plain.spec["dtype"] == "float32" and "dtype" not in repr(plain)
    assert Linear(64, 48, dtype=torch.float16).dtype == torch.float16
    for wrong in (torch.float64, torch.int8, "float8"):
        with pytest.raises(ValueError, match=f"dtype {wrong} is not one of float32, bfloat16, float16"):
            Linear(64, 48, dtype=wrong)


def test_compiled():
    layer, x = Linear.from_float(linear(torch.bfloat16)), torch.randn(3, 48, dtype=torch.bfloat16)
    compiled = torch.compile(lambda x: x @ layer.weight, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), x @ layer.weight)


@pytest.mark.parametrize("dtype", HALVES)
def test_checkpoints_keep_it(tmp_path, dtype):
    model = nn.Sequential(linear(dtype), nn.LayerNorm(48, dtype=dtype), nn.Linear(48, 8)).eval()
    native = with_native_linears(model)
    save(native, tmp_path)
    for loaded in (load(tmp_path), load(tmp_path, into=copy.deepcopy(model))):
        assert loaded[0].dtype == loaded[0].weight.dtype == dtype and loaded[2].dtype == torch.float32
        assert torch.equal(loaded[0].packed, native[0].packed) and loaded[0].spec == native[0].spec


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_t5_keeps_its_dtype(dtype, gated):
    """Its feed-forward layers convert their input to the dtype of a weight, and went on in float32."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind = "gated-gelu" if gated else "relu"
    sizes = {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**sizes, feed_forward_proj=kind)
    model = transformers.T5EncoderModel(config).eval().to(dtype)
    native, seen = with_native_linears(model), set()
    for module in native.modules():
        module.register_forward_hook(lambda m, _, out: seen.add(out.dtype) if torch.is_tensor(out) else None)
    ids = torch.randint(2, 90, (2, 9))
    with torch.inference_mode():
        expected, actual = model(ids).last_hidden_state, native(ids).last_hidden_state
    assert actual.dtype == dtype and seen == {dtype}
    assert torch.cosine_similarity(actual.float(), expected.float(), dim=-1).min() > 0.99


def test_mamba_in_bf16():
    """It multiplies by a weight itself, which is on the left, and failed where that was float32."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, state_size=8)
    model = transformers.MambaModel(config).eval().bfloat16()
    native, ids = with_native_linears(model), torch.randint(2, 90, (2, 9))
    with torch.inference_mode():
        expected, actual = (m(ids, use_cache=False).last_hidden_state for m in (model, native))
    assert actual.dtype == expected.dtype
    assert torch.cosine_similarity(actual.float(), expected.float(), dim=-1).min() > 0.99
