"""Conversion of encoders: fused to one operator, or layer by layer where that can't be."""

import copy
import pickle

import pytest
import torch
from torch import nn

from kdnative.convert import convert_
from kdnative.nn import Encoder, EncoderLayer, Linear
from kdnative.quantize import prepare_qat_
from tests.small_models import bert, rows


def test_bert_is_fused():
    model, original = bert(), bert()
    ids = torch.randint(0, 200, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    report = convert_(model, {"*attention*": "w8a8", "bert.encoder*": "w4a8-g64", "bert.pooler*": "w8a8"})
    assert type(model.bert) is Encoder and report.model is model and type(model.classifier) is nn.Linear
    found = rows(report)
    assert found["bert"].action == "fused" and found["bert.encoder.layer.1.output.dense"].scheme == "w4a8-g64"
    assert found["bert.encoder.layer.1.attention.output.dense"].scheme == "w8a8"
    assert found["bert.embeddings.word_embeddings"].scheme == "int8"
    named = {n for n, m in original.named_modules() if list(m.parameters(recurse=False))}
    assert named | {"bert"} == set(found), "every module with parameters has a row"
    assert {r.action for n, r in found.items() if n.startswith("bert")} == {"fused"}
    memory = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    assert report.totals["bytes_after"] == memory
    with torch.no_grad():
        y, expected = model(ids, attention_mask=mask).logits, original(ids, attention_mask=mask).logits
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_and_layer_by_layer_agree(dtype):
    models = [bert().to(dtype) for _ in range(2)]
    assert convert_(models[0]).totals["fused"] and not convert_(models[1], fuse=False).totals["fused"]
    ids = torch.randint(0, 200, (2, 11))
    with torch.no_grad():
        a, b = (m(ids).logits for m in models)
    assert a.dtype == b.dtype == dtype
    assert (a - b).float().abs().max() < 0.05 * b.float().abs().max()


def test_bare_encoder_becomes_native_in_place():
    classifier = bert()
    model = classifier.bert
    ids = torch.randint(0, 200, (2, 5))
    with torch.no_grad():
        expected, logits = model(ids)[0], classifier(ids).logits
        report = convert_(model)
        assert report.model is model is classifier.bert and type(model) is Encoder and not list(model.parameters())
        torch.testing.assert_close(model(ids)[0], expected, rtol=0.1, atol=0.1)
        torch.testing.assert_close(classifier(ids).logits, logits, rtol=0.1, atol=0.1)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(copied) is Encoder and torch.equal(copied(ids)[0], model(ids)[0])
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.equal(compiled(ids)[0], model(ids)[0])


@pytest.mark.parametrize(
    "call, words, fused",
    [
        ({"keep": "*layer.1.output.dense"}, "bert.encoder.layer.1.output.dense stays in float", [True, False]),
        ({"embeddings": None}, "embeddings=None", [True, True]),
        ({"schemes": {"*attention*": "w8a8"}}, "stays in float (no pattern", [False, False]),
    ],
)
def test_encoders_that_must_keep_float_parts_are_converted_layer_by_layer(call, words, fused):
    model = bert()
    report = convert_(model, **call)
    note = rows(report)["bert"]
    assert note.action == "kept" and note.reason.startswith("not fused: ") and words in note.reason
    layers = model.bert.encoder.layer
    assert [type(layer) is EncoderLayer for layer in layers] == fused
    assert all(type(layer.attention.self.query) is Linear for layer in layers if type(layer) is not EncoderLayer)
    ids = torch.randint(0, 200, (2, 5))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, bert()(ids).logits, rtol=0.1, atol=0.1)


def test_the_way_out_for_embeddings_that_the_caller_gives():
    """As the error of a fused encoder says it: embeddings outside of the layers."""
    model, original, ids = bert().bert, bert().bert, torch.randint(0, 200, (2, 5))
    call = {"inputs_embeds": original.embeddings.word_embeddings(ids).detach(), "output_hidden_states": True}
    report = convert_(model, embeddings=None)
    assert report.totals["fused"] and all(type(layer) is EncoderLayer for layer in model.encoder.layer)
    with torch.no_grad():
        actual, expected = model(**call), original(**call)
    torch.testing.assert_close(actual[0], expected[0], rtol=0.1, atol=0.1)
    assert len(actual.hidden_states) == len(expected.hidden_states)


def test_unsupported_encoders_are_converted_layer_by_layer():
    model = bert(hidden_act="gelu_10")
    report = convert_(model)
    assert "gelu_10" in rows(report)["bert"].reason or "activation" in rows(report)["bert"].reason
    assert rows(report)["bert.pooler.dense"].action == "converted"


def test_hooks_inside_an_encoder_prevent_fusing():
    model = bert()
    model.bert.encoder.layer[0].output.LayerNorm.register_forward_hook(lambda *a: None)
    assert "layer.0.output.LayerNorm has hooks" in rows(convert_(model))["bert"].reason


def test_encoder_that_was_asked_for_hidden_states_before():
    model = bert()
    with torch.no_grad():
        model(torch.randint(0, 200, (2, 5)), output_hidden_states=True, output_attentions=True)
    assert convert_(model).totals["fused"]


def test_tied_decoder_of_masked_language_models():
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForMaskedLM(bert().config).eval()
    ids = torch.randint(0, 200, (2, 7))
    with torch.no_grad():
        expected = model(ids).logits
        found = rows(convert_(model))
        y = model(ids).logits
    assert type(model.bert) is Encoder and type(model.cls.predictions.decoder) is Linear
    assert (y - expected).norm() < 0.02 * expected.norm()
    own = "its weight was shared with cls.predictions.decoder"
    assert found["bert.embeddings.word_embeddings"].reason == f"runs inside the fused encoder bert; {own}"
    assert found["cls.predictions.decoder"].bytes_before == 0  # its tensors were counted where they came first


def test_qat_encoder_is_fused_with_its_trained_weights():
    model = bert()
    prepare_qat_(model, {"*attention*": "w8a8", "bert.encoder*": "w4a8-g32", "*pooler*": "w8a8"})
    ids = torch.randint(0, 200, (2, 7))
    with torch.no_grad():
        expected = model.eval()(ids).logits
        report = convert_(model)
        y = model(ids).logits
    assert rows(report)["bert.encoder.layer.0.intermediate.dense"].scheme == "w4a8-g32"
    assert type(model.bert) is Encoder and (y - expected).abs().max() < 0.01 * expected.abs().max()


def test_encoders_with_float_activations_are_converted_layer_by_layer():
    model = bert()
    ids = torch.randint(0, 200, (3, 20))
    with torch.no_grad():
        expected = model(ids).logits
    report = convert_(model, {"*output.dense": "w8a16", "*": "w8a8"})
    assert type(model.bert).__name__ == "BertModel" and "int8 activations only" in rows(report)["bert"].reason
    assert str(model.bert.encoder.layer[0].output.dense.scheme) == "w8a16"
    assert str(model.bert.encoder.layer[0].attention.self.query.scheme) == "w8a8"
    with torch.no_grad():
        assert (model(ids).logits - expected).norm() / expected.norm() < 0.1
