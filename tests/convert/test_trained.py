"""Layers that were trained for integer weights: what `convert_` makes of those that stay in float, and what it says."""

import copy

import pytest
import torch
from torch import nn

from kdnative import load, save
from kdnative.convert import convert_, decide
from kdnative.formats import Scheme
from kdnative.patterns import Selection
from kdnative.quantize import FakeQuantLinear, finish_qat_, prepare_qat_
from tests.small_models import bert, rows


def trained(scheme="w8a8"):
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32)).eval()
    prepare_qat_(model, scheme)
    return model


@pytest.mark.parametrize("arguments", [{"keep": ["0"]}, {"schemes": {"0": None, "*": "w8a8"}}])
def test_layers_that_are_kept_stop_simulating(arguments):
    model, x = trained(), torch.randn(3, 64)
    plain = copy.deepcopy(model)
    finish_qat_(plain)
    report = convert_(model, **arguments)
    assert type(model[0]) is nn.Linear and rows(report)["0"].action == "kept"
    assert torch.equal(model[0].weight, plain[0].weight) and torch.equal(model[0](x), plain[0](x))


def test_the_last_parameter_of_a_model_of_transformers(tmp_path):
    model, ids = bert(), torch.arange(8)[None]
    prepare_qat_(model, "w8a8")
    assert convert_(model).totals["fused"] and type(model.classifier) is nn.Linear
    with torch.no_grad():
        expected = model(ids).logits
        save(model, tmp_path / "m")
        again = load(tmp_path / "m")
        assert torch.equal(again(ids).logits, expected)
    assert not any(isinstance(module, FakeQuantLinear) for module in again.modules())


def test_a_layer_with_hooks_stays_what_it_is():
    model = trained()
    model[0].register_forward_hook(lambda *a: None)
    convert_(model)
    assert type(model[0]) is FakeQuantLinear


@pytest.mark.parametrize("asked", ["w8a8", "w8a16", "w4a8-g64"])
def test_the_report_says_that_another_scheme_was_asked_for(asked):
    report = convert_(trained("w4a8-g32"), asked)
    for name in "02":
        row = rows(report)[name]
        assert row.scheme == "w4a8-g32"
        assert f"keeps w4a8-g32, for which it was trained, and {asked} is ignored" in row.reason
    assert "trained for" not in str(convert_(trained("w4a8-g32"), "w4a8-g32"))


def test_a_sparsity_without_kernels_for_the_shape_is_in_the_plan():
    """A trained layer has a scheme of its own; the backend is asked about it all the same."""
    layer = FakeQuantLinear(70000, 64, scheme="w8a8", device="meta")
    plan = decide(nn.ModuleDict({"fc": layer}), Selection({"fc": "w8a8+4x1"}, (), Scheme.parse))
    assert [d.name for d in plan.impossible()] == ["fc"] and "at most 65536 inputs" in plan["fc"].refusal.reason


def test_the_report_of_a_fused_encoder_says_so_too():
    model = bert()
    prepare_qat_(model, {"*.output.dense": "w4a8-g32", "*.query": "w8a8"})
    found = rows(convert_(model))
    assert "w4a8-g32, for which it was trained, and w8a8" in found["bert.encoder.layer.0.output.dense"].reason
    assert "trained for" not in found["bert.encoder.layer.0.attention.self.query"].reason
