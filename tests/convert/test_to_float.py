"""Undoing a conversion: plain float modules with the dequantized weights, bit for bit."""

import copy

import pytest
import torch
from torch import nn

import kdnative
from kdnative.convert import convert_, to_float_
from kdnative.nn import Embedding, Encoder, EncoderLayer, Linear, MultiheadAttention, TransformerEncoder
from kdnative.nn.encoder_spec import LINEARS
from kdnative.prune import mask_

SCHEMES = ("w8a8", "w8a16", "w4a8-g32", "w4a8-g32-asym", "w4a8-g64-int", "w2a8-g32", "w8a8+mask", "w8a8+4x1")
SAME_AGAIN = ("w8a8", "w8a16", "w4a8-g32", "w2a8-g32", "w8a8+mask", "w8a8+4x1")


class Model(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.table = nn.Embedding(50, 64, padding_idx=0, dtype=dtype)
        self.first = nn.Linear(64, 96, dtype=dtype)
        self.norm = nn.LayerNorm(96, dtype=dtype)
        self.second = nn.Linear(96, 64, bias=False, dtype=dtype)
        self.again = self.first

    def forward(self, ids):
        return self.second(self.norm(self.first(self.table(ids))))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linears_and_embeddings(scheme, dtype):
    model = Model(dtype)
    if "+" in scheme:
        with torch.no_grad():
            model.first.weight[:, ::2] = 0
            model.second.weight[:, ::2] = 0
    bias, norm = model.first.bias.detach().clone(), model.norm
    convert_(model, {"first": scheme, "second": scheme.replace("g64", "g32")}, rows=1, method="rtn")
    native = {name: getattr(model, name) for name in ("table", "first", "second")}
    assert to_float_(model) == ["table", "first", "second"]
    for name, module in native.items():
        plain = getattr(model, name)
        assert type(plain) in (nn.Linear, nn.Embedding) and plain.weight.dtype == dtype
        assert torch.equal(plain.weight, module.quantized().dequantize().to(dtype))
        assert plain.weight.requires_grad and not plain.training
    assert torch.equal(model.first.bias, bias) and model.second.bias is None and model.table.padding_idx == 0
    assert model.again is model.first and model.norm is norm
    assert model(torch.tensor([[1, 2]])).dtype == dtype
    model(torch.tensor([[1, 2]])).sum().backward()


@pytest.mark.parametrize("scheme", SAME_AGAIN)
def test_converting_again_gives_the_same_integers(scheme):
    model = nn.Sequential(nn.Linear(128, 70), nn.ReLU(), nn.Linear(70, 20, bias=False))
    with torch.no_grad():
        model[0].weight[3] = 0
        if "+" in scheme:
            model[0].weight[:, ::2] = 0
    convert_(model, {"0": scheme}, method="rtn")
    before = model[0].quantized()
    to_float_(model)
    convert_(model, {"0": scheme}, method="rtn")
    after = model[0].quantized()
    assert torch.equal(after.qweight, before.qweight)
    torch.testing.assert_close(after.scale, before.scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention(bias, batch_first):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, bias=bias, batch_first=batch_first)

        def forward(self, x, y):
            return self.attention(x, y, y)

    model = Holder().eval()
    convert_(model, {"*": "w8a8"})
    native = model.attention
    assert isinstance(native, MultiheadAttention)
    weights = [getattr(native, f"{name}_proj").weight.clone() for name in ("q", "k", "v")]
    assert to_float_(model) == ["attention"]
    plain = model.attention
    assert type(plain) is nn.MultiheadAttention and plain.batch_first == batch_first and plain.num_heads == 4
    assert torch.equal(plain.in_proj_weight, torch.cat(weights))
    assert torch.equal(plain.out_proj.weight, native.out_proj.weight.clone())
    assert (plain.in_proj_bias is None) == (not bias)
    x, y = torch.randn(3, 5, 64), torch.randn(3, 5, 64)
    with torch.no_grad():
        got, want = model(x, y)[0], native(x, y, y)[0]
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


def torch_encoder(norm_first=False, norm=True, layers=2, batch_first=True, activation="gelu"):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        64, 4, 96, dropout=0.0, activation=activation, batch_first=batch_first, norm_first=norm_first
    )
    final = nn.LayerNorm(64) if norm else None
    model = nn.TransformerEncoder(layer, layers, norm=final, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoders_of_torch(norm_first, activation):
    model = torch_encoder(norm_first, activation=activation)
    plain = copy.deepcopy(model)
    convert_(model, "w8a8")
    assert type(model) is TransformerEncoder
    parts, packed = model.parts(), model.packed.clone()
    assert to_float_(model) == [""]
    assert type(model) is nn.TransformerEncoder and model.state_dict().keys() == plain.state_dict().keys()
    for layer, part in zip(model.layers, parts.layers, strict=True):
        assert torch.equal(layer.self_attn.in_proj_weight, part.qkv.weight.clone())
        assert torch.equal(layer.self_attn.in_proj_bias, part.qkv.bias.clone())
        assert torch.equal(layer.linear1.weight, part.ffn_in.weight.clone())
        assert torch.equal(layer.linear2.weight, part.ffn_out.weight.clone())
        assert torch.equal(layer.norm1.weight, part.attention_norm.weight)
    x = torch.randn(2, 7, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=0.1, atol=0.1)
    model.train()(x).sum().backward()
    model.zero_grad(set_to_none=True)
    convert_(model, "w8a8")
    again = model.parts()
    for layer, part in zip(again.layers, parts.layers, strict=True):
        for name in LINEARS:
            assert torch.equal(getattr(layer, name).quantized().qweight, getattr(part, name).quantized().qweight)
    assert model.packed.numel() == packed.numel()


def test_a_layer_of_torch_becomes_a_layer():
    model = nn.ModuleList(torch_encoder(layers=2).layers)
    x = torch.randn(1, 3, 64)
    with torch.no_grad():
        want = model[1](x)
    convert_(model, "w8a8")
    spec = model[0].spec
    assert [type(layer) for layer in model] == [TransformerEncoder] * 2 and spec["single"]
    assert to_float_(model) == ["0", "1"]
    assert [type(layer) for layer in model] == [nn.TransformerEncoderLayer] * 2
    with torch.no_grad():
        torch.testing.assert_close(model[1](x, src_mask=None), want, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match="single is true, but it has not one layer"):
        TransformerEncoder.from_spec({**spec, "layers": spec["layers"] * 2})


def test_layers_of_unknown_classes_are_refused_with_all_names():
    layer = {"heads": 4, "head_dim": 16, "ffn": 96, "scaling": 0.25}
    layer |= dict.fromkeys(LINEARS, "w8a8")
    spec = {"embeddings": False, "hidden_size": 64, "activation": "gelu", "eps": 1e-5, "layers": [layer]}
    fine = Linear.from_float(nn.Linear(64, 64))
    fused = Linear.from_float(nn.Linear(64, 64), activation="gelu")
    model = nn.Sequential(fine, EncoderLayer.from_spec(spec), fused, Linear(8, 8), Embedding(4, 4))
    before = list(model)
    with pytest.raises(
        ValueError,
        match="so the model is unchanged: 1: the original layer is unknown.*2: it includes the activation gelu",
    ) as info:
        to_float_(model)
    assert "3: this kdnative.nn.Linear is empty" in str(info.value) and "4: this kdnative.nn.Emb" in str(info.value)
    assert list(model) == before


def test_nothing_native_and_no_module():
    model = nn.Sequential(nn.Linear(4, 4))
    assert to_float_(model) == [] and type(model[0]) is nn.Linear
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module, not str"):
        to_float_("model")
    assert kdnative.to_float_ is to_float_


def test_a_native_module_itself_stays_the_same_object():
    linear = nn.Linear(256, 256)
    convert_(linear, "w8a8")
    weight = linear.weight.clone()
    kept = linear
    assert to_float_(linear) == [""] and kept is linear
    assert type(linear) is nn.Linear and torch.equal(linear.weight, weight)


def test_embeddings_go_on_sharing_a_table():
    model = nn.ModuleList([nn.Embedding(30, 16), nn.Embedding(30, 16), nn.Embedding(30, 16)])
    model[1].weight = model[0].weight
    convert_(model)
    assert to_float_(model) == ["0", "1", "2"]
    assert model[0].weight is model[1].weight is not model[2].weight


def test_masks_stay_zeros():
    model = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 64))
    mask_(model, sparsity=0.9, keep=["1"])
    from kdnative.prune import finalize_masks_

    finalize_masks_(model)
    zeros = model[0].weight == 0
    convert_(model, {"0": "w8a8+mask"}, rows=1)
    to_float_(model)
    assert bool((model[0].weight[zeros] == 0).all())


# -- encoders of transformers ------------------------------------------------------------------------------------------

transformers = pytest.importorskip("transformers")

from tests.nn.encoder_models import batch, bert, electra, modernbert, mpnet, roberta  # noqa: E402


@pytest.mark.parametrize("make", [bert, roberta, electra, mpnet, modernbert], ids=lambda make: make.__name__)
def test_encoders_of_transformers(make):
    model = make()
    plain = copy.deepcopy(model)
    convert_(model, "w8a8")
    assert type(model) is Encoder
    parts, pooler = model.parts(), model.pooler
    ids, mask, _ = batch(plain, 2, 9)
    with torch.no_grad():
        native = model(ids, mask)[0]
    assert to_float_(model) == [""]
    assert type(model) is type(plain)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    with torch.no_grad():
        got = model(ids, attention_mask=mask)[0][mask.bool()]
        torch.testing.assert_close(got, native[mask.bool()], rtol=0.1, atol=0.15)
    convert_(model, "w8a8")
    again = model.parts()
    for layer, part in zip(again.layers, parts.layers, strict=True):
        for name in LINEARS:
            assert torch.equal(getattr(layer, name).quantized().qweight, getattr(part, name).quantized().qweight)
    tables = [name for name, table in parts.embeddings.named_children() if isinstance(table, Embedding)]
    for name in tables:
        assert torch.equal(getattr(again.embeddings, name).qweight, getattr(parts.embeddings, name).qweight)
    if pooler is not None:
        assert torch.equal(model.pooler.quantized().qweight, pooler.quantized().qweight)


def test_weights_of_a_bert_bit_for_bit():
    model = bert()
    convert_(model, {"*": "w8a8", "*intermediate*": "w8a8"})
    parts, pooler = model.parts(), model.pooler.quantized().dequantize()
    to_float_(model)
    for layer, part in zip(model.encoder.layer, parts.layers, strict=True):
        attention = layer.attention.self
        joined = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        assert torch.equal(joined, part.qkv.quantized().dequantize())
        assert torch.equal(layer.attention.output.dense.weight, part.output.quantized().dequantize())
        assert torch.equal(layer.intermediate.dense.weight, part.ffn_in.quantized().dequantize())
        assert torch.equal(layer.output.dense.weight, part.ffn_out.quantized().dequantize())
        assert torch.equal(layer.output.LayerNorm.weight, part.output_norm.weight)
    table = parts.embeddings.word.quantized().dequantize()
    assert torch.equal(model.embeddings.word_embeddings.weight, table)
    assert torch.equal(model.pooler.dense.weight, pooler)


def test_a_classifier_and_its_files(tmp_path):
    from tests.small_models import bert as classifier

    model = classifier()
    ids = torch.randint(5, 20, (2, 6))
    convert_(model, "w8a8")
    model.save_pretrained(tmp_path / "native")
    assert (tmp_path / "native" / "kdnative.json").is_file()
    names = to_float_(model)
    assert names[0] == "bert" and type(model.bert).__name__ == "BertModel"
    with torch.no_grad():
        want = model(ids).logits
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, want)


def test_a_pruned_encoder_is_refused():
    from kdnative.prune import structured_

    model = bert()
    structured_(model, heads=0.34, ffn=0.2, example_inputs={"input_ids": torch.randint(5, 100, (2, 8))}, multiple_of=1)
    convert_(model, "w8a8")
    with pytest.raises(ValueError, match="BertModel|Encoder: .*(pruned|configuration)"):
        to_float_(model)
    assert type(model) is Encoder


def test_an_encoder_without_a_configuration_is_refused():
    model = bert()
    convert_(model, "w8a8")
    alone = Encoder.from_spec({**model.spec, "transformers": None})
    alone.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="the configuration of the original model is unknown"):
        to_float_(alone)


def test_a_half_precision_encoder_of_torch_comes_back_in_one_dtype():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(64), enable_nested_tensor=False).bfloat16().eval()
    convert_(model, "w8a8")
    to_float_(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(torch.randn(2, 5, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_dtype_of_a_configuration_rounds_nothing():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=96, vocab_size=50
    )
    model = transformers.BertModel(config).eval()
    config.dtype = torch.bfloat16  # as of a checkpoint that was loaded in it, before .float()
    norm = torch.nn.init.normal_(model.embeddings.LayerNorm.weight.data).clone()
    convert_(model, "w8a8")
    to_float_(model)
    assert model.embeddings.LayerNorm.weight.dtype == torch.float32
    assert torch.equal(model.embeddings.LayerNorm.weight, norm)
