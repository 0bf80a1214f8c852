"""Fused encoders whose weights have input scales: against the oracle, and against the same model layer by layer."""

import copy
import io
import pickle

import pytest
import torch

from kdnative import ops
from kdnative.convert import convert_, to_float_
from kdnative.nn import Encoder, EncoderLayer, Linear, MultiheadAttention, TransformerEncoder
from tests.input_scales import random_scales, scaled, scaled_weights
from tests.nn import encoder_models as models
from tests.nn.encoder_oracle import encode

SCHEMES = ["w8a8", "w4a8-g32", "w4a8-g32-asym", "w4a8-g32-int", "w2a8-g32"]
MAKERS = {
    "bert": models.bert,
    "roberta": models.roberta,
    "modernbert": models.modernbert,
    "nomic": models.nomic,
}


def converted(model, scheme="w8a8", **options):
    native = copy.deepcopy(model)
    convert_(native, scheme, weights=scaled_weights(model, scheme), **options)
    return native


def ids(size=3, length=19):
    return torch.randint(2, 101, (size, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_matches_the_oracle(isa, scheme):
    model = models.bert(hidden=64, heads=4, ffn=96)
    encoder = converted(model, scheme)
    assert type(encoder) is Encoder
    assert {layer[name] for layer in encoder.spec["layers"] for name in ("qkv", "ffn_out")} == {f"{scheme}-is"}
    tokens, mask, types = models.batch(model, 3, 19)
    got = encoder(tokens, mask, types).last_hidden_state
    models.check_close(got, encode(encoder.spec, encoder.state_dict(), tokens, mask, types), mask)
    without = {name: t for name, t in encoder.state_dict().items() if not name.endswith("input_scale")}
    with pytest.raises(AssertionError):  # the oracle tells them apart
        models.check_close(got, encode(encoder.spec, without, tokens, mask, types), mask)


@pytest.mark.parametrize("family", MAKERS)
def test_layers_one_by_one_compute_the_same(family):
    model = MAKERS[family](hidden_size=64, num_attention_heads=4) if family != "bert" else models.bert(64, 4, 96)
    given = scaled_weights(model)
    fused, single = copy.deepcopy(model), copy.deepcopy(model)
    found = convert_(fused, weights=given)
    convert_(single, weights=given, fuse=False, embeddings=8)
    assert type(fused) is Encoder and {row.scheme for row in found.rows} == {None, "int8", "w8a8-is"}
    ops.select_isa("reference")  # whose attention is float32, as the model's is
    try:
        with torch.no_grad():
            one, other = fused(ids()).last_hidden_state, single(ids()).last_hidden_state
    finally:
        ops.select_isa("")
    models.check_close(one, other.double().numpy(), torch.ones(3, 19))


def test_scales_of_one_change_nothing():
    model = models.bert()
    given = {name: w.changed(input_scale=torch.ones(w.in_features)) for name, w in scaled_weights(model).items()}
    plain = {name: w.changed(input_scale=None) for name, w in given.items()}
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    convert_(one, weights=given)
    convert_(other, weights=plain)
    assert torch.equal(one(ids()).last_hidden_state, other(ids()).last_hidden_state)


def test_threads_do_not_change_the_result(isa):
    encoder = converted(models.bert(64, 4, 96))
    batches = [ids(1, 5), ids(9, 19)] if isa == "reference" else [ids(1, 5), ids(9, 19), ids(70, 33)]
    for batch in batches:
        torch.set_num_threads(1)
        want = encoder(batch).last_hidden_state
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(encoder(batch).last_hidden_state, want)


def test_linears_of_one_product_may_have_scales_alone():
    """Some products with them and some without."""
    model = models.bert(64, 4, 96)
    given = {name: w for name, w in scaled_weights(model).items() if "attention.self" in name}
    convert_(model, weights=given)
    layer = model.spec["layers"][0]
    assert (layer["qkv"], layer["output"], layer["ffn_in"]) == ("w8a8-is", "w8a8", "w8a8")
    want = encode(model.spec, model.state_dict(), ids())
    models.check_close(model(ids()).last_hidden_state, want, torch.ones(3, 19))


def test_queries_and_keys_with_other_scales_are_refused():
    model = models.bert(64, 4, 96)
    given = scaled_weights(model)
    name = "encoder.layer.1.attention.self.key"
    given[name] = scaled(model.get_submodule(name).weight, "w8a8", random_scales(64))
    with pytest.raises(ValueError, match="query, .*key, .*value, which run as one product: .*the same input scales"):
        convert_(model, weights=given)
    assert not isinstance(model, Encoder)
    alone = copy.deepcopy(model)
    convert_(alone, weights=given, fuse=False)  # nothing is shared here
    assert alone.get_submodule(name).scheme.input_scales
    del given[name]
    report = convert_(model, weights=given)
    assert "have different schemes, but run as one product" in next(r.reason for r in report.rows if r.name == "")


def test_state_dict_copies_and_pickles():
    encoder = converted(models.bert(64, 4, 96), "w4a8-g32")
    want = encoder(ids()).last_hidden_state
    state = encoder.state_dict()
    assert state["layers.1.qkv.input_scale"].shape == (64,) and state["layers.0.ffn_out.input_scale"].shape == (96,)
    assert state["pooler.input_scale"].dtype == torch.float32
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        name: shape for name, shape, _ in Encoder.plain_shapes(encoder.spec)
    }
    fresh = Encoder.from_spec(encoder.spec)
    fresh.load_state_dict(state)
    for other in (fresh, copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other(ids()).last_hidden_state, want)
    assert torch.equal(fresh.packed, encoder.packed)
    encoder.load_state_dict({"layers.0.qkv.input_scale": state["layers.0.qkv.input_scale"] * 2}, strict=False)
    assert not torch.equal(encoder(ids()).last_hidden_state, want)
    bad = {**state, "layers.0.qkv.input_scale": torch.zeros(64)}
    with pytest.raises(RuntimeError, match="layers.0.qkv: input_scale holds zero"):
        fresh.load_state_dict(bad)
    with pytest.raises(RuntimeError, match=r"size mismatch for layers.0.qkv.input_scale"):
        fresh.load_state_dict({**state, "layers.0.qkv.input_scale": torch.ones(32)})
    assert torch.equal(fresh(ids()).last_hidden_state, want)


def test_to_float_has_the_values_of_the_weights():
    model = models.bert(64, 4, 96)
    given = scaled_weights(model, "w4a8-g32")
    convert_(model, "w4a8-g32", weights=given)
    to_float_(model)
    for name, weight in given.items():
        assert torch.equal(model.get_submodule(name).weight, weight.dequantize())


@pytest.mark.parametrize("single", [True, False])
def test_encoders_of_torch(single):
    layer = torch.nn.TransformerEncoderLayer(64, 4, 96, batch_first=True, dropout=0.0).eval()
    model = layer if single else torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    prefixes = [""] if single else ["layers.0.", "layers.1."]
    given = {}
    for prefix in prefixes:
        attention = model.get_submodule(f"{prefix}self_attn")
        given[f"{prefix}self_attn"] = scaled(attention.in_proj_weight, "w8a8", random_scales(64))
        for name, k in (("self_attn.out_proj", 64), ("linear1", 64), ("linear2", 96)):
            weight = model.get_submodule(prefix + name).weight
            given[prefix + name] = scaled(weight, "w8a8", random_scales(k))
    x = torch.randn(2, 9, 64)
    with torch.no_grad():
        want = model(x)
    convert_(model, weights=given)
    assert type(model) is TransformerEncoder
    assert set(model.spec["layers"][0][name] for name in ("qkv", "output", "ffn_in", "ffn_out")) == {"w8a8-is"}
    assert (model(x) - want).abs().max() < 0.2
    to_float_(model)
    attention = model.get_submodule(f"{prefixes[-1]}self_attn")
    assert torch.equal(attention.in_proj_weight, given[f"{prefixes[-1]}self_attn"].dequantize())


def test_attention_of_torch():
    attention = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()
    given = {
        "": scaled(attention.in_proj_weight, "w8a8", random_scales(64)),
        "out_proj": scaled(attention.out_proj.weight, "w8a8", random_scales(64)),
    }
    x = torch.randn(2, 7, 64)
    want = attention(x, x, x)[0].detach()
    holder = torch.nn.ModuleDict({"a": attention})
    convert_(holder, weights={f"a.{name}".strip("."): weight for name, weight in given.items()})
    native = holder["a"]
    assert type(native) is MultiheadAttention and str(native.out_proj.scheme) == str(native.q_proj.scheme) == "w8a8-is"
    with torch.no_grad():
        assert (native(x, x, x)[0] - want).abs().max() < 0.05
    to_float_(holder)
    assert torch.equal(holder["a"].in_proj_weight, given[""].dequantize())


def test_layers_of_other_models():
    config = models.transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=16, patch_size=8
    )
    model = models.transformers.ViTModel(config, add_pooling_layer=False).eval()
    given = scaled_weights(model)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        want = model(images).last_hidden_state
        convert_(model, weights=given)
        assert any(isinstance(module, EncoderLayer) for module in model.modules())
        assert (model(images).last_hidden_state - want).abs().max() < 0.2
    to_float_(model)
    for name, weight in given.items():
        assert torch.equal(model.get_submodule(name).weight, weight.dequantize())


def test_a_linear_by_itself():
    weight = scaled(torch.randn(40, 128), "w8a8", random_scales(128))
    module = Linear.from_quantized(weight, torch.randn(40), "w8a8-is")
    x = torch.randn(3, 128)
    want = module(x)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh = Linear(**module.spec)
    fresh.load_state_dict(torch.load(buffer))
    assert torch.equal(fresh.packed, module.packed)
    there = copy.deepcopy(module).to("meta")
    assert there.is_empty and there.state_dict()["input_scale"].is_meta
    there.load_state_dict(module.state_dict())
    assert torch.equal(there(x), want) and torch.equal(pickle.loads(pickle.dumps(module))(x), want)
    assert torch.equal(module.weight.clone(), weight.dequantize())
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), want)
    with pytest.raises(RuntimeError, match="has input scales, which a float weight does not bring"):
        fresh.load_state_dict({"weight": torch.randn(40, 128), "bias": torch.randn(40)})
    with pytest.raises(ValueError, match="the weights have no input scales, which is not scheme w8a8-is"):
        Linear.from_float(torch.nn.Linear(128, 40), "w8a8-is")
    with pytest.raises(ValueError, match="the weights have input scales, which is not scheme w8a8"):
        Linear.from_quantized(weight, None, "w8a8")
