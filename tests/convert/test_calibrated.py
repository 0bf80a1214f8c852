"""convert_ with calibration: what is packed is what calibration found, and the report says so."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import kdnative
from kdnative.convert import convert_
from kdnative.nn import Encoder, EncoderLayer, Linear, TransformerEncoder
from kdnative.quantize import FakeQuantLinear, calibrate_, quantize_weight
from kdnative.quantize.inputs import InputBatches
from tests.nn.encoder_models import batch, electra, gte, jina, modernbert, mpnet, nomic, roberta
from tests.nn.test_encoder_layer import layer
from tests.quantize.recording import Recording, assert_same_weights
from tests.quantize.test_calibrating import cut, gpt2, llama, network, rows, t5, texts
from tests.quantize.test_inputs import Words
from tests.small_models import bert
from tests.small_models import rows as rows_by_name


@dataclass(frozen=True)
class Scaling(Recording):
    """Input scales that are far from 1."""

    name: ClassVar[str] = "scaling"
    input_scales: ClassVar[bool] = True

    def _quantize(self, weight, scheme, statistics):
        vector = 1 / statistics.largest.clamp(min=1e-3).sqrt()
        return quantize_weight(weight / vector, scheme).changed(input_scale=vector)


def same_state(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w2a8-g32-asym", "w4a16-g32"])
@pytest.mark.parametrize("fuse", [True, False])
def test_one_call_is_calibrate_and_convert(scheme, fuse, tmp_path):
    model, data = bert(), cut(texts(), 7)
    steps = copy.deepcopy(model)
    kdnative.calibrate_(steps, scheme, data, method="gptq").save(tmp_path / "calibration")
    found = kdnative.Calibration.load(tmp_path / "calibration")
    report = convert_(model, scheme, calibration=data, fuse=fuse)
    convert_(steps, scheme, calibration=found, fuse=fuse)
    same_state(model, steps)
    by_name = rows_by_name(report)
    name = "bert.encoder.layer.1.intermediate.dense"
    assert by_name[name].method == "gptq" and by_name[name].reason.endswith("; weights by gptq")
    assert by_name["bert.embeddings.word_embeddings"].method is None
    assert (type(model.bert) is Encoder) == (fuse and "a8" in scheme)
    if not fuse:
        assert torch.equal(model.get_submodule(name).quantized().qweight, found[name].qweight)


def test_a_calibrated_model_is_closer_to_the_float_one():
    model, batch = bert(), texts()
    with torch.no_grad():
        exact = model(**batch).logits
    errors = []
    for options in ({"method": "rtn"}, {"calibration": cut(texts(200, seed=9), 50)}):
        native = copy.deepcopy(model)
        convert_(native, {"*": "w2a8-g32"}, **options)
        with torch.no_grad():
            errors.append(float((native(**batch).logits - exact).square().sum()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("fuse", [True, False])
def test_input_scales_come_into_the_schemes(fuse):
    model, batch = bert(), texts()
    with torch.no_grad():
        exact = model(**batch).logits
    report = convert_(model, "w8a8", calibration=[batch], method=Scaling(), fuse=fuse)
    by_name = rows_by_name(report)
    assert by_name["bert.encoder.layer.0.output.dense"].scheme == "w8a8-is"
    assert (type(model.bert) is Encoder) == fuse
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("make", [roberta, electra, mpnet, modernbert, nomic, gte, jina])
def test_fused_encoders_have_one_vector_for_each_product(make):
    """What runs as one product was given the same tensor, so that its input scales are the same."""
    model = make()
    ids, _, _ = batch(model, 20, 12)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        exact = model(**inputs).last_hidden_state
    report = convert_(model, "w8a8", calibration=[inputs], method=Scaling())
    assert type(model) is Encoder and "w8a8-is" in {row.scheme for row in report.rows}
    with torch.no_grad():
        assert (model(**inputs).last_hidden_state - exact).norm() < 0.04 * exact.norm()


KINDS = ["ViTLayer", "CLIPEncoderLayer", "BartEncoderLayer", "WhisperEncoderLayer", "Wav2Vec2EncoderLayer", "BertLayer"]


@pytest.mark.parametrize("kind", KINDS)
def test_fused_layers_have_one_vector_for_each_product(kind):
    model, x = layer(kind), rows(20 * 9, 48).view(20, 9, 48)
    mask = torch.ones(20, 1, 9, 9, dtype=torch.bool)
    with torch.no_grad():
        exact = model(x, mask)
    convert_(model, "w8a8", calibration=[(x, mask)], method=Scaling())
    assert type(model) is EncoderLayer and model.spec["layers"][0]["qkv"] == "w8a8-is"
    with torch.no_grad():
        assert (model(x, mask) - exact).norm() < 0.04 * exact.norm()


def test_texts():
    model, other = bert(), bert()
    lines = [" ".join(map(str, range(5 + i, 9 + 2 * i))) for i in range(20)]
    convert_(model, "w4a8-g32", calibration=lines, tokenizer=Words())
    convert_(other, "w4a8-g32", calibration=[batch.kwargs for batch in InputBatches(lines, Words()).all])
    same_state(model, other)


def test_input_scales_may_be_asked_for_by_name():
    model = network(64, 64)
    report = convert_(model, {"0": "w8a8-is"}, calibration=[rows()], method=Scaling())
    assert report.rows[0].scheme == str(model[0].scheme) == "w8a8-is"


@pytest.mark.parametrize(
    ("make", "data", "count"),
    [
        (gpt2, {}, 8),
        (llama, {}, 15),
        (t5, {"decoder_input_ids": texts(seed=3)["input_ids"]}, 17),
    ],
)
def test_models_that_generate(make, data, count):
    model = make().eval()
    batch = {**texts(), **data}
    found = calibrate_(model, "w4a8-g32", [batch], method="gptq")
    report = convert_(model, "w4a8-g32", calibration=found)
    calibrated = [row for row in report.rows if row.method]
    assert len(calibrated) >= count - 1 and {row.action for row in calibrated} == {"converted"}
    assert sum(type(module) is Linear for module in model.modules()) == len(calibrated)
    for row in calibrated:
        assert torch.equal(model.get_submodule(row.name).quantized().qweight, found[row.name].qweight)
    with torch.no_grad():
        assert bool(torch.isfinite(model(**batch).logits).all())


def test_attention_and_encoders_of_torch():
    torch.manual_seed(0)
    x = rows(5 * 8).view(5, 8, 64)
    attention = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    found = calibrate_(attention, "w4a8-g32", [(x, x, x)] * 4, method="gptq")
    convert_(attention, "w4a8-g32", calibration=found)
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert torch.equal(torch.cat([part.quantized().qweight for part in parts]), found[""].qweight)
    assert torch.equal(attention.out_proj.quantized().qweight, found["out_proj"].qweight)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    report = convert_(encoder, "w4a8-g32", calibration=[x] * 4)
    assert type(encoder) is TransformerEncoder and [row.method for row in report.rows].count("gptq") == 8


def test_small_and_explicit_layers_and_those_that_are_kept():
    model = nn.Sequential(network(64, 64, 64), nn.Linear(64, 3))
    method = Recording()
    convert_(model, {"0.0": "w4a8-g32", "*": "w8a8"}, calibration=[rows()], method=method, keep="0.2")
    assert [(len(weights[0]), str(scheme)) for weights, scheme, _ in method.seen] == [(64, "w4a8-g32")]
    assert type(model[0][0]) is Linear and type(model[0][2]) is type(model[1]) is nn.Linear


def test_layers_that_were_trained_keep_their_weights():
    model = nn.Sequential(FakeQuantLinear(64, 64, scheme="w4a8-g32"), nn.Linear(64, 64))
    own = model[0].quantized()
    report = convert_(model, "w4a8-g32", calibration=[rows()])
    assert torch.equal(model[0].quantized().qweight, own.qweight)
    assert [row.method for row in report.rows] == [None, "gptq"]


def test_given_weights_go_before():
    model = network(64, 64, 64)
    given = quantize_weight(torch.randn(64, 64), "w4a8-g32")
    report = convert_(model, "w4a8-g32", weights={"0": given}, calibration=[rows()])
    assert torch.equal(model[0].quantized().qweight, given.qweight)
    assert [row.method for row in report.rows] == [None, "gptq"]


def test_a_single_example():
    with pytest.warns(UserWarning, match="calibration has 1 example") as caught:
        convert_(network(64, 64), "w4a8-g32", calibration=[rows(1)])
    assert caught[0].filename == __file__


def test_a_method_without_data():
    model = network(64, 64)
    expected = quantize_weight(model[0].weight, "w4a8-g32")
    report = convert_(model, "w4a8-g32", method="rtn")
    assert_same_weights({"": model[0].quantized()}, {"": expected})
    assert report.rows[0].method == "rtn"


def test_a_calibration_may_have_layers_that_stay_in_float():
    model = network(64, 64, 7)
    found = calibrate_(model, "w8a8", [rows()], method="rtn")
    report = convert_(model, "w8a8", calibration=found)
    assert list(found) == ["0", "2"] and [row.action for row in report.rows] == ["converted", "kept"]


CALIBRATED = {"calibration": calibrate_(network(64, 64), "w8a8", [rows()], method="rtn")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gptq"}, "method gptq needs calibration data"),
        ({"calibration": [rows()], "method": "gtpq"}, "gptq"),
        ({"calibration": [rows()], "clip_search": True}, "method='clip'"),
        ({**CALIBRATED, "method": "gptq"}, "made with 'rtn', so it can't take method='gptq'"),
        ({**CALIBRATED, "weights": {"0": quantize_weight(torch.ones(64, 64), "w8a8")}}, "both have weights for '0'"),
        ({**CALIBRATED, "model": network(64, 64, seed=1)}, "the weights of '0' have changed"),
        ({**CALIBRATED, "model": network(64, 64, 64)}, "no weights for '2'"),
        ({**CALIBRATED, "schemes": "w4a8-g32"}, "0: it has 8 bits.*not w4a8-g32"),
        ({"calibration": [rows()], "keep": "0"}, "nothing to calibrate"),
        ({"calibration": [rows(), rows() * float("nan")]}, "batch 1"),
        ({"calibration": [torch.ones(20, 2)]}, "shapes cannot be multiplied"),
    ],
)
def test_mistakes_in_words_and_an_unchanged_model(options, words):
    options = {"model": network(64, 64).train(), "schemes": "w8a8", **options}
    if (
        "calibration" in options
        and "method" not in options
        and not isinstance(options["calibration"], kdnative.Calibration)
    ):
        options["method"] = None if "clip_search" in options else "rtn"
    model = options["model"]
    own = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, RuntimeError), match=words):
        convert_(**options)
    assert type(model[0]) is nn.Linear and all(torch.equal(v, own[n]) for n, v in model.state_dict().items())
    assert not model[0]._forward_pre_hooks


def test_the_gate_converts():
    class Gate:
        def convert_(self, *arguments, **options):
            self.given = arguments, options
            return "its report"

    gate, model, data = Gate(), network(64, 64), [rows()]
    assert convert_(model, ["w4a8-g32", "w8a8"], gate=gate, calibration=data, method="gptq", keep="2") == "its report"
    (given, schemes), options = gate.given
    assert given is model and schemes == ["w4a8-g32", "w8a8"] and "gate" not in options
    assert (options["calibration"], options["method"], options["keep"]) == (data, "gptq", "2")
    assert convert_(model, gate=gate) == "its report"
    assert gate.given[0] == (model,)  # its own schemes


def test_a_gate_that_is_none_and_several_schemes_without_one():
    model = network(64, 64)
    with pytest.raises(TypeError, match=r"gate is a float: give a kdnative\.Gate"):
        convert_(model, gate=0.02)
    for schemes in (["w4a8-g32", "w8a8"], {"0": ("w4a8-g32", "w8a8")}):
        with pytest.raises(ValueError, match="only a gate can choose among several schemes"):
            convert_(model, schemes)
    assert type(model[0]) is nn.Linear
    assert {row.scheme for row in convert_(model).rows} - {None} == {"w8a8"}


@pytest.mark.parametrize("method", ["awq", "smoothquant"])
def test_one_product_of_weights_with_and_without_zero_points(method):
    schemes = {"*query": "w4a8-g32-asym", "*": "w4a8-g32"}
    ids = torch.randint(1, 200, (40, 8), generator=torch.Generator().manual_seed(0))
    report = convert_(bert(), schemes, calibration=[{"input_ids": ids}], method=method)
    assert not any("not fused" in row.reason for row in report.rows)


@pytest.mark.parametrize("scheme", ["w4a8-g32-int", "w4a8-g32-asym", "w2a8-g32", "w8a16"])
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_every_form_of_weights_is_calibrated(scheme, method):
    model = network(64, 64)
    data = [torch.randn(80, 64, generator=torch.Generator().manual_seed(0))]
    before = model(data[0])
    report = convert_(model, scheme, calibration=data, method=method)
    assert {row.scheme for row in report.rows} - {None} <= {scheme, f"{scheme}-is"}
    assert (model(data[0]) - before).norm() < 0.6 * before.norm()
